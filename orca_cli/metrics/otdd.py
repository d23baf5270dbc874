"""The dataset distance between equal, small samples of both sides, debiased (paper 3.2, A.1).

    c(a, b) = 1/2 |a - b|^2 + 1/2 W(label of a, label of b)
    S(A, B) = min over matchings of 1/s sum_i c(a_i, b_match(i))
    OTDD    = E S(X, Z) - 1/2 E S(X, X') - 1/2 E S(Z, Z')

A and B are samples of s points each, X and X' of the source, Z and Z' of the target.
W(k, l) is the transport with cost |a - b|^2 between equally many points of class k in A and of
class l in B. Transport between small samples is biased, at both levels, and so is its gradient:
matched to its nearest source points a target contracts. One procedure computes the cost in all
three terms, so that the bias is the same and source and target of one distribution have value 0 and
gradient 0 in expectation. Elsewhere the value may be negative. Neither it nor its cost depends on
the size of the source. Without labels it is the minibatch energy distance (Salimans et al. 2018,
eq. 6).
"""

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from orca_cli.config.ranges import Count
from orca_cli.interfaces import Features, Metric
from orca_cli.metrics.transport.clouds import (
    Solved,
    centred,
    closed_form,
    half_squared_distances,
    prepare_nothing,
)


class _Transport(NamedTuple):
    """Solved problems of B pairs of samples, on the host."""

    match: np.ndarray  # [B, s], the column that each row is matched to
    # [B, s, s], what each half squared distance weighs in W / 2 of the matched points; None without
    # labels.
    coupling: np.ndarray | None


class _Sorted(NamedTuple):
    """The s points of a sample, sorted by class."""

    order: np.ndarray  # [s], the points in this order
    runs: list[slice]  # where each class is in it
    runs_of: np.ndarray  # [s], the number of the run that each position is in


