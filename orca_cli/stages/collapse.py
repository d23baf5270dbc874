"""What alignment does to the spread of tokens: how far apart they are within and between samples, in how many directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Tokens


@dataclass
class Spread:
    """Variance of tokens within and between samples, summed up batch by batch, in squared units of the features.

    Both are sums over dimensions, and add up to the mean squared distance of tokens to the mean of all.
    """

    tokens: float = 0.0
    squares: float = 0.0  # of all tokens
    mean_squares: float = 0.0  # of the samples' means, weighted by their numbers of tokens
    total: Tensor | float = 0.0  # sum of all tokens, [D]

    @torch.no_grad()
    def add(self, batch: Tokens) -> None:
        """Take the samples of a batch; tokens that are padding do not count."""
        x = torch.where(batch.mask.unsqueeze(-1), batch.x.double(), 0.0)  # [B, T, D]
        counts = batch.mask.sum(1)
        sums = x.sum(1)
        self.tokens += float(counts.sum())
        self.squares += float(x.square().sum())
        self.mean_squares += float((sums.square().sum(1) / counts.clamp(min=1)).sum())
        self.total = self.total + sums.sum(0)

    def variances(self) -> dict[str, float]:
        """Return variance_within (tokens around their sample's mean) and variance_between (those means around that of all)."""
        if not self.tokens:
            return {"variance_within": 0.0, "variance_between": 0.0}
        grand = float((torch.as_tensor(self.total) / self.tokens).square().sum()) * self.tokens
        return {
            "variance_within": max(0.0, self.squares - self.mean_squares) / self.tokens,
            "variance_between": max(0.0, self.mean_squares - grand) / self.tokens,
        }


@torch.no_grad()
def collapse(tokens: Tokens) -> dict[str, float]:
    """Return diagnostics of embedded samples.

    Returns:
        variance_within, variance_between: as in `Spread`; beside the source's they tell whether the tokens have drawn together.
        token_variance: the first as a share of both; 0 where all tokens of a sample are alike, 1 where samples do not differ
            in their means.
        effective_rank: exp of the entropy of the covariance's normalised eigenvalues (Roy and Vetterli 2007); 1 where all
            tokens lie on a line, D where they fill all dimensions alike.

    Raises:
        NonFiniteError: a token is NaN or infinite.
    """
    if not bool(tokens.x.isfinite().all()):
        raise NonFiniteError("a token of the embedder is NaN or infinite", where="align", hint="try a smaller align.lr")
    points = tokens.x[tokens.mask].double()
    centre = points.mean(0)
    spread = Spread()
    spread.add(Tokens(tokens.x.double() - centre, tokens.mask, tokens.grid))
    variances = spread.variances()
    total = sum(variances.values())
    return variances | {
        "token_variance": variances["variance_within"] / total if total > 0 else 0.0,
        "effective_rank": _effective_rank(points - centre),
    }


def _effective_rank(centred: Tensor) -> float:
    # Eigenvalues of the smaller of both products are the squares of the singular values, at a fraction of their cost.
    n, d = centred.shape
    gram = centred.T @ centred if d <= n else centred @ centred.T
    share = torch.linalg.eigvalsh(gram).clamp(min=0)
    if not float(share.sum()) > 0:
        return 0.0
    share = share / share.sum()
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())
