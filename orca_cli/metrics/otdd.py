"""The debiased dataset distance between small samples of equal size (paper 3.2, A.1).

    c(a, b) = 1/2 |a - b|^2 + 1/2 W(label of a, label of b)
    S(A, B) = min over matchings of 1/s sum_i c(a_i, b_match(i))
    OTDD    = E S(X, Z) - 1/2 E S(X, X') - 1/2 E S(Z, Z')

A and B are samples of s points each, X and X' of the source, Z and Z' of the target.
W(k, l) is the optimal transport with cost |a - b|^2 between equally many points of class k in A and
of class l in B. Transport between small samples is biased, at both levels, and so is its gradient:
a target that is matched to its nearest source points contracts. All three terms compute the cost in
the same way, so that they have the same bias. Therefore the value and its gradient are 0 in
expectation if source and target have the same distribution. Otherwise the value may be negative.
Neither the value nor its computing time depends on the size of the source. Without labels it is the
minibatch energy distance (Salimans et al. 2018, eq. 6).
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


class _Matchings(NamedTuple):
    """Solutions for B pairs of samples, in the memory of the CPU."""

    matching: np.ndarray  # [B, s], the column that each row is matched to
    # [B, s, s], the weight of each half squared distance in the sum of W / 2 over the matched
    # points; None without labels.
    coupling: np.ndarray | None


class _Sorted(NamedTuple):
    """The s points of a sample, sorted by class."""

    order: np.ndarray  # [s], the indices of the points
    spans: list[slice]  # the positions of each class in this order
    span_of: np.ndarray  # [s], the number of the span that each position is in


@dataclass(frozen=True)
class OTDD(Metric):
    """Exact transport between samples of at most `size` points; costs are halved squared distances.

    The gradient differentiates the costs with the matchings fixed. The value may be below 0 by
    chance. Value and gradient are 0 in expectation if source and target have the same distribution.
    Each sample of the source is compared with a sample of the target, and the samples of a side are
    compared in pairs. If a side has only one sample, the terms within the sides are left out.
    """

    all_classes = True

    size: Annotated[
        Count,
        "Largest number of points in a draw from the source or target. Draws have fewer points if"
        " the source or target has fewer than twice this number.",
    ] = 128
    labels: Annotated[
        bool, "true: the cost of a pair of points includes the distance between their classes."
    ] = True
    classes: Annotated[
        Count,
        "Largest number of classes in a draw. Classes are drawn at random; a class with more points"
        " gets more points in the draw. If labels=false, a draw has all classes.",
    ] = 8

    prepare = prepare_nothing

    @property
    def sample_size(self) -> int:
        """Return the largest number of points in a sample."""
        return self.size

    @property
    def sample_classes(self) -> int:
        """Return the largest number of classes in a sample; 0 (all classes) without labels."""
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
            solved = _match_labelled(costs, row_labels, column_labels)
        else:
            solved = _match_points(costs)
        matching = torch.from_numpy(solved.matching).to(costs.device)
        weights = costs.new_tensor(_weights(samples)) / size  # [B]
        matched_costs = costs.gather(2, matching[:, :, None])
        value = (weights * matched_costs.sum((1, 2))).sum()
        # The value's slope in the rows and in the columns of every pair of samples, [B, s, d]. A
        # matching takes rows to columns, and its inverse permutation columns to rows.
        row_slope = weights[:, None, None] * (rows - _take(columns, matching))
        column_slope = -_take(row_slope, matching.argsort(1))
        if solved.coupling is not None:
            coupling = torch.from_numpy(solved.coupling).to(costs.device)
            coupling *= weights[:, None, None]
            value = value + (coupling * costs).sum()
            row_mass = coupling.sum(2, keepdim=True)
            column_mass = coupling.sum(1)[:, :, None]
            row_slope = row_slope + row_mass * rows - coupling @ columns
            column_slope = column_slope + column_mass * columns - coupling.mT @ rows
        return value, _target_slope(row_slope, column_slope, samples), {}


def _within(samples: int) -> tuple[slice, slice]:
    """Return the samples of a side that are compared with each other: 0 with 1, 2 with 3, ..."""
    paired = samples // 2 * 2
    return slice(0, paired, 2), slice(1, paired, 2)


def _weights(samples: int) -> list[float]:
    """Return the weight of every pair of samples, in the order of `_compared`.

    The weights of the pairs across sum to 1, and the weights of the pairs within a side to -1/2.
    """
    pairs = samples // 2
    across = 1 / samples
    within = -0.5 / max(pairs, 1)
    return [across] * samples + [within] * (2 * pairs)


def _compared(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sides of all B pairs of samples.

    Pairs across come first, then pairs within the source, then pairs within the target.
    """
    even, odd = _within(len(source))
    rows = torch.cat([source, source[even], target[even]])
    columns = torch.cat([target, source[odd], target[odd]])
    return rows, columns


