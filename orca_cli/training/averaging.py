"""Weights averaged over the last optimizer steps: nearer the middle of a minimum than those of any one step (Izmailov 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningMean:
    """The mean of a model's weights after several optimizer steps, where the model is.

    Whole numbers, such as counters of batches, are not averaged; the last ones count.

    Args:
        model: whose weights; they may change their values, not their places.
        names: those of its tensors that training can change.
        steps: whose weights are averaged, counted from 1.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], steps: range) -> None:
        state = model.state_dict()
        self._weights = {name: state[name].detach() for name in names}
        self._steps = steps
        self._mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, step: int) -> None:
        """Add the weights as they are after a step, if it is one that counts."""
        if step not in self._steps:
            return
        if not self._mean:
            self._mean = {name: value.clone() for name, value in self._weights.items()}
            return
        share = 1 / (step - self._steps.start + 1)
        for name, value in self._weights.items():
            if value.is_floating_point():
                self._mean[name].lerp_(value, share)
            else:
                self._mean[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        """Return copies of the averaged weights, on the CPU; empty where there are none."""
        return {name: value.cpu().clone() for name, value in self._mean.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned after an earlier step."""
        self._mean = {name: value.to(self._weights[name].device, copy=True) for name, value in state.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averaged weights, where there are some, inside the block."""
        if not self._mean:
            yield
            return
        current = {name: value.clone() for name, value in self._weights.items()}
        self._put(self._mean)
        try:
            yield
        finally:
            self._put(current)

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in self._weights.items():
            value.copy_(weights[name])
