"""The multi-comparison matrix (Ismail-Fawaz et al. 2023, arXiv 2305.11921): each pair of methods over the tasks of both.

What it says of a pair depends on these two methods alone, unlike a critical-difference diagram, whose verdicts change when
a third method is added. As there, p is Wilcoxon's signed-rank test over tasks; here it is exact, and Holm's correction over
all pairs stands beside it, which does depend on the number of methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orca_cli.report.statistics.differences import LARGEST_P, LEAST, difference, holm, mean_of, relative, signed_rank


@dataclass(frozen=True)
class Pair:
    """Method `row` against method `column`; `gain` is above 0 where `row` has the lower errors.

    Args:
        tasks: on how many both have an error.
        points: mean over the tasks whose error is a per cent of column's error less row's, in points; None without such a task.
        relative: mean over all tasks of column's error less row's, in per cent of the mean of the two errors, -200 to 200.
        wins, ties, losses: of `row`, by task.
        p: two-sided, exact signed-rank test over tasks; of points if all tasks have them, else of the relative differences.
        smallest: the smallest p possible with this number of nonzero differences.
        corrected: Holm's p over all pairs of the matrix.
        is_relative: `gain` and `p` are about `relative`.
    """

    row: str
    column: str
    tasks: int
    points: float | None
    relative: float
    wins: int
    ties: int
    losses: int
    p: float
    smallest: float
    corrected: float = 1.0
    is_relative: bool = False

    @property
    def gain(self) -> float:
        """Return the mean difference that the pair is judged by: in points, or in per cent of the error."""
        return self.relative if self.is_relative or self.points is None else self.points

    @property
    def is_earned(self) -> bool:
        """Return whether the two differ: at least six tasks that differ, and Holm's p at most 0.05."""
        return self.wins + self.losses >= LEAST and self.corrected <= LARGEST_P

    def turned(self) -> Pair:
        """Return the same comparison seen from the other method."""
        points = None if self.points is None else -self.points
        turned = replace(self, row=self.column, column=self.row, points=points, relative=-self.relative)
        return replace(turned, wins=self.losses, losses=self.wins)


def matrix(errors: Mapping[str, Sequence[Mapping[Any, float]]], percent: Sequence[bool]) -> list[Pair]:
    """Return every ordered pair of methods that have a task in common, (a, b) and (b, a).

    A task counts for a pair where both have an error of the same seed; its errors are then the means over the seeds that both
    have. The unit is the same in the whole matrix: points if all tasks that count are per cents, else per cent of the error.

    Args:
        errors: method -> for every task, in the same order for all, seed, or seed and test data, -> error as
            stored; empty where it has none.
        percent: for every task, whether its error is a fraction that is shown as per cent.
    """
    methods = list(errors)
    found = []
    for place, one in enumerate(methods):
        for other in methods[place + 1 :]:
            tasks = []
            for a, b, is_percent in zip(errors[one], errors[other], percent, strict=True):
                if seeds := a.keys() & b.keys():
                    tasks.append((mean_of(a[seed] for seed in seeds), mean_of(b[seed] for seed in seeds), is_percent))
            if tasks:
                found.append((one, other, tasks))
    is_relative = not all(is_percent for *_, tasks in found for _, _, is_percent in tasks)
    pairs = [_pair(one, other, tasks, is_relative) for one, other, tasks in found]
    corrected = holm([pair.p for pair in pairs])
    pairs = [replace(pair, corrected=p) for pair, p in zip(pairs, corrected, strict=True)]
    return [one for pair in pairs for one in (pair, pair.turned())]


def _pair(row: str, column: str, tasks: Sequence[tuple[float, float, bool]], is_relative: bool) -> Pair:
    points = [100 * difference(other, mine) for mine, other, is_percent in tasks if is_percent]
    shares = [100 * relative(other, mine) for mine, other, _ in tasks]
    p, smallest = signed_rank(shares if is_relative else points)
    return Pair(
        row,
        column,
        len(tasks),
        points=mean_of(points) if points else None,
        relative=mean_of(shares),
        wins=sum(value > 0 for value in shares),
        ties=sum(value == 0 for value in shares),
        losses=sum(value < 0 for value in shares),
        p=p,
        smallest=smallest,
        is_relative=is_relative,
    )
