"""Trials of fp16's gradient scaler: one on the CPU, where fp16 itself is refused, and a loss that breaks."""

import math

import torch

from orca_cli.training.engine import Engine


class Scaled(Engine):
    """An engine on the CPU with the gradient scaler that fp16 has on a GPU.

    Its factors are no powers of two, so that a wrong scale shows in the bits of the weights.
    """

    def __init__(self, device=None, precision="fp32", team=None):
        super().__init__(device or torch.device("cpu"), precision, team)
        factors = {"growth_factor": 1.7, "backoff_factor": 0.37, "growth_interval": 2}
        self._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1000.0, **factors)
        self._first_scale = self.scaler_state()

    def clip(self, parameters, norm):
        """Unscale, as accelerate does where the precision is fp16."""
        for optimizer in self._accelerator._optimizers:
            self._accelerator.scaler.unscale_(optimizer.optimizer)
        return super().clip(parameters, norm)


def break_loss(monkeypatch, call):
    """Let the loss be NaN at its n-th call in training."""
    forward, calls = torch.nn.CrossEntropyLoss.forward, [0]

    def faulty(self, outputs, targets):
        calls[0] += torch.is_grad_enabled()
        return forward(self, outputs, targets) * (math.nan if calls[0] == call else 1.0)

    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", faulty)
