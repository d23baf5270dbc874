"""A learning rate that diverges or has no effect is noticed early in stage 3, which starts again with another one, once.

The losses of the steps are compared with what the run began with and with the best constant output. All that is decided is a
function of these losses, which a checkpoint holds, so a resumed run decides the same. The run that comes out has the bits of
one for which the new rate was typed. A rate that does neither is left alone, however good or bad it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding
from orca_cli.interfaces import Loss, Samples
from orca_cli.losses.weights import is_sum

_FAR = 10.0  # times the first loss: diverged, at any time
_ABOVE = 1.5  # times the first loss: diverged, after the warm-up
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

    Args:
        lr: the peak rate.
        total: steps that will be taken.
        warmup: steps until the rate is at its peak.
        per_epoch: steps of an epoch.
        constant: the loss of the best constant output; None if unknown.
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
        constant: float | None,
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
        self._is_judged = total >= _LEAST_STEPS and self._judged_at < total
        self._constant = constant
        self._losses: list[float] = []

    @property
    def lr(self) -> float:
        """Return the peak rate to train with."""
        return self._set if self.change is None else self.change.after

    def saw(self, loss: float) -> bool:
        """Take the loss of the next step; returns whether the rate has to change, which `change` then says."""
        if not self._is_on:
            return False
        self._losses.append(loss)
        count, recent = len(self._losses), fmean(self._losses[-self._window :])
        start = max(self._losses[0], self._constant or 0.0)
        if count > self._window and recent > _FAR * start:
            return self._changes(_DOWN, f"diverges: the loss is {recent:.3g} after {count} steps, and was {start:.3g}")
        if count >= self._warm + self._window and recent > _ABOVE * start:
            return self._changes(_DOWN, f"diverges: the loss is {recent:.3g} after the warm-up, and was {start:.3g}")
        if count == self._judged_at:
            return self._is_judged and self._has_no_effect()
        if count > self._judged_at + self._window:
            self._is_on = False
            self._losses.clear()
        return False

    def overflowed(self) -> bool:
        """Take note that a step's loss or gradient is NaN or infinite; returns whether the rate has to change."""
        return self._is_on and self._changes(_DOWN, f"makes NaN or infinite values after {len(self._losses)} steps")

    def plain(self) -> dict[str, Any]:
        """Return all that a resumed run needs, JSON-able."""
        return {
            "change": None if self.change is None else self.change.plain(),
            "losses": self._losses,
            "on": self._is_on,
        }

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Continue from what `plain` returned."""
        change = plain["change"]
        self.change = None if change is None else RateChange(**change)
        self._losses, self._is_on = list(plain["losses"]), plain["on"]

    def _has_no_effect(self) -> bool:
        recent = fmean(self._losses[-self._averaged :])
        if self._constant is None or recent < self._constant - _BELOW * abs(self._constant):
            return False
        seen = (
            f"the loss is {recent:.3g} after {len(self._losses)} steps, and {self._constant:.3g} for the best constant"
        )
        start = max(fmean(self._losses[: self._window]), self._constant)
        if fmean(self._losses[self._warm :]) > _ROSE * start:
            return self._changes(_ASIDE, f"is too high: {seen}")
        return self._changes(_UP, f"has no effect: {seen}")

    def _changes(self, factor: float, why: str) -> bool:
        after = float(f"{self.lr * factor:.3g}")
        self.change = RateChange(self.lr, after, len(self._losses), why)
        self._is_on = False
        return True


def constant_loss(loss: Loss, samples: Samples, outputs: int, seed: int, unit: float | Tensor = 1.0) -> float | None:
    """Return the loss of the best output that is the same for all samples (and positions), as a step reports losses.

    It is fitted to the targets, or a seeded part of them, by L-BFGS; for a loss that is not convex it is an upper bound.

    Args:
        loss: what stage 3 minimises.
        samples: whose targets.
        outputs: K.
        seed: of the run.
        unit: as in `training.loop.train_step`.

    Returns:
        None for a loss that adds up samples, which depends on the size of a batch, or where it is not finite.
    """
    if is_sum(loss):
        return None
    targets, device = _some(samples.targets(), seed), _device(loss)
    real = targets.is_floating_point()
    inner = targets.shape[2:] if real else targets.shape[1:]
    targets = (targets.float() / (unit.cpu() if isinstance(unit, Tensor) else unit) if real else targets).to(device)
    value = torch.zeros(outputs, device=device)
    if real:
        value += targets.movedim(1, 0).reshape(outputs, -1).nanmean(1).nan_to_num()

    def loss_of(constant: Tensor, units: float = 1.0) -> Tensor:
        spread = constant.reshape(1, outputs, *(1 for _ in inner)).expand(len(targets), outputs, *inner)
        known = targets.to(constant.dtype) * units if real else targets
        return loss(spread * units, known)

    best = _minimum(loss_of, value)
    with torch.no_grad():  # large units squared exceed float32, as in `training.loop`
        is_scaled = not isinstance(unit, Tensor) and unit != 1
        found = float(loss_of(best.double(), float(unit)) if is_scaled else loss_of(best))
    return found if math.isfinite(found) else None


def _minimum(function: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Return where a function is lowest, by L-BFGS; the start where nothing lower is found."""
    value = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([value], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = function(value)
        found.backward()
        return found

    optimizer.step(closure)
    with torch.no_grad():
        return value.detach() if bool(function(value) <= function(start)) else start


def _device(loss: Loss) -> torch.device:
    """Return where a loss keeps its weights."""
    tensors = [*loss.parameters(), *loss.buffers()] if isinstance(loss, nn.Module) else []
    return tensors[0].device if tensors else torch.device("cpu")


def _some(targets: np.ndarray, seed: int) -> Tensor:
    """Return the targets, or a seeded part of them that is no larger than `_MOST_VALUES`."""
    most = max(1, _MOST_VALUES // max(1, targets[0].size))
    if len(targets) > most:
        rows = seeding.numpy_generator(seed, "finetune", "rate").permutation(len(targets))[:most]
        targets = targets[np.sort(rows)]
    return torch.from_numpy(np.array(targets))
