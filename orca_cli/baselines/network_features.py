"""Features for baselines that a run's embedder or body computes from its inputs.

Shapes: B samples in a batch, C channels, *E the extent of inputs, F features.
"""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from orca_cli.models.predictors import PooledPredictor
from orca_cli.models.transfer import TransferModel


@torch.no_grad()
def embedded(embedder: Any, x: Tensor, valid: Tensor | None) -> np.ndarray:
    """Return an embedder's features [B, F] of inputs on its device, as in `interfaces.Batch`.

    They are its features of whole samples if it has any, else the mean and maximum of its tokens.
    """
    summary = embedder.sample_features(x, valid)
    if summary is None:
        tokens = embedder(x, valid)
        mask = tokens.mask.unsqueeze(-1)
        token_sums = (tokens.x * mask).sum(1)
        token_counts = mask.sum(1).clamp(min=1)
        mean = token_sums / token_counts
        largest = tokens.x.masked_fill(~mask, -math.inf).amax(1)
        # A sample that is all padding has no largest token.
        largest = torch.where(mask.any(1), largest, 0.0)
        summary = torch.cat([mean, largest], dim=1).float()
    return np.asarray(summary.cpu().numpy())


@torch.no_grad()
def probed(model: TransferModel, x: Tensor, valid: Tensor | None) -> np.ndarray:
    """Return the pooled features [B, F] that a model's predictor gets, for inputs on its device."""
    pool = cast(PooledPredictor, model.predictor).pool
    pooled_features = pool(model.features(x, valid)).float().cpu()
    return np.asarray(pooled_features.numpy())
