"""The rows of a table merged by keys, and their order.

A merged cell is a mean over settings, each of which counts once: the error of a seed is the mean over all of them, and a seed
that one of them lacks does not count. So no setting weighs more because it was run more often.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

from orca_cli.exceptions import DataError, UsageError, suggest
from orca_cli.report.records.collect import GROUPS, Collection
from orca_cli.report.records.filters import Values, canonical, key_hint
from orca_cli.report.tables.table import Cell, Column, Method, Row, Table, placed, spelling, table_of

ORDERS = ("name", "rank", "time")
_NONE = "-"


def merged(collection: Collection, text: str, values: Values) -> Table:
    """Return the table with a row for each combination of values of some keys (groups or settings, separated by commas).

    Raises:
        UsageError: a key is empty, given twice, or the columns of the table.
        DataError: no run has such a key.
    """
    keys = tuple(text.split(","))
    if "" in keys or len(set(keys)) < len(keys):
        raise UsageError(f"'{text}' is not a list of keys", where="--by", hint="such as --by body,train.lr")
    if "task" in keys or "set" in keys:
        raise UsageError("tasks are the columns", where="--by", hint="such as --by body,train.lr")
    runs = collection.runs
    values_by_run = [{key: values.lookup(run, key) for key in keys} for run in runs]
    typed = [(key, value) for run_values in values_by_run for key, value in run_values.items() if value is not None]
    spelled = spelling(typed)
    if missing := [key for key in keys if runs and key not in dict(typed)]:
        raise DataError(f"no run has '{missing[0]}'", where="--by", hint=key_hint(missing[0], collection))
    runs_placed = placed(runs)
    parts: dict[tuple[Method, Column], dict[Method, Cell]] = defaultdict(lambda: defaultdict(Cell))
    for (run, column, part), run_values in zip(runs_placed, values_by_run, strict=True):
        shown = {key: _NONE if value is None else spelled[key, canonical(value)] for key, value in run_values.items()}
        fields = {name: shown.get(name, "") for name in GROUPS}
        method = Method(**fields, settings=tuple((key, value) for key, value in shown.items() if key not in GROUPS))
        parts[method, column][part].add(run)
    merged_cells = {}
    for place, part_cells in parts.items():
        cells = list(part_cells.values())
        merged_cells[place] = Cell(
            runs=sorted((run for cell in cells for run in cell.runs), key=lambda run: run.seed),
            unfinished=sum((cell.unfinished for cell in cells), Counter()),
            hidden=[run for cell in cells for run in cell.hidden],
            parts=max(1, sum(bool(cell.runs) for cell in cells)),
        )
    return replace(table_of(collection, merged_cells, (column for _, column, _ in runs_placed)), by=keys)


def ordered(table: Table, key: str) -> Table:
    """Return the table with its rows by name, mean rank, time of a run, or error on a task; rows without one come last.

    Raises:
        DataError: there is no such task, or no row has a rank or a time.
    """
    if key == "name":
        return table
    places = list(reversed(list(enumerate(table.columns))))
    tasks = {column.task: place for place, column in places} | {column.name: place for place, column in places}
    measures: dict[str, Callable[[Row], float | None]] = {"rank": lambda row: row.rank, "time": time_of}
    if key in tasks and key not in measures:
        measures[key] = lambda row: row.cells[tasks[key]].mean
    if key not in measures:
        raise DataError(f"there is no '{key}'", where="--sort", hint=suggest(key, (*ORDERS, *tasks)))
    measured = [(math.inf if (value := measures[key](row)) is None else value, row) for row in table.rows]
    if measured and all(value == math.inf for value, _ in measured):
        hint = "only methods that have an error on every task have a rank" if key == "rank" else "leave --sort out"
        raise DataError(f"no row has a {key}", where="--sort", hint=hint)
    rows = [row for _, row in sorted(measured, key=lambda pair: pair[0])]
    return replace(table, rows=rows, order=key)


def time_of(row: Row) -> float | None:
    """Return the mean seconds of the three stages, each task counting once; None if no run records them."""
    times = []
    for cell in row.cells:
        run_seconds = [score.seconds for score in cell.scores if score.seconds is not None]
        times += [statistics.fmean(run_seconds)] if run_seconds else []
    return statistics.fmean(times) if times else None
