"""A table with a row for each file of a folder: which column names the files, and which ones are their targets.

Shapes: n rows, K outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Kind
from orca_cli.tasks.shared.own_data import check_column, listed
from orca_cli.tasks.table.files import Table
from orca_cli.tasks.table.target_columns import infer_kind, raw_targets, refuse_measurements
from orca_cli.untrusted.arrays import StoredArray

_SPLIT = "split"


@dataclass(frozen=True)
class ListedFiles:
    """The files that a table names, in its order.

    Args:
        files: n of them, as the folder has them.
        kind: of the targets.
        y: targets as the table holds them: [n] class labels, or [n, K] bits or numbers.
        outputs: names of the target columns.
        group: the column of groups; None where there is none.
        split: the column `split`; None where there is none.
        notes: on the kind where it was inferred, and on files that the table does not name.
    """

    files: tuple[str, ...]
    kind: Kind
    y: StoredArray
    outputs: tuple[str, ...]
    group: StoredArray | None
    split: StoredArray | None
    notes: tuple[str, ...]


def read_listed(
    table: Table,
    folder: Path,
    place: Mapping[str, str],
    what: str,
    names: tuple[str | None, str | None, str | None],
    keys: tuple[str, str],
    kind: Kind | None,
    missing: bool,
    *,
    must_exist: bool = False,
) -> ListedFiles:
    """Return the files that a table names, with their targets.

    The table has a column of files, named or recognised by what it holds, and the target as its other column, or as named;
    all others for labels and values. A column `split` says train, validation or test.

    Args:
        table: .csv, .tsv or .parquet.
        folder: of the files.
        place: names that a row may give a file -> the file.
        what: what the files are, such as "an .npy file", for messages.
        names: of the columns of files, targets and groups; None where they are not given.
        keys: settings that name the first two, such as task.x and task.y.
        kind: classes, labels or values; None infers it as for tables.
        missing: whether targets may be empty.
        must_exist: whether a named column of files or targets has to be there; else it is a guess.

    Raises:
        ConfigError: columns that cannot be told apart.
        DataError: a file that is named does not exist, or the targets are not of that kind.
    """
    columns, where = table.read(table.columns), str(table.path)
    file, target, group = names
    for key, name in zip(keys, (file, target), strict=True):
        if must_exist and name is not None:
            check_column(name, table.columns, key, table.path.name)
    if group is not None:
        check_column(group, table.columns, "task.group", table.path.name)
    if file is None or file not in columns:  # then it is the first of which most entries are files
        share = {name: np.mean([str(value) in place for value in values]) for name, values in columns.items()}
        file = max(table.columns, key=lambda name: share[name])
        if share[file] == 0:
            hint = f"name it with {keys[0]}=COLUMN; names may be without their ending"
            raise ConfigError(f"no column names files of {folder}", where=where, hint=hint)
    others = [name for name in table.columns if name not in (file, _SPLIT, group) and name not in table.unnamed]
    outputs = [target] if target is not None and target in others else others
    if not outputs or (kind == "classes" and len(outputs) > 1):
        found = f"which column is the target? It has {listed(others) or 'no other column'}"
        raise ConfigError(found, where=where, hint=f"name it with {keys[1]}=COLUMN")
    files = _named_files(columns[file], place, what, folder, f"{where}[{file}]")
    chosen, notes = (kind, []) if kind else infer_kind(columns, outputs, ".", where)
    targets, origin = raw_targets(columns, chosen, outputs, missing, where, ".")
    if chosen == "classes":
        refuse_measurements(targets, origin)
    if unnamed := len(set(place.values())) - len(files):
        notes = [*notes, f"{unnamed} files of {folder.name} have no row in {table.path.name} and are not read"]
    split = _stored(columns[_SPLIT].astype(str), f"{where}[{_SPLIT}]") if _SPLIT in table.columns else None
    groups = None if group is None else _stored(columns[group].astype(str), f"{where}[{group}]")
    return ListedFiles(files, chosen, _stored(targets, origin), tuple(outputs), groups, split, tuple(notes))


def _named_files(texts: np.ndarray, place: Mapping[str, str], what: str, folder: Path, where: str) -> tuple[str, ...]:
    absent = [row for row, name in enumerate(texts) if str(name) not in place]
    if absent:
        found = f"'{texts[absent[0]]}' in row {absent[0] + 1} is not {what} of {folder} ({len(absent)} rows)"
        raise DataError(found, where=where, hint="correct the name, or remove the row")
    files = [place[str(name)] for name in texts]
    if len(set(files)) < len(files):
        seen: set[str] = set()
        twice = next(name for name in files if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"names '{twice}' twice", where=where, hint="remove one of the rows")
    return tuple(files)


def _stored(values: np.ndarray, where: str) -> StoredArray:
    """Return an array that is in memory as if it were in a file."""
    return StoredArray(
        where, values.shape, values.dtype, lambda: values, lambda: lambda start, stop: values[start:stop]
    )
