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
from orca_cli.exceptions import DataError, UnsafeError, suggest
from orca_cli.interfaces import NewData, Reporter, TaskData
from orca_cli.ranges import Fraction, Seed
from orca_cli.tasks.images.files import SUFFIXES, FileSamples, View, by_content, content_hashes, decode, pillow_version
from orca_cli.tasks.shared import files
from orca_cli.tasks.shared.generated import folder_of
from orca_cli.tasks.shared.own_data import check_enough, listed
from orca_cli.tasks.shared.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.tasks.shared.splits import check_fractions, draw
from orca_cli.tasks.shared.targets import TargetForm, own_task

check_settings = check_fractions  # the only rule about two settings
_LARGEST_SIDE = 224  # where no size is given: what most image bodies were trained on
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)  # the means of ImageNet's three
_SHOWN = 10  # files named in a message
_SURVEY_VERSION = 1
# How folders of splits may be called.
_VALIDATION = ("validation", "val", "valid", "dev")
_PART_NAMES = {"train": ("train", "training"), "validation": _VALIDATION, "test": ("test", "testing")}
_HINT = "FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png with val and test beside train"


@dataclass(frozen=True)
class ImageFile:
    """An image file; its name is the path below the data set's folder, its class the folder that it lies in."""

    path: Path
    name: str
    class_name: str


