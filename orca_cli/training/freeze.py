"""Which parameters stage 3 trains."""

from __future__ import annotations

from typing import Protocol

from torch import nn


class Parts(Protocol):
    """A transfer model's three parts."""

    @property
    def embedder(self) -> nn.Module: ...  # noqa: D102
    @property
    def body(self) -> nn.Module: ...  # noqa: D102
    @property
    def predictor(self) -> nn.Module: ...  # noqa: D102


def select_trained(model: Parts, train: str) -> None:
    """Set requires_grad on every parameter.

    Args:
        model: the transfer model.
        train: "all"; "layernorm": the body's layer norms, all of them, with embedder and predictor (FPT, paper 4.2.2);
            "head": the predictor alone.
    """
    for part in (model.embedder, model.body, model.predictor):
        part.requires_grad_(train == "all")
    model.predictor.requires_grad_(True)
    if train == "layernorm":
        model.embedder.requires_grad_(True)
        for module in model.body.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)


def count(module: nn.Module, *, trained_only: bool = False) -> int:
    """Return the number of parameters of a module, or of those that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)
