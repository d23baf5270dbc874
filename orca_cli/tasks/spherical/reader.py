"""Spherical CIFAR-100: images projected onto a turned sphere, 3 x 60 x 60 on a grid of angles (Tu et al. 2022).

Read from the published file, or generated from real CIFAR images by the same recipe (`spherical_projection`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli import storage
from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.tasks import cifar100
from orca_cli.tasks.shared import files
from orca_cli.tasks.shared.cifar import read_cifar10
from orca_cli.tasks.shared.generated import folder_of
from orca_cli.tasks.shared.hold_out import check_hold_out, describe, hold_out
from orca_cli.tasks.shared.pixels import PixelSamples
from orca_cli.tasks.shared.splits import check_seed
from orca_cli.tasks.spherical.projection import BANDWIDTH, project_split
from orca_cli.untrusted.first_bytes import GZIP, first_bytes
from orca_cli.untrusted.pickle import unpickle

_FILE = "s2_cifar100"
_MAX_BYTES = 2**30  # the pickle has 648 MB
_SIDE = 2 * BANDWIDTH
_VERSION = 1
_PARTS = ("train", "test")
_CHOICES = {
    "origin": ("file", "cifar100", "cifar10"),
    "normalize": ("none", "cifar"),
    "rescale": ("channel", "image"),
}


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
    kind: Kind = "classes",
    path: str | None = None,
    origin: str = "file",
    images: str | None = None,
    data_seed: int = 0,
    rotate: bool = True,
    rescale: str = "channel",
    normalize: str = "none",
    validation: str = "stratified",
    validation_size: int | float = 0.1,
    train_size: int | None = None,
    train_on_validation: bool = False,
    split_seed: int = 0,
) -> TaskData:
    """Return images on the sphere [n, 3, 60, 60] (polar angle x azimuth) in 0..1, with 100 classes (10 of cifar10).

    Args:
        data_folder: the file is looked for in data_folder/spherical, images in data_folder/cifar100 or cifar10.
        cache_folder: where the images are kept as arrays, which are mapped into memory.
        reporter: is told of the work.
        kind: "classes", nothing else.
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
        train_on_validation: whether the validation images are for training too, as in experiments without validation.
        split_seed: of the draw.

    Raises:
        ConfigError: another kind, or a value that is not allowed.
        DataError: files are missing, damaged or have another form.
        UnsafeError: a file would run code when read.
    """
    check_settings(
        kind,
        origin,
        path,
        images,
        data_seed,
        rescale,
        normalize,
        validation,
        validation_size,
        train_size,
        split_seed,
    )
    if origin == "file":
        source = _from_file(_locate(data_folder, path))
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


def _locate(data_folder: Path, path: str | None) -> Path:
    for name in (_FILE, f"{_FILE}.gz"):
        try:
            return files.find(data_folder, "spherical", [name], path)[0]
        except DataError:
            continue
    return files.find(
        data_folder,
        "spherical",
        [f"{_FILE}.gz"],
        path,
        hint="task.origin=cifar100 or cifar10 projects real CIFAR images instead",
    )[0]


def _from_file(path: Path) -> Origin:
    def make(folder: Path) -> None:
        record = unpickle(path, max_bytes=_MAX_BYTES, gzipped=path.suffix == ".gz")
        for part in _PARTS:
            x, y = _checked(record, part, str(path))
            np.save(folder / f"{part}_x.npy", x)
            np.save(folder / f"{part}_y.npy", y)

    first_bytes(path, str(path), "get it again", expected=(GZIP,))
    parameters: dict[str, int | float | str] = {"sha256": storage.sha256_file(path)}
    return Origin(parameters, make, 100, (), f"spherical CIFAR-100 from {path.name}")


def _checked(record: object, part: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    entry = record.get(part) if isinstance(record, dict) else None
    if not isinstance(entry, dict) or "images" not in entry or "labels" not in entry:
        raise DataError(f"holds no '{part}' with 'images' and 'labels'", where=where, hint="get the file again")
    x, y = entry["images"], np.asarray(entry["labels"])
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.shape[1:] != (3, _SIDE, _SIDE) or not len(x):
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
        raise DataError(f"{part} images are {found}; uint8 (N, 3, {_SIDE}, {_SIDE}) is expected", where=where)
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise DataError(f"{part} labels are {y.dtype} {y.shape}; integers ({len(x)},) are expected", where=where)
    wrong = np.flatnonzero((y < 0) | (y >= 100))
    if len(wrong):
        raise DataError(f"{part} label {y[wrong[0]]} at index {wrong[0]} is not in 0..99", where=where)
    return x, y.astype(np.int64)


def _projected(
    origin: str,
    data_folder: Path,
    images: str | None,
    settings: dict[str, int | bool | str],
    reporter: Reporter,
) -> Origin:
    if origin == "cifar10":
        parts, names = read_cifar10(data_folder, images)
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


def check_settings(
    kind: str,
    origin: str,
    path: str | None,
    images: str | None,
    data_seed: int,
    rescale: str,
    normalize: str,
    validation: str,
    validation_size: int | float,
    train_size: int | None,
    split_seed: int,
) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: another kind, or a value that is not allowed.
    """
    if kind != "classes":
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint="spherical has kind=classes")
    for key, value in {"origin": origin, "normalize": normalize, "rescale": rescale}.items():
        if value not in _CHOICES[key]:
            raise ConfigError(f"'{value}' is not allowed", where=f"task.{key}", hint=suggest(str(value), _CHOICES[key]))
    check_seed(data_seed, "task.data_seed")
    unused, needed = ("images", "cifar100 or cifar10") if origin == "file" else ("path", "file")
    if {"images": images, "path": path}[unused] is not None:
        raise ConfigError(
            f"is not for task.origin={origin}",
            where=f"task.{unused}",
            hint=f"leave it out, or give task.origin={needed}",
        )
    check_hold_out(validation, validation_size, train_size, split_seed)
