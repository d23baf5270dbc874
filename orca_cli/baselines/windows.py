"""Linear models of dense outputs: each position from the inputs around it, the same everywhere. Run in a process of their own.

Numbers: the mean input and the mean target of every position are taken away first, so that the model is the mean map plus a
linear convolution. Classes: a logistic regression on the inputs around a position, its coordinates and their squares.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from orca_cli.baselines import models

_MOST_FEATURES = 512
_CELLS = 2**24  # of the table of training positions
_MOST_ROWS = 2**17
_RADIUS = {1: 3, 2: 2, 3: 1}  # positions to each side, by the number of axes


def numbers(x: np.ndarray, y: np.ndarray, *, causal: bool, seed: int) -> models.Fitted:
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
    centre = x.mean(axis=0)
    around = _Around(x.shape, causal)
    rows, at = around.drawn(x - centre, known.all(axis=1), seed)
    if not len(rows):
        return lambda new: np.repeat(usual[None], len(new), axis=0), "constant"
    ridge, about = models.ridge_numbers(rows, np.moveaxis(y - usual, 1, -1)[at], None)

    def predict(new: np.ndarray) -> np.ndarray:
        maps = [ridge(around.everywhere(one - centre)) for one in new]
        return np.stack([usual + one.T.reshape(usual.shape) for one in maps])

    return predict, f"window {around.size}, {about}"


def classes(x: np.ndarray, y: np.ndarray, k: int, *, causal: bool, balanced: bool, seed: int) -> models.Fitted:
    """Fit a class at every position; it predicts log-probabilities [m, k, *E].

    Args:
        x: [n, C, *E].
        y: [n, *E] int64 in 0..k-1, negative where unknown.
        k, balanced: as in `models.logistic`.
        causal, seed: as in `numbers`.
    """
    around = _Around(x.shape, causal, with_place=True)
    rows, at = around.drawn(x, y >= 0, seed)
    one, about = models.logistic(rows, y[at], at[0], k, balanced=balanced, seed=seed)

    def predict(new: np.ndarray) -> np.ndarray:
        return np.stack([one(around.everywhere(sample)).T.reshape(k, *x.shape[2:]) for sample in new])

    return predict, f"window {around.size}, {about}"


class _Around:
    """The inputs in a window around every position; with its place, the position's coordinates in -1..1 and their squares."""

    def __init__(self, shape: tuple[int, ...], causal: bool, *, with_place: bool = False) -> None:
        axes = len(shape) - 2
        radius = _RADIUS.get(axes, 0)
        while radius and shape[1] * (2 * radius + 1) ** axes > _MOST_FEATURES:
            radius -= 1
        before, after = (2 * radius, 0) if causal else (radius, radius)
        self.size = " x ".join([str(2 * radius + 1)] * axes)
        self._pad = ((0, 0), *((before, after) for _ in range(axes)))
        self._window = (2 * radius + 1,) * axes
        places = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape[2:]), indexing="ij") if with_place else []
        flat = [place.reshape(-1) for place in places]
        self._place = np.array([*flat, *(place**2 for place in flat)]).T

    def everywhere(self, sample: np.ndarray) -> np.ndarray:
        """Return the features of all positions of an input [C, *E], [positions, F]."""
        axes = tuple(range(1, sample.ndim))
        windows = sliding_window_view(np.pad(sample, self._pad), self._window, axis=axes)  # [C, *E, *window]
        table = np.moveaxis(windows, 0, len(axes)).reshape(sample[0].size, -1)
        return np.concatenate([table, self._place], axis=1) if len(self._place) else table

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
