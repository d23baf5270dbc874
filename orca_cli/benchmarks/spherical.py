"""Spherical CIFAR-100: images projected onto a rotated sphere (Tu et al. 2022).

A sample has 3 x 60 x 60 values on a grid of angles. The samples are read from the published file,
or generated from CIFAR images by the same procedure.

The procedure is that of the generator of spherical MNIST (Cohen et al. 2018), applied to each
channel. A Driscoll-Healy grid is rotated at random. Each of its points is projected, along the ray
from just above the north pole, onto the plane below the sphere, and the image on this plane is
sampled. The southern hemisphere shows the image, the northern hemisphere zeros. The published file
has two traits of the generator, which this module keeps: it interpolates between the pixels before
and after a point's own pixel, which blurs, and it stretches each channel to 0..255. The seed of the
published file is not known, so the file cannot be reproduced bit for bit.

Shapes: grid 60 x 60, N images of a file, n of a split or a call, with C x S x S pixels.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from orca_cli import signals, storage
from orca_cli.benchmarks import cifar100
from orca_cli.benchmarks.sources import cifar10
from orca_cli.benchmarks.sources.balance import facts_digest
from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.pixels import PixelSamples
from orca_cli.data.published import AGAIN, check_array, class_numbers, entries, find, load_arrays
from orca_cli.data.splits import hold_out
from orca_cli.data.untrusted.first_bytes import first_bytes
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.seeding import numpy_generator

_FILE = "s2_cifar100.gz"
_MAX_BYTES = 2**30  # limit on the unpacked pickle, which has 648 MB
_SIDE = 60  # points of the grid along each angle
_CHUNK = 500  # consecutive images that share one rotation
_ORIGIN = 2 + 1e-3  # height of the centre of projection; the sphere touches the plane at height 0
_EXTENT = 1.5  # the image covers -1.5..1.5 of the plane along both axes
_CLASSES = 100  # of the published file
_VERSION = 1  # of the files in the cache
_SPLITS = ("train", "test")


# Split -> images [N, C, S, S] uint8 and classes [N] int64.
_Images = Mapping[str, tuple[np.ndarray, np.ndarray]]


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: Annotated[
        str | None,
        "folder with s2_cifar100.gz; null: folder spherical of the data folder (paths.data)",
    ] = None,
    origin: Annotated[
        Literal["file", "cifar100", "cifar10"],
        "origin of the data. file: the published data; cifar100 or cifar10: images of CIFAR-100 or "
        "CIFAR-10, projected onto the sphere",
    ] = "file",
    images: Annotated[
        str | None,
        "folder of the images for task.origin=cifar100 or cifar10, or an .npz file of CIFAR-10; "
        "null: folder cifar100 or cifar10 of the data folder (paths.data)",
    ] = None,
    data_seed: Annotated[
        Seed, "seed of the rotations of projected images, 0..2147483647; not the seed of the run"
    ] = 0,
    validation: Annotated[
        Literal["stratified", "last"],
        "choice of the validation images. stratified: drawn from the training images with the "
        "proportions of the classes; last: the last training images",
    ] = "stratified",
    validation_size: Annotated[
        Count | Fraction,
        "validation images to take from the training images: a fraction (below 1) or a number (1 "
        "or more)",
    ] = 0.1,
    train_size: Annotated[
        Count | None,
        "number of training images, stratified by class: 1 or more; null: all images that are not "
        "in the validation split",
    ] = None,
    train_on_validation: Annotated[
        bool,
        "true: train on the validation images as well, as in experiments without a validation "
        "split",
    ] = False,
    split_seed: Annotated[
        Seed,
        "seed of the draw of validation and training images, 0..2147483647; "
        "not the seed of the run",
    ] = 0,
) -> TaskData:
    """Return images on the sphere [n, 3, 60, 60] in 0..1, with 100 classes (10 of cifar10).

    The axes are polar angle x azimuth. Projections of CIFAR images differ from the published data
    set, which has other rotations, and are marked as synthetic. An .npz file of CIFAR-10 contains
    x_train, y_train, x_test and y_test.
    """
    class_names: tuple[str, ...] = ()
    parameters: dict[str, int | float | str]
    if origin == "file":
        file = _find_file(data_folder, path)
        make = partial(_unpack, file)
        # The cache identifies the file by its content, so that a moved file is not unpacked again.
        parameters = {"sha256": storage.sha256_file(file)}
    else:
        cifar, class_names = _read_cifar(data_folder, origin, images)
        make = partial(_project_splits, cifar, data_seed, reporter)
        digest = facts_digest(*cifar["train"], *cifar["test"])
        parameters = {"origin": origin, "images": digest, "data_seed": data_seed}
    folder = folder_of(
        cache_folder,
        "spherical",
        parameters={"version": _VERSION, **parameters},
        make=make,
        reporter=reporter,
    )
    x, y = _load_split(folder, "train")  # [N, 3, 60, 60], [N]
    train_rows, validation_rows = hold_out(
        y,
        validation=validation,
        validation_size=validation_size,
        train_size=train_size,
        train_on_validation=train_on_validation,
        split_seed=split_seed,
    )
    return TaskData(
        kind="classes",
        input_shape=(3, _SIDE, _SIDE),
        num_outputs=len(class_names) or _CLASSES,
        train=PixelSamples(x, y, train_rows),
        validation=PixelSamples(x, y, validation_rows),
        open_test=lambda: PixelSamples(*_load_split(folder, "test")),
        synthetic=origin != "file",
        class_names=class_names,
        note="" if origin == "file" else f"{origin} images projected onto the sphere",
        validation_drawn=train_size is None and not train_on_validation,
    )


def _find_file(data_folder: Path, path: str | None) -> Path:
    """Return the published file."""
    (file,) = find(
        data_folder,
        "spherical",
        [_FILE],
        path,
        hint="or set task.origin=cifar100 or cifar10 to project CIFAR images instead",
    )
    first_bytes(file, str(file), AGAIN)
    return file


def _read_cifar(
    data_folder: Path, origin: str, path: str | None
) -> tuple[_Images, tuple[str, ...]]:
    """Return the images of CIFAR-100 or CIFAR-10, and the names of their classes."""
    if origin == "cifar10":
        images = cifar10.read(
            data_folder,
            path,
            _SPLITS,
            key="task.images",
            hint="or set task.origin=file to use the published data",
        )
        return images, cifar10.NAMES
    (archive,) = find(data_folder, "cifar100", [cifar100.ARCHIVE], path, key="task.images")
    images = {split: cifar100.read(archive, split) for split in _SPLITS}
    return images, cifar100.class_names(archive)


def _load_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, 3, 60, 60] uint8 (a memory map) and classes [N] int64 from the cache."""
    (x,) = load_arrays(folder, [f"{split}_x"], mapped=True)
    (y,) = load_arrays(folder, [f"{split}_y"])
    return x, y


