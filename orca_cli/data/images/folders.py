"""Image files of a data set, by the folders that they lie in, or by a table that names them.

Folders: FOLDER/CLASS/*.png, possibly below folders train, val and test.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.data.arrays.layout import rows_of_splits
from orca_cli.data.images.files import SUFFIXES
from orca_cli.data.own_data import file_path, listed
from orca_cli.data.splits import PART_NAMES
from orca_cli.data.table.files import open_table
from orca_cli.data.table.target_columns import ListedFiles, read_listed
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind

_HINT = "FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png with val and test beside train"


@dataclass(frozen=True)
class ImageFile:
    """An image file; its name is the path below the data set's folder, its class the folder that it lies in.

    `row` is that of the table of targets, where there is one; the class is then empty.
    """

    path: Path
    name: str
    class_name: str
    row: int = -1


def new_images(path: Path, where: str, part: str) -> list[ImageFile]:
    """Return new image files, loose ones first; the class of each is its top folder, or empty if any image is loose.

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
        folder = next((inside[name] for name in PART_NAMES[part] if name in inside), path)
        if folder == path:
            hint = f"it holds {listed(inside) or 'no folders'}"
            raise DataError(f"has no folder of the {part} split", where=str(path), hint=hint)
    images = images_below(folder)
    parts = {image: image.relative_to(folder).parts for image in images}
    splits = {pieces[0].lower() if len(pieces) > 2 else "" for pieces in parts.values()}
    if not part and splits <= {name for names in PART_NAMES.values() for name in names}:
        what = f"holds splits, each with folders of its own: {listed(sorted(splits))}"
        raise DataError(what, where=str(folder), hint="take one of them with --part")
    has_loose = any(len(pieces) == 1 for pieces in parts.values())
    images.sort(key=lambda image: (len(parts[image]) > 1, parts[image]))
    return [ImageFile(one, one.relative_to(path).as_posix(), "" if has_loose else parts[one][0]) for one in images]


def images_below(folder: Path) -> list[Path]:
    """Return all images in a folder and below it, in the order of their paths; what is hidden is left out.

    Raises:
        DataError: there are none.
    """

    def is_hidden(path: Path) -> bool:
        return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)

    images = [path for path in sorted(folder.rglob("*")) if _is_image(path) and not is_hidden(path)]
    if not images:
        hint = f"allowed: {' '.join(SUFFIXES)}, in the folder or in folders in it"
        raise DataError("holds no images", where=str(folder), hint=hint)
    return images


def locate(folder: Path) -> tuple[dict[str, list[ImageFile]], list[str]]:
    """Return the image files by split, sorted by class and name, and a note on what was left out; no file is opened."""
    inside = _folders(folder)
    if not inside:
        loose = sum(_is_image(entry) for entry in folder.iterdir())
        what = f"holds {loose} images and no folders" if loose else "holds no folders of images"
        raise DataError(what, where=str(folder), hint=f"give each class a folder of its own: {_HINT}")
    splits: dict[str, Path] = {}
    for entry in inside:
        part = next((part for part, names in PART_NAMES.items() if entry.name.lower() in names), None)
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
    classes = {part: _folders(splits[part]) for part in PART_NAMES if part in splits}
    left_out: list[Path] = []
    class_folders = classes if "train" in splits else {"train": inside}
    parts: dict[str, list[ImageFile]] = {part: [] for part in class_folders}
    for part, class_folder in ((part, one) for part, folders in class_folders.items() for one in folders):
        held = sorted(class_folder.iterdir())
        images = [path for path in held if _is_image(path)]
        left_out += [path for path in held if not (_is_image(path) or path.name.startswith("."))]
        if not images:
            hint = f"allowed: {' '.join(SUFFIXES)}; subfolders of a class are not read"
            raise DataError("this class folder has no images", where=str(class_folder), hint=hint)
        parts[part] += [ImageFile(path, path.relative_to(folder).as_posix(), class_folder.name) for path in images]
    what = f"warning: {len(left_out)} other files or folders are left out"
    return parts, [f"{what}, such as {left_out[0].relative_to(folder)}"] if left_out else []


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _is_image(path: Path) -> bool:
    """Return whether a path is a file with the ending of an image, and not a hidden one."""
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def read_table(
    folder: Path,
    table: str,
    data_folder: Path,
    column: str | None,
    target: str | None,
    kind: Kind | None,
    missing: bool,
) -> tuple[ListedFiles, dict[str, list[ImageFile]]]:
    """Return the images of a folder that a table names, and those of each split; arguments as those of `images.load`.

    A row names an image by its path below the folder, or by its name alone where no other image has it, with or without its
    ending. A column `split` marks splits; all rows are for training without one.

    Raises:
        ConfigError, DataError: as `read_listed` says; the folder holds no images, or no row is for training.
    """
    names = [path.relative_to(folder).as_posix() for path in images_below(folder)]
    # What is more exact comes last and replaces what is less.
    place: dict[str, str] = {}
    for short in (
        lambda name: Path(name).stem,
        lambda name: Path(name).name,
        lambda name: str(Path(name).with_suffix("")),
    ):
        counts = Counter(map(short, names))
        place |= {short(name): name for name in names if counts[short(name)] == 1}
    place |= {name: name for name in names}
    opened = open_table(file_path(table, data_folder), "task.table", None, None)
    keys = "task.file", "task.target"
    held = read_listed(opened, folder, place, "an image", (column, target, None), keys, kind, missing, must_exist=True)
    rows = {"train": np.arange(len(held.files))}
    if held.split is not None:
        rows = rows_of_splits(held.split, (len(held.files),))
        if "train" not in rows:
            raise DataError("no training rows", where=held.split.where, hint="mark rows with train")
    files = [ImageFile(folder / name, name, "", row) for row, name in enumerate(held.files)]
    return held, {part: [files[row] for row in chosen] for part, chosen in rows.items()}
