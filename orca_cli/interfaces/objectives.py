"""Protocols of the quantities that a run minimises, measures and records.

They are metrics, losses, errors and curves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:  # takes seconds to import, and names types only
    from torch import Tensor


@dataclass(frozen=True)
class Features:
    """A labelled cloud of points that a metric compares, or samples of it along a leading axis."""

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
        all_classes: a trait; whether a problem contains all target classes. If False, it contains
            a single class, unless the user sets another number.
        least_classes: a trait; smallest number of target classes in a problem. It is read from the
            class before a metric is made.
    """

    all_classes: bool = False
    least_classes: int = 1

    def __init__(self) -> None:
        # A part without settings takes no arguments; the default of typing.Protocol takes any.
        pass

    @property
    def sample_size(self) -> int:
        """Return the largest number of points in a sample; 0 for a metric that compares clouds.

        A metric that compares samples gets equally many samples of the source and of the target.
        All have the same number of points, and they are drawn again for every value. They are
        Features with x [samples, points, d] and labels [samples, points].
        """
        return 0

    @property
    def sample_classes(self) -> int:
        """Return the largest number of classes in a sample; 0 for all classes."""
        return 0

    def prepare(self, source: Features) -> dict[str, Tensor]:
        """Return the quantities that depend on the source alone.

        They are computed once, stored on disk, and passed to every call of `distance`.
        """

    def distance(self, source: Features, prepared: dict[str, Tensor], target: Features) -> Distance:
        """Return the distance of the target to the source.

        Raises:
            NonFiniteError: the distance is NaN or infinite.
        """


class Loss(Protocol):
    """The loss that stage 3 differentiates; every torch.nn loss that averages can be used."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over a batch; outputs [B, K] or [B, K, *E]."""


@dataclass(frozen=True)
class Score:
    """An error over a whole split."""

    value: float | None  # lower is better; None where it is undefined
    n: int  # number of samples (or classes, or positions, as the error says) in the average
    skipped: int = 0  # number of samples left out because the error is undefined for them
    # Further errors of the same outputs, such as the error per record. They are recorded, but never
    # used to choose a model.
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
            groups: [n] int64, the record of each sample; None if samples are not cut from records.

        Raises:
            DataError: outputs, targets and records do not fit together.
            NonFiniteError: an output that counts is NaN or infinite, as the error would be.
        """

    def constant(self, train_targets: np.ndarray, num_outputs: int) -> np.ndarray:
        """Return the output [K] or [K, *E] of the best constant predictor of the training targets.

        The output is float32, or float64 where the targets are.
        """


class Recorder(Protocol):
    """A tracker: receives every line of every curve.

    No line is withdrawn, and a resumed run passes all lines again.
    """

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Receive the next line of a stage's curve: plain values by name.

        After a curve is rewound, lines that were received before are passed again.
        """

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Receive the end of the run; a run that is killed does not report its end.

        `state` is completed, with the content of result.json as `result`, or failed or interrupted,
        with an empty `result`.
        """
