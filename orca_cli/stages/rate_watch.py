"""A learning rate that diverges or has no effect is noticed early in stage 3, which starts again with another one, once.

The losses of the steps are compared with what the run began with and with the best constant output. All that is decided is a
function of these losses, which a checkpoint holds, so a resumed run decides the same. The run that comes out has the bits of
one for which the new rate was typed. A rate that does neither is left alone, however good or bad it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding
from orca_cli.interfaces import Loss, Samples
from orca_cli.training.loop import loss_values

_FAR = 10.0  # times what it began with: diverged, at any time
_ABOVE = 1.5  # the same, after the warm-up
_ROSE = 1.05  # times the loss of the first steps: a rate has an effect, and not the one that is wanted
_BELOW = 0.01  # of the best constant's loss: as far below it, a rate has an effect
_LEAST_STEPS = 60  # a shorter training is not judged by whether it has an effect
_SHARE = 1 / 3  # of the steps, after which a rate has to have had an effect
_WINDOW = (5, 30)  # least and most losses that are averaged
_DOWN, _ASIDE, _UP = 0.1, 1 / 3, 3.0
_MOST_VALUES = 2**20  # of targets that the best constant is fitted to
_ITERATIONS = 50


@dataclass(frozen=True)
class RateChange:
    """One change of the rate.

    Args:
        before, after: peak learning rates.
        step: steps that had been taken at the first.
        why: what was seen, for people.
    """

    before: float
    after: float
    step: int
    why: str

    def plain(self) -> dict[str, Any]:
        """Return the change as records hold it."""
        return asdict(self)

    def __str__(self) -> str:
        return f"train.lr={self.before:g} {self.why}; stage 3 starts again with train.lr={self.after:g}"


class RateWatch:
    """Watches the steps of one fine-tuning.

    The loss of a step is compared with the best constant's on the same samples: where a few targets are large, the losses of
    two steps differ by which samples they hold, whatever the rate.

    Args:
        lr: the peak rate.
        total: steps that will be taken.
        warmup: steps until the rate is at its peak.
        per_epoch: steps of an epoch.
        constant: the loss of the best constant output on some samples; None compares with the first loss, and does not judge
            whether the rate has an effect.
        enabled: False watches nothing.
        changed: how the rate has been changed already: it is not changed again.
    """

    def __init__(
        self,
        lr: float,
        *,
        total: int,
        warmup: float,
        per_epoch: int,
        constant: Callable[[np.ndarray], float] | None,
        enabled: bool = True,
        changed: RateChange | None = None,
    ) -> None:
        self._set = lr
        self.change = changed
        self._is_on = enabled and changed is None
        self._window = min(max(total // 20, _WINDOW[0]), _WINDOW[1])
        self._warm = math.ceil(warmup)
        self._judged_at = max(math.ceil(total * _SHARE), self._warm + self._window, per_epoch)
        self._averaged = max(self._window, self._judged_at // 4)
        self._is_judged = total >= _LEAST_STEPS and self._judged_at < total and constant is not None
        self._constant = constant
        self._pairs: list[tuple[float, float]] = []  # loss of a step, and the constant's

    @property
    def lr(self) -> float:
        """Return the peak rate to train with."""
        return self._set if self.change is None else self.change.after

    def saw(self, loss: float, rows: np.ndarray) -> bool:
        """Take the loss of the next step, on these samples; returns whether the rate has to change: see `change`."""
        if not self._is_on:
            return False
        constant = self._constant(rows) if self._constant is not None else self._pairs[0][0] if self._pairs else loss
        is_known = math.isfinite(constant)  # torch's cross-entropy of no known class is NaN
        self._pairs.append((loss, constant) if is_known else (0.0, 0.0))
        count = len(self._pairs)
        recent, best = _means(self._pairs[-self._window :])
        if best > 0:  # a loss that falls below 0 has no scale
            start = best * max(next(one / other for one, other in self._pairs if other > 0), 1.0)
            seen = f"the loss is {recent:.3g} after {count} steps, and would be {start:.3g} untrained"
            if count > self._window and recent > _FAR * start:
                return self._changes(_DOWN, f"diverges: {seen}")
            if count >= self._warm + self._window and recent > _ABOVE * start:
                return self._changes(_DOWN, f"diverges after the warm-up: {seen}")
            if count == self._judged_at:
                return self._is_judged and self._has_no_effect()
        if count > self._judged_at + self._window:
            self._is_on, self._constant = False, None
            self._pairs.clear()
        return False

    def overflowed(self) -> bool:
        """Take note that a step's loss or gradient is NaN or infinite; returns whether the rate has to change."""
        return self._is_on and self._changes(_DOWN, f"makes NaN or infinite values after {len(self._pairs)} steps")

    def plain(self) -> dict[str, Any]:
        """Return all that a resumed run needs, JSON-able."""
        return {
            "change": None if self.change is None else self.change.plain(),
            "pairs": self._pairs,
            "on": self._is_on,
        }

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Continue from what `plain` returned."""
        change = plain["change"]
        self.change = None if change is None else RateChange(**change)
        self._pairs, self._is_on = [(loss, constant) for loss, constant in plain["pairs"]], plain["on"]

    def _has_no_effect(self) -> bool:
        recent, best = _means(self._pairs[-self._averaged :])
        if recent < best * (1 - _BELOW):
            return False
        seen = f"the loss is {recent:.3g} after {len(self._pairs)} steps, and {best:.3g} for the best constant"
        first, first_best = _means(self._pairs[: self._window])
        warm, warm_best = _means(self._pairs[self._warm :])
        if first_best > 0 and warm > _ROSE * warm_best * max(first / first_best, 1.0):
            return self._changes(_ASIDE, f"is too high: {seen}")
        return self._changes(_UP, f"has no effect: {seen}")

    def _changes(self, factor: float, why: str) -> bool:
        after = float(f"{self.lr * factor:.3g}")
        self.change = RateChange(self.lr, after, len(self._pairs), why)
        self._is_on = False
        return True


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the mean loss, and the constant's."""
    losses, constants = zip(*pairs, strict=True)
    return fmean(losses), fmean(constants)