def _unpack(file: Path, folder: Path) -> None:
    """Write SPLIT_x.npy [N, 3, 60, 60] uint8 and SPLIT_y.npy [N] int64 of the published file."""
    record = unpickle(file, max_bytes=_MAX_BYTES, gzipped=True)
    contents = entries(record, _SPLITS, str(file))
    for split, content in zip(_SPLITS, contents, strict=True):
        where = f"{file}[{split}]"
        x, labels = entries(content, ("images", "labels"), where)
        check_array(x, ("N", 3, _SIDE, _SIDE), where, "images", dtype="uint8")
        np.save(folder / f"{split}_x.npy", x)
        np.save(folder / f"{split}_y.npy", class_numbers(labels, len(x), _CLASSES, where))


def _project_splits(cifar: _Images, seed: int, reporter: Reporter, folder: Path) -> None:
    """Write projections of the images of each split, and their classes, as `_unpack` does."""
    for split, (images, labels) in cifar.items():
        # Written to the file chunk by chunk, since all projections would take 650 MB of memory.
        projections = np.lib.format.open_memmap(
            folder / f"{split}_x.npy",
            mode="w+",
            dtype=np.uint8,
            shape=(len(images), 3, _SIDE, _SIDE),
        )
        with reporter.track(f"projecting {split}", len(images)) as advance:
            for chunk, start in enumerate(range(0, len(images), _CHUNK)):
                signals.check()
                # One generator per chunk, so that no rotation depends on another.
                rotation = random_rotation(numpy_generator(seed, "spherical", split, chunk))
                chunk_images = images[start : start + _CHUNK]
                projections[start : start + _CHUNK] = project(chunk_images, rotation)
                advance(len(chunk_images))
        projections.flush()
        np.save(folder / f"{split}_y.npy", labels)


