"""Your own images without code: a folder of files for each class, or a table of files and targets.

Images of classes are FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png with val and test next to
train.

Shapes: n images, S pixels per side, C channels.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import signals, storage
from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.generated import folder_of
from orca_cli.data.images.files import SUFFIXES, FileSamples, View, content_hashes, decode, pillow
from orca_cli.data.images.settings import ImageSettings
from orca_cli.data.own_data import check_columns, file_path, listed, refuse_entry
from orca_cli.data.pixels import IMAGENET_MEAN, IMAGENET_STD
from orca_cli.data.splits import PART_NAMES, marked_rows
from orca_cli.data.table.columns import infer_kind, raw_targets
from orca_cli.data.table.files import open_table
from orca_cli.data.targets import TargetForm, fit_targets, plain_labels
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind, NewData, Reporter, TaskData

# Largest side in pixels unless a size is set. Most bodies for images were trained on this size.
_LARGEST_SIDE = 224
# Averages of ImageNet's means and standard deviations over the three channels.
_GREY_MEAN = (0.449,)
_GREY_STD = (0.226,)
# Version of the surveys in the cache; after a change, surveys are made again.
_SURVEY_VERSION = 3
# The column with the split of each row; no setting renames it.
_SPLIT = "split"
_HINT = "name the files FOLDER/CLASS/*.png, or FOLDER/SPLIT/CLASS/*.png (SPLIT: train, val, test)"


@dataclass(frozen=True)
class ImagePreprocessing:
    """The preprocessing that turns image files into inputs and targets, without augmentation."""

    view: View
    targets: TargetForm
    from_folders: bool  # whether the names of folders are the classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of an input, (C, S, S)."""
        return self.view.channels, self.view.side, self.view.side

    def inputs(self, raw: Sequence[Path], where: str = "inputs") -> tuple[np.ndarray, None]:
        """Return the images in files as Batch.x; raises the errors of `files.decode`."""
        return self.view.inputs(raw), None

    def open(self, path: Path, where: str, part: str = "") -> NewData:
        """Return the images of a folder, or a single image.

        Images in folders named after classes have targets: FOLDER/CLASS/*.png, or with part=test
        FOLDER/test/CLASS/*.png. The images have no targets if an image is outside such folders, if
        no folder is named after a class, or if the targets of training were in a table.
        """
        if not path.is_dir():
            if part or not path.is_file():
                hint = "name a folder of images; to predict a single image file, remove --part"
                raise DataError(f"'{path}' is not a folder", where=where, hint=hint)
            return _new_data([path], str(path), [path.name])
        folder = _folder_of_split(path, part) if part else path
        images = _images_below(folder)
        image_names = [image.relative_to(path).as_posix() for image in images]
        new_data = _new_data(images, str(path), image_names)
        # The name of the folder of each image; an image outside any folder has no label.
        labels = [image.relative_to(folder).parts[0] for image in images if image.parent != folder]
        if not self.from_folders or len(labels) < len(images):
            return new_data
        # If only some folders are classes, the others are refused when the targets are read.
        if set(labels).isdisjoint(self.targets.names):
            return new_data
        encoded = partial(self.targets.encode, np.array(labels), str(path))
        return replace(new_data, targets=encoded)

    def given(self, x: Any, where: str = "x") -> NewData:
        """Return the images in files, from a sequence of their paths."""
        is_iterable = not isinstance(x, str) and hasattr(x, "__iter__")
        if not is_iterable or not all(isinstance(path, (str, Path)) for path in x):
            raise DataError("is not a list of paths", where=where, hint="pass paths of image files")
        paths = list(map(Path, x))
        return _new_data(paths, where, list(map(str, paths)))


def _new_data(paths: list[Path], where: str, names: list[str]) -> NewData:
    """Return images without targets."""
    return NewData(
        count=len(paths),
        inputs=lambda start, stop: paths[start:stop],
        targets=lambda: None,
        where=where,
        ids=names,
    )


def _folder_of_split(folder: Path, split: str) -> Path:
    """Return the folder of a split in a folder; DataError if it does not exist."""
    folder_of_name = {entry.name.lower(): entry for entry in _folders(folder)}
    for name in PART_NAMES[split]:
        if name in folder_of_name:
            return folder_of_name[name]
    hint = f"its folders: {listed(folder_of_name) or 'none'}"
    raise DataError(f"has no folder for the {split} split", where=str(folder), hint=hint)