class BestConstant:
    """The best output that is the same for all samples (and positions).

    It is fitted to the targets, or a seeded part of them, by L-BFGS; for a loss that is not convex it is an upper bound.

    Args:
        loss: what stage 3 minimises.
        samples: whose targets.
        outputs: K.
        seed: of the run.
        unit: as in `training.loop.train_step`.
    """

    def __init__(self, loss: Loss, samples: Samples, outputs: int, seed: int, unit: float | Tensor = 1.0) -> None:
        self._loss = copy.deepcopy(loss).cpu() if isinstance(loss, nn.Module) else loss  # no step waits for a GPU
        self._targets = samples.targets()
        self._unit = unit.cpu() if isinstance(unit, Tensor) else unit
        self._some = _some(self._targets, seed)
        targets = torch.from_numpy(np.array(self._some))
        value = torch.zeros(outputs)
        if targets.is_floating_point():
            targets = targets.float() / self._unit
            value += targets.movedim(1, 0).reshape(outputs, -1).nanmean(1).nan_to_num()
        self._value = _minimum(lambda constant: self._loss(_spread(constant, targets), targets), value)

    def loss(self, rows: np.ndarray | None = None) -> float:
        """Return what it scores on some samples, by default on those that it is fitted to; NaN where that is undefined.

        In the units of the losses that a step reports.
        """
        targets = torch.from_numpy(np.array(self._some if rows is None else self._targets[rows]))
        value = self._value * self._unit if targets.is_floating_point() else self._value
        with torch.no_grad():
            return float(loss_values(self._loss, _spread(value, targets), targets, self._unit)[1])


def _spread(constant: Tensor, targets: Tensor) -> Tensor:
    """Return a constant [K] as the outputs of samples with these targets."""
    inner = targets.shape[2:] if targets.is_floating_point() else targets.shape[1:]
    return constant.reshape(1, -1, *(1 for _ in inner)).expand(len(targets), len(constant), *inner)


def _minimum(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return where a function is lowest, by L-BFGS; the start where nothing lower is found."""
    value = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([value], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = function(value)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return value.detach() if bool(function(value) <= function(start)) else start


def _some(targets: np.ndarray, seed: int) -> np.ndarray:
    """Return the targets, or a seeded part of them that is no larger than `_MOST_VALUES`."""
    most = max(1, _MOST_VALUES // max(1, targets[0].size))
    if len(targets) <= most:
        return targets
    rows = seeding.numpy_generator(seed, "finetune", "rate").permutation(len(targets))[:most]
    return targets[np.sort(rows)]
