"""The optimal transport dataset distance between equal, small samples of both sides, debiased (paper 3.2 and A.1).

    c(a, b) = 1/2 |a - b|^2 + 1/2 W(label of a, label of b)
    S(A, B) = min over matchings of 1/s sum_i c(a_i, b_match(i)),    A, B samples of s points each
    OTDD    = E S(X, Z) - 1/2 E S(X, X') - 1/2 E S(Z, Z')            X, X' of the source, Z, Z' of the target

W(k, l) is the transport with cost |a - b|^2 between equally many points of class k in A and of class l in B. Transport between
small samples is biased, at both levels, and so is its gradient: matched to its nearest source points a target contracts. One
procedure computes the cost in all three terms, so that the bias is the same and source and target of one distribution have
value 0 and gradient 0 in expectation. Elsewhere the value may be negative. Neither it nor its cost depends on the size of the
source. Without labels it is the minibatch energy distance (Salimans et al. 2018, eq. 6).
"""

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from orca_cli.config.ranges import Count
from orca_cli.interfaces import Features
from orca_cli.metrics.transport.clouds import (
    Solved,
    centred,
    closed_form,
    half_squared_distances,
    prepare_nothing,
)


@dataclass(frozen=True)
class OTDD:
    """Exact transport between samples of at most `size` points; matchings are held, costs are differentiated.

    Costs are squared and halved; the value may be below 0 by chance. It is 0 in expectation, and so is its gradient, where any
    two samples are alike, whichever sides they are of. Each sample of the source is compared with one of the target, and each
    first sample of a pair with the second of the same side; where a side has one sample, its own terms are left out.
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
        pairs, size, _ = target.x.shape
        clouds = centred(source.x.to(target.x.dtype).flatten(0, 1), target.x.flatten(0, 1))
        x, z = (cloud.unflatten(0, (pairs, size)) for cloud in clouds)
        within = pairs // 2  # pairs of samples of one side
        first, second = slice(0, 2 * within, 2), slice(1, 2 * within, 2)

        def paired(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            """Return the two sides of all pairs of samples: across, within the source, within the target."""
            rows = torch.cat([source, source[first], target[first]])
            columns = torch.cat([target, source[second], target[second]])
            return rows, columns

        sides = paired(x, z)
        costs = half_squared_distances(*sides)
        labels = (
            [side.to(costs)[:, :, None] for side in paired(source.labels, target.labels)]
            if self.labels
            else []
        )
        packed = (
            torch.cat([costs, *labels], 2).cpu().numpy()
        )  # together, so that the host waits for a GPU once
        solved = [
            _labelled(one[:, :size], *one[:, size:].T) if labels else (_matched(one)[1], None)
            for one in packed
        ]
        match = torch.from_numpy(np.stack([columns for columns, _ in solved])).to(costs.device)
        # Every pair of matched points counts once across, and minus a half within a side.
        weights = (
            costs.new_tensor([1 / pairs] * pairs + [-0.5 / max(within, 1)] * 2 * within) / size
        )
        value = (weights * costs.gather(2, match[:, :, None]).sum((1, 2))).sum()
        # The value's slope in the rows and in the columns of every pair of samples; a matching is a permutation of rows to
        # columns, and its inverse takes columns to rows.
        in_rows = weights[:, None, None] * (sides[0] - _take(sides[1], match))
        in_columns = -_take(in_rows, match.argsort(1))
        if labels:
            coupling = torch.from_numpy(
                np.stack([inner for _, inner in solved if inner is not None])
            ).to(costs.device)
            coupling *= weights[:, None, None]
            value = value + (coupling * costs).sum()
            in_rows = in_rows + coupling.sum(2)[:, :, None] * sides[0] - coupling @ sides[1]
            in_columns = (
                in_columns + coupling.sum(1)[:, :, None] * sides[1] - coupling.mT @ sides[0]
            )
        slope = in_columns[:pairs]
        slope[first] += in_rows[pairs + within :]
        slope[second] += in_columns[pairs + within :]
        return value, slope, {}


def _labelled(
    cost: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return an optimal matching where distances between classes enter the cost, and the couplings behind these distances.

    Args:
        cost: [s, s], half squared distances.
        rows, columns: [s], the classes of the points.

    Returns:
        columns of the rows [s], and weights on `cost` [s, s]: each pair of classes' own matching, as often as the outer one
        joins the two.
    """
    (row_order, row_runs, row_classes), (column_order, column_runs, column_classes) = map(
        _by_class, (rows, columns)
    )
    in_order = np.ix_(row_order, column_order)
    within = cost[in_order]
    whole, inner = within.copy(), np.zeros_like(within)
    for block in product(row_runs, column_runs):
        fewest = min(part.stop - part.start for part in block)
        between = within[block][:fewest, :fewest]
        match = _matched(between)
        inner[block][match] = 1 / fewest
        whole[block] += between[match].sum() / fewest  # 1/2 W
    match = _matched(whole)
    # How often the outer matching joins two classes, for every pair of their points.
    joined = np.zeros((len(row_runs), len(column_runs)), cost.dtype)
    np.add.at(joined, (row_classes[match[0]], column_classes[match[1]]), 1)
    outer, coupling = np.empty_like(match[1]), np.empty_like(inner)
    outer[row_order] = column_order[match[1]]
    coupling[in_order] = inner * joined[np.ix_(row_classes, column_classes)]
    return outer, coupling


def _by_class(labels: np.ndarray) -> tuple[np.ndarray, list[slice], np.ndarray]:
    """Return the order [s] that sorts points by class, the places of each class in it, and the classes by number in it."""
    order = labels.argsort(kind="stable")
    _, starts, classes = np.unique(labels[order], return_index=True, return_inverse=True)
    return order, [slice(*ends) for ends in pairwise([*starts, len(labels)])], classes


def _matched(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of costs [s, s], in order, and the columns that an optimal matching gives to them."""
    from scipy.optimize import linear_sum_assignment

    try:
        return linear_sum_assignment(cost)
    except (
        ValueError
    ):  # a cost is not finite; the value is not either, and the check of it reports that
        return (np.arange(len(cost)),) * 2


def _take(points: Tensor, match: Tensor) -> Tensor:
    """Return the points [B, s, d] in the order of a matching [B, s]."""
    return points.gather(1, match[:, :, None].expand_as(points))
