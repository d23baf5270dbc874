"""Your own images without code: one folder of files for each class, possibly below folders train, val and test.

Shapes: n images, S pixels per side, C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from torch import Tensor

from orca_cli import signals, storage
from orca_cli.config.ranges import Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.data.generated import folder_of
from orca_cli.data.images.files import FileSamples, View, content_hashes, decode, pillow_version
from orca_cli.data.images.folders import ImageFile, ImageTargets, locate, new_images, read_table
from orca_cli.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.data.published import find
from orca_cli.data.targets import TargetForm, fit_targets, plain_labels
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import NewData, Reporter, TaskData

_LARGEST_SIDE = 224  # where no size is given: what most image bodies were trained on
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)  # the means of ImageNet's three
_SURVEY_VERSION = 3


@dataclass(frozen=True)
class ImagePreprocessing:
    """How image files become inputs, without augmentation; their targets, and whether folders say these."""

    view: View
    targets: TargetForm
    from_folders: bool = True

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, S, S)."""
        return self.view.channels, self.view.side, self.view.side

    def inputs(self, raw: Sequence[Path], where: str = "inputs") -> tuple[Tensor, None]:
        """Return the images of files as Batch.x; errors as those of `files.decode`."""
        return self.view.inputs(raw), None

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the images of a folder, or one image.

        Below folders with the names of classes they have targets: FOLDER/CLASS/*.png, or with a part
        FOLDER/test/CLASS/*.png. Loose images, those in folders of which none is a class, and all where a table had the
        targets in training, have none.
        """
        paths, names, labels = new_images(path, where, part)
        # A record without `from_folders` may be of the numbers of a table.
        folders_name_classes = self.from_folders and self.targets.kind == "classes"
        has_targets = folders_name_classes and not set(labels).isdisjoint(self.targets.names)

        def targets() -> np.ndarray | None:
            return self.targets.encode(np.array(labels), str(path)) if has_targets else None

        return NewData(len(paths), lambda start, stop: paths[start:stop], targets, str(path), names)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the images of files, from a sequence of their paths."""
        if isinstance(x, str) or not hasattr(x, "__iter__") or not all(isinstance(path, (str, Path)) for path in x):
            raise DataError("is not a list of image files", where=where, hint="give their paths")
        paths = [Path(path) for path in x]
        return NewData(len(paths), lambda start, stop: paths[start:stop], lambda: None, where, list(map(str, paths)))


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: str,
    kind: Literal["classes", "labels", "values"] | None = None,
    table: str | None = None,
    file: str | None = None,
    target: str | None = None,
    size: Annotated[int, Interval(ge=4, le=4096)] | None = None,
    channels: Literal[3, 1] = 3,
    fit: Literal["stretch", "crop"] = "stretch",
    normalize: Literal["imagenet", "none"] = "imagenet",
    padding: Annotated[int, Interval(ge=0, le=1024)] = 0,
    flip: bool = False,
    split_seed: Seed = 0,
    validation_fraction: Fraction = 0.15,
    test_fraction: Fraction = 0.15,
    missing_targets: bool = False,
) -> TaskData:
    """Return images [n, C, S, S] of a folder, with one class for each folder of files, or with the targets of a table.

    conf/task/images.yaml explains the settings. FOLDER/CLASS/*.png is split at random, identical files together; FOLDER/train,
    FOLDER/val and FOLDER/test are taken as they are, and what is missing is drawn from train. Every file is decoded once before
    the run, so that a damaged one cannot end it half-way; the result is cached. See `assemble`.

    Raises:
        DataError: also for identical files in two given splits, and for files that cannot be decoded.
        UnsafeError: an image has too many pixels.
        UnavailableError: Pillow is not installed.
    """
    folder = find(data_folder, "images", ["."], path)[0].resolve()
    if table is None and not (file is target is None and kind in (None, "classes")):
        what = "task.kind, task.file and task.target are of a table"
        raise ConfigError(what, where="task.table", hint="give task.table=FILE.csv with a row for each image")
    if table is not None:
        held, parts = read_table(folder, table, data_folder, file, target, kind, missing_targets)
    else:
        held, parts = locate(folder)
    files = [file for part in parts.values() for file in part]
    hashes = dict(zip(files, content_hashes([file.path for file in files], reporter), strict=True))
    sizes = _sizes(hashes, cache_folder, reporter)
    plain = View(size or 0, channels, fit == "crop")
    if normalize == "imagenet":
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (_GREY_MEAN, _GREY_STD)
        plain = replace(plain, mean=mean, std=std)
    views = plain, replace(plain, padding=padding, flip=flip)
    images = _Images(str(folder), parts, held, table is None, hashes, sizes, views, missing_targets)
    fractions = validation_fraction, test_fraction
    return assemble("images", reporter, held.kind, images.pool, fractions, split_seed, images.fit)


@dataclass
class _Images:
    """Files of images by split, with their targets, and how they become samples.

    Width and height are by content. Of `views`, the first is what test sees, the second what optimizer steps see; a side
    of 0 becomes that of the training images.
    """

    where: str
    parts: dict[str, list[ImageFile]]
    held: ImageTargets
    from_folders: bool
    hashes: dict[ImageFile, str]
    sizes: dict[str, tuple[int, int]]
    views: tuple[View, View]
    missing_targets: bool

    def __post_init__(self) -> None:
        held, hashes, parts = self.held, self.hashes, self.parts
        train_files = parts["train"]
        seen: dict[str, tuple[str, ImageFile]] = {}
        for part, file in ((part, file) for part, files in parts.items() for file in files):
            other, first = seen.setdefault(hashes[file], (part, file))
            if other != part:
                what = f"the same image as '{first.name}', which is in another split"
                raise DataError(what, where=str(file.path), hint="delete one of the two")
        check_enough(len(train_files), "images", self.where)
        train_rows = [file.row for file in train_files]
        self.pool = Pool(
            "images", {"train": np.arange(len(train_files))}, parts,
            plain_labels(held.y, held.where)[train_rows] if held.kind == "classes" else None, None,
            lambda: np.array([hashes[file] for file in train_files]),
        )  # fmt: skip

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training images how all become samples; see `assemble`."""
        hashes, held = self.hashes, self.held
        drawn = {part: [self.parts["train"][row] for row in chosen] for part, chosen in rows.items()}
        parts = self.parts | drawn
        largest = max(max(self.sizes[hashes[file]]) for file in parts["train"])
        plain, augmented = (replace(view, side=view.side or min(_LARGEST_SIDE, largest)) for view in self.views)
        rows_by_part = {part: np.array([file.row for file in files]) for part, files in parts.items()}
        targets = fit_targets(
            held.kind, held.y, rows_by_part["train"], held.where, names=held.outputs, missing=self.missing_targets
        )
        encoded = {part: targets.encode(held.y[members], held.where) for part, members in rows_by_part.items()}
        preprocessing = ImagePreprocessing(plain, targets, self.from_folders)

        def samples(part: str) -> FileSamples:
            paths, names = [file.path for file in parts[part]], [file.name for file in parts[part]]
            # Only optimizer steps augment, and those of a refit take validation as well.
            view = plain if part == "test" else augmented
            return FileSamples(paths, names, encoded[part], [hashes[file] for file in parts[part]], view)

        form = f"{targets.note()}, read as {' x '.join(map(str, preprocessing.input_shape))}"
        return Fitted(preprocessing, preprocessing.input_shape, targets, samples, [form, *held.notes])


def _sizes(hashes: dict[ImageFile, str], cache_folder: Path, reporter: Reporter) -> dict[str, tuple[int, int]]:
    """Return width and height of each file, by content; files that cannot be decoded are refused as `decode` says."""
    contents = {content: file for file, content in hashes.items()}
    key = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()

    def make(folder: Path) -> None:
        sizes = {}
        with reporter.track("decoding every image once", len(contents)) as advance:
            for content, file in contents.items():
                signals.check()
                sizes[content] = decode(file.path, None, 3).shape[:0:-1]
                advance()
        storage.write_json(folder / "sizes.json", sizes)

    parameters: dict[str, int | float | str] = {"version": _SURVEY_VERSION, "pillow": pillow_version(), "contents": key}
    folder = folder_of(cache_folder, "image_survey", parameters, make, reporter)
    sizes: dict[str, tuple[int, int]] = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))
    return sizes
