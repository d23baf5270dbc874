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
    num_classes: int  # a class without points carries no weight


@dataclass(frozen=True)
class Distance:
    """A metric's value."""

    value: Tensor  # scalar, differentiable in the target's features
    # How the value was computed, such as iterations and marginal error.
    diagnostics: dict[str, float] = field(default_factory=dict)


class Metric(Protocol):
    """A dataset distance between a fixed source and a target (paper 3.2).

    It keeps no state between calls.

    A trait is an attribute that has a default: a metric that derives from the protocol has the
    default, and any metric may state its own.

    Attributes:
        all_classes: a trait; whether one problem has all target classes, or one class where it is
            False. The user may set another number.
        least_classes: a trait, read off the class before a metric is made; the number of target
            classes that a problem needs.
    """

    all_classes: bool = False
    least_classes: int = 1

    def __init__(self) -> None:
        # A part without settings takes none; typing's own default for protocols would take any.
        pass

    @property
    def sample_size(self) -> int:
        """Return the largest number of points in a sample; 0 for a metric that compares clouds.

        A metric that compares samples gets equally many of the source and of the target, all with
        the same number of points and drawn anew for every value, as Features with
        x [samples, points, d] and labels [samples, points].
        """
        return 0

    @property
    def sample_classes(self) -> int:
        """Return the largest number of classes in a sample; 0 for all of them."""
        return 0

    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return all that depends on the source alone.

        It is computed once, stored on disk, and passed to every call of `distance`.
        """

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance of the target to the source.

        Raises:
            NonFiniteError: the distance is NaN or infinite.
        """


class Loss(Protocol):
    """What stage 3 differentiates; any torch.nn loss that averages is one."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a batch; outputs [B, K] or [B, K, *E]."""


@dataclass(frozen=True)
class Score:
    """An error over a whole split."""

    value: float | None  # lower is better; None where it is undefined
    n: int  # number of samples (or classes, or positions, as the error says) in the average
    skipped: int = 0  # number of samples left out because the error is undefined for them
    # Further errors of the same outputs, such as the error per record. They are recorded, and
    # nothing is chosen by them.
    others: Mapping[str, float | None] = field(default_factory=dict)


class Error(Protocol):
    """A task's error: lower is always better; a fraction, never per cent."""

    name: str  # as the field calls it, such as "0-1 error"
    percent: bool  # whether tables show it times 100

    def __call__(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray | None = None
    ) -> Score:
        """Return the error of a split, of all its outputs at once: batches are not averaged.

        Args:
            outputs: [n, K] or [n, K, *E].
            targets: shaped as Batch.y.
            groups: [n] int64, the samples' records, where the split has any.

        Raises:
            DataError: outputs, targets and records do not fit together.
            NonFiniteError: an output that counts is NaN or infinite, and so would the error be.
        """

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return the output [K] or [K, *E] of the best constant predictor of the training targets.

        The output is float32, or float64 where the targets are.
        """


class Recorder(Protocol):
    """Takes every line of every curve, as trackers do.

    No line is taken back, and a resumed run passes all lines again.
    """

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Take the next line of a stage's curve: plain values by name.

        After a curve was rewound, lines that were taken before come again.
        """

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Take the end of the run; a run that is killed does not report it.

        `state` is completed, with the run's result.json as `result`; or failed or interrupted, with
        an empty one.
        """
