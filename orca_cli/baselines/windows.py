"""Linear models of dense outputs: each position from the inputs around it, the same at all positions. In a process of its own.

The mean training target at the position (of classes, their frequencies there) is a feature too, so that the model is at least
what the best constant is, nearly. With one weight a neighbour this is a linear convolution.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from orca_cli.baselines import linear

_MOST_FEATURES = 512
_CELLS = 2**24  # of the table of training positions
_MOST_ROWS = 2**17
_RADIUS = {1: 3, 2: 2, 3: 1}  # positions to each side, by the number of axes


def numbers(x: np.ndarray, y: np.ndarray, *, causal: bool, seed: int) -> linear.Fitted:
    """Fit maps of numbers.

    Args:
        x: [n, C, *E].
        y: [n, K, *E]; NaN where unknown.
        causal: whether a position sees only itself and earlier ones.
        seed: of the draw of training positions.
    """
    known = ~np.isnan(y)
    overall = y[known].mean() if known.any() else 0.0
    usual = np.where(known, y, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    usual = np.where(known.any(axis=0), usual, overall)
    around = _Around(x.shape, usual, causal)
    rows, of_sample = around.drawn(x, known.any(axis=1), seed)
    target = np.moveaxis(y, 1, -1)[of_sample]
    target = np.where(np.isnan(target), np.moveaxis(usual, 0, -1)[of_sample[1:]], target)
    weights, bias, alpha = _ridge(rows, target, of_sample[0])

    def predict(new: np.ndarray) -> np.ndarray:
        maps = [around.everywhere(one) @ weights + bias for one in new]
        return np.stack([np.moveaxis(one.reshape(*x.shape[2:], -1), -1, 0) for one in maps])

    return predict, f"window {around.size}, alpha={alpha:g}"


def classes(x: np.ndarray, y: np.ndarray, k: int, *, causal: bool, balanced: bool, seed: int) -> linear.Fitted:
    """Fit a class at every position; it predicts log-probabilities [m, k, *E].

    Args:
        x: [n, C, *E].
        y: [n, *E] int64 in 0..k-1, negative where unknown.
        k, balanced: as in `linear.classes`.
        causal, seed: as in `numbers`.
    """
    counts = np.stack([(y == place).sum(axis=0) for place in range(k)])
    around = _Around(x.shape, (counts + 1 / k) / (counts.sum(axis=0) + 1), causal)
    rows, of_sample = around.drawn(x, y >= 0, seed)
    one, about = linear.classes(rows, y[of_sample], of_sample[0], k, balanced=balanced, seed=seed)

    def predict(new: np.ndarray) -> np.ndarray:
        return np.stack([one(around.everywhere(sample)).T.reshape(k, *x.shape[2:]) for sample in new])

    return predict, f"window {around.size}, {about}"


class _Around:
    """What stands around a position: the inputs in a window, and what is usual at the position itself."""

    def __init__(self, shape: tuple[int, ...], usual: np.ndarray, causal: bool) -> None:
        axes = len(shape) - 2
        radius = _RADIUS.get(axes, 0)
        while radius and shape[1] * (2 * radius + 1) ** axes > _MOST_FEATURES:
            radius -= 1
        before, after = (2 * radius, 0) if causal else (radius, radius)
        self.size = " x ".join([str(2 * radius + 1)] * axes)
        self._pad = ((0, 0), *((before, after) for _ in range(axes)))
        self._window = (2 * radius + 1,) * axes
        self._usual = np.moveaxis(usual, 0, -1).reshape(-1, len(usual))

    def everywhere(self, sample: np.ndarray) -> np.ndarray:
        """Return the features of all positions of an input [C, *E], [positions, F]."""
        axes = tuple(range(1, sample.ndim))
        windows = sliding_window_view(np.pad(sample, self._pad), self._window, axis=axes)  # [C, *E, *window]
        table = np.moveaxis(windows, 0, len(axes)).reshape(len(self._usual), -1)
        return np.concatenate([table, self._usual], axis=1)

    def drawn(self, x: np.ndarray, known: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return the features of known positions [rows, F], drawn where there are many, and their indices in [n, *E]."""
        generator = np.random.default_rng(seed)
        features = self.everywhere(x[0]).shape[1]
        each = max(1, min(_MOST_ROWS, _CELLS // features) // len(x))
        tables, places = [], []
        for number, sample in enumerate(x):
            flat = np.flatnonzero(known[number])
            chosen = np.sort(generator.permutation(flat)[:each])
            tables.append(self.everywhere(sample)[chosen])
            places.append(np.stack([np.full(len(chosen), number), *np.unravel_index(chosen, x.shape[2:])]))
        return np.concatenate(tables), tuple(np.concatenate(places, axis=1))


def _ridge(x: np.ndarray, y: np.ndarray, sample: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return weights [F, K], bias [K] and penalty of a ridge; the penalty is chosen on every fifth sample."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-7 * np.maximum(np.abs(mean), 1e-30), std, 1.0)
    z, centre = (x - mean) / std, y.mean(axis=0)
    held = sample % 5 == 4
    alphas = linear.ALPHAS
    alpha = 1.0
    if held.any() and not held.all():
        found = [
            np.square(z[held] @ w + centre - y[held]).sum() for w in _solved(z[~held], (y - centre)[~held], alphas)
        ]
        alpha = float(alphas[int(np.argmin(found))])
    (weights,) = _solved(z, y - centre, np.array([alpha]))
    weights = weights / std[:, None]
    return weights, centre - mean @ weights, alpha


def _solved(z: np.ndarray, y: np.ndarray, alphas: np.ndarray) -> list[np.ndarray]:
    values, vectors = np.linalg.eigh(z.T @ z)
    projected = vectors.T @ (z.T @ y)
    return [vectors @ (projected / (np.maximum(values, 0) + alpha)[:, None]) for alpha in alphas]
