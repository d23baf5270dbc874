"""Spherical CIFAR-100: images projected onto a turned sphere, 3 x 60 x 60 on a grid of angles (Tu et al. 2022).

Read from the published file, or generated from CIFAR images by the same recipe.

The recipe is that of the generator of spherical MNIST (Cohen et al. 2018), applied to each channel: a Driscoll-Healy grid is
turned at random, each of its points is sent along the ray from just above the north pole onto the plane below the sphere, and
the image that lies there is sampled. The southern hemisphere sees the image, the northern one zeros. Two traits of the
generator are kept, since the published file has them: it interpolates between the pixels before and after a point's own, which
blurs, and it stretches each channel to 0..255. It names no seed, so that the published file cannot be made again bit for bit.

Shapes: grid 60 x 60, n images of C x S x S pixels.
"""

import itertools
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli import signals, storage
from orca_cli.benchmarks import cifar100
from orca_cli.benchmarks.sources import cifar10
from orca_cli.benchmarks.sources.balance import facts_digest
from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.own_data import check_rules
from orca_cli.data.pixels import PixelSamples
from orca_cli.data.published import AGAIN, check_array, class_numbers, entries, find, load_arrays
from orca_cli.data.splits import hold_out
from orca_cli.data.untrusted.first_bytes import first_bytes
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.seeding import numpy_generator

_FILE = "s2_cifar100.gz"
_MAX_BYTES = 2**30  # the pickle has 648 MB
_SIDE = 60  # points of the grid along both angles
_CHUNK = 500  # consecutive images that share one rotation
_ORIGIN = 2 + 1e-3  # height of the centre of projection; the sphere touches the plane at height 0
_EXTENT = 1.5  # the image covers -1.5..1.5 of the plane along both axes
_CLASSES = 100  # of the published file
_VERSION = 1
_PARTS = ("train", "test")


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: str | None = None,
    origin: Literal["file", "cifar100", "cifar10"] = "file",
    images: str | None = None,
    data_seed: Seed = 0,
    validation: Literal["stratified", "last"] = "stratified",
    validation_size: Count | Fraction = 0.1,
    train_size: Count | None = None,
    train_on_validation: bool = False,
    split_seed: Seed = 0,
) -> TaskData:
    """Return images on the sphere [n, 3, 60, 60] (polar angle x azimuth) in 0..1, with 100 classes (10 of cifar10).

    What is projected from CIFAR images is not the published data set, which has other rotations, and is marked as synthetic.
    An .npz of CIFAR-10 holds x_train, y_train, x_test and y_test.
    """
    names: tuple[str, ...] = ()
    parameters: dict[str, int | float | str]
    if origin == "file":
        hint = "task.origin=cifar100 or cifar10 projects real images instead"
        (file,) = find(data_folder, "spherical", [_FILE], path, hint)
        first_bytes(file, str(file), AGAIN)
        make, parameters = partial(_unpack, file), {"sha256": storage.sha256_file(file)}
    else:
        if origin == "cifar10":
            hint = "task.origin=file reads the published data"
            parts, names = (
                cifar10.read(data_folder, images, _PARTS, "task.images", hint),
                cifar10.NAMES,
            )
        else:
            (archive,) = find(
                data_folder, "cifar100", [cifar100.ARCHIVE], images, key="task.images"
            )
            parts, names = (
                {part: cifar100.read(archive, part) for part in _PARTS},
                cifar100.class_names(archive),
            )
        digest = facts_digest(*(array for part in _PARTS for array in parts[part]))
        parameters = {"origin": origin, "images": digest, "data_seed": data_seed}
        make = partial(_project, parts, data_seed, reporter)
    folder = folder_of(
        cache_folder, "spherical", {"version": _VERSION, **parameters}, make, reporter
    )
    (labels,) = load_arrays(folder, ["train_y"])
    rows, held_out = hold_out(
        labels, validation, validation_size, train_size, train_on_validation, split_seed
    )

    def samples(part: str, rows: np.ndarray | None = None) -> PixelSamples:
        (x,), (y,) = (
            load_arrays(folder, [f"{part}_x"], mapped=True),
            load_arrays(folder, [f"{part}_y"]),
        )
        return PixelSamples(x, y, rows)

    return TaskData(
        kind="classes",
        input_shape=(3, _SIDE, _SIDE),
        num_outputs=len(names) or _CLASSES,
        train=samples("train", rows),
        validation=samples("train", held_out),
        open_test=lambda: samples("test"),
        synthetic=origin != "file",
        class_names=names,
        note="" if origin == "file" else f"{origin} images projected onto the sphere",
        validation_drawn=train_size is None and not train_on_validation,
    )


