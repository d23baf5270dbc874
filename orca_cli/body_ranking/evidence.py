"""LogME: how probable targets are, given features and a linear model whose two scales are the best ones (You et al. 2021).

With weights ~ N(0, 1/alpha) and targets ~ N(F w, 1/beta), the targets of n samples are N(0, I/beta + F F'/alpha), once the
weights are integrated out. LogME is the largest log-density over alpha and beta, divided by n, and for several targets the mean
over them.

For a given ratio t = alpha/beta the best beta is n / y'(I + F F'/t)^-1 y, so that only t is searched for, over a grid that is
refined. The paper's fixed point of alpha and beta (MacKay's) has the same maximum, and reaches it slowly where features explain
the targets exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_DECADES = 8  # of t, on either side of the largest squared singular value and down from the smallest
_POINTS = 8  # of the first grid, per decade
_REFINED, _ROUNDS = 32, 4


@dataclass(frozen=True)
class Evidence:
    """The largest evidence of one target.

    Args:
        log: natural logarithm of the density of all n targets.
        alpha: precision of the weights there.
        beta: precision of the noise there.
    """

    log: float
    alpha: float
    beta: float


def logme(features: np.ndarray, targets: np.ndarray) -> float | None:
    """Return LogME; higher is better.

    Args:
        features: [n, F], finite.
        targets: [n, K], NaN where unknown; a column that is constant says nothing, and is left out.

    Returns:
        the mean over columns of log evidence over the number of known targets; None where no column is left.
    """
    from orca_cli.baselines.linear import patterns

    found = []
    for columns, rows in patterns(targets):
        y = targets[np.ix_(rows, columns)]
        y = y[:, np.ptp(y, axis=0) > 0] if len(rows) > 1 else y[:, :0]
        if y.shape[1]:
            found += [one.log / len(rows) for one in evidences(features[rows], y)]
    return float(np.mean(found)) if found else None


def evidences(features: np.ndarray, targets: np.ndarray) -> list[Evidence]:
    """Return the largest evidence of every column of targets [n, K], none of which is 0 throughout, given features [n, F]."""
    x, y = np.asarray(features, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    u, singular, _ = np.linalg.svd(x, full_matrices=False)
    kept = singular > 1e-10 * max(singular.max(initial=0.0), 1e-300)
    squares, inside = np.square(singular[kept]), np.square(u[:, kept].T @ y)  # [r], [r, K]
    outside = np.maximum(np.square(y).sum(0) - inside.sum(0), 0.0)  # [K]
    if len(inside) == len(y):
        outside = np.zeros_like(outside)  # nothing but rounding
    return [_best(squares, inside[:, column], outside[column], len(y)) for column in range(y.shape[1])]


def _best(squares: np.ndarray, inside: np.ndarray, outside: float, n: int) -> Evidence:
    """Return the largest evidence of one target.

    Args:
        squares: [r] squared singular values of the features.
        inside: [r] squares of the target's coordinates along their left singular vectors.
        outside: squared length of what is left of the target.
        n: number of samples.
    """

    def at(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the log evidences of some log t, and the best beta of each."""
        t = np.exp(logs)[:, None]
        beta = n / (outside + (inside * (t / (t + squares))).sum(1))
        log_det = np.log1p(squares / t).sum(1)
        return 0.5 * (n * (np.log(beta) - 1 - math.log(2 * math.pi)) - log_det), beta

    scale = squares if len(squares) else np.ones(1)
    reach = _DECADES * math.log(10)
    low, high = math.log(scale.min()) - reach, math.log(scale.max()) + reach
    logs = np.linspace(low, high, max(2, math.ceil((high - low) / math.log(10) * _POINTS)))
    for _ in range(_ROUNDS):
        place = int(np.argmax(at(logs)[0]))
        logs = np.linspace(logs[max(place - 1, 0)], logs[min(place + 1, len(logs) - 1)], _REFINED + 1)
    values, betas = at(logs)
    place = int(np.argmax(values))
    return Evidence(float(values[place]), float(math.exp(logs[place]) * betas[place]), float(betas[place]))
