"""New rows of a data set for a model that was trained on one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orca_cli import configuration
from orca_cli.exceptions import DataError
from orca_cli.interfaces import NewData
from orca_cli.tasks.hub.columns import open_column, raw_targets
from orca_cli.tasks.hub.layout import ColumnLayout
from orca_cli.tasks.hub.opening import open_dataset
from orca_cli.tasks.shared.own_data import check_column
from orca_cli.tasks.shared.splits import PART_NAMES

if TYPE_CHECKING:
    from datasets import Dataset

    from orca_cli.tasks.shared.targets import TargetForm


def new_rows(
    path: Path,
    where: str,
    part: str,
    columns: tuple[str, str],
    config: str | None,
    layout: ColumnLayout,
    targets: TargetForm,
) -> NewData:
    """Return the rows of one split of a data set.

    Args:
        path: a folder, or a hub id as a path.
        where: what names it, for messages.
        part: train, validation or test; empty where the data set has one split only.
        columns: of inputs and targets; rows have no targets where the second is absent.
        config: one of the data set's configurations, where it has several.
        layout: how the inputs are read.
        targets: how the targets are encoded.

    Raises:
        DataError: no such split or column, or several splits and no part.
    """
    folders = configuration.default_folders()
    splits, origin = open_dataset(str(path), config, None, folders["data"], folders["cache"])
    name, rows = _split(splits, part, origin)
    place = f"{origin}[{name}]"
    x, y = columns
    check_column(x, rows.column_names, where, place)
    values = open_column(rows, x, layout)
    kind = targets.kind if targets.kind in ("classes", "labels") else "dense"

    def encoded() -> np.ndarray | None:
        if y not in rows.column_names:
            return None
        known = () if targets.classes else targets.names
        return targets.encode(raw_targets(kind, rows, y, f"{place}[{y}]", known), f"{place}[{y}]")

    return NewData(len(rows), lambda start, stop: values(np.arange(start, stop)), encoded, f"{place}[{x}]")


def _split(splits: dict[str, Dataset], part: str, origin: str) -> tuple[str, Dataset]:
    held = f"it holds {', '.join(splits)}"
    if part:
        name = next((name for name in PART_NAMES[part] if name in splits), None)
    else:
        name = next(iter(splits)) if len(splits) == 1 else None
    if name is None:
        what = f"has no split '{part}'" if part else f"holds {len(splits)} splits"
        raise DataError(what, where=origin, hint=held if part else f"{held}; name one by {_option(splits)}")
    if not len(splits[name]):
        raise DataError("has no rows", where=f"{origin}[{name}]", hint=held)
    return name, splits[name]


def _option(splits: dict[str, Dataset]) -> str:
    """Return the option for one of the splits, such as "--part test"."""
    parts = [part for part, names in PART_NAMES.items() if any(name in splits for name in names)]
    return f"--part {parts[-1]}" if parts else "a folder with one split"
