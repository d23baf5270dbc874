"""The predictor of tasks with one output per sample: pooling, then a linear layer (paper 3.1, h)."""

from __future__ import annotations

from torch import Tensor, nn

from orca_cli.interfaces import Tokens


class PooledPredictor(nn.Module):
    """Features to K logits."""

    def __init__(self, width: int, outputs: int, pooling: str) -> None:
        """Make the linear layer.

        Args:
            width: F.
            outputs: K.
            pooling: "mean" over the valid tokens but those of the prefix, or "class_token", the first of the prefix.
        """
        super().__init__()
        self.pooling = pooling
        self.linear = nn.Linear(width, outputs)

    def forward(self, features: Tokens) -> Tensor:
        """Return [B, K]."""
        if self.pooling == "class_token":
            return self.linear(features.x[:, 0])
        x = features.x[:, features.prefix :]
        weight = features.mask[:, features.prefix :].to(x.dtype).unsqueeze(-1)  # [B, T, 1]
        return self.linear((x * weight).sum(1) / weight.sum(1).clamp(min=1))
