"""What a run minimises, measures and records: metrics, losses, errors, curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:  # takes seconds to import, and names types only
    from torch import Tensor


@dataclass(frozen=True)
class Features:
    """A labelled cloud of points that a metric compares, or samples of it with an axis in front."""

    x: Tensor  # [n, d] floating point
    labels: Tensor  # [n] int64 in 0..num_classes-1
    num_classes: int  # those without a point carry no weight


@dataclass(frozen=True)
class Distance:
    """What a metric returns."""

    value: Tensor  # scalar, differentiable in the target's features
    # Such as iterations and marginal error.
    diagnostics: dict[str, float] = field(default_factory=dict)


class Metric(Protocol):
    """A dataset distance between a fixed source and a target (paper 3.2).

    It keeps no state between calls.

    A trait is an attribute that has a default: a metric that derives from the protocol has the
    default, and any metric may state its own.

    Attributes:
        all_classes: a trait; whether a problem has all target classes, unless the user says
            otherwise. Where it is False, a problem has one.
        least_classes: a trait of the class, which is read before a metric is made; the number of
            target classes that a problem needs.
    """

    all_classes: bool = False
    least_classes: int = 1

    def __init__(self) -> None:
        # A part without settings takes none; typing's own default for protocols would take any.
        pass

    @property
    def sample_size(self) -> int:
        """Return the most points of a sample; 0 for a metric that compares clouds.

        A metric of samples is given samples of the source and as many of the target, all of equally
        many points and drawn anew for every value. They are Features whose x is
        [samples, points, d] and labels [samples, points].
        """
        return 0

    @property
    def sample_classes(self) -> int:
        """Return the most classes in a sample; 0: all."""
        return 0

    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return all that depends on the source alone.

        It is computed once, stored on disk, and given back to every `distance`.
        """

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance of the target to the source.

        NonFiniteError where it is NaN or infinite.
        """


class Loss(Protocol):
    """What stage 3 differentiates; any torch.nn loss that averages is one."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a batch; outputs [B, K] or [B, K, *E]."""


@dataclass(frozen=True)
class Score:
    """An error over a whole split."""

    value: float | None  # lower is better; None where it is undefined
    n: int  # number of samples (or classes, or positions, as the error says) that it averages over
    skipped: int = 0  # number of those that were left out because the error is undefined for them
    # Further errors of the same outputs, such as the one per record; for the records, never to
    # choose by.
    others: Mapping[str, float | None] = field(default_factory=dict)


class Error(Protocol):
    """What is reported for a task: lower is better, always; fractions, never per cent."""

    name: str  # the field's, such as "0-1 error"
    percent: bool  # whether tables show it times 100

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of all outputs [n, K] or [n, K, *E] of a split at once.

        It is never averaged over batches.

        Targets are shaped as Batch.y; `groups` [n] int64 are the samples' records, where the split
        has any.

        Raises:
            DataError: outputs, targets and records do not fit together.
            NonFiniteError: an output that counts is NaN or infinite, and the error would be.
        """

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return the output [K] or [K, *E] of the best constant predictor of the training targets.

        It is float32, or float64 where the targets are.
        """


class Recorder(Protocol):
    """Takes every line of every curve, as trackers do.

    None is taken back, and a resumed run gives all lines again.
    """

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Take the next line of a stage's curve: plain values by name.

        Where a curve is rewound, lines come once more.
        """

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Take how the run ended, unless it was killed.

        It is completed, with its result.json, or failed or interrupted, with {}.
        """
