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
from orca_cli.exceptions import ConfigError, DataError, UnsafeError, suggest
from orca_cli.interfaces import Kind, NewData, Reporter, TaskData
from orca_cli.tasks.images.files import (
    FileSamples,
    View,
    content_hashes,
    decode,
    largest_of_16_bits,
    pillow_version,
)
from orca_cli.tasks.images.folders import ImageFile, locate, new_images, read_table
from orca_cli.tasks.shared.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.tasks.shared.generated import folder_of
from orca_cli.tasks.shared.own_data import check_missing_targets, listed
from orca_cli.tasks.shared.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.tasks.shared.published import find
from orca_cli.tasks.shared.splits import check_fractions
from orca_cli.tasks.shared.targets import TargetForm, fit_targets, plain_labels
from orca_cli.tasks.table.target_columns import ListedFiles

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

    FOLDER/CLASS/*.png is split at random, every class in proportion and identical files together; FOLDER/train/CLASS,
    FOLDER/val/CLASS and FOLDER/test/CLASS are taken as they are, and what is missing of val and test is drawn from train.
    A table has a row for each image: its file below the folder, its targets, and possibly `split`. Every file is decoded once
    before the run, so that a damaged one cannot end it half-way; the result is cached. See shared.assemble.

    Args:
        kind: classes, labels or values, as for tables; without a table classes. None infers it from the table.
        table: .csv, .tsv or .parquet file with the targets; images that it does not name are not read.
        file: its column of files; None finds it by what it holds.
        target: its column to be predicted; None takes all others, which are labels or values where there are several.
        size: S; None takes the longest side of all training images, at most 224.
        fit: "stretch" brings the whole image to the square; "crop" cuts the largest square from its middle before.
        normalize: "imagenet" subtracts ImageNet's mean and divides by its deviation; "none" leaves pixels in 0..1.
        padding: optimizer steps see random windows of S x S after this many pixels of zeros on every side.
        flip: whether optimizer steps see images mirrored left to right at random; not for letters, digits or maps.
        on_bad: what to do with files that cannot be decoded: "error", or "skip" and count them in the note.

    Raises:
        DataError: also for identical files in two given splits, and for files that cannot be decoded.
        UnsafeError: an image has too many pixels.
        UnavailableError: Pillow is not installed.
    """
    folder = find(data_folder, "images", ["."], path)[0].resolve()
    held: ListedFiles | None = None
    if table is not None:
        held, given_parts = read_table(folder, table, data_folder, file, target, kind, missing_targets)
        others = list(held.notes)
    else:
        given_parts, others = locate(folder)
    target_kind: Kind = "classes" if held is None else held.kind
    files = [file for part in given_parts.values() for file in part]
    hashes = dict(zip(files, content_hashes([file.path for file in files], reporter), strict=True))
    survey = _survey(hashes, cache_folder, reporter)
    bad = [file for file in files if hashes[file] in survey["bad"]]
    if bad and on_bad == "error":
        reason = survey["bad"][hashes[bad[0]]]
        more = f", and {len(bad) - 1} more files ({', '.join(f.name for f in bad[1:_SHOWN])})" if len(bad) > 1 else ""
        hint = "save it again, or leave such files out with task.on_bad=skip"
        error = UnsafeError if reason["unsafe"] else DataError
        raise error(f"{reason['what']}{more}", where=str(bad[0].path), hint=hint)
    parts = {part: [f for f in chosen if hashes[f] not in survey["bad"]] for part, chosen in given_parts.items()}
    _check_apart(parts, hashes)
    train_files = parts["train"]
    check_enough(len(train_files), "images", str(folder))
    if held is None:
        names, good = _class_names(parts, folder), [file for chosen in parts.values() for file in chosen]
        raw, place = np.array([file.class_name for file in good]), str(folder)
        row_of_file = {file: row for row, file in enumerate(good)}
    else:
        raw, place = held.y.read(), held.y.where
        row_of_file = {file: file.row for file in files}
    train_rows = [row_of_file[file] for file in train_files]
    pool = Pool(
        "images", {"train": np.arange(len(train_files))}, parts,
        plain_labels(raw, place)[train_rows] if target_kind == "classes" else None, None,
        lambda: np.array([hashes[file] for file in train_files]),
    )  # fmt: skip

    def fit_training(rows: dict[str, np.ndarray]) -> Fitted:
        split_files = parts | {part: [train_files[row] for row in chosen] for part, chosen in rows.items()}
        learn = split_files["train"]
        side = size or min(_LARGEST_SIDE, max(max(survey["sizes"][hashes[file]]) for file in learn))
        view = View(side, channels, fit == "crop")
        if normalize == "imagenet":
            mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (_GREY_MEAN, _GREY_STD)
            view = replace(view, mean=mean, std=std)
        if held is not None:
            outputs = () if target_kind == "classes" else held.outputs
            learn_rows = np.array([file.row for file in learn])
            targets = fit_targets(target_kind, raw, learn_rows, place, names=outputs, missing=missing_targets)
        elif lost := set(names) - {file.class_name for file in learn}:
            what = f"no image of class '{min(lost)}' is left for training"
            raise DataError(what, where=str(folder), hint="provide more images of it")
        else:
            targets = TargetForm("classes", len(names), names, names)
        encoded = targets.encode(raw, place)
        preprocessing = ImagePreprocessing(view, targets, held is None)

        def samples(part: str) -> FileSamples:
            chosen = split_files[part]
            # Only optimizer steps augment, and those of a refit take validation as well.
            seen = view if part == "test" else replace(view, padding=padding, flip=flip)
            y = encoded[[row_of_file[file] for file in chosen]]
            content = [hashes[file] for file in chosen]
            return FileSamples([file.path for file in chosen], [file.name for file in chosen], y, content, seen)

        form = f"{targets.note()}, read as {' x '.join(map(str, preprocessing.input_shape))}"
        what = f"warning: {len(bad)} files that cannot be decoded are left out"
        left_out = [f"{what}, such as {bad[0].name}"] if bad else []
        dark = _dark_note([survey["deep"][hashes[file]] for file in learn if hashes[file] in survey["deep"]])
        texts = {file: file.class_name if held is None else str(raw[file.row].tolist()) for file in files}
        notes = [form, *left_out, *others, *dark, *_contradictions(hashes, texts)]
        num_test = len(split_files["test"])
        return Fitted(preprocessing, preprocessing.input_shape, targets, samples, notes, num_test)

    fractions = validation_fraction, test_fraction
    return assemble("images", reporter, target_kind, pool, fractions, split_seed, fit_training)


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
    for name, value in (("file", file), ("target", target)):
        if table is None and value is not None:
            raise ConfigError("names a column of task.table", where=f"task.{name}", hint="give task.table=FILE.csv")
    if table is None and kind not in (None, "classes"):
        what = f"folders of images are classes, not {kind}"
        raise ConfigError(what, where="task.kind", hint="give task.table=FILE.csv with a row for each image")
    check_missing_targets("classes" if table is None else str(kind), missing_targets)
    check_fractions(validation_fraction, test_fraction)


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
