"""Clouds of points [n, d] and [m, d]: ground costs, gradients, and the checks of all metrics.

Gradients follow the envelope theorem: plans are fixed, and costs are differentiated. If a value is
a sum of half squared distances, with weights that the solver found,

    value = sum_ij cross_ij |x_i - z_j|^2 / 2 + sum_jk own_jk |z_j - z_k|^2 / 2 + (entropies),

its gradient in z is the gradient of the distances alone. So metrics solve without autograd, and
`closed_form` attaches the gradient afterwards.

If classes are clouds, many pairs of classes are solved at once, padded to the largest class in
their group: B pairs of p and q points, whose weights are 0 at padding. `left` has the k classes of
the row points, and `right` the l classes of the column points. A pair is (class of `left`, class of
`right`). A cost function takes rows [B, p] and columns [B, q] and returns costs [B, p, q].
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Distance, Features

# The value, its gradient in the target's features [m, d], and diagnostics.
Solved = tuple[Tensor, Tensor, dict[str, float]]
Cost = Callable[[Tensor, Tensor], Tensor]

_GROUP_ELEMENTS = 2**24  # largest number of padded entries in a group's costs, 64 MB in float32
_GROUP_PADDING = 1.6  # largest ratio of a group's entries with padding to those without


def check_finite(name: str, *tensors: Tensor) -> None:
    """Raise NonFiniteError if an entry of the tensors, called `name`, is NaN or infinite."""
    # The extremes are NaN or infinite if any entry is, and take a fifth of a full check's time.
    extremes: list[Tensor] = []
    for tensor in tensors:
        extremes.extend(torch.aminmax(tensor.detach()))
    is_finite = torch.isfinite(torch.stack(extremes))
    if not is_finite.all():
        raise NonFiniteError(
            f"NaN or infinite values in the {name}", where="metric", hint="lower align.lr"
        )


def class_sizes(labels: Tensor, num_classes: int) -> Tensor:
    """Return the number of points of every class, [k] int64.

    Unlike with `bincount`, the CPU does not wait for a GPU.
    """
    return labels.new_zeros(num_classes).index_add_(0, labels, torch.ones_like(labels))


def prepare_nothing(self: object, source: Features) -> dict[str, Tensor]:
    """Check the source; this is the `prepare` of metrics without constants of the source."""
    check_finite("source features", source.x)
    return {}


def half_squared_distances(x: Tensor, z: Tensor) -> Tensor:
    """Return 1/2 |x_i - z_j|^2 of clouds, or batches of them, [..., n, m], clamped at 0.

    The expanded form |x|^2 / 2 + |z|^2 / 2 - x.z loses digits far from the origin: apply `centred`
    before.
    """
    cost = x @ z.mT
    torch.sub(_half_squares(x)[..., :, None], cost, out=cost)
    return cost.add_(_half_squares(z)[..., None, :]).clamp_(min=0)


def centred(*clouds: Tensor) -> tuple[Tensor, ...]:
    """Return all clouds [n, d] minus the mean of the first; distances between them stay."""
    centre = clouds[0].mean(0)
    return tuple(cloud - centre for cloud in clouds)


def resolved(reg: float, *clouds: Tensor) -> tuple[Tensor, ...]:
    """Return clouds like `centred`, in float64 if float32 is too coarse.

    It is too coarse if it would round costs by more than a hundredth of `reg`.
    """
    clouds = centred(*clouds)
    first_bound = _half_squares(clouds[0]).max()
    last_bound = _half_squares(clouds[-1]).max()
    # Rounding error of an upper bound on half squared distances. The plan is
    # exp((f + g - c) / reg).
    rounding = 2 * (first_bound + last_bound) * torch.finfo(torch.float32).eps
    if clouds[0].dtype != torch.float64 and rounding > reg / 100:
        return tuple(cloud.double() for cloud in clouds)
    return clouds


def gradient(cross: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Return d value / dz [m, d] for weights `cross` [n, m] of source x [n, d], target z [m, d]."""
    column_mass = cross.sum(0)
    return column_mass[:, None] * z - cross.T @ x