def _target_slope(row_slope: Tensor, column_slope: Tensor, samples: int) -> Tensor:
    """Return the slope in the target's samples, from the slopes in both sides of all pairs.

    Pairs are in the order of `_compared`. The target's samples are the columns of the first pairs,
    and both sides of the last pairs.
    """
    slope = column_slope[:samples]
    even, odd = _within(samples)
    within_target = slice(samples + samples // 2, None)
    slope[even] += row_slope[within_target]
    slope[odd] += column_slope[within_target]
    return slope


def _match_points(costs: Tensor) -> _Matchings:
    """Solve the problems of costs [B, s, s]."""
    matches = [_matched(cost)[1] for cost in costs.cpu().numpy()]
    return _Matchings(matching=np.stack(matches), coupling=None)


def _match_labelled(costs: Tensor, row_labels: Tensor, column_labels: Tensor) -> _Matchings:
    """Solve problems of half squared distances [B, s, s] between points of these classes [B, s]."""
    size = costs.shape[1]
    labels = torch.stack([row_labels, column_labels], 2)  # [B, s, 2]
    # Costs and labels are copied together, so that the CPU waits for a GPU once.
    packed = torch.cat([costs, labels.to(costs)], 2)  # [B, s, s + 2]
    matches = []
    couplings = []
    for problem in packed.cpu().numpy():
        cost = problem[:, :size]
        matching, coupling = _labelled_match(cost, problem[:, size], problem[:, size + 1])
        matches.append(matching)
        couplings.append(coupling)
    return _Matchings(matching=np.stack(matches), coupling=np.stack(couplings))


def _labelled_match(
    cost: np.ndarray, row_labels: np.ndarray, column_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return an optimal matching where W enters the cost, and the coupling that makes up every W.

    Args:
        cost: [s, s], half squared distances.
        row_labels, column_labels: [s], the classes of the points.

    Returns:
        matching: [s], the column of each row.
        coupling: [s, s], weights on `cost`: the matching between two classes, times the number of
            pairs of points that the outer matching joins between them.
    """
    rows = _by_class(row_labels)
    columns = _by_class(column_labels)
    sorted_pairs = np.ix_(rows.order, columns.order)
    half_squares = cost[sorted_pairs]  # [s, s], in blocks of a class against a class
    full_cost = half_squares.copy()
    inner = np.zeros_like(half_squares)
    for block in product(rows.spans, columns.spans):
        count = min(span.stop - span.start for span in block)
        between = half_squares[block][:count, :count]
        class_match = _matched(between)
        inner[block][class_match] = 1 / count
        full_cost[block] += between[class_match].sum() / count  # 1/2 W
    matching = _matched(full_cost)
    # Number of pairs of points that the outer matching joins between two classes, [spans, spans].
    joined = np.zeros((len(rows.spans), len(columns.spans)), cost.dtype)
    np.add.at(joined, (rows.span_of[matching[0]], columns.span_of[matching[1]]), 1)
    # Convert indices of the sorted points to indices of the samples' points.
    outer = np.empty_like(matching[1])
    outer[rows.order] = columns.order[matching[1]]
    coupling = np.empty_like(inner)
    coupling[sorted_pairs] = inner * joined[np.ix_(rows.span_of, columns.span_of)]
    return outer, coupling


def _by_class(labels: np.ndarray) -> _Sorted:
    """Sort points of these classes [s] by class, and by index within a class."""
    order = labels.argsort(kind="stable")
    _, starts, span_of = np.unique(labels[order], return_index=True, return_inverse=True)
    spans = [slice(start, stop) for start, stop in pairwise([*starts, len(labels)])]
    return _Sorted(order=order, spans=spans, span_of=span_of)


def _matched(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of costs [s, s] in order, and the column that each is matched to."""
    from scipy.optimize import linear_sum_assignment

    try:
        return linear_sum_assignment(cost)
    except ValueError:
        # A cost is not finite. Then the value is not finite either, and its check reports that.
        rows = np.arange(len(cost))
        return rows, rows


def _take(points: Tensor, matching: Tensor) -> Tensor:
    """Return the points [B, s, d] in the order of a matching [B, s]."""
    return points.gather(1, matching[:, :, None].expand_as(points))
