"""Your own images without code: one folder of files for each class, possibly below folders train, val and test.

Shapes: n images, S pixels per side, C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import signals, storage
from orca_cli.exceptions import ConfigError, DataError, UnsafeError, suggest
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.tasks.images.files import FileSamples, View, by_content, content_hashes, decode, pillow_version
from orca_cli.tasks.images.layout import ImageFile, locate
from orca_cli.tasks.shared import files
from orca_cli.tasks.shared.generated import folder_of
from orca_cli.tasks.shared.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.tasks.shared.splits import check_fractions, check_seed, split

_LARGEST_SIDE = 224  # where no size is given: what most image bodies were trained on
_MIN_SAMPLES = 10
_SHOWN = 10  # classes or files named in a message
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)  # the means of ImageNet's three
_SURVEY_VERSION = 1
_CHOICES = {"fit": ("stretch", "crop"), "normalize": ("imagenet", "none"), "on_bad": ("error", "skip")}


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Kind = "classes",
    path: str | None = None,
    size: int | None = None,
    channels: int = 3,
    fit: str = "stretch",
    normalize: str = "imagenet",
    padding: int = 0,
    flip: bool = False,
    on_bad: str = "error",
    split_seed: int = 0,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
) -> TaskData:
    """Return images [n, C, S, S] of a folder, with one class for each folder of files.

    FOLDER/CLASS/*.png is split at random, every class in proportion and identical files together; FOLDER/train/CLASS,
    FOLDER/val/CLASS and FOLDER/test/CLASS are taken as they are, and what is missing of val and test is drawn from train.
    Every file is decoded once before the run, so that a damaged one does not end it half-way; the result is kept.

    Args:
        data_folder: a relative `path` that does not exist in the working folder is looked for here.
        cache_folder: where the result of the look at all files is kept.
        reporter: is told what was inferred.
        kind: "classes", nothing else.
        path: the folder.
        size: S; None takes the longest side of all training images, at most 224.
        channels: 3 (colour) or 1 (grey).
        fit: "stretch" brings the whole image to the square; "crop" cuts the largest square from its middle before.
        normalize: "imagenet" subtracts ImageNet's mean and divides by its deviation; "none" leaves pixels in 0..1.
        padding: optimizer steps see windows of S x S at a random place after so many pixels of zeros on every side.
        flip: whether optimizer steps see images mirrored left to right at random; not for letters, digits or maps.
        on_bad: what to do with files that cannot be decoded: "error", or "skip" and count them in the note.
        split_seed: seed of the splits that are drawn.
        validation_fraction: part of the images that is drawn for validation, above 0 and below 1.
        test_fraction: the same for test.

    Raises:
        ConfigError: a setting is missing or out of range.
        DataError: no class folders, one class only, a class without training images, fewer than 10 of them, identical
            files in two given splits, or a file that cannot be decoded.
        UnsafeError: an image has too many pixels.
        UnavailableError: Pillow is not installed.
    """
    check_settings(
        kind, path, size, channels, fit, normalize, padding, on_bad, split_seed, validation_fraction, test_fraction
    )
    folder = files.find(data_folder, "images", ["."], path)[0].resolve()
    layout = locate(folder)
    all_files = [file for part in layout.parts.values() for file in part]
    hashes = dict(
        zip([file.name for file in all_files], content_hashes([f.path for f in all_files], reporter), strict=True)
    )
    survey = _survey(all_files, hashes, cache_folder, reporter)
    bad = [file for file in all_files if hashes[file.name] in survey["bad"]]
    if bad and on_bad == "error":
        raise _bad_error(bad, survey["bad"][hashes[bad[0].name]])
    parts = {name: [f for f in part if hashes[f.name] not in survey["bad"]] for name, part in layout.parts.items()}
    _refuse_shared(parts, hashes)
    class_names = _class_names(parts["train"], folder)
    parts, drawn = _draw(parts, hashes, class_names, (validation_fraction, test_fraction), split_seed, folder)
    side = size or min(_LARGEST_SIDE, max(max(survey["sizes"][hashes[file.name]]) for file in parts["train"]))
    statistics: dict[str, Any] = {}
    if normalize == "imagenet":
        colour = channels == 3
        statistics = {"mean": IMAGENET_MEAN if colour else _GREY_MEAN, "std": IMAGENET_STD if colour else _GREY_STD}

    def samples(part: str) -> FileSamples:
        chosen = parts[part]
        train = part == "train"
        view = View(side, channels, fit == "crop", **statistics, padding=padding * train, flip=flip and train)
        y = np.array([_index(file, class_names, part) for file in chosen], dtype=np.int64)
        names = [file.name for file in chosen]
        return FileSamples([file.path for file in chosen], names, y, [hashes[name] for name in names], view)

    train, validation = samples("train"), samples("validation")
    [_index(file, class_names, "test") for file in parts["test"]]  # before the run, not at its end
    counts = f"{len(train)} training, {len(validation)} validation and {len(parts['test'])} test images"
    shown = ", ".join(class_names[:_SHOWN]) + (", ..." if len(class_names) > _SHOWN else "")
    form = f"{len(class_names)} classes ({shown}), read as {channels} x {side} x {side}"
    left_out = [f"warning: {len(bad)} files that cannot be decoded are left out, such as {bad[0].name}"] if bad else []
    note = "; ".join([counts, *drawn, form, *left_out, *layout.notes, *_odd_classes(all_files, hashes)])
    reporter.say(f"images: {note}")
    return TaskData(
        kind="classes",
        input_shape=(channels, side, side),
        num_outputs=len(class_names),
        train=train,
        validation=validation,
        open_test=lambda: samples("test"),
        class_names=class_names,
        note=note,
    )


def _survey(
    all_files: Sequence[ImageFile], hashes: dict[str, str], cache_folder: Path, reporter: Reporter
) -> dict[str, dict[str, Any]]:
    """Return, by content, width and height of each file that can be decoded ("sizes"), and why others cannot ("bad")."""
    contents = {hashes[file.name]: file for file in all_files}
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

    found = folder_of(
        cache_folder,
        "image_survey",
        {"version": _SURVEY_VERSION, "pillow": pillow_version(), "contents": key},
        make,
        reporter,
    )
    survey: dict[str, dict[str, Any]] = json.loads((found / "survey.json").read_text(encoding="utf-8"))
    return survey


def _bad_error(bad: Sequence[ImageFile], reason: dict[str, Any]) -> DataError | UnsafeError:
    more = f", and {len(bad) - 1} more files ({', '.join(f.name for f in bad[1:_SHOWN])})" if len(bad) > 1 else ""
    hint = "write it again, or leave such files out with task.on_bad=skip"
    kind = UnsafeError if reason["unsafe"] else DataError
    return kind(f"{reason['what']}{more}", where=str(bad[0].path), hint=hint)


def _refuse_shared(parts: dict[str, list[ImageFile]], hashes: dict[str, str]) -> None:
    """Refuse files with the same content in two of the given splits: what is tested would have been learnt."""
    seen: dict[str, tuple[str, ImageFile]] = {}
    for part, chosen in parts.items():
        for file in chosen:
            other, first = seen.setdefault(hashes[file.name], (part, file))
            if other != part:
                raise DataError(
                    f"the same image as '{first.name}', which is in another split",
                    where=str(file.path),
                    hint="delete one of the two",
                )


def _class_names(train: Sequence[ImageFile], folder: Path) -> tuple[str, ...]:
    names = tuple(sorted({file.class_name for file in train}))
    if len(names) < 2:
        found = f"one class only, '{names[0]}'" if names else "no image"
        raise DataError(
            f"holds {found}", where=str(folder), hint="give a folder of images for each of two classes or more"
        )
    if len(train) < _MIN_SAMPLES:
        hint = f"give {_MIN_SAMPLES} or more for training"
        raise DataError(f"{len(train)} images are too few", where=str(folder), hint=hint)
    return names


def _draw(
    parts: dict[str, list[ImageFile]],
    hashes: dict[str, str],
    class_names: Sequence[str],
    fractions: tuple[float, float],
    seed: int,
    folder: Path,
) -> tuple[dict[str, list[ImageFile]], list[str]]:
    """Return train, validation and test, those that are not given drawn from train, and what was drawn, in words."""
    sizes = {"validation": fractions[0], "test": fractions[1]}
    sizes |= dict.fromkeys((part for part in sizes if part in parts), 0)
    missing = [part for part, fraction in sizes.items() if fraction]
    if not missing:
        return parts, []
    train = parts["train"]
    first, of = by_content([hashes[file.name] for file in train])
    classes = np.array([class_names.index(train[row].class_name) for row in first])
    keys = (str(folder), "task.validation_fraction", "task.test_fraction")
    drawn = split(len(first), validation=sizes["validation"], test=sizes["test"], seed=seed, classes=classes, keys=keys)
    taken = {part: np.isin(of, getattr(drawn, part)) for part in ("train", *missing)}
    found = {part: [file for file, inside in zip(train, mask, strict=True) if inside] for part, mask in taken.items()}
    empty = set(class_names) - {file.class_name for file in found["train"]}
    if empty:
        raise DataError(
            f"no image of class '{min(empty)}' is left for training", where=str(folder), hint="give more images of it"
        )
    return parts | found, [f"{' and '.join(missing)} drawn from the images (stratified, split_seed={seed})"]


def _odd_classes(all_files: Sequence[ImageFile], hashes: dict[str, str]) -> list[str]:
    """Return in words how many images lie in the folders of several classes."""
    classes: dict[str, set[str]] = {}
    for file in all_files:
        classes.setdefault(hashes[file.name], set()).add(file.class_name)
    twice = [content for content, names in classes.items() if len(names) > 1]
    return [f"warning: {len(twice)} images have several classes, such as {classes[twice[0]]}"] if twice else []


def _index(file: ImageFile, class_names: Sequence[str], part: str) -> int:
    try:
        return class_names.index(file.class_name)
    except ValueError:
        raise DataError(
            f"class '{file.class_name}' of the {part} split has no training images",
            where=str(file.path.parent),
            hint=suggest(file.class_name, class_names),
        ) from None


def check_settings(
    kind: str,
    path: str | None,
    size: int | None,
    channels: int,
    fit: str,
    normalize: str,
    padding: int,
    on_bad: str,
    split_seed: int,
    validation_fraction: float,
    test_fraction: float,
) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: a setting is missing or out of range.
    """
    if kind != "classes":
        hint = "for other targets store arrays and use task=arrays"
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint=f"images have kind=classes; {hint}")
    if path is None:
        raise ConfigError("a value is needed", where="task.path", hint="give task.path=FOLDER")
    for key, value in {"fit": fit, "normalize": normalize, "on_bad": on_bad}.items():
        if value not in _CHOICES[key]:
            raise ConfigError(f"'{value}' is not allowed", where=f"task.{key}", hint=suggest(str(value), _CHOICES[key]))
    if size is not None and (isinstance(size, bool) or not 4 <= size <= 4096):
        raise ConfigError(f"{size!r} is out of range", where="task.size", hint="allowed: 4..4096 pixels, or null")
    if channels not in (1, 3):
        raise ConfigError(f"{channels!r} is out of range", where="task.channels", hint="allowed: 3 (colour), 1 (grey)")
    if isinstance(padding, bool) or not 0 <= padding <= 1024:
        raise ConfigError(f"{padding!r} is out of range", where="task.padding", hint="allowed: 0..1024 pixels")
    check_seed(split_seed)
    check_fractions(validation_fraction, test_fraction)
