"""Images whose targets stand in a table: which files it names, in which splits, with which targets.

Shapes: n images, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.interfaces import Kind
from orca_cli.tasks.arrays.layout import rows_of_splits
from orca_cli.tasks.images.files import SUFFIXES
from orca_cli.tasks.images.folders import images_below
from orca_cli.tasks.shared.own_data import own_path
from orca_cli.tasks.shared.target_encoding import plain_labels
from orca_cli.tasks.table.files import open_table
from orca_cli.tasks.table.listed_files import Columns, ListedFiles, read_listed

KEY = "task.table"


def read_table(
    folder: Path,
    table: str,
    data_folder: Path,
    column: str | None,
    target: str | None,
    kind: Kind | None,
    missing: bool,
) -> ListedFiles:
    """Return the images of a folder that a table names; arguments as those of `images.load`.

    A row names an image by its path below the folder, or by its name alone where no other image has it, with or without its
    ending.

    Raises:
        ConfigError, DataError: as `read_listed` says; the folder holds no images.
    """
    found = images_below(folder)
    if not found:
        hint = f"allowed: {' '.join(SUFFIXES)}, in the folder or in folders in it"
        raise DataError("holds no images", where=str(folder), hint=hint)
    names = [path.relative_to(folder).as_posix() for path in found]
    # What is more exact comes last and replaces what is less.
    place: dict[str, str] = {}
    for short in (
        lambda name: Path(name).stem,
        lambda name: Path(name).name,
        lambda name: str(Path(name).with_suffix("")),
    ):
        place |= _unique((short(name), name) for name in names)
    place |= {name: name for name in names}
    opened = open_table(own_path(table, data_folder), KEY, None, None)
    columns = Columns(column, target, None, "task.file", "task.target", must_exist=True)
    return read_listed(opened, folder, place, "an image", columns, kind, missing)


def rows_of_parts(listed: ListedFiles) -> dict[str, np.ndarray]:
    """Return the rows of each split that the table marks; all are for training where it marks none.

    Raises:
        DataError: a mark is not a split, or no row is for training.
    """
    if listed.split is None:
        return {"train": np.arange(len(listed.files))}
    rows = rows_of_splits(listed.split, (len(listed.files),))
    if "train" not in rows:
        raise DataError("no training rows", where=listed.split.where, hint="mark rows with train")
    return rows


def classes_of(listed: ListedFiles) -> np.ndarray | None:
    """Return the class of each row, [n], to draw splits by; None for other kinds."""
    return plain_labels(listed.y.read(), listed.y.where) if listed.kind == "classes" else None


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return what names one image only."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for short, name in pairs:
        if found.setdefault(short, name) != name:
            twice.add(short)
    return {short: name for short, name in found.items() if short not in twice}
