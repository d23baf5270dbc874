"""Other people's results from a csv file, below a table's own: with their source, never ranked, never best.

The file has a line for each result and the columns `task,method,error,source`. `error` is in the units of result.json:
fractions where tables show per cent, so 0.1939 for 19.39 %. A column `protocol` may say by which of our protocols it was
measured, such as paper; without, it is by another one.
"""

import csv
import math
from dataclasses import dataclass, replace
from pathlib import Path

from orca_cli.exceptions import DataError, suggest
from orca_cli.report.tables.table import Reference, Table

_COLUMNS = ("task", "method", "error", "source", "protocol")


@dataclass(frozen=True)
class Published:
    """A result that somebody else reports; see the columns of the file."""

    task: str
    method: str
    error: float
    source: str
    protocol: str


def read(path: Path) -> list[Published]:
    """Return the results of a file, in its order.

    Raises:
        DataError: it is missing or not text, a field is missing or empty, or an error is not a number.
    """
    results = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, skipinitialspace=True)
            for line in lines:
                task, method, text, source, protocol = ((line.get(name) or "").strip() for name in _COLUMNS)
                try:
                    error = float(text)
                except ValueError:
                    error = math.nan
                if not (task and method and source and math.isfinite(error)):
                    what = f"'{text}' is not a number, or another field is empty: a line is {','.join(_COLUMNS[:4])}"
                    raise DataError(what, where=f"{path}, line {lines.line_num}", hint="such as 0.1939 for 19.39 %")
                results.append(Published(task, method, error, source, protocol))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), hint="give a .csv file in UTF-8") from error
    return results


def with_published(table: Table, path: Path) -> Table:
    """Return a table with the results of a file that are of its tasks; of several for a cell, that of the column's protocol.

    Raises:
        DataError: as of `read`; there is none of these tasks, or one is in per cent.
    """
    results, tasks = read(path), {column.task: column.percent for column in table.columns}
    matches = [result for result in results if result.task in tasks]
    if not matches:
        names = sorted({result.task for result in results})
        hint = suggest(names[0], tasks) if names and tasks else "orca report shows the tasks"
        raise DataError(f"no run is of a task in it ({', '.join(names) or 'no line'})", where=str(path), hint=hint)
    sources = list(dict.fromkeys(result.source for result in matches))
    rows: dict[str, list[Reference | None]] = {}
    for result in matches:
        if tasks[result.task] and result.error > 1:
            what = f"{result.task}, {result.method}: error {result.error:g} is above 1"
            hint = f"errors are fractions: {result.error / 100:g} for that many per cent"
            raise DataError(what, where=str(path), hint=hint)
        label = f"{result.method} [{sources.index(result.source) + 1}]"
        row = rows.setdefault(label, [None] * len(table.columns))
        for place, column in enumerate(table.columns):
            is_by_ours = result.protocol == column.protocol
            if result.task == column.task and (row[place] is None or is_by_ours):
                doubts = ["real data, ours are synthetic"] if column.synthetic else []
                doubts += [] if is_by_ours else ["other protocol"]
                row[place] = Reference(result.error, result.error, ", ".join(doubts))
    notes = [f"[{n}] reported by others, under their conditions: {text}" for n, text in enumerate(sources, 1)]
    return replace(table, references=rows | table.references, remarks=[*notes, *table.remarks])