@dataclass(frozen=True)
class OTDD(Metric):
    """Exact transport between samples of at most `size` points.

    Matchings are held, costs are differentiated.

    Costs are squared and halved; the value may be below 0 by chance. It is 0 in expectation, and so
    is its gradient, where any two samples are alike, whichever sides they are of. Each sample of
    the source is compared with one of the target, and each first sample of a pair with the second
    of the same side; where a side has one sample, its own terms are left out.
    """

    all_classes = True

    size: Annotated[
        Count,
        "Points of a sample; fewer where a side has less than twice as many.",
    ] = 128
    labels: Annotated[bool, "Whether distances between classes enter the cost."] = True
    classes: Annotated[
        Count,
        "Classes in a sample, drawn at random, each with its share of points; without labels: all.",
    ] = 8

    prepare = prepare_nothing

    @property
    def sample_size(self) -> int:
        """Return the most points of a sample."""
        return self.size

    @property
    def sample_classes(self) -> int:
        """Return the most classes of a sample; 0, which is all, where labels do not count."""
        return self.classes if self.labels else 0

    @closed_form
    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Solved:
        """Return the distance of samples, x [samples, points, d] on both sides; no diagnostics."""
        samples, size, _ = target.x.shape
        x = source.x.to(target.x.dtype)
        clouds = centred(x.flatten(0, 1), target.x.flatten(0, 1))
        x, z = (cloud.unflatten(0, (samples, size)) for cloud in clouds)
        rows, columns = _compared(x, z)  # [B, s, d]
        costs = half_squared_distances(rows, columns)  # [B, s, s]
        if self.labels:
            row_labels, column_labels = _compared(source.labels, target.labels)  # [B, s]
            solved = _labelled_transport(costs, row_labels, column_labels)
        else:
            solved = _transport(costs)
        match = torch.from_numpy(solved.match).to(costs.device)
        weights = costs.new_tensor(_weights(samples)) / size  # [B]
        value = (weights * costs.gather(2, match[:, :, None]).sum((1, 2))).sum()
        # The value's slope in the rows and in the columns of every pair of samples, [B, s, d]; a
        # matching is a permutation of rows to columns, and its inverse takes columns to rows.
        row_slope = weights[:, None, None] * (rows - _take(columns, match))
        column_slope = -_take(row_slope, match.argsort(1))
        if solved.coupling is not None:
            coupling = torch.from_numpy(solved.coupling).to(costs.device)
            coupling *= weights[:, None, None]
            value = value + (coupling * costs).sum()
            row_slope = row_slope + coupling.sum(2)[:, :, None] * rows - coupling @ columns
            column_slope = column_slope + coupling.sum(1)[:, :, None] * columns - coupling.mT @ rows
        # The target's samples are the columns across, and both sides of the last pairs.
        slope = column_slope[:samples]
        even, odd = _within(samples)
        slope[even] += row_slope[samples + samples // 2 :]
        slope[odd] += column_slope[samples + samples // 2 :]
        return value, slope, {}


def _within(samples: int) -> tuple[slice, slice]:
    """Return which samples of a side are compared: 0 with 1, 2 with 3, and so on."""
    paired = samples // 2 * 2
    return slice(0, paired, 2), slice(1, paired, 2)


def _weights(samples: int) -> list[float]:
    """Return what every pair of samples weighs: 1 in all across, minus a half in all of a side."""
    pairs = samples // 2
    return [1 / samples] * samples + [-0.5 / max(pairs, 1)] * (2 * pairs)


def _compared(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sides of all B pairs of samples: across, within the source, within the target."""
    even, odd = _within(len(source))
    rows = torch.cat([source, source[even], target[even]])
    columns = torch.cat([target, source[odd], target[odd]])
    return rows, columns


def _transport(costs: Tensor) -> _Transport:
    """Solve the problems of costs [B, s, s]."""
    matches = [_matched(cost)[1] for cost in costs.cpu().numpy()]
    return _Transport(match=np.stack(matches), coupling=None)


def _labelled_transport(costs: Tensor, row_labels: Tensor, column_labels: Tensor) -> _Transport:
    """Solve problems of half squared distances [B, s, s] between points of these classes [B, s]."""
    size = costs.shape[1]
    labels = [side.to(costs)[:, :, None] for side in (row_labels, column_labels)]
    # Costs and labels move together, so that the host waits for a GPU once.
    packed = torch.cat([costs, *labels], 2).cpu().numpy()  # [B, s, s + 2]
    matches = []
    couplings = []
    for problem in packed:
        cost = problem[:, :size]
        match, coupling = _labelled_match(cost, problem[:, size], problem[:, size + 1])
        matches.append(match)
        couplings.append(coupling)
    return _Transport(match=np.stack(matches), coupling=np.stack(couplings))


def _labelled_match(
    cost: np.ndarray, row_labels: np.ndarray, column_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return an optimal matching where W enters the cost, and the couplings behind every W.

    Args:
        cost: [s, s], half squared distances.
        row_labels, column_labels: [s], the classes of the points.

    Returns:
        columns of the rows [s], and weights on `cost` [s, s]: each pair of classes' own matching,
        as often as the outer one joins the two.
    """
    rows = _by_class(row_labels)
    columns = _by_class(column_labels)
    sorted_pairs = np.ix_(rows.order, columns.order)
    half_squares = cost[sorted_pairs]  # [s, s], in blocks of a class against a class
    full_cost = half_squares.copy()
    inner = np.zeros_like(half_squares)
    for block in product(rows.runs, columns.runs):
        count = min(run.stop - run.start for run in block)
        between = half_squares[block][:count, :count]
        class_match = _matched(between)
        inner[block][class_match] = 1 / count
        full_cost[block] += between[class_match].sum() / count  # 1/2 W
    match = _matched(full_cost)
    # How often the outer matching joins two classes, for every pair of their points.
    joined = np.zeros((len(rows.runs), len(columns.runs)), cost.dtype)
    np.add.at(joined, (rows.runs_of[match[0]], columns.runs_of[match[1]]), 1)
    outer = np.empty_like(match[1])
    outer[rows.order] = columns.order[match[1]]
    coupling = np.empty_like(inner)
    coupling[sorted_pairs] = inner * joined[np.ix_(rows.runs_of, columns.runs_of)]
    return outer, coupling


def _by_class(labels: np.ndarray) -> _Sorted:
    """Return the points of these classes [s] by class, and by position within a class."""
    order = labels.argsort(kind="stable")
    _, starts, runs_of = np.unique(labels[order], return_index=True, return_inverse=True)
    runs = [slice(start, stop) for start, stop in pairwise([*starts, len(labels)])]
    return _Sorted(order=order, runs=runs, runs_of=runs_of)


def _matched(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of costs [s, s], in order, and their columns in an optimal matching."""
    from scipy.optimize import linear_sum_assignment

    try:
        return linear_sum_assignment(cost)
    except ValueError:
        # A cost is not finite. The value is not either, and the check of it reports that.
        rows = np.arange(len(cost))
        return rows, rows


def _take(points: Tensor, match: Tensor) -> Tensor:
    """Return the points [B, s, d] in the order of a matching [B, s]."""
    return points.gather(1, match[:, :, None].expand_as(points))
