"""Distances between labels: every class is a cloud of points, and two classes are compared by entropic transport.

    W(a, b) = S_reg(X_a, Z_b) with the cost |x - z|^2: the debiased squared 2-Wasserstein distance (paper A.1, d_Y squared)

All costs here are half squared distances, so W(a, b) = 2 S_{reg / 2} in them. Pairs of classes are solved many at once,
padded to the largest class in their group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from orca_cli.metrics.transport.sinkhorn import Solution

_GROUP_ELEMENTS = 2**24  # entries of the padded costs of one group, 64 MB in float32
_GROUP_PADDING = 1.6  # a group's padded entries against its true ones


@dataclass(frozen=True)
class ClassIndex:
    """Which points belong to which class.

    Args:
        rows: [k, w] int64, the points of each class, padded with 0.
        counts: number of points of each class.
        weights: [k, w], 1 / count for a point and 0 for padding.
    """

    rows: Tensor
    counts: list[int]
    weights: Tensor

    @property
    def present(self) -> list[int]:
        """Classes with a point."""
        return [label for label, count in enumerate(self.counts) if count]


def index_classes(labels: Tensor, num_classes: int, dtype: torch.dtype) -> ClassIndex:
    """Return the points of every class; labels [n] int64 in 0..num_classes-1."""
    counts = torch.bincount(labels, minlength=num_classes)
    order = torch.argsort(labels, stable=True)
    rank = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    rows = labels.new_zeros(num_classes, int(counts.max()))
    rows[labels[order], rank] = order
    slots = torch.arange(rows.shape[1], device=labels.device)
    weights = (slots < counts[:, None]) / counts.clamp(min=1)[:, None].to(dtype)
    return ClassIndex(rows, counts.tolist(), weights.to(dtype))


@dataclass(frozen=True)
class PairGroup:
    """Solved pairs of classes.

    Args:
        left: [B] int64, classes of the rows.
        right: [B] int64, classes of the columns.
        rows: [B, p] int64, their points; padding repeats point 0 and has no mass.
        columns: [B, q] int64.
        solution: of the B problems.
    """

    left: Tensor
    right: Tensor
    rows: Tensor
    columns: Tensor
    solution: Solution


def solve_pairs(
    pairs: list[tuple[int, int]],
    left: ClassIndex,
    right: ClassIndex,
    cost: Callable[[Tensor, Tensor], Tensor],
    solve: Callable[[Tensor, Tensor, Tensor], Solution],
) -> list[PairGroup]:
    """Solve the transport between pairs of classes, in groups of similar size.

    Args:
        pairs: (class of `left`, class of `right`), all with points.
        left: classes of the rows.
        right: classes of the columns.
        cost: (rows [B, p], columns [B, q]) -> their costs [B, p, q].
        solve: (cost, a, b) -> solution.
    """
    solved = []
    for group in groups(pairs, left.counts, right.counts):
        ids = torch.tensor(group, device=left.rows.device)
        p = max(left.counts[a] for a, _ in group)
        q = max(right.counts[b] for _, b in group)
        rows, columns = left.rows[ids[:, 0], :p], right.rows[ids[:, 1], :q]
        solution = solve(cost(rows, columns), left.weights[ids[:, 0], :p], right.weights[ids[:, 1], :q])
        solved.append(PairGroup(ids[:, 0], ids[:, 1], rows, columns, solution))
    return solved


def solve_selves(
    classes: ClassIndex, cost: Callable[[Tensor, Tensor], Tensor], solve_symmetric: Callable[[Tensor, Tensor], Solution]
) -> list[PairGroup]:
    """Solve the transport of every class that has points to itself."""
    return solve_pairs(
        [(label, label) for label in classes.present],
        classes,
        classes,
        cost,
        lambda costs, a, _: solve_symmetric(costs, a),
    )


def values(groups: list[PairGroup], shape: tuple[int, int]) -> Tensor:
    """Return the groups' values as a table [k, l], 0 where a pair was not solved."""
    first = groups[0].solution.value
    table = first.new_zeros(shape)
    for group in groups:
        table[group.left, group.right] = group.solution.value
    return table


def potentials(
    groups: list[PairGroup], left: ClassIndex, right: ClassIndex, points: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the potentials of solved pairs by points: rows against classes [n, l], and classes against columns [k, m].

    Args:
        groups: solved pairs.
        left: classes of the rows.
        right: classes of the columns.
        points: n and m.
    """
    rows = left.weights.new_zeros(points[0], len(right.counts))
    columns = left.weights.new_zeros(len(left.counts), points[1])
    for group in groups:
        real = left.weights[group.left, : group.rows.shape[1]] > 0
        rows[group.rows[real], group.right[:, None].expand_as(real)[real]] = group.solution.f[real]
        real = right.weights[group.right, : group.columns.shape[1]] > 0
        columns[group.left[:, None].expand_as(real)[real], group.columns[real]] = group.solution.g[real]
    return rows, columns


def from_matrix(cost: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the cost function of `solve_pairs` for costs [n, m] that are already there."""

    def gather(rows: Tensor, columns: Tensor) -> Tensor:
        # A class that holds all rows or columns holds them in order.
        if rows.shape == (1, cost.shape[0]) and columns.shape[1] == cost.shape[1]:
            return cost[None]
        if columns.shape[1] == cost.shape[1]:
            return cost.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)
        places = rows[:, :, None] * cost.shape[1] + columns[:, None, :]
        return cost.view(-1).index_select(0, places.view(-1)).view(places.shape)

    return gather


def pairs(left: ClassIndex, right: ClassIndex) -> list[tuple[int, int]]:
    """Return the pairs of classes that have points; within one index those of two different classes, once each."""
    return [(a, b) for a in left.present for b in right.present if left is not right or a < b]


def groups(pairs: list[tuple[int, int]], left: list[int], right: list[int]) -> list[list[tuple[int, int]]]:
    """Cut the pairs, sorted by size, into groups that padding does not blow up."""
    groups: list[list[tuple[int, int]]] = []
    p = q = true = 0
    for a, b in sorted(pairs, key=lambda pair: (left[pair[0]] * right[pair[1]], pair)):
        rows, columns = max(p, left[a]), max(q, right[b])
        entries = true + left[a] * right[b]
        padded = (len(groups[-1]) + 1) * rows * columns if groups else 0
        if groups and padded <= min(_GROUP_PADDING * entries, _GROUP_ELEMENTS):
            groups[-1].append((a, b))
            p, q, true = rows, columns, entries
        else:
            groups.append([(a, b)])
            p, q, true = left[a], right[b], left[a] * right[b]
    return groups
