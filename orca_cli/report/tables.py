"""From runs to one table: methods as rows, tasks as columns, mean and sample standard deviation over seeds as cells.

Nothing is averaged over runs that differ in a setting: such runs get rows of their own. What a reader has to know to
trust a comparison (other seeds, other test sets, runs that do not count) is said by `notes.py`.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from orca_cli.report.cells import Cell, Column, Method, Row, score_of
from orca_cli.report.collect import Broken, Collection, Run


@dataclass(frozen=True)
class Table:
    """All that a report shows.

    Args:
        trivial: for each column the lowest and highest error of the best constant predictor; None where unknown.
        unfinished: runs that are not completed.
        superseded: older attempts that do not count.
        broken: folders that could not be read.
    """

    columns: list[Column]
    rows: list[Row]
    trivial: list[tuple[float, float] | None]
    unfinished: list[Run]
    superseded: list[Run]
    broken: list[Broken]


def build_table(collection: Collection) -> Table:
    """Return the table of a collection; rows and columns are sorted by their names."""
    runs = collection.runs
    column_of = _columns(runs)
    columns = sorted(set(column_of.values()))
    shown = _differing_settings(runs, column_of)
    method_of = _methods(runs, column_of, shown)
    cells: dict[tuple[Method, Column], Cell] = defaultdict(Cell)
    for run in runs:
        _add(cells[method_of[run.path], column_of[run.path]], run)
    methods = sorted({method for method, _ in cells})
    rows = [Row(method, [cells.get((method, column), Cell()) for column in columns]) for method in methods]
    _mark_best(rows)
    _rank(rows)
    trivial = [_trivial([row.cells[place] for row in rows]) for place in range(len(columns))]
    unfinished = [run for run in runs if run.state != "completed"]
    return Table(columns, rows, trivial, unfinished, collection.superseded, collection.broken)


def _columns(runs: list[Run]) -> dict[object, Column]:
    """Return run folder -> column; a run without a score goes where its task's scores are."""
    found: dict[object, Column] = {}
    by_task: dict[tuple[str, str], Column] = {}
    for run in runs:
        if run.score is not None:
            score = run.score
            marks = (score.synthetic, score.chosen_on_test, score.size)
            column = Column(run.task, run.protocol, score.error_name, score.percent, *marks)
            found[run.path] = column
            key = (run.task, run.protocol)
            by_task[key] = min(column, by_task.get(key, column))
    for run in runs:
        blank = Column(run.task, run.protocol, "", False, False)
        found.setdefault(run.path, by_task.get((run.task, run.protocol), blank))
    return found


def _differing_settings(runs: list[Run], column_of: dict[object, Column]) -> set[str]:
    """Return the overridden settings that are not the same in all runs of some column."""
    by_column: dict[Column, list[Run]] = defaultdict(list)
    for run in runs:
        by_column[column_of[run.path]].append(run)
    differing: set[str] = set()
    for group in by_column.values():
        for key in {key for run in group for key in run.variant}:
            if len({run.variant.get(key) for run in group}) > 1:
                differing.add(key)
    return differing


def _methods(runs: list[Run], column_of: dict[object, Column], shown: set[str]) -> dict[object, Method]:
    """Return run folder -> method.

    Settings can differ without an override that says so, when a configuration or a data file was changed between two
    runs. Such runs are told apart by the first digits of their settings' hash.
    """
    methods = {run.path: _method(run, shown) for run in runs}
    hashes: dict[tuple[Method, Column], set[str]] = defaultdict(set)
    for run in runs:
        hashes[methods[run.path], column_of[run.path]].add(run.settings)
    return {
        run.path: _method(
            run, shown, run.settings[:8] if len(hashes[methods[run.path], column_of[run.path]]) > 1 else ""
        )
        for run in runs
    }


def _method(run: Run, shown: Iterable[str], settings_hash: str = "") -> Method:
    settings = tuple((key, run.variant[key]) for key in sorted(shown) if key in run.variant)
    if settings_hash:
        settings += (("settings", settings_hash),)
    return Method(run.body, run.source, run.metric, run.finetune, settings)


def _add(cell: Cell, run: Run) -> None:
    """Add a run; runs come from the oldest to the newest, and of one seed the newest counts."""
    if run.state != "completed":
        cell.unfinished[run.state] += 1
        return
    older = [other for other in cell.runs if other.seed == run.seed]
    cell.hidden += older
    cell.runs = sorted([*(other for other in cell.runs if other not in older), run], key=lambda other: other.seed)


def _mark_best(rows: list[Row]) -> None:
    for cells in zip(*(row.cells for row in rows), strict=True):
        means = [cell.mean for cell in cells if cell.mean is not None]
        for cell in cells:
            cell.best = cell.mean is not None and math.isclose(cell.mean, min(means), rel_tol=1e-12)


def _rank(rows: list[Row]) -> None:
    """Give the methods that have every column their mean rank among themselves; ties share the mean of their ranks."""
    complete = [row for row in rows if all(cell.mean is not None for cell in row.cells)]
    if len(complete) < 2:
        return
    ranks: dict[int, list[float]] = defaultdict(list)
    for cells in zip(*(row.cells for row in complete), strict=True):
        means = [cell.mean for cell in cells if cell.mean is not None]
        for row, mean in zip(complete, means, strict=True):
            ties = sum(math.isclose(mean, other, rel_tol=1e-12) for other in means)
            better = sum(other < mean and not math.isclose(mean, other, rel_tol=1e-12) for other in means)
            ranks[id(row)].append(better + (ties + 1) / 2)
    for row in complete:
        row.rank = statistics.fmean(ranks[id(row)])


def _trivial(cells: list[Cell]) -> tuple[float, float] | None:
    values = [score_of(run).trivial for cell in cells for run in cell.runs]
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None
