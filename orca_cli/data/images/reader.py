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
from orca_cli.data.images.files import (
    FileSamples,
    View,
    content_hashes,
    decode,
    largest_of_16_bits,
    pillow_version,
)
from orca_cli.data.images.folders import ImageFile, locate, new_images, read_table
from orca_cli.data.own_data import listed
from orca_cli.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.data.published import find
from orca_cli.data.settings import check_rules, fractions_rule, missing_targets_rule
from orca_cli.data.table.target_columns import ListedFiles
from orca_cli.data.targets import TargetForm, fit_targets, plain_labels
from orca_cli.exceptions import DataError, UnsafeError, suggest
from orca_cli.interfaces import Kind, NewData, Reporter, TaskData

_LARGEST_SIDE = 224  # where no size is given: what most image bodies were trained on
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)  # the means of ImageNet's three
_SHOWN = 10  # files named in a message
_SURVEY_VERSION = 2
_LARGEST_OF_12_BITS = 2**12 - 1  # what cameras and scanners give, stored in 16 bits


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
        files = new_images(path, where, part)
        paths, names = [file.path for file in files], [file.name for file in files]
        # A record without `from_folders` may be of the numbers of a table.
        folders_name_classes = self.from_folders and self.targets.kind == "classes"
        has_targets = folders_name_classes and any(file.class_name in self.targets.names for file in files)

        def targets() -> np.ndarray | None:
            if not has_targets:
                return None
            return self.targets.encode(np.array([file.class_name for file in files]), str(path))

        return NewData(len(files), lambda start, stop: paths[start:stop], targets, str(path), names)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the images of files, from a sequence of their paths."""
        if isinstance(x, (str, Path)) or not all(isinstance(path, (str, Path)) for path in x):
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
    on_bad: Literal["error", "skip"] = "error",
    split_seed: Seed = 0,
    validation_fraction: Fraction = 0.15,
    test_fraction: Fraction = 0.15,
    missing_targets: bool = False,
) -> TaskData:
    """Return images [n, C, S, S] of a folder, with one class for each folder of files, or with the targets of a table.

    conf/task/images.yaml explains the settings. FOLDER/CLASS/*.png is split at random, every class in proportion and
    identical files together; FOLDER/train/CLASS, FOLDER/val/CLASS and FOLDER/test/CLASS are taken as they are, and what is
    missing of val and test is drawn from train. Images that a table does not name are not read. Every file is decoded once
    before the run, so that a damaged one cannot end it half-way; the result is cached. See shared.assemble.

    Raises:
        DataError: also for identical files in two given splits, and for files that cannot be decoded.
        UnsafeError: an image has too many pixels.
        UnavailableError: Pillow is not installed.
    """
    folder = find(data_folder, "images", ["."], path)[0].resolve()
    held: ListedFiles | None = None
    if table is not None:
        held, parts = read_table(folder, table, data_folder, file, target, kind, missing_targets)
        notes = list(held.notes)
    else:
        parts, notes = locate(folder)
    files = [file for part in parts.values() for file in part]
    hashes = dict(zip(files, content_hashes([file.path for file in files], reporter), strict=True))
    survey = _survey(hashes, cache_folder, reporter)
    notes = [*_bad_note(hashes, survey["bad"], on_bad), *notes]
    views = _views(size or 0, channels, fit == "crop", normalize, padding, flip)
    images = _Images(folder, parts, held, hashes, survey, notes, views, missing_targets)
    fractions = validation_fraction, test_fraction
    return assemble("images", reporter, images.kind, images.pool, fractions, split_seed, images.fit)


def check_settings(
    kind: str | None,
    table: str | None,
    file: str | None,
    target: str | None,
    missing_targets: bool,
    validation_fraction: float,
    test_fraction: float,
) -> None:
    """Raise ConfigError where settings contradict each other; arguments as those of `load`."""
    column = "names a column of task.table", "give task.table=FILE.csv"
    other_kind, listing = (
        f"folders of images are classes, not {kind}",
        "give task.table=FILE.csv with a row for each image",
    )
    check_rules(
        (table is None and file is not None, "file", *column),
        (table is None and target is not None, "target", *column),
        (table is None and kind not in (None, "classes"), "kind", other_kind, listing),
        missing_targets_rule("classes" if table is None else kind, missing_targets),
        fractions_rule(validation_fraction, test_fraction),
    )


@dataclass
class _Images:
    """Files of images by split, with targets that a table holds or that folders name, and how they become samples.

    `hashes` and `survey` are of all files. Of `views`, the first is what test sees, the second what optimizer steps see; a side
    of 0 becomes that of the training images.
    """

    folder: Path
    given_parts: dict[str, list[ImageFile]]
    held: ListedFiles | None
    hashes: dict[ImageFile, str]
    survey: dict[str, dict[str, Any]]
    notes: list[str]
    views: tuple[View, View]
    missing_targets: bool

    def __post_init__(self) -> None:
        folder, held, hashes, bad = self.folder, self.held, self.hashes, self.survey["bad"]
        parts = {part: [file for file in files if hashes[file] not in bad] for part, files in self.given_parts.items()}
        self.kind: Kind = "classes" if held is None else held.kind
        self._parts, train_files = parts, parts["train"]
        _check_apart(parts, hashes)
        check_enough(len(train_files), "images", str(folder))
        if held is None:
            self._names, good = _class_names(parts, folder), [file for files in parts.values() for file in files]
            self._raw, self._where = np.array([file.class_name for file in good]), str(folder)
            self._rows = {file: row for row, file in enumerate(good)}
        else:
            self._raw, self._where, self._rows = held.y.read(), held.y.where, {file: file.row for file in hashes}
        train_rows = [self._rows[file] for file in train_files]
        self.pool = Pool(
            "images", {"train": np.arange(len(train_files))}, parts,
            plain_labels(self._raw, self._where)[train_rows] if self.kind == "classes" else None, None,
            lambda: np.array([hashes[file] for file in train_files]),
        )  # fmt: skip

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training images how all become samples; see `assemble`."""
        hashes, survey, held = self.hashes, self.survey, self.held
        drawn = {part: [self._parts["train"][row] for row in chosen] for part, chosen in rows.items()}
        parts = self._parts | drawn
        learn = parts["train"]
        largest = max(max(survey["sizes"][hashes[file]]) for file in learn)
        plain, augmented = (replace(view, side=view.side or min(_LARGEST_SIDE, largest)) for view in self.views)
        targets = self._fit_targets(learn)
        encoded = targets.encode(self._raw, self._where)
        preprocessing = ImagePreprocessing(plain, targets, held is None)

        def samples(part: str) -> FileSamples:
            chosen = parts[part]
            y, content = encoded[[self._rows[file] for file in chosen]], [hashes[file] for file in chosen]
            # Only optimizer steps augment, and those of a refit take validation as well.
            view = plain if part == "test" else augmented
            return FileSamples([file.path for file in chosen], [file.name for file in chosen], y, content, view)

        form = f"{targets.note()}, read as {' x '.join(map(str, preprocessing.input_shape))}"
        dark = _dark_note([survey["deep"][hashes[file]] for file in learn if hashes[file] in survey["deep"]])
        texts = {file: file.class_name if held is None else str(self._raw[file.row].tolist()) for file in hashes}
        notes = [form, *self.notes, *dark, *_contradictions(hashes, texts)]
        return Fitted(preprocessing, preprocessing.input_shape, targets, samples, notes, len(parts["test"]))

    def _fit_targets(self, learn: list[ImageFile]) -> TargetForm:
        """Return the form of the targets that the training images have."""
        if self.held is not None:
            outputs, rows = () if self.kind == "classes" else self.held.outputs, np.array([file.row for file in learn])
            return fit_targets(self.kind, self._raw, rows, self._where, names=outputs, missing=self.missing_targets)
        if lost := set(self._names) - {file.class_name for file in learn}:
            what = f"no image of class '{min(lost)}' is left for training"
            raise DataError(what, where=str(self.folder), hint="provide more images of it")
        return TargetForm("classes", len(self._names), self._names, self._names)


def _views(side: int, channels: int, crop: bool, normalize: str, padding: int, flip: bool) -> tuple[View, View]:
    """Return how test sees images and how optimizer steps do."""
    plain = View(side, channels, crop)
    if normalize == "imagenet":
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (_GREY_MEAN, _GREY_STD)
        plain = replace(plain, mean=mean, std=std)
    return plain, replace(plain, padding=padding, flip=flip)


def _bad_note(hashes: dict[ImageFile, str], reasons: dict[str, Any], on_bad: str) -> list[str]:
    """Return a warning about files that cannot be decoded, by their content; refuse them where they are not to be skipped."""
    bad = [file for file, content in hashes.items() if content in reasons]
    if bad and on_bad == "error":
        reason = reasons[hashes[bad[0]]]
        more = f", and {len(bad) - 1} more files ({', '.join(f.name for f in bad[1:_SHOWN])})" if len(bad) > 1 else ""
        hint = "save it again, or leave such files out with task.on_bad=skip"
        error = UnsafeError if reason["unsafe"] else DataError
        raise error(f"{reason['what']}{more}", where=str(bad[0].path), hint=hint)
    what = f"warning: {len(bad)} files that cannot be decoded are left out"
    return [f"{what}, such as {bad[0].name}"] if bad else []


def _survey(hashes: dict[ImageFile, str], cache_folder: Path, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Return, by content, width and height of each file that can be decoded ("sizes"), the largest value of those of 16 bits
    ("deep"), and why others cannot ("bad").
    """
    contents = {content: file for file, content in hashes.items()}
    key = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()

    def make(folder: Path) -> None:
        sizes, deep, bad = {}, {}, {}
        with reporter.track("decoding every image once", len(contents)) as advance:
            for content, file in contents.items():
                signals.check()
                try:
                    sizes[content] = decode(file.path, None, 3).shape[:0:-1]
                    if (largest := largest_of_16_bits(file.path)) is not None:
                        deep[content] = largest
                except (DataError, UnsafeError) as error:
                    bad[content] = {"what": error.what, "unsafe": isinstance(error, UnsafeError)}
                advance()
        storage.write_json(folder / "survey.json", {"sizes": sizes, "deep": deep, "bad": bad})

    parameters: dict[str, int | float | str] = {"version": _SURVEY_VERSION, "pillow": pillow_version(), "contents": key}
    survey_folder = folder_of(cache_folder, "image_survey", parameters, make, reporter)
    survey: dict[str, dict[str, Any]] = json.loads((survey_folder / "survey.json").read_text(encoding="utf-8"))
    return survey


def _check_apart(parts: dict[str, list[ImageFile]], hashes: dict[ImageFile, str]) -> None:
    """Refuse given splits that share images."""
    seen: dict[str, tuple[str, ImageFile]] = {}
    for part, chosen in parts.items():
        for file in chosen:
            other, first = seen.setdefault(hashes[file], (part, file))
            if other != part:
                what = f"the same image as '{first.name}', which is in another split"
                raise DataError(what, where=str(file.path), hint="delete one of the two")


def _class_names(parts: dict[str, list[ImageFile]], folder: Path) -> tuple[str, ...]:
    """Return the names of the training images' classes; refuse given splits that have other classes."""
    names = tuple(sorted({file.class_name for file in parts["train"]}))
    for part, chosen in parts.items():
        for file in chosen:
            if file.class_name not in names:
                what = f"class '{file.class_name}' of the {part} split has no training images"
                raise DataError(what, where=str(file.path.parent), hint=suggest(file.class_name, names))
    if len(names) < 2:
        what = f"holds one class only, '{names[0]}'" if names else "holds no images"
        raise DataError(what, where=str(folder), hint="provide folders of images for two classes or more")
    return names


def _dark_note(largest: Sequence[int]) -> list[str]:
    """Return a warning where 16-bit training images, of these largest values, use the lowest of their bits alone."""
    if not largest or max(largest) > _LARGEST_OF_12_BITS:
        return []
    what = f"warning: the 16-bit images hold values up to {max(largest)} of 65535"
    return [f"{what}, which become {max(largest) // 256 + 1} of 256 grey levels: store them over the whole range"]


def _contradictions(hashes: dict[ImageFile, str], target_texts: dict[ImageFile, str]) -> list[str]:
    """Return a warning about identical images to which folders or a table give different targets."""
    targets_by_content: dict[str, set[str]] = {}
    for file, content in hashes.items():
        targets_by_content.setdefault(content, set()).add(target_texts[file])
    several = [sorted(targets) for targets in targets_by_content.values() if len(targets) > 1]
    return [f"warning: {len(several)} images have several targets, such as {listed(several[0])}"] if several else []