@dataclass(frozen=True)
class ImagePreprocessing:
    """How image files become inputs, without augmentation, and the names of the folders that hold them classes."""

    view: View
    targets: TargetForm

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
        FOLDER/test/CLASS/*.png. Loose images, and those in folders of which none is a class, have none.
        """
        found = new_images(path, where, part)
        paths, names = [file.path for file in found], [file.name for file in found]
        known = any(file.class_name in self.targets.names for file in found)

        def targets() -> np.ndarray | None:
            if not known:
                return None
            return self.targets.encode(np.array([file.class_name for file in found]), str(path))

        return NewData(len(found), lambda start, stop: paths[start:stop], targets, str(path), names)

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
    kind: Literal["classes"] = "classes",
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
) -> TaskData:
    """Return images [n, C, S, S] of a folder, with one class for each folder of files; for other targets use arrays.

    FOLDER/CLASS/*.png is split at random, every class in proportion and identical files together; FOLDER/train/CLASS,
    FOLDER/val/CLASS and FOLDER/test/CLASS are taken as they are, and what is missing of val and test is drawn from train.
    Every file is decoded once before the run, so that a damaged one cannot end it half-way; the result is cached. See
    shared.own_data.

    Args:
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
    folder = files.find(data_folder, "images", ["."], path)[0].resolve()
    given, others = _locate(folder)
    found = [file for part in given.values() for file in part]
    hashes = dict(zip(found, content_hashes([file.path for file in found], reporter), strict=True))
    survey = _survey(hashes, cache_folder, reporter)
    bad = [file for file in found if hashes[file] in survey["bad"]]
    if bad and on_bad == "error":
        raise _bad_error(bad, survey["bad"][hashes[bad[0]]])
    parts = {part: [f for f in chosen if hashes[f] not in survey["bad"]] for part, chosen in given.items()}
    names = _class_names(parts, hashes, folder)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    parts, drawn = _draw(parts, hashes, names, fractions, split_seed, folder)
    side = size or min(_LARGEST_SIDE, max(max(survey["sizes"][hashes[file]]) for file in parts["train"]))
    view = View(side, channels, fit == "crop")
    if normalize == "imagenet":
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (_GREY_MEAN, _GREY_STD)
        view = replace(view, mean=mean, std=std)
    targets = TargetForm("classes", len(names), names, names)
    preprocessing = ImagePreprocessing(view, targets)

    def samples(part: str, view: View = view) -> FileSamples:
        chosen = parts[part]
        y = np.array([names.index(file.class_name) for file in chosen], dtype=np.int64)
        content = [hashes[file] for file in chosen]
        return FileSamples([file.path for file in chosen], [file.name for file in chosen], y, content, view)

    train, validation = samples("train", replace(view, padding=padding, flip=flip)), samples("validation")
    counts = f"{len(train)} training, {len(validation)} validation and {len(parts['test'])} test images"
    shape = preprocessing.input_shape
    form = f"{targets.note()}, read as {' x '.join(map(str, shape))}"
    left_out = [f"warning: {len(bad)} files that cannot be decoded are left out, such as {bad[0].name}"] if bad else []
    notes = [counts, *drawn, form, *left_out, *others, *_odd_classes(hashes)]
    return own_task(kind, shape, targets, preprocessing, (train, validation), samples, notes, "images", reporter)


def new_images(path: Path, where: str, part: str) -> list[ImageFile]:
    """Return new image files in the order of their names, each with the folder it lies in; empty for loose ones.

    Raises:
        DataError: no such file or folder, or no images.
    """
    if path.is_file() and not part:
        return [ImageFile(path, path.name, "")]
    if not path.is_dir():
        raise DataError(f"no folder of images '{path}'", where=where, hint="give a folder, or one image file")
    folder = path
    if part:
        inside = {entry.name.lower(): entry for entry in _folders(path)}
        folder = next((inside[name] for name in _PART_NAMES[part] if name in inside), path)
        if folder == path:
            hint = f"it holds {listed(inside) or 'no folders'}"
            raise DataError(f"has no folder of the {part} split", where=str(path), hint=hint)
    loose = sorted(entry for entry in folder.iterdir() if _is_image(entry))
    found = [ImageFile(entry, entry.relative_to(path).as_posix(), "") for entry in loose]
    for entry in _folders(folder):
        images = sorted(inner for inner in entry.iterdir() if _is_image(inner))
        class_name = "" if loose else entry.name
        found += [ImageFile(inner, inner.relative_to(path).as_posix(), class_name) for inner in images]
    if not found:
        hint = f"allowed: {' '.join(SUFFIXES)}, in the folder or in folders in it"
        raise DataError("holds no images", where=str(folder), hint=hint)
    return found


def _locate(folder: Path) -> tuple[dict[str, list[ImageFile]], list[str]]:
    """Return the image files by split, sorted by class and name, and a note on what was left out; no file is opened."""
    inside = _folders(folder)
    if not inside:
        loose = sum(_is_image(entry) for entry in folder.iterdir())
        found = f"{loose} images and no folders" if loose else "no folders of images"
        raise DataError(f"holds {found}", where=str(folder), hint=f"give each class a folder of its own: {_HINT}")
    splits: dict[str, Path] = {}
    for entry in inside:
        part = next((part for part, names in _PART_NAMES.items() if entry.name.lower() in names), None)
        # A folder `train` that itself holds images is a class: the vehicle.
        if part is None or not _folders(entry):
            continue
        if part in splits:
            what = f"'{splits[part].name}' and '{entry.name}' are both the {part} split"
            raise DataError(what, where=str(folder), hint="merge them")
        splits[part] = entry
    others = [entry.name for entry in inside if entry not in splits.values()]
    if "train" in splits and others:
        raise DataError(f"'{others[0]}' lies beside the splits but is not one", where=str(folder), hint=_HINT)
    classes = {part: _folders(splits[part]) for part in _PART_NAMES if part in splits}
    left_out: list[Path] = []
    found_in = classes if "train" in splits else {"train": inside}
    parts = {part: _of_classes(own, folder, left_out) for part, own in found_in.items()}
    what = f"warning: {len(left_out)} other files or folders are left out"
    return parts, [f"{what}, such as {left_out[0].relative_to(folder)}"] if left_out else []


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _of_classes(class_folders: list[Path], folder: Path, left_out: list[Path]) -> list[ImageFile]:
    files = []
    for class_folder in class_folders:
        inside = sorted(class_folder.iterdir())
        found = [path for path in inside if _is_image(path)]
        left_out += [path for path in inside if not (_is_image(path) or path.name.startswith("."))]
        if not found:
            hint = f"allowed: {' '.join(SUFFIXES)}; subfolders of a class are not read"
            raise DataError("this class folder has no images", where=str(class_folder), hint=hint)
        files += [ImageFile(path, path.relative_to(folder).as_posix(), class_folder.name) for path in found]
    return files


def _survey(hashes: dict[ImageFile, str], cache_folder: Path, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Return, by content, width and height of each file that can be decoded ("sizes"), and why others cannot ("bad")."""
    contents = {content: file for file, content in hashes.items()}
    key = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()

    def make(folder: Path) -> None:
        sizes, bad = {}, {}
        with reporter.track("decoding every image once", len(contents)) as advance:
            for content, file in contents.items():
                signals.check()
                try:
                    sizes[content] = decode(file.path, None, 3).shape[:0:-1]
                except (DataError, UnsafeError) as error:
                    bad[content] = {"what": error.what, "unsafe": isinstance(error, UnsafeError)}
                advance()
        storage.write_json(folder / "survey.json", {"sizes": sizes, "bad": bad})

    parameters: dict[str, int | float | str] = {"version": _SURVEY_VERSION, "pillow": pillow_version(), "contents": key}
    found = folder_of(cache_folder, "image_survey", parameters, make, reporter)
    survey: dict[str, dict[str, Any]] = json.loads((found / "survey.json").read_text(encoding="utf-8"))
    return survey


def _bad_error(bad: Sequence[ImageFile], reason: dict[str, Any]) -> DataError | UnsafeError:
    more = f", and {len(bad) - 1} more files ({', '.join(f.name for f in bad[1:_SHOWN])})" if len(bad) > 1 else ""
    hint = "save it again, or leave such files out with task.on_bad=skip"
    kind = UnsafeError if reason["unsafe"] else DataError
    return kind(f"{reason['what']}{more}", where=str(bad[0].path), hint=hint)


def _class_names(parts: dict[str, list[ImageFile]], hashes: dict[ImageFile, str], folder: Path) -> tuple[str, ...]:
    """Return the names of the training images' classes; refuse given splits that share images or have other classes."""
    names = tuple(sorted({file.class_name for file in parts["train"]}))
    seen: dict[str, tuple[str, ImageFile]] = {}
    for part, chosen in parts.items():
        for file in chosen:
            other, first = seen.setdefault(hashes[file], (part, file))
            if other != part:
                what = f"the same image as '{first.name}', which is in another split"
                raise DataError(what, where=str(file.path), hint="delete one of the two")
            if file.class_name not in names:
                what = f"class '{file.class_name}' of the {part} split has no training images"
                raise DataError(what, where=str(file.path.parent), hint=suggest(file.class_name, names))
    if len(names) < 2:
        what = f"holds one class only, '{names[0]}'" if names else "holds no images"
        raise DataError(what, where=str(folder), hint="provide folders of images for two classes or more")
    check_enough(len(parts["train"]), "images", str(folder))
    return names


def _draw(
    parts: dict[str, list[ImageFile]],
    hashes: dict[ImageFile, str],
    names: Sequence[str],
    fractions: dict[str, float],
    seed: int,
    folder: Path,
) -> tuple[dict[str, list[ImageFile]], list[str]]:
    """Return train, validation and test, drawn from train where not given, and a note on what was drawn."""
    train = parts["train"]
    first, of = by_content([hashes[file] for file in train])
    # Identical files stay together; their class is the first one's.
    classes = np.array([names.index(train[row].class_name) for row in first])[of]
    rows, note = draw(len(train), parts, fractions, seed, classes, of)
    found = {part: [train[row] for row in chosen] for part, chosen in rows.items()}
    empty = set(names) - {file.class_name for file in found["train"]}
    if empty:
        what = f"no image of class '{min(empty)}' is left for training"
        raise DataError(what, where=str(folder), hint="provide more images of it")
    return parts | found, note


def _odd_classes(hashes: dict[ImageFile, str]) -> list[str]:
    """Return a warning about images that lie in the folders of several classes."""
    classes: dict[str, set[str]] = {}
    for file, content in hashes.items():
        classes.setdefault(content, set()).add(file.class_name)
    twice = [names for names in classes.values() if len(names) > 1]
    return [f"warning: {len(twice)} images have several classes, such as {twice[0]}"] if twice else []