def _unpack(file: Path, folder: Path) -> None:
    """Write PART_x.npy [N, 3, 60, 60] uint8 and PART_y.npy [N] int64 of the published file for train and test."""
    record = unpickle(file, max_bytes=_MAX_BYTES, gzipped=True)
    for part, content in zip(_PARTS, entries(record, _PARTS, str(file)), strict=True):
        where = f"{file}[{part}]"
        x, y = entries(content, ("images", "labels"), where)
        check_array(x, ("N", 3, _SIDE, _SIDE), where, "images", "uint8")
        np.save(folder / f"{part}_x.npy", x)
        np.save(folder / f"{part}_y.npy", class_numbers(y, len(x), _CLASSES, where))


def _project(
    parts: dict[str, tuple[np.ndarray, np.ndarray]], seed: int, reporter: Reporter, folder: Path
) -> None:
    """Write the projected images as `_unpack` does."""
    for part, (images, labels) in parts.items():
        shape = (len(images), 3, _SIDE, _SIDE)
        result = np.lib.format.open_memmap(
            folder / f"{part}_x.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        with reporter.track(f"projecting {part}", len(images)) as advance:
            for chunk, start in enumerate(range(0, len(images), _CHUNK)):
                signals.check()
                rotation = random_rotation(numpy_generator(seed, "spherical", part, chunk))
                some = result[start : start + _CHUNK]
                some[:] = project(images[start : start + _CHUNK], rotation)
                advance(len(some))
        result.flush()
        np.save(folder / f"{part}_y.npy", labels)


def check_settings(origin: str, path: str | None, images: str | None) -> None:
    """Refuse contradictory settings before anything is read; arguments as those of `load`."""
    unused, given = ("images", images) if origin == "file" else ("path", path)
    what, hint = (
        f"has no effect with task.origin={origin}",
        "leave it out, or give another task.origin",
    )
    check_rules((given is not None, unused, what, hint))


def grid() -> np.ndarray:
    """Return x, y, z on the unit sphere, [3, 60, 60]: polar angles pi j / 60 (row 0 is the north pole), azimuths pi k / 30."""
    steps = np.arange(_SIDE)
    polar, azimuth = np.meshgrid(np.pi * steps / _SIDE, np.pi * steps / (_SIDE // 2), indexing="ij")
    return np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    )


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    """Return a rotation matrix [3, 3], uniform over all rotations (Arvo 1992): a turn about z, then z to a random point."""
    turn, direction, height = generator.random(3)
    angle, towards = 2 * np.pi * turn, 2 * np.pi * direction
    about_z = np.array(
        [[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    radius = np.sqrt(2 * height)
    axis = np.array([np.sin(towards) * radius, np.cos(towards) * radius, np.sqrt(2 - 2 * height)])
    return (np.outer(axis, axis) - np.eye(3)) @ about_z


def positions(points: np.ndarray) -> np.ndarray:
    """Return where on the image points of the sphere [3, *] lie, [2, *]: fractions of rows and columns, beyond 0..1 outside."""
    height = points[2] + 1
    reach = 1 + height / (_ORIGIN - height)
    return (points[:2] * reach + _EXTENT) / (2 * _EXTENT)


def sample(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return images [n, C, S, S] at positions [2, *], as [n, C, *] float32, four times too large; zeros lie around an image.

    The four pixels diagonal to a position's own have weights that add up to 4, as in the generator; `project` stretches the
    values to 0..255 in any case.
    """
    side = images.shape[-1]
    # Beyond the image by more than a pixel all is zero; the bound keeps far points from overflowing.
    places = np.clip(where * side, -2.0, side + 2.0).reshape(2, -1)
    pixel = places.astype(np.int64)
    framed = np.pad(images, ((0, 0), (0, 0), (3, 4), (3, 4)))
    result = np.zeros((*images.shape[:2], places.shape[1]), dtype=np.float32)
    for step in itertools.product((-1, 1), repeat=2):
        away = np.array(step)[:, None]
        row, column = pixel + away + 3
        # The weight of one neighbour is the distance to the opposite one.
        weight = np.abs(pixel - away - places).prod(axis=0)
        result += framed[:, :, row, column].astype(np.float32) * weight.astype(np.float32)
    return result.reshape(*images.shape[:2], *where.shape[1:])


def project(images: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return images [n, C, S, S] as seen on the sphere, [n, C, 60, 60] uint8; all turned by one rotation [3, 3]."""
    values = sample(images, positions(np.einsum("ij,jab->iab", rotation, grid())))
    # Each channel of an image is stretched by its own extremes; constants become 0.
    low, high = values.min(axis=(2, 3), keepdims=True), values.max(axis=(2, 3), keepdims=True)
    span = np.where(high > low, high - low, 1)
    return ((values - low) / span * 255).astype(np.uint8)