def load(
    settings: ImageSettings, data_folder: Path, cache_folder: Path, reporter: Reporter
) -> TaskData:
    """Return the task over images [n, C, S, S] in a folder, with folders as classes or a table.

    FOLDER/CLASS/*.png is split at random; identical files stay in one split. FOLDER/train,
    FOLDER/val and FOLDER/test are used as splits, and a missing split is drawn from train. Every
    file is decoded once before the run, so that a damaged file cannot end the run half-way; the
    sizes of the images are cached. See `assemble`. Raises the errors of `files.decode` too.
    """
    images = _open(settings, data_folder)
    survey = _survey(images.paths, cache_folder, reporter)
    # Splits in the data may share an image; a draw keeps identical files together.
    _refuse_shared(images, survey.hashes)
    return assemble(
        "images",
        reporter,
        kind=images.kind,
        pool=_pool(images, survey.hashes),
        fractions=(settings.validation_fraction, settings.test_fraction),
        split_seed=settings.split_seed,
        fit=partial(_fit, images, survey, settings),
    )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The n images of a data set, and their targets."""

    folder: Path
    names: list[str]  # n paths below the folder
    kind: Kind
    y: np.ndarray  # [n] class labels, or [n, K] bits or numbers
    where: str  # origin of the targets
    rows: dict[str, np.ndarray]  # split in the data -> positions of its images in `names`
    outputs: tuple[str, ...] = ()  # names of labels or numbers
    notes: tuple[str, ...] = ()
    from_folders: bool = False

    @property
    def paths(self) -> list[Path]:
        return list(map(self.folder.joinpath, self.names))


def _open(settings: ImageSettings, data_folder: Path) -> _Images:
    """Return the images in folders of classes, or of a table if it is set."""
    image_folder = file_path(settings.path or "images", data_folder).resolve()
    if not image_folder.is_dir():
        problem = "is a file" if image_folder.exists() else "does not exist"
        hint = "name the folder that contains a folder of images for each class"
        raise DataError(f"'{image_folder}' {problem}", where="task.path", hint=hint)
    if settings.table is not None:
        return _in_table(image_folder, file_path(settings.table, data_folder), settings)
    has_column = settings.file is not None or settings.target is not None
    if has_column or settings.kind in ("labels", "values"):
        message = "must be set if task.file or task.target is set, or the kind is labels or values"
        hint = "set task.table=FILE.csv, a table with a row for each image"
        raise ConfigError(message, where="task.table", hint=hint)
    return _in_folders(image_folder)


def _in_folders(folder: Path) -> _Images:
    """Return the images in the folders of classes below a folder, sorted by class and name."""
    split_of_image: list[str] = []
    labels: list[str] = []
    image_names: list[str] = []
    left_out: list[str] = []
    for split, class_folders in _class_folders(folder).items():
        for class_folder in class_folders:
            # Sorted, because the order in a file system may differ between machines.
            for file in sorted(class_folder.iterdir()):
                name = file.relative_to(folder).as_posix()
                if _is_image(file):
                    split_of_image.append(split)
                    labels.append(class_folder.name)
                    image_names.append(name)
                elif not _is_hidden(file.name):
                    left_out.append(name)
    if "train" not in split_of_image:
        hint = f"{_HINT}; suffixes of images: {' '.join(SUFFIXES)}"
        raise DataError("contains no folders of images", where=str(folder), hint=hint)
    notes: tuple[str, ...] = ()
    if left_out:
        count = len(left_out)
        notes = (f"warning: {count} files or folders are skipped, such as '{left_out[0]}'",)
    splits = np.array(split_of_image)
    # Split -> positions of its images in `names`.
    rows = {split: np.flatnonzero(splits == split) for split in dict.fromkeys(split_of_image)}
    return _Images(
        folder=folder,
        names=image_names,
        kind="classes",
        y=np.array(labels),
        where=str(folder),
        rows=rows,
        notes=notes,
        from_folders=True,
    )


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return split -> its folders of classes; without folders of splits, all are for training.

    DataError if another folder exists next to the folders of splits.
    """
    folders = _folders(folder)
    splits = {}
    # `spellings` are the names that the folder of a split may have, in lower case.
    for split, spellings in PART_NAMES.items():
        for entry in folders:
            # A folder `train` that contains no folders is a class, such as the vehicle.
            if entry.name.lower() in spellings and _folders(entry):
                splits[split] = _folders(entry)
    if "train" not in splits:
        return {"train": folders}
    if len(splits) < len(folders):
        shown = listed(entry.name for entry in folders)
        message = f"may contain one folder for each split and no other folder, but contains {shown}"
        raise DataError(message, where=str(folder), hint=_HINT)
    return splits


