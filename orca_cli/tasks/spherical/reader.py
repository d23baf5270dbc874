"""Spherical CIFAR-100: images projected onto a turned sphere, 3 x 60 x 60 on a grid of angles (Tu et al. 2022).

Read from the published file, or generated from real CIFAR images by the same recipe (projection.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli import storage
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.ranges import Count, Fraction, Seed
from orca_cli.tasks import cifar100
from orca_cli.tasks.shared.generated import folder_of
from orca_cli.tasks.shared.hold_out import describe, hold_out
from orca_cli.tasks.shared.pixels import PixelSamples
from orca_cli.tasks.shared.published import check_array, class_numbers, entries, find_first
from orca_cli.tasks.spherical.projection import BANDWIDTH, project_split
from orca_cli.untrusted.cifar import CIFAR10_NAMES, read_cifar10
from orca_cli.untrusted.first_bytes import GZIP, first_bytes
from orca_cli.untrusted.pickle import unpickle

_FILES = ("s2_cifar100.gz", "s2_cifar100")
_MAX_BYTES = 2**30  # the pickle has 648 MB
_SIDE = 2 * BANDWIDTH
_VERSION = 1
_PARTS = ("train", "test")
_AGAIN = "`orca data get spherical` fetches it again"


@dataclass(frozen=True)
class Origin:
    """Where the pixels come from.

    Args:
        parameters: all that they depend on.
        make: writes PART_x.npy [N, 3, 60, 60] uint8 and PART_y.npy [N] int64 for train and test into a folder.
        num_classes: K.
        class_names: K names, or empty.
        words: what it is.
    """

    parameters: dict[str, int | float | str]
    make: Callable[[Path], None]
    num_classes: int
    class_names: tuple[str, ...]
    words: str


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Literal["classes"] = "classes",
    path: str | None = None,
    origin: Literal["file", "cifar100", "cifar10"] = "file",
    images: str | None = None,
    data_seed: Seed = 0,
    rotate: bool = True,
    rescale: Literal["channel", "image"] = "channel",
    normalize: Literal["none", "cifar"] = "none",
    validation: Literal["stratified", "last"] = "stratified",
    validation_size: Count | Fraction = 0.1,
    train_size: Count | None = None,
    train_on_validation: bool = False,
    split_seed: Seed = 0,
) -> TaskData:
    """Return images on the sphere [n, 3, 60, 60] (polar angle x azimuth) in 0..1, with 100 classes (10 of cifar10).

    Args:
        path: folder that holds s2_cifar100.gz or the unpacked s2_cifar100.
        origin: "file" reads that file; "cifar100" and "cifar10" project real images, 50,000 and 10,000 of them or what
            there is. That is not the published data set, which has other rotations, and is marked as synthetic.
        images: folder of the CIFAR images, or an .npz of CIFAR-10 with x_train, y_train, x_test and y_test.
        data_seed: seed of the rotations; not the seed of the run.
        rotate: whether every 500 images are turned by a random rotation; else the south pole is an image's centre.
        rescale: "channel" stretches each channel of a projected image to 0..255, "image" the image as a whole.
        normalize: "none" gives pixels in 0..1; "cifar" subtracts CIFAR-100's mean and divides by its deviation.
        validation: "stratified" draws validation from the training images, every class in proportion; "last" takes their
            end.
        validation_size: a number of images (int), or a fraction (float).
        train_size: training images, stratified; None takes all that validation leaves.

    Raises:
        ConfigError: `path` or `images` given with the wrong origin.
    """
    check_settings(origin, path, images)
    if origin == "file":
        hint = "task.origin=cifar100 or cifar10 projects real CIFAR images instead"
        source = _from_file(find_first(data_folder, "spherical", [[name] for name in _FILES], path, hint)[0])
    else:
        source = _projected(
            origin, data_folder, images, {"data_seed": data_seed, "rotate": rotate, "rescale": rescale}, reporter
        )
    folder = folder_of(cache_folder, "spherical", {"version": _VERSION, **source.parameters}, source.make, reporter)
    x, y = _read(folder, "train")
    rows, held_out = hold_out(y, validation, validation_size, train_size, train_on_validation, split_seed)
    mean, std = (cifar100.MEAN, cifar100.STD) if normalize == "cifar" else (None, None)

    def open_test() -> PixelSamples:
        test_x, test_y = _read(folder, "test")
        return PixelSamples(test_x, test_y, np.arange(len(test_y)), mean=mean, std=std)

    note = f"{source.words}: {describe(rows, held_out, validation, split_seed)}"
    reporter.say(note)
    return TaskData(
        kind="classes",
        input_shape=(3, _SIDE, _SIDE),
        num_outputs=source.num_classes,
        train=PixelSamples(x, y, rows, mean=mean, std=std),
        validation=PixelSamples(x, y, held_out, mean=mean, std=std),
        open_test=open_test,
        synthetic=origin != "file",
        class_names=source.class_names,
        note=note,
    )


def _from_file(path: Path) -> Origin:
    def make(folder: Path) -> None:
        record = unpickle.load(path, max_bytes=_MAX_BYTES, gzipped=path.suffix == ".gz")
        for part in _PARTS:
            (content,) = entries(record, [part], str(path), _AGAIN)
            where = f"{path}[{part}]"
            x, y = entries(content, ("images", "labels"), where, _AGAIN)
            check_array(x, ("N", 3, _SIDE, _SIDE), where, _AGAIN, "images", "uint8")
            np.save(folder / f"{part}_x.npy", x)
            np.save(folder / f"{part}_y.npy", class_numbers(y, len(x), 100, where, hint=_AGAIN))

    first_bytes(path, str(path), _AGAIN, expected=(GZIP,))
    parameters: dict[str, int | float | str] = {"sha256": storage.sha256_file(path)}
    return Origin(parameters, make, 100, (), f"spherical CIFAR-100 from {path.name}")


def _projected(
    origin: str,
    data_folder: Path,
    images: str | None,
    settings: dict[str, int | bool | str],
    reporter: Reporter,
) -> Origin:
    if origin == "cifar10":
        parts, names = read_cifar10(data_folder, images, _PARTS, "task.images"), CIFAR10_NAMES
    else:
        try:
            place = cifar100.locate(data_folder, images)
        except DataError as error:
            hint = "`orca data get cifar100` fetches the images; or name their folder with task.images=FOLDER"
            raise DataError(error.what, where=f"task.images={images}" if images else error.where, hint=hint) from error
        parts, names = {part: cifar100.read(place, part) for part in _PARTS}, cifar100.class_names(place)

    def make(folder: Path) -> None:
        for part in _PARTS:
            shape = (len(parts[part].y), 3, _SIDE, _SIDE)
            result = np.lib.format.open_memmap(folder / f"{part}_x.npy", mode="w+", dtype=np.uint8, shape=shape)
            project_split(
                parts[part].x,
                result,
                (part,),
                int(settings["data_seed"]),
                bool(settings["rotate"]),
                settings["rescale"] == "channel",
                reporter,
            )
            result.flush()
            np.save(folder / f"{part}_y.npy", parts[part].y)

    words = f"generated: projection of {'CIFAR-10' if origin == 'cifar10' else 'CIFAR-100'} images onto the sphere"
    digest = hashlib.sha256("".join(parts[part].digest() for part in _PARTS).encode()).hexdigest()
    return Origin({"origin": origin, "images": digest, **settings}, make, len(names), names, words)


def _read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images [N, 3, 60, 60] uint8, mapped, and classes [N] int64."""
    x = np.load(folder / f"{part}_x.npy", mmap_mode="r", allow_pickle=False)
    return x, np.load(folder / f"{part}_y.npy", allow_pickle=False)


def check_settings(origin: str, path: str | None, images: str | None) -> None:
    """Refuse contradictory settings before anything is read; arguments as those of `load`."""
    unused, given, needed = ("images", images, "cifar100 or cifar10") if origin == "file" else ("path", path, "file")
    if given is not None:
        what, hint = f"has no effect with task.origin={origin}", f"leave it out, or give task.origin={needed}"
        raise ConfigError(what, where=f"task.{unused}", hint=hint)
