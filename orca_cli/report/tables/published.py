"""Other people's results from a csv file, below a table's own: with their source, never ranked, never best.

The file has a line for each result and the columns `task,method,error,source`. `error` is in the units of result.json:
fractions where tables show per cent, so 0.1939 for 19.39 %. A column `protocol` may say by which of our protocols it was
measured, such as paper; without, it is by another one.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from orca_cli.exceptions import DataError, suggest
from orca_cli.report.tables.table import Published, Table

COLUMNS = ("task", "method", "error", "source")


def read(path: Path) -> list[Published]:
    """Return the results of a file, in its order.

    Raises:
        DataError: it is missing or not text, a column is missing, or a field is empty or no number.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, skipinitialspace=True)
            header = lines.fieldnames or []
            for name in COLUMNS:
                if name not in header:
                    hint = f"the first line is {','.join(COLUMNS)}"
                    raise DataError(f"has no column '{name}'", where=str(path), hint=hint)
            return [_result(line, f"{path}, line {lines.line_num}") for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read: {error}", where=str(path), hint="give a .csv file in UTF-8") from error


def _result(line: dict[str, str | None], where: str) -> Published:
    fields = {name: (line[name] or "").strip() for name in COLUMNS}
    for name, text in fields.items():
        if not text:
            hint = "name the table and page that it is from" if name == "source" else "fill it, or remove the line"
            raise DataError(f"'{name}' is empty", where=where, hint=hint)
    try:
        error = float(fields["error"])
    except ValueError:
        error = math.nan
    if not math.isfinite(error):
        raise DataError(f"error '{fields['error']}' is not a number", where=where, hint="such as 0.1939 for 19.39 %")
    protocol = (line.get("protocol") or "").strip()
    return Published(fields["task"], fields["method"], error, fields["source"], protocol)


def fitting(results: list[Published], table: Table, where: str) -> list[Published]:
    """Return the results of tasks that a table has.

    Raises:
        DataError: there are none, or one is in per cent.
    """
    shown = {column.task: column for column in table.columns}
    matches = [result for result in results if result.task in shown]
    if not matches:
        names = sorted({result.task for result in results})
        hint = suggest(names[0], shown) if names and shown else "orca report shows the tasks"
        raise DataError(f"no run is of a task in it ({', '.join(names) or 'no line'})", where=where, hint=hint)
    for result in matches:
        if shown[result.task].percent and result.error > 1:
            what = f"{result.task}, {result.method}: error {result.error:g} is above 1"
            raise DataError(
                what, where=where, hint=f"errors are fractions: {result.error / 100:g} for that many per cent"
            )
    return matches
