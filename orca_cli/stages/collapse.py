"""Does alignment destroy what distinguishes tokens? Two numbers that fall when it does."""

from __future__ import annotations

import torch
from torch import Tensor

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Tokens


@torch.no_grad()
def collapse(tokens: Tokens) -> dict[str, float]:
    """Return diagnostics of embedded samples.

    Returns:
        token_variance: mean squared distance of a sample's tokens to their mean, as a share of the variance of all tokens;
            0 where all tokens of a sample are alike, 1 where samples do not differ in their means.
        effective_rank: exp of the entropy of the covariance's normalised eigenvalues (Roy and Vetterli 2007); 1 where all
            tokens lie on a line, D where they fill all dimensions alike.

    Raises:
        NonFiniteError: a token is NaN or infinite.
    """
    x = tokens.x.double()
    if not bool(x.isfinite().all()):
        raise NonFiniteError("a token of the embedder is NaN or infinite", where="align", hint="try a smaller align.lr")
    mask = tokens.mask.to(x).unsqueeze(-1)  # [B, T, 1]
    mean = (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    within = ((x - mean).square() * mask).sum()
    points = x[tokens.mask]
    centred = points - points.mean(0)
    total = centred.square().sum()
    return {
        "token_variance": float(within / total) if total > 0 else 0.0,
        "effective_rank": _effective_rank(centred),
    }


def _effective_rank(centred: Tensor) -> float:
    share = torch.linalg.svdvals(centred).square()
    if not float(share.sum()) > 0:
        return 0.0
    share = share / share.sum()
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())
