"""From runs to one table: methods as rows, tasks as columns, mean and sample standard deviation over seeds as cells.

Runs that differ in a setting are never averaged: they get rows of their own. What a reader has to know before trusting a
comparison (different seeds or test sets, runs that do not count) is in `notes.py`.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

from orca_cli.report.collect import Broken, Collection, Run, Score

UNFINISHED = ("failed", "dead", "interrupted", "running")


@dataclass(frozen=True, order=True)
class Column:
    """Errors that may be compared: of one task, by one protocol and under one name.

    Args:
        percent: the error is a fraction, shown times 100.
        chosen_on_test: the test split chose the weights, so the errors are too low.
        size: the word for number and size of the samples, if the task has several.
    """

    task: str
    protocol: str
    error_name: str
    percent: bool
    synthetic: bool
    chosen_on_test: bool = False
    size: str = ""


@dataclass(frozen=True, order=True)
class Method:
    """A row. `settings` are the overridden settings in which runs of the table differ."""

    body: str
    source: str
    metric: str
    finetune: str
    settings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        settings = (f"{key}={value}" for key, value in self.settings)
        return " ".join((self.body, self.metric, self.finetune, *settings))


@dataclass
class Cell:
    """The runs of one method on one task.

    Args:
        runs: completed runs, one per seed, in the order of seeds.
        unfinished: state -> number of runs that are not completed.
        hidden: completed runs that do not count, because a newer one has the same seed and visible settings.
        best: its mean is the lowest of the column.
    """

    runs: list[Run] = field(default_factory=list)
    unfinished: Counter[str] = field(default_factory=Counter)
    hidden: list[Run] = field(default_factory=list)
    best: bool = False

    @property
    def values(self) -> list[float]:
        """Return the test errors that are defined, in the order of seeds."""
        values = (score_of(run).value for run in self.runs)
        return [value for value in values if value is not None]

    @property
    def undefined(self) -> int:
        """Return the number of completed runs without an error value."""
        return len(self.runs) - len(self.values)

    @property
    def mean(self) -> float | None:
        """Return the mean over seeds; None if there is no value."""
        return math.fsum(self.values) / len(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Return the sample standard deviation over seeds (n - 1); None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass
class Row:
    """One method's cells, in the order of the columns, and its average rank; None if a column is missing."""

    method: Method
    cells: list[Cell]
    rank: float | None = None


@dataclass(frozen=True)
class Table:
    """Everything that a report shows.

    Args:
        trivial: for each column the lowest and highest error of the best constant predictor; None if unknown.
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


def score_of(run: Run) -> Score:
    """Return the score of a completed run."""
    assert run.score is not None  # only completed runs reach a cell
    return run.score


def build_table(collection: Collection) -> Table:
    """Return the table of a collection; rows and columns are sorted by their names."""
    runs = collection.runs
    column_of = _columns(runs)
    method_of = _methods(runs, column_of)
    cells: dict[tuple[Method, Column], Cell] = defaultdict(Cell)
    for run in runs:
        _add(cells[method_of[run.path], column_of[run.path]], run)
    columns = sorted(set(column_of.values()))
    methods = sorted({method for method, _ in cells})
    rows = [Row(method, [cells.get((method, column), Cell()) for column in columns]) for method in methods]
    _mark_best(rows)
    _rank(rows)
    trivial = [_trivial([row.cells[place] for row in rows]) for place in range(len(columns))]
    unfinished = [run for run in runs if run.state != "completed"]
    return Table(columns, rows, trivial, unfinished, collection.superseded, collection.broken)


def _columns(runs: list[Run]) -> dict[Path, Column]:
    """Return run folder -> column; a run without a score goes where its task's scores are."""
    found: dict[Path, Column] = {}
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


def _methods(runs: list[Run], column_of: dict[Path, Column]) -> dict[Path, Method]:
    """Return run folder -> method, named by the overridden settings that are not the same in all runs of some column.

    Settings can differ without an override, when a configuration or data file was changed between two runs. Such runs are
    told apart by the first digits of their settings' hash.
    """
    by_column: dict[Column, list[Run]] = defaultdict(list)
    for run in runs:
        by_column[column_of[run.path]].append(run)
    shown = {
        key
        for group in by_column.values()
        for key in {key for run in group for key in run.variant}
        if len({run.variant.get(key) for run in group}) > 1
    }
    methods: dict[Path, Method] = {}
    hashes: dict[tuple[Method, Column], set[str]] = defaultdict(set)
    for run in runs:
        settings = tuple((key, run.variant[key]) for key in sorted(shown) if key in run.variant)
        method = Method(run.body, run.source, run.metric, run.finetune, settings)
        methods[run.path] = method
        hashes[method, column_of[run.path]].add(run.settings)
    for run in runs:
        method = methods[run.path]
        if len(hashes[method, column_of[run.path]]) > 1:
            methods[run.path] = replace(method, settings=(*method.settings, ("settings", run.settings[:8])))
    return methods


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
