"""Which image files of a folder belong to which class and split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orca_cli.exceptions import DataError
from orca_cli.tasks.images.files import SUFFIXES

# How folders of splits may be called.
_PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_HINT = "FOLDER/CLASS/*.png, or FOLDER/train/CLASS/*.png with val and test beside train"


@dataclass(frozen=True)
class ImageFile:
    """One image file.

    Args:
        path: where it lies.
        name: its path relative to the data set's folder.
        class_name: name of the folder that it lies in.
    """

    path: Path
    name: str
    class_name: str


def locate(folder: Path) -> tuple[dict[str, list[ImageFile]], list[str]]:
    """Return the image files of a folder by split, sorted by class and name, and a note on what was left out.

    Validation and test are there where they have folders of their own. No file is opened; hidden files are left out.
    """
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
    left_out: list[Path] = []
    if "train" not in splits:
        return {"train": _of_classes(inside, folder, left_out)}, _notes(left_out, folder)
    others = [entry.name for entry in inside if entry not in splits.values()]
    if others:
        raise DataError(f"'{others[0]}' lies beside the splits but is not one", where=str(folder), hint=_HINT)
    parts = {part: _of_classes(_folders(splits[part]), folder, left_out) for part in _PART_NAMES if part in splits}
    return parts, _notes(left_out, folder)


def _folders(folder: Path) -> list[Path]:
    return sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _of_classes(class_folders: list[Path], folder: Path, left_out: list[Path]) -> list[ImageFile]:
    files = []
    for class_folder in class_folders:
        found = 0
        for path in sorted(class_folder.iterdir()):
            if _is_image(path):
                files.append(ImageFile(path, path.relative_to(folder).as_posix(), class_folder.name))
                found += 1
            elif not path.name.startswith("."):
                left_out.append(path)
        if not found:
            hint = f"allowed: {' '.join(SUFFIXES)}; subfolders of a class are not read"
            raise DataError("this class folder has no images", where=str(class_folder), hint=hint)
    return files


def _notes(left_out: list[Path], folder: Path) -> list[str]:
    what = f"warning: {len(left_out)} other files or folders are left out"
    return [f"{what}, such as {left_out[0].relative_to(folder)}"] if left_out else []
