"""Distances between labels: every class is a cloud of points, and two classes are compared by entropic transport.

    W(a, b) = S_reg(X_a, Z_b) with the cost |x - z|^2: the debiased squared 2-Wasserstein distance (paper A.1, d_Y squared)

All costs here are half squared distances, so W(a, b) = 2 S_{reg / 2} in them. Pairs of classes are solved many at once,
padded to the largest class in their group: B pairs of p and q points, whose weights are 0 at padding. `left` has the k classes
of n row points and `right` the l classes of m column points; a pair is (class of `left`, class of `right`), both with points;
a cost function takes rows [B, p] and columns [B, q] and gives their costs [B, p, q].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from orca_cli.metrics.transport.clouds import class_sizes, half_squared_distances
from orca_cli.metrics.transport.sinkhorn import Solution

Cost = Callable[[Tensor, Tensor], Tensor]

_GROUP_ELEMENTS = 2**24  # entries of the padded costs of one group, 64 MB in float32
_GROUP_PADDING = 1.6  # a group's padded entries against its true ones


class ClassIndex(NamedTuple):
    """Which points belong to which class."""

    rows: Tensor  # [k, w] int64, the points of each class, padded with 0
    counts: list[int]  # number of points of each class
    weights: Tensor  # [k, w], 1 / count for a point and 0 for padding

    @property
    def present(self) -> list[int]:
        """Classes with a point."""
        return [label for label, count in enumerate(self.counts) if count]

    def points(self, label: int) -> Tensor:
        """Return the points of a class."""
        return self.rows[label, : self.counts[label]]


def index_classes(labels: Tensor, num_classes: int, dtype: torch.dtype) -> ClassIndex:
    """Return the points of every class; labels [n] int64 in 0..num_classes-1."""
    counts = class_sizes(labels, num_classes)
    sizes = counts.tolist()
    order = torch.argsort(labels, stable=True)
    rank = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    rows = labels.new_zeros(num_classes, max(sizes))
    rows[labels[order], rank] = order
    slots = torch.arange(rows.shape[1], device=labels.device)
    weights = (slots < counts[:, None]) / counts.clamp(min=1)[:, None].to(dtype)
    return ClassIndex(rows, sizes, weights.to(dtype))


class PairGroup(NamedTuple):
    """B pairs of classes of similar size, and their points."""

    left: Tensor  # [B] int64, classes of the rows
    right: Tensor  # [B] int64, classes of the columns
    rows: Tensor  # [B, p] int64; padding repeats point 0 and has no mass
    columns: Tensor  # [B, q] int64
    a: Tensor  # [B, p], weights
    b: Tensor  # [B, q]


Solved = list[tuple[PairGroup, Solution]]


def padded(pairs: list[tuple[int, int]], left: ClassIndex, right: ClassIndex) -> Iterator[PairGroup]:
    """Yield the pairs, sorted by size, in groups that padding does not blow up."""
    groups: list[list[tuple[int, int]]] = []
    p = q = true = 0
    for i, j in sorted(pairs, key=lambda pair: (left.counts[pair[0]] * right.counts[pair[1]], pair)):
        rows, columns = max(p, left.counts[i]), max(q, right.counts[j])
        entries = true + left.counts[i] * right.counts[j]
        padded = (len(groups[-1]) + 1) * rows * columns if groups else 0
        if groups and padded <= min(_GROUP_PADDING * entries, _GROUP_ELEMENTS):
            groups[-1].append((i, j))
            p, q, true = rows, columns, entries
        else:
            groups.append([(i, j)])
            p, q, true = left.counts[i], right.counts[j], left.counts[i] * right.counts[j]
    for group in groups:
        a, b = torch.tensor(group).to(left.rows.device, non_blocking=True).T
        p, q = max(left.counts[i] for i, _ in group), max(right.counts[j] for _, j in group)
        yield PairGroup(a, b, left.rows[a, :p], right.rows[b, :q], left.weights[a, :p], right.weights[b, :q])


def solve_pairs(
    left: ClassIndex, right: ClassIndex, cost: Cost, solve: Callable[[Tensor, Tensor, Tensor], Solution]
) -> Solved:
    """Solve the transport between all `pairs` of classes; `solve` takes cost, a and b."""
    groups = padded(pairs(left, right), left, right)
    return [(group, solve(cost(group.rows, group.columns), group.a, group.b)) for group in groups]


def solve_selves(
    classes: ClassIndex, cost: Cost, solve_symmetric: Callable[[Tensor, Tensor], Solution]
) -> tuple[Solved, Tensor]:
    """Solve the transport of every class that has points to itself; return the values [k] as well, 0 for other classes."""
    groups = padded([(label, label) for label in classes.present], classes, classes)
    solved = [(group, solve_symmetric(cost(group.rows, group.columns), group.a)) for group in groups]
    values = solved[0][1].value.new_zeros(len(classes.counts))
    for group, solution in solved:
        values[group.left] = solution.value
    return solved, values


def table(solved: Solved, left_self: Tensor, right_self: Tensor) -> Tensor:
    """Return W [k, l] for the solved pairs and 0 for others, from the transport of classes to themselves [k] and [l]."""
    result = left_self.new_zeros(len(left_self), len(right_self))
    for group, solution in solved:
        debiased = solution.value - left_self[group.left] / 2 - right_self[group.right] / 2
        result[group.left, group.right] = 2 * debiased
    return result


def potentials(solved: Solved, left: ClassIndex, right: ClassIndex) -> tuple[Tensor, Tensor]:
    """Return the potentials of solved pairs by points: rows against classes [n, l], and classes against columns [k, m]."""
    n, m = sum(left.counts), sum(right.counts)
    # Padding goes to a last row or column. Leaving it out by a mask would make the host wait for a GPU.
    rows = left.weights.new_zeros(n + 1, len(right.counts))
    columns = left.weights.new_zeros(len(left.counts), m + 1)
    for group, solution in solved:
        rows[torch.where(group.a > 0, group.rows, n), group.right[:, None]] = solution.f
        columns[group.left[:, None], torch.where(group.b > 0, group.columns, m)] = solution.g
    return rows[:n], columns[:, :m]


def from_points(x: Tensor) -> Cost:
    """Return the cost function for points [n, d] on both sides."""
    return lambda rows, columns: half_squared_distances(x[rows], x[columns])


def from_matrix(cost: Tensor) -> Cost:
    """Return the cost function for costs [n, m] that are already there."""
    return lambda rows, columns: cost[rows[:, :, None], columns[:, None, :]]


def pairs(left: ClassIndex, right: ClassIndex) -> list[tuple[int, int]]:
    """Return the pairs of classes that have points; within one index those of two different classes, once each."""
    return [(a, b) for a in left.present for b in right.present if left is not right or a < b]
