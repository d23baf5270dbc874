"""Image files of a data set, by the folders that they lie in, or by a table that names them.

Folders: FOLDER/CLASS/*.png, possibly below folders train, val and test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.data.images.files import SUFFIXES
from orca_cli.data.own_data import check_column, file_path, listed, refuse_entry
from orca_cli.data.splits import PART_NAMES, marked_rows
from orca_cli.data.table.columns import infer_kind, raw_targets
from orca_cli.data.table.files import open_table
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind

_SPLIT = "split"
_HINT = "FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png with val and test beside train"


@dataclass(frozen=True)
class ImageFile:
    """An image file, its path below the data set's folder, and the row of its target."""

    path: Path
    name: str
    row: int


@dataclass(frozen=True)
class ImageTargets:
    """The targets that folders or a table give to images: [n] class labels, or [n, K] bits or numbers, named by `outputs`."""

    kind: Kind
    y: np.ndarray
    where: str
    outputs: tuple[str, ...]
    notes: tuple[str, ...]


def new_images(path: Path, where: str, part: str) -> tuple[list[Path], list[str], list[str]]:
    """Return new image files, loose ones first, their paths below the folder, and the class of each.

    That is its top folder, or empty if any image is loose.

    Raises:
        DataError: no such file or folder, or no images.
    """
    if path.is_file() and not part:
        return [path], [path.name], [""]
    if not path.is_dir():
        raise DataError(f"no folder of images '{path}'", where=where, hint="give a folder, or one image file")
    folder = path
    if part:
        inside = {entry.name.lower(): entry for entry in _folders(path)}
        folder = next((inside[name] for name in PART_NAMES[part] if name in inside), path)
        if folder == path:
            hint = f"it holds {listed(inside) or 'no folders'}"
            raise DataError(f"has no folder of the {part} split", where=str(path), hint=hint)
    parts = {image: image.relative_to(folder).parts for image in images_below(folder)}
    images = sorted(parts, key=lambda image: (len(parts[image]) > 1, parts[image]))
    has_loose = any(len(pieces) == 1 for pieces in parts.values())
    names = [image.relative_to(path).as_posix() for image in images]
    return images, names, ["" if has_loose else parts[image][0] for image in images]


def images_below(folder: Path) -> list[Path]:
    """Return all images in a folder and below it, in the order of their paths; what is hidden is left out.

    Raises:
        DataError: there are none.
    """
    names = {path: path.relative_to(folder).parts for path in sorted(folder.rglob("*")) if _is_image(path)}
    images = [path for path, parts in names.items() if not any(part.startswith((".", "__MACOSX")) for part in parts)]
    if not images:
        hint = f"allowed: {' '.join(SUFFIXES)}, in the folder or in folders in it"
        raise DataError("holds no images", where=str(folder), hint=hint)
    return images


def locate(folder: Path) -> tuple[ImageTargets, dict[str, list[ImageFile]]]:
    """Return the classes of the images in a folder's folders, and the images of each split, sorted by class and name."""
    inside = _folders(folder)
    if not inside:
        loose = sum(_is_image(entry) for entry in folder.iterdir())
        what = f"holds {loose} images and no folders" if loose else "holds no folders of images"
        raise DataError(what, where=str(folder), hint=f"give each class a folder of its own: {_HINT}")
    # A folder `train` that itself holds images is a class: the vehicle.
    named = [(part, entry) for part, names in PART_NAMES.items() for entry in inside if entry.name.lower() in names]
    splits = {part: _folders(entry) for part, entry in named if _folders(entry)}
    if "train" in splits and len(splits) < len(inside):
        what = f"holds other folders than one for each split: {listed(entry.name for entry in inside)}"
        raise DataError(what, where=str(folder), hint=_HINT)
    labels: list[str] = []
    left_out: list[Path] = []
    class_folders = splits if "train" in splits else {"train": inside}
    parts: dict[str, list[ImageFile]] = {part: [] for part in class_folders}
    for part, class_folder in ((part, one) for part, folders in class_folders.items() for one in folders):
        held = sorted(class_folder.iterdir())
        images = [path for path in held if _is_image(path)]
        left_out += [path for path in held if not (_is_image(path) or path.name.startswith("."))]
        if not images:
            hint = f"allowed: {' '.join(SUFFIXES)}; subfolders of a class are not read"
            raise DataError("this class folder has no images", where=str(class_folder), hint=hint)
        for path in images:
            parts[part].append(ImageFile(path, path.relative_to(folder).as_posix(), len(labels)))
            labels.append(class_folder.name)
    what = f"warning: {len(left_out)} other files or folders are left out"
    notes = (f"{what}, such as {left_out[0].relative_to(folder)}",) if left_out else ()
    return ImageTargets("classes", np.array(labels), str(folder), (), notes), parts


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _is_image(path: Path) -> bool:
    """Return whether a path is a file with the ending of an image, and not a hidden one."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def read_table(
    folder: Path,
    table: str,
    data_folder: Path,
    file: str | None,
    target: str | None,
    kind: Kind | None,
    missing: bool,
) -> tuple[ImageTargets, dict[str, list[ImageFile]]]:
    """Return the targets of images that a table names, and the images of each split; arguments as those of `images.load`.

    A row names an image by its path below the folder, with or without its ending. A column `split` marks splits; all rows are
    for training without one.

    Raises:
        ConfigError: columns that cannot be told apart.
        DataError: an image that is named does not exist, no row is for training, or the targets are not of that kind.
    """
    opened = open_table(file_path(table, data_folder), "task.table", None, None)
    columns, where = opened.read(opened.columns), str(opened.path)
    paths = [path.relative_to(folder) for path in images_below(folder)]
    counts = Counter(path.with_suffix("") for path in paths)
    place = {str(path.with_suffix("")): path.as_posix() for path in paths if counts[path.with_suffix("")] == 1}
    place |= {path.as_posix(): path.as_posix() for path in paths}
    for key, name in (("task.file", file), ("task.target", target)):
        if name is not None:
            check_column(name, opened.columns, key, opened.path.name)
    file = file or opened.columns[0]
    outputs = [target] if target is not None else [name for name in opened.columns if name not in (file, _SPLIT)]
    if not outputs or (kind == "classes" and len(outputs) > 1):
        problem = f"which column is the target? It has {listed(outputs) or 'no other column'}"
        raise ConfigError(problem, where=where, hint="name it with task.target=COLUMN")
    texts, file_where = columns[file].astype(str), f"{where}[{file}]"
    absent = np.array([text not in place for text in texts])
    hint = "correct the name, or remove the row"
    refuse_entry(absent, texts, f"is not an image of {folder} ({int(absent.sum())} rows)", file_where, hint)
    names = [place[text] for text in texts]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"names '{twice[0]}' twice", where=file_where, hint="remove one of the rows")
    chosen, notes = (kind, []) if kind else infer_kind(columns, outputs, ".", where)
    y, origin = raw_targets(columns, chosen, outputs, missing, where, ".")
    if unnamed := len(set(place.values())) - len(names):
        notes = [*notes, f"{unnamed} images of {folder.name} have no row in {opened.path.name} and are not read"]
    rows = {"train": np.arange(len(names))}
    if _SPLIT in columns:
        rows = marked_rows(columns[_SPLIT].astype(str), f"{where}[{_SPLIT}]")
    files = [ImageFile(folder / name, name, row) for row, name in enumerate(names)]
    held = ImageTargets(chosen, y, origin, () if chosen == "classes" else tuple(outputs), tuple(notes))
    return held, {part: [files[row] for row in members] for part, members in rows.items()}