def _in_table(folder: Path, path: Path, settings: ImageSettings) -> _Images:
    """Return the images that a table names by their paths below the folder.

    A column `split` marks the split of each row; without it, all rows are for training.
    """
    table = open_table(path, "task.table", None, None)
    where = str(table.path)
    if not table.columns:
        raise DataError(
            "has no column names in its header",
            where=where,
            hint="write the names of the columns into the first line",
        )
    columns = table.read(table.columns)
    check_columns([settings.file], table.columns, key="task.file", where=table.path.name)
    check_columns([settings.target], table.columns, key="task.target", where=table.path.name)
    file_column = settings.file or table.columns[0]
    # Without task.target, all columns are targets except those of files and of splits.
    target_names = [name for name in table.columns if name not in (file_column, _SPLIT)]
    if settings.target is not None:
        target_names = [settings.target]
    if not target_names or (settings.kind == "classes" and len(target_names) > 1):
        shown = listed(target_names) or "none"
        raise ConfigError(
            f"must name one column of '{where}'; candidates: {shown}",
            where="task.target",
            hint="set task.target=COLUMN",
        )
    # Files are listed from the folder: a file that a table names outside it is never opened.
    image_paths = _images_below(folder)
    # A column of a .parquet file may contain numbers as names.
    file_texts = columns[file_column].astype(str)
    image_names = _matched(file_texts, folder, image_paths, f"{where}[{file_column}]")
    notes: list[str] = []
    kind: Kind | None = settings.kind
    if kind is None:
        kind, notes = infer_kind(columns, target_names, ".", where)
    targets = raw_targets(
        columns, kind, target_names, missing=settings.missing_targets, where=where, decimal="."
    )
    # This is not an error: a table may name only some images of a folder.
    num_unnamed = len(image_paths) - len(image_names)
    if num_unnamed:
        note = f"{num_unnamed} images in '{folder.name}' have no row in '{table.path.name}'"
        notes = [*notes, f"{note}, so they are not used"]
    rows = {"train": np.arange(len(image_names))}
    if _SPLIT in columns:
        rows = marked_rows(columns[_SPLIT].astype(str), f"{where}[{_SPLIT}]")
    return _Images(
        folder=folder,
        names=image_names,
        kind=kind,
        y=targets.y,
        where=targets.where,
        rows=rows,
        outputs=() if kind == "classes" else tuple(target_names),
        notes=tuple(notes),
    )


def _matched(texts: np.ndarray, folder: Path, paths: Iterable[Path], where: str) -> list[str]:
    """Return the images that the texts [n] of a column name, as paths below the folder.

    A text may omit the suffix if a single image has that name. DataError for a text that does not
    name an image.
    """
    images = [path.relative_to(folder) for path in paths]
    # Images that differ only in their suffix must be named with it.
    counts = Counter(image.with_suffix("") for image in images)
    image_of_text = {}
    for image in images:
        without_ending = image.with_suffix("")
        if counts[without_ending] == 1:
            image_of_text[str(without_ending)] = image.as_posix()
    for image in images:
        # Full names come last and replace names without suffix: `x.png` is the file of that name
        # rather than `x.png.jpg` without its suffix.
        image_of_text[image.as_posix()] = image.as_posix()
    is_absent = np.array([text not in image_of_text for text in texts])
    refuse_entry(
        wrong=is_absent,
        values=texts,
        what=f"is not an image in '{folder}' (number of such rows: {is_absent.sum()})",
        where=where,
        hint="correct the name, or remove the row",
    )
    return [image_of_text[text] for text in texts]


@dataclass(frozen=True)
class _Survey:
    """The content hashes and sizes of n image files, each of which was read once."""

    hashes: list[str]  # n SHA-256 of the contents
    longest_sides: np.ndarray  # [n], in pixels


def _survey(paths: list[Path], cache_folder: Path, reporter: Reporter) -> _Survey:
    """Hash and decode every image; raises the errors of `decode`.

    The sizes of images are cached by the contents of the files.
    """
    hashes = content_hashes(paths, reporter)
    # Files with the same content are decoded once.
    path_by_content = dict(zip(hashes, paths, strict=True))

    def make(folder: Path) -> None:
        size_by_content = {}
        with reporter.track("decoding every image once", len(path_by_content)) as advance:
            for content, path in path_by_content.items():
                signals.check()
                # [3, height, width], not resized.
                _, height, width = decode(path, None, 3).shape
                size_by_content[content] = (width, height)
                advance()
        storage.write_json(folder / "sizes.json", size_by_content)

    image_module, _ = pillow()
    # The survey depends neither on the location of the files nor on their names.
    distinct_hashes = "\n".join(sorted(path_by_content))
    survey_digest = hashlib.sha256(distinct_hashes.encode())
    # A survey in the cache means that this release of Pillow could decode all of these contents.
    folder = folder_of(
        cache_folder,
        name="image_survey",
        parameters={
            "version": _SURVEY_VERSION,
            "pillow": image_module.__version__,
            "contents": survey_digest.hexdigest(),
        },
        make=make,
        reporter=reporter,
    )
    size_by_content = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))
    longest_sides = [max(size_by_content[content]) for content in hashes]
    return _Survey(hashes, np.array(longest_sides))


