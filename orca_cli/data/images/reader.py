"""Your own images without code: one folder of files for each class, or a table that names files and targets.

Folders are FOLDER/CLASS/*.png, possibly below folders train, val and test.

Shapes: n images, S pixels per side, C channels.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Interval
from torch import Tensor

from orca_cli import signals, storage
from orca_cli.config.ranges import Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.generated import folder_of
from orca_cli.data.images.files import SUFFIXES, FileSamples, View, content_hashes, decode, pillow
from orca_cli.data.own_data import (
    check_columns,
    check_rules,
    file_path,
    listed,
    refuse_entry,
    refuse_if,
)
from orca_cli.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.data.published import find
from orca_cli.data.splits import PART_NAMES, marked_rows
from orca_cli.data.table.columns import infer_kind, raw_targets
from orca_cli.data.table.files import open_table
from orca_cli.data.targets import TargetForm, fit_targets, plain_labels
from orca_cli.interfaces import Kind, NewData, Reporter, TaskData

_LARGEST_SIDE = 224  # where no size is given: what most image bodies were trained on
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)  # the means of ImageNet's three
_SURVEY_VERSION = 3
_SPLIT = "split"
_HINT = "FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png with val and test beside train"


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

        Below folders with the names of classes they have targets: FOLDER/CLASS/*.png, or with a part FOLDER/test/CLASS/*.png.
        Loose images, those in folders of which none is a class, and all where a table had the targets in training, have none.
        """
        is_absent = not path.is_dir() and (part or not path.is_file())
        refuse_if(
            is_absent, f"no folder of images '{path}'", where, "give a folder, or one image file"
        )
        base = folder = path if path.is_dir() else path.parent
        if part:
            inside = {entry.name.lower(): entry for entry in _folders(path)}
            folder = next((inside[name] for name in PART_NAMES[part] if name in inside), base)
            hint = f"it holds {listed(inside) or 'no folders'}"
            refuse_if(folder == base, f"has no folder of the {part} split", str(path), hint)
        paths = _images_below(folder) if path.is_dir() else [path]
        labels = [image.relative_to(folder).parts[0] for image in paths if image.parent != folder]
        # A record without `from_folders` may be of the numbers of a table.
        are_classes = (
            self.from_folders and self.targets.kind == "classes" and len(labels) == len(paths)
        )

        def targets() -> np.ndarray | None:
            if not are_classes or set(labels).isdisjoint(self.targets.names):
                return None
            return self.targets.encode(np.array(labels), str(path))

        names = [image.relative_to(base).as_posix() for image in paths]
        return NewData(len(paths), lambda start, stop: paths[start:stop], targets, str(path), names)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the images of files, from a sequence of their paths."""
        is_list = (
            not isinstance(x, str)
            and hasattr(x, "__iter__")
            and all(isinstance(one, (str, Path)) for one in x)
        )
        refuse_if(not is_list, "is not a list of image files", where, "give their paths")
        paths = [Path(path) for path in x]
        return NewData(
            len(paths),
            lambda start, stop: paths[start:stop],
            lambda: None,
            where,
            list(map(str, paths)),
        )


@dataclass(frozen=True)
class _Held:
    """The images of a data set, by row: paths below its folder, and targets, which `outputs` name; the rows of each split."""

    folder: Path
    names: list[str]
    kind: Kind
    y: np.ndarray  # [n] class labels, or [n, K] bits or numbers
    where: str
    parts: dict[str, np.ndarray]
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    from_folders: bool = False

    def pool(self, hashes: list[str]) -> Pool:
        """Return the training images; DataError where an image of these contents is in two splits."""
        seen: dict[str, tuple[str, int]] = {}
        for part, row in ((part, row) for part, rows in self.parts.items() for row in rows):
            other, first = seen.setdefault(hashes[row], (part, row))
            what = f"the same image as '{self.names[first]}', which is in another split"
            refuse_if(
                other != part, what, str(self.folder / self.names[row]), "delete one of the two"
            )
        classes = plain_labels(self.y, self.where) if self.kind == "classes" else None
        rows = {"train": self.parts["train"]}
        return Pool(
            "images", str(self.folder), rows, self.parts, classes, None, np.array(hashes).take
        )

    def fit(
        self,
        hashes: list[str],
        sides: np.ndarray,
        view: View,
        missing_targets: bool,
        rows: dict[str, np.ndarray],
    ) -> Fitted:
        """Learn from the training images how all become samples; see `assemble`. A side of 0 becomes that of these."""
        parts, train = self.parts | rows, rows["train"]
        augmented = replace(view, side=view.side or min(_LARGEST_SIDE, int(sides[train].max())))
        plain = replace(augmented, padding=0, flip=False)
        targets = fit_targets(
            self.kind, self.y, train, self.where, names=self.outputs, missing=missing_targets
        )
        encoded = {
            part: targets.encode(self.y[chosen], self.where) for part, chosen in parts.items()
        }
        preprocessing = ImagePreprocessing(plain, targets, self.from_folders)

        def samples(part: str) -> FileSamples:
            columns = [self.folder / name for name in self.names], self.names, hashes
            paths, names, contents = ([column[row] for row in parts[part]] for column in columns)
            # Only optimizer steps augment, and those of a refit take validation as well.
            return FileSamples(
                paths, names, encoded[part], contents, plain if part == "test" else augmented
            )

        form = f"{targets.note()}, read as {' x '.join(map(str, preprocessing.input_shape))}"
        return Fitted(
            preprocessing, preprocessing.input_shape, targets, samples, [form, *self.notes]
        )


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
    the run, so that a damaged one cannot end it half-way; the result is cached. See `assemble`; errors also as `decode`.
    """
    folder = find(data_folder, "images", ["."], path)[0].resolve()
    needs_table = file is not None or target is not None or kind in ("labels", "values")
    hint = "give task.table=FILE.csv with a row for each image"
    check_rules(
        (
            table is None and needs_table,
            "table",
            "task.kind, task.file and task.target are of a table",
            hint,
        )
    )
    if table is None:
        held = _in_folders(folder)
    else:
        held = _in_table(folder, file_path(table, data_folder), file, target, kind, missing_targets)
    paths = [folder / name for name in held.names]
    hashes = content_hashes(paths, reporter)
    sides = _sides(hashes, paths, cache_folder, reporter)
    colour_or_grey = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (_GREY_MEAN, _GREY_STD)
    mean, std = colour_or_grey if normalize == "imagenet" else (None, None)
    view = View(size or 0, channels, fit == "crop", mean, std, padding=padding, flip=flip)
    fit_view, fractions = (
        partial(held.fit, hashes, sides, view, missing_targets),
        (validation_fraction, test_fraction),
    )
    return assemble(
        "images", reporter, held.kind, held.pool(hashes), fractions, split_seed, fit_view
    )


