"""What a table is made of: columns, methods, cells with their statistics, rows."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field

from orca_cli.report.collect import Run, Score

UNFINISHED = ("failed", "dead", "interrupted", "running")


@dataclass(frozen=True, order=True)
class Column:
    """Errors that may be compared: of one task, by one protocol and under one name.

    Args:
        percent: the error is a fraction, shown times 100.
        chosen_on_test: the test split chose the weights, so the errors are too low.
        size: the word for how many and how large the samples are, where the task has several.
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
        runs: completed runs, one a seed, in the order of seeds.
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
        """Return the mean over seeds; None where there is no value."""
        return math.fsum(self.values) / len(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Return the sample standard deviation over seeds (n - 1); None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass
class Row:
    """One method's cells, in the order of the columns, and its average rank; None where a column is missing."""

    method: Method
    cells: list[Cell]
    rank: float | None = None


def score_of(run: Run) -> Score:
    """Return the score of a completed run."""
    assert run.score is not None  # only completed runs reach a cell
    return run.score
