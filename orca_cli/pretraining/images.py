"""Labelled images to pretrain a vision body on: CIFAR-10's files, an .npz, or a folder of image files for each class.

Shapes: n images, S pixels per side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from orca_cli import seeding, signals
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter
from orca_cli.models.geometry import resize
from orca_cli.tasks.images.files import decode_all
from orca_cli.tasks.images.folders import ImageFile, locate
from orca_cli.untrusted.arrays import open_arrays, read_arrays
from orca_cli.untrusted.cifar import CIFAR10_NAMES, read_cifar10

_HELD_OUT = 0.1
_BATCH = 256
_FORMS = "allowed: uint8 (n, 3, H, W), (n, H, W, 3) or (n, H, W)"


@dataclass(frozen=True)
class Part:
    """Images x [n, 3, S, S] uint8 with classes y [n] int64."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class ImageSet:
    """What a body is pretrained on, and what it is judged by.

    Args:
        train, held_out: disjoint parts.
        class_names: of the classes 0..k-1.
        where: the file or folder.
    """

    train: Part
    held_out: Part
    class_names: tuple[str, ...]
    where: str

    def digest(self) -> str:
        """Return a SHA-256 over all images and classes."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            for array in (part.x, part.y):
                digest.update(f"{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(path: Path | None, data_folder: Path, side: int, limit: int | None, seed: int, reporter: Reporter) -> ImageSet:
    """Return training and held-out images.

    A test (or else validation) split that is there is held out; otherwise a tenth of each class, drawn by the seed.

    Args:
        path: an .npz with x_train and y_train (or x and y), possibly x_test and y_test; a folder that is or holds torchvision's
            cifar-10-batches-py; or a folder of images, FOLDER/CLASS/*.png or FOLDER/train/CLASS/*.png. None: CIFAR-10 in
            `data_folder`.
        side: S; images of another size are resized.
        limit: most training images, drawn by the seed; None takes all.
        seed: of the draws.

    Raises:
        DataError, UnsafeError: files are missing, damaged or have another form; fewer than two classes.
        UnavailableError: Pillow is not installed, and there are image files.
    """
    if path is not None and path.is_file():
        train, held_out, names = _arrays(path, side)
    elif path is not None and path.is_dir() and not _is_cifar(path):
        train, held_out, names = _folders(path, side, reporter)
    else:
        if path is not None and not path.exists():
            raise DataError("no such file or folder", where=f"--data {path}", hint="give an .npz or a folder of images")
        hint = "--data FILE.npz or --data FOLDER takes your own images"
        found = read_cifar10(data_folder, None if path is None else str(path), ["train", "test"], "--data", hint)
        train, held_out = (Part(_sized(found[part].x, side), found[part].y) for part in ("train", "test"))
        names = CIFAR10_NAMES
    where = str(path or data_folder / "cifar10")
    _check(train, held_out, len(names), where)
    if held_out is None:
        rows = _drawn_tenth(train.y, seed)
        rest = np.setdiff1d(np.arange(len(train.y)), rows)
        train, held_out = Part(train.x[rest], train.y[rest]), Part(train.x[rows], train.y[rows])
    if limit is not None and limit < len(train.y):
        kept = np.sort(seeding.numpy_generator(seed, "pretraining", "limit").permutation(len(train.y))[:limit])
        train = Part(train.x[kept], train.y[kept])
    return ImageSet(train, held_out, tuple(names), where)


def _is_cifar(folder: Path) -> bool:
    return any((place / "data_batch_1").is_file() for place in (folder, folder / "cifar-10-batches-py"))


def _arrays(path: Path, side: int) -> tuple[Part, Part | None, tuple[str, ...]]:
    """Return the parts of an .npz; the held-out one is None where the file has no test split."""
    there = open_arrays(path, "--data").keys()
    own = ("x_train", "y_train") if "x_train" in there else ("x", "y")
    parts = []
    for names in (own, ("x_test", "y_test")):
        if names == own or set(names) <= there:
            arrays = read_arrays(path, names)
            x, y = _images(arrays[names[0]], f"{path}[{names[0]}]"), arrays[names[1]]
            if y.shape != (len(x),) or y.dtype.kind not in "iu":
                what = f"labels are {y.dtype} {y.shape}; expected integers ({len(x)},)"
                raise DataError(what, where=f"{path}[{names[1]}]")
            parts.append((x, y))
    values = np.unique(parts[0][1])
    unknown = [value for _, y in parts[1:] for value in np.setdiff1d(y, values)]
    if unknown:
        raise DataError(f"class {unknown[0]} has no training images", where=f"{path}[y_test]")
    found = [Part(_sized(x, side), np.searchsorted(values, y).astype(np.int64)) for x, y in parts]
    return found[0], found[1] if len(found) > 1 else None, tuple(map(str, values))


def _images(x: np.ndarray, where: str) -> np.ndarray:
    """Return images as [n, 3, H, W]; the grey value in all three channels where there is one."""
    if x.dtype == np.uint8 and x.ndim == 3:
        return np.repeat(x[:, None], 3, axis=1)
    if x.dtype != np.uint8 or x.ndim != 4 or 3 not in (x.shape[1], x.shape[3]):
        raise DataError(f"images are {x.dtype} {x.shape}", where=where, hint=_FORMS)
    return x if x.shape[1] == 3 else x.transpose(0, 3, 1, 2)


def _folders(path: Path, side: int, reporter: Reporter) -> tuple[Part, Part | None, tuple[str, ...]]:
    """Return the parts of a folder of image files."""
    splits, _ = locate(path)
    names = tuple(sorted({file.class_name for file in splits["train"]}))
    parts = [_decoded(splits["train"], names, side, reporter)]
    other = next((splits[part] for part in ("test", "validation") if splits.get(part)), None)
    if other is not None:
        unknown = next((file for file in other if file.class_name not in names), None)
        if unknown is not None:
            what = f"class '{unknown.class_name}' has no training images"
            raise DataError(what, where=str(unknown.path.parent))
        parts.append(_decoded(other, names, side, reporter))
    return parts[0], parts[1] if len(parts) > 1 else None, names


def _decoded(files: Sequence[ImageFile], names: Sequence[str], side: int, reporter: Reporter) -> Part:
    blocks = []
    with reporter.track("decoding images", len(files)) as advance:
        for start in range(0, len(files), _BATCH):
            signals.check()
            chosen = files[start : start + _BATCH]
            blocks.append(decode_all([file.path for file in chosen], side, 3))
            advance(len(chosen))
    y = np.array([names.index(file.class_name) for file in files], dtype=np.int64)
    return Part(np.concatenate(blocks) if blocks else np.empty((0, 3, side, side), np.uint8), y)


def _sized(x: np.ndarray, side: int) -> np.ndarray:
    """Return images [n, 3, H, W] as [n, 3, S, S]."""
    if x.shape[2:] == (side, side):
        return x
    blocks = []
    for start in range(0, len(x), _BATCH):
        block = torch.from_numpy(np.ascontiguousarray(x[start : start + _BATCH])).float()
        blocks.append(resize(block, (side, side)).round().clamp(0, 255).byte().numpy())
    return np.concatenate(blocks) if blocks else np.empty((0, 3, side, side), np.uint8)


def _check(train: Part, held_out: Part | None, num_classes: int, where: str) -> None:
    counts = np.bincount(train.y, minlength=num_classes)
    if num_classes < 2 or (held_out is None and counts.min() < 2):
        what = "there is only one class" if num_classes < 2 else f"a class has {counts.min()} image"
        raise DataError(what, where=where, hint="two classes or more with two images each are needed")
    if held_out is not None and not len(held_out.y):
        raise DataError("the test split is empty", where=where)


def _drawn_tenth(y: np.ndarray, seed: int) -> np.ndarray:
    """Return the held-out rows: a tenth of each class, one or more."""
    rows = []
    for number in range(int(y.max()) + 1):
        order = seeding.numpy_generator(seed, "pretraining", "held out", number).permutation(
            np.flatnonzero(y == number)
        )
        rows.append(order[: max(1, round(_HELD_OUT * len(order)))])
    return np.sort(np.concatenate(rows))