def check_settings(origin: str, path: str | None, images: str | None) -> None:
    """Refuse contradictory settings before any data are read; arguments as in `load`."""
    typed = {"path": path, "images": images}
    unused = "images" if origin == "file" else "path"
    if typed[unused] is not None:
        raise ConfigError(
            f"does not apply to task.origin={origin}",
            where=f"task.{unused}",
            hint="remove it, or set another task.origin",
        )


def grid() -> np.ndarray:
    """Return the coordinates x, y, z of the grid on the unit sphere, [3, 60, 60].

    Polar angles are pi j / 60 (row 0 is the north pole), azimuths pi k / 30.
    """
    steps = np.arange(_SIDE)
    polar_angles = np.pi * steps / _SIDE
    azimuths = np.pi * steps / (_SIDE // 2)
    polar, azimuth = np.meshgrid(polar_angles, azimuths, indexing="ij")  # [60, 60] each
    x = np.sin(polar) * np.cos(azimuth)
    y = np.sin(polar) * np.sin(azimuth)
    return np.stack([x, y, np.cos(polar)])


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """Return a rotation matrix [3, 3], uniform over all rotations (Arvo 1992).

    It is a random rotation about z, followed by a rotation that takes z to a random point.
    """
    turn, direction, height = generator.random(3)
    angle = 2 * np.pi * turn
    cosine = np.cos(angle)
    sine = np.sin(angle)
    about_z = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    # Half a turn about a unit vector n is 2 n n^T - 1; `axis` is n times sqrt(2).
    azimuth = 2 * np.pi * direction
    radius = np.sqrt(2 * height)
    axis = [np.sin(azimuth) * radius, np.cos(azimuth) * radius, np.sqrt(2 - 2 * height)]
    half_turn = np.outer(axis, axis) - np.eye(3)
    return half_turn @ about_z


def positions(points: np.ndarray) -> np.ndarray:
    """Return the positions on the image, [2, *], of points of the sphere [3, *].

    Positions are fractions of rows and columns; outside the image they are not in 0..1.
    """
    height = points[2] + 1  # height above the plane, which touches the south pole
    # By similar triangles: factor by which the distance from the axis grows up to the plane.
    stretch = 1 + height / (_ORIGIN - height)
    on_plane = points[:2] * stretch  # [2, *], where the ray meets the plane
    return (on_plane + _EXTENT) / (2 * _EXTENT)


def sample(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return images [n, C, S, S] at positions [2, *], as [n, C, *] float32, four times too large.

    An image is surrounded by zeros. The value at a position is a weighted sum over the four pixels
    diagonal to the position's own pixel. As in the generator, the weights add up to 4; `project`
    stretches the values to 0..255 in any case.
    """
    side = images.shape[-1]
    # Values are zero more than a pixel beyond the image; the bound prevents an overflow.
    points = np.clip(where * side, -2.0, side + 2.0).reshape(2, -1)  # [2, p], in pixels
    pixels = points.astype(np.int64)  # [2, p] pixel that contains each point
    zeros = (3, 4)  # rows and columns of zeros before and after an image
    framed = np.pad(images, ((0, 0), (0, 0), zeros, zeros))
    num_images, num_channels = images.shape[:2]
    values = np.zeros((num_images, num_channels, points.shape[1]), dtype=np.float32)  # [n, C, p]
    for step in itertools.product((-1, 1), repeat=2):
        offset = np.array(step)[:, None]
        row, column = pixels + offset + zeros[0]  # [p] each, in the frame
        # The weight of a neighbour is the distance to the opposite neighbour.
        distances = np.abs(pixels - offset - points)
        weight = distances.prod(axis=0).astype(np.float32)  # [p]
        neighbours = framed[:, :, row, column].astype(np.float32)  # [n, C, p]
        values += neighbours * weight
    return values.reshape(num_images, num_channels, *where.shape[1:])


def project(images: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return images [n, C, S, S] projected onto the sphere, [n, C, 60, 60] uint8.

    The same rotation [3, 3] applies to all of them.
    """
    # The grid is rotated instead of the images, which all stay on the plane.
    rotated_grid = np.einsum("ij,jab->iab", rotation, grid())  # [3, 60, 60]
    values = sample(images, positions(rotated_grid))
    # Each channel of an image is stretched from its minimum and maximum; constants become 0.
    low = values.min(axis=(2, 3), keepdims=True)  # [n, C, 1, 1]
    high = values.max(axis=(2, 3), keepdims=True)
    span = np.where(high > low, high - low, 1)
    fractions = (values - low) / span
    return (fractions * 255).astype(np.uint8)