def _sides(
    hashes: list[str], paths: list[Path], cache_folder: Path, reporter: Reporter
) -> np.ndarray:
    """Return the longest side of each file, [n]; files that cannot be decoded are refused as `decode` says."""
    contents = dict(zip(hashes, paths, strict=True))

    def make(folder: Path) -> None:
        sizes = {}
        with reporter.track("decoding every image once", len(contents)) as advance:
            for content, file in contents.items():
                signals.check()
                sizes[content] = decode(file, None, 3).shape[:0:-1]
                advance()
        storage.write_json(folder / "sizes.json", sizes)

    key, version = (
        hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest(),
        pillow()[0].__version__,
    )
    parameters: dict[str, int | float | str] = {
        "version": _SURVEY_VERSION,
        "pillow": version,
        "contents": key,
    }
    folder = folder_of(cache_folder, "image_survey", parameters, make, reporter)
    sizes = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))
    return np.array([max(sizes[content]) for content in hashes])


def _in_folders(folder: Path) -> _Held:
    """Return the images in a folder's folders of classes, sorted by class and name."""
    inside = _folders(folder)
    # A folder `train` that itself holds images is a class: the vehicle.
    named = [
        (part, entry)
        for part, names in PART_NAMES.items()
        for entry in inside
        if entry.name.lower() in names
    ]
    splits = {part: classes for part, entry in named if (classes := _folders(entry))}
    what = f"holds other folders than one for each split: {listed(entry.name for entry in inside)}"
    refuse_if("train" in splits and len(splits) < len(inside), what, str(folder), _HINT)
    splits = splits if "train" in splits else {"train": inside}
    files = [
        (part, entry.name, file)
        for part in splits
        for entry in splits[part]
        for file in sorted(entry.iterdir())
    ]
    held = [one for one in files if _is_image(one[2])]
    hint = f"give each class a folder of images, {' '.join(SUFFIXES)}: {_HINT}"
    refuse_if(
        all(part != "train" for part, *_ in held), "holds no folders of images", str(folder), hint
    )
    parts, labels, images = zip(*held, strict=True)
    rows = {part: np.flatnonzero(np.array(parts) == part) for part in dict.fromkeys(parts)}
    left_out = [
        str(file.relative_to(folder))
        for _, _, file in files
        if not (_is_image(file) or _is_hidden(file.name))
    ]
    what = f"warning: {len(left_out)} other files or folders are left out, such as "
    notes = (what + left_out[0],) if left_out else ()
    names = [image.relative_to(folder).as_posix() for image in images]
    return _Held(
        folder,
        names,
        "classes",
        np.array(labels),
        str(folder),
        rows,
        notes=notes,
        from_folders=True,
    )