def _refuse_shared(images: _Images, hashes: Sequence[str]) -> None:
    """Raise DataError if images of two splits have the same content."""
    name_by_content: dict[str, str] = {}  # content -> first image that has it
    split_by_content: dict[str, str] = {}
    for split, rows in images.rows.items():
        for row in rows:
            content = hashes[row]
            # The first image of each content appears in the message.
            name = name_by_content.setdefault(content, images.names[row])
            if split_by_content.setdefault(content, split) != split:
                message = f"is the same image as '{name}', which is in another split"
                where = str(images.paths[row])
                raise DataError(message, where=where, hint="delete one of the two files")


def _pool(images: _Images, hashes: Sequence[str]) -> Pool:
    classes = None
    if images.kind == "classes":
        classes = plain_labels(images.y, images.where)
    return Pool(
        unit="images",
        where=str(images.folder),
        rows={"train": images.rows["train"]},
        supplied=images.rows,
        classes=classes,
        groups=None,
        contents=np.array(hashes).take,
    )


def _fit(
    images: _Images, survey: _Survey, settings: ImageSettings, drawn: dict[str, np.ndarray]
) -> Fitted:
    """Learn from the training images how all images become samples; see `assemble`.

    Unless the size is set, it is the longest side of the training images, at most 224.
    """
    # Drawn splits are parts of `train`, and `drawn` also contains the remaining training rows.
    rows = images.rows | drawn
    training_rows = rows["train"]
    # From the training images alone, so that no other split affects the size.
    largest = int(survey.longest_sides[training_rows].max())
    plain = _view(settings, settings.size or min(_LARGEST_SIDE, largest))
    augmented = replace(plain, padding=settings.padding, flip=settings.flip)
    targets = fit_targets(
        images.kind,
        images.y,
        training_rows,
        images.where,
        names=images.outputs,
        missing=settings.missing_targets,
    )
    targets_by_split = {}
    for split, split_rows in rows.items():
        targets_by_split[split] = targets.encode(images.y[split_rows], images.where)
    preprocessing = ImagePreprocessing(plain, targets, images.from_folders)

    def samples(split: str) -> FileSamples:
        image_names = [images.names[row] for row in rows[split]]
        return FileSamples(
            paths=list(map(images.folder.joinpath, image_names)),
            names=image_names,
            y=targets_by_split[split],
            hashes=[survey.hashes[row] for row in rows[split]],
            # Only optimizer steps augment. A refit takes them on validation samples as well.
            view=plain if split == "test" else augmented,
        )

    size = " x ".join(map(str, preprocessing.input_shape))
    note = f"{targets.note()}; images are read as {size} (channels x height x width)"
    return Fitted(
        preprocessing=preprocessing,
        input_shape=preprocessing.input_shape,
        targets=targets,
        samples=samples,
        notes=[note, *images.notes],
    )


def _view(settings: ImageSettings, side: int) -> View:
    """Return the view that the settings describe, without augmentation."""
    view = View(side=side, channels=settings.channels, crop=settings.fit == "crop")
    if settings.normalize == "none":
        return view
    if settings.channels == 1:
        return replace(view, mean=_GREY_MEAN, std=_GREY_STD)
    return replace(view, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _images_below(folder: Path) -> list[Path]:
    """Return all images in a folder and below it that are not hidden, sorted by path.

    DataError if no image is found.
    """
    image_paths = []
    for path in sorted(folder.rglob("*")):
        path_names = path.relative_to(folder).parts
        # A hidden folder hides its whole content.
        is_hidden = any(map(_is_hidden, path_names))
        if not is_hidden and _is_image(path):
            image_paths.append(path)
    if not image_paths:
        hint = f"add image files ({' '.join(SUFFIXES)}); they may also be in subfolders"
        raise DataError("contains no images", where=str(folder), hint=hint)
    return image_paths


def _folders(folder: Path) -> list[Path]:
    folders = filter(Path.is_dir, folder.iterdir())
    return sorted(path for path in folders if not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    # Archives that macOS makes have a folder __MACOSX, whose files are not images.
    return name.startswith((".", "__MACOSX"))


def _is_image(path: Path) -> bool:
    """Return whether a path is a file with the suffix of an image, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