def class_mass(plan: Tensor, rows: Tensor, columns: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the mass that a plan [n, m] carries between classes, [k, l].

    Rows [n] and columns [m] are the points' classes.
    """
    by_row = plan.new_zeros(shape[0], plan.shape[1]).index_add_(0, rows, plan)  # [k, m]
    return plan.new_zeros(shape).index_add_(1, columns, by_row)


def closed_form(
    solve: Callable[[Any, Features, dict[str, Tensor], Features], Solved],
) -> Callable[..., Distance]:
    """Make the `distance` of a metric from a method that computes the gradient without autograd.

    Value and gradient are cast to the dtype and device of the target's features. `distance` raises
    NonFiniteError where the target's features, the value or the gradient are not finite.
    """

    @functools.wraps(solve)
    def distance(
        self: Any, source: Features, prepared: dict[str, Tensor], target: Features
    ) -> Distance:
        check_finite("target features", target.x)
        with torch.no_grad():
            value, slope, diagnostics = solve(self, source, prepared, target)
        value = value.to(target.x)
        slope = slope.to(target.x)
        check_finite("distance or gradient", value, slope)
        # Its gradient in the target is the slope; minus itself, it adds exactly 0 to the value.
        carrier = (target.x * slope).sum()
        return Distance(value + (carrier - carrier.detach()), diagnostics)

    return distance


def _half_squares(x: Tensor) -> Tensor:
    """Return half the squared norms of points [..., n, d], [..., n]."""
    norms = torch.linalg.vector_norm(x, dim=-1)
    return norms.square_().div_(2)


class ClassIndex(NamedTuple):
    """Which points belong to which class."""

    rows: Tensor  # [k, w] int64, the points of each class, padded with 0
    counts: list[int]  # number of points of each class
    weights: Tensor  # [k, w], 1 / count for a point and 0 for padding

    @property
    def present(self) -> list[int]:
        """Return the classes that have points."""
        return [label for label, count in enumerate(self.counts) if count]

    def points(self, label: int) -> Tensor:
        """Return the indices [c] of a class's points."""
        return self.rows[label, : self.counts[label]]


def index_classes(features: Features, dtype: torch.dtype) -> ClassIndex:
    """Return the points of every class of features, and their weights in a dtype."""
    labels = features.labels
    counts = class_sizes(labels, features.num_classes)
    sizes = counts.tolist()
    points_by_class = torch.argsort(labels, stable=True).split(sizes)
    rows = pad_sequence(points_by_class, batch_first=True)
    slots = torch.arange(rows.shape[1], device=labels.device)
    is_point = slots < counts[:, None]
    divisors = counts.clamp(min=1).to(dtype)
    return ClassIndex(rows=rows, counts=sizes, weights=is_point / divisors[:, None])


class PairGroup(NamedTuple):
    """B pairs of classes of similar size, and their points."""

    left: Tensor  # [B] int64, classes of the rows
    right: Tensor  # [B] int64, classes of the columns
    rows: Tensor  # [B, p] int64; padding repeats point 0 and has no mass
    columns: Tensor  # [B, q] int64
    a: Tensor  # [B, p], weights
    b: Tensor  # [B, q]


def padded(
    pairs: list[tuple[int, int]], left: ClassIndex, right: ClassIndex
) -> Iterator[PairGroup]:
    """Yield the pairs, sorted by size, in groups that padding enlarges by little."""
    pair_entries = {(i, j): left.counts[i] * right.counts[j] for i, j in pairs}
    groups: list[list[tuple[int, int]]] = []
    # The last group, its p and q, and the entries of its costs without padding.
    group: list[tuple[int, int]] = []
    p = q = entries = 0
    for i, j in sorted(pairs, key=lambda pair: (pair_entries[pair], pair)):
        height = max(p, left.counts[i])
        width = max(q, right.counts[j])
        own_entries = pair_entries[i, j]
        limit = min(_GROUP_PADDING * (entries + own_entries), _GROUP_ELEMENTS)
        padded_entries = (len(group) + 1) * height * width
        if group and padded_entries <= limit:
            group.append((i, j))
            p = height
            q = width
            entries += own_entries
        else:
            group = [(i, j)]
            groups.append(group)
            p = left.counts[i]
            q = right.counts[j]
            entries = own_entries
    for group in groups:
        left_classes, right_classes = torch.tensor(group).to(left.rows.device, non_blocking=True).T
        p = max(left.counts[i] for i, _ in group)
        q = max(right.counts[j] for _, j in group)
        yield PairGroup(
            left=left_classes,
            right=right_classes,
            rows=left.rows[left_classes, :p],
            columns=right.rows[right_classes, :q],
            a=left.weights[left_classes, :p],
            b=right.weights[right_classes, :q],
        )


def from_points(x: Tensor) -> Cost:
    """Return the cost function for points [n, d] on both sides."""
    return lambda rows, columns: half_squared_distances(x[rows], x[columns])


def from_matrix(cost: Tensor) -> Cost:
    """Return the cost function for costs [n, m] that are already computed."""
    return lambda rows, columns: cost[rows[:, :, None], columns[:, None, :]]


def pairs(left: ClassIndex, right: ClassIndex) -> list[tuple[int, int]]:
    """Return the pairs of classes that have points.

    If both indices are the same, each pair of different classes occurs once.
    """
    return [(a, b) for a in left.present for b in right.present if left is not right or a < b]