def _in_table(
    folder: Path,
    table: Path,
    file: str | None,
    target: str | None,
    kind: Kind | None,
    missing: bool,
) -> _Held:
    """Return the images that a table names by their paths below the folder, with or without ending; arguments as of `load`.

    A column `split` marks splits; all rows are for training without one.
    """
    opened = open_table(table, "task.table", None, None)
    columns, where = opened.read(opened.columns), str(opened.path)
    for key, name in (("task.file", file), ("task.target", target)):
        check_columns([name], opened.columns, key, opened.path.name)
    file = file or opened.columns[0]
    outputs = (
        [target]
        if target is not None
        else [name for name in opened.columns if name not in (file, _SPLIT)]
    )
    what = f"which column of {where} is the target? It has {listed(outputs) or 'no other column'}"
    is_open = not outputs or (kind == "classes" and len(outputs) > 1)
    check_rules((is_open, "target", what, "name it with task.target=COLUMN"))
    paths = [path.relative_to(folder) for path in _images_below(folder)]
    counts = Counter(path.with_suffix("") for path in paths)
    place = {
        str(path.with_suffix("")): path.as_posix()
        for path in paths
        if counts[path.with_suffix("")] == 1
    }
    place |= {path.as_posix(): path.as_posix() for path in paths}
    texts, file_where = columns[file].astype(str), f"{where}[{file}]"
    absent = np.array([text not in place for text in texts])
    hint = "correct the name, or remove the row"
    refuse_entry(
        absent, texts, f"is not an image of {folder} ({int(absent.sum())} rows)", file_where, hint
    )
    names = [place[text] for text in texts]
    chosen, notes = (kind, []) if kind else infer_kind(columns, outputs, ".", where)
    y, origin = raw_targets(columns, chosen, outputs, missing, where, ".")
    if unnamed := len(paths) - len(names):
        notes = [
            *notes,
            f"{unnamed} images of {folder.name} have no row in {opened.path.name} and are not read",
        ]
    rows = {"train": np.arange(len(names))}
    if _SPLIT in columns:
        rows = marked_rows(columns[_SPLIT].astype(str), f"{where}[{_SPLIT}]")
    return _Held(
        folder,
        names,
        chosen,
        y,
        origin,
        rows,
        () if chosen == "classes" else tuple(outputs),
        tuple(notes),
    )


def _images_below(folder: Path) -> list[Path]:
    """Return all images in a folder and below it, in the order of their paths; hidden ones are left out; DataError if none."""
    below = (path for path in sorted(folder.rglob("*")) if _is_image(path))
    images = [path for path in below if not any(map(_is_hidden, path.relative_to(folder).parts))]
    hint = f"allowed: {' '.join(SUFFIXES)}, in the folder or in folders in it"
    refuse_if(not images, "holds no images", str(folder), hint)
    return images


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _is_image(path: Path) -> bool:
    """Return whether a path is a file with the ending of an image, and not a hidden one."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
