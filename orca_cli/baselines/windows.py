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


def dense(form: str, x: np.ndarray, y: np.ndarray, causal: bool, k: int, balanced: bool, seed: int) -> models.Fitted:
    """Fit a model of maps; it predicts numbers [m, K, *E], or log-probabilities [m, k, *E].

    Args:
        form: maps, y [n, K, *E], NaN where unknown; masks, y [n, 1, *E] of 0 and 1, likewise, which are maps of two classes;
            class_maps, y [n, *E] int64 in 0..k-1, negative where unknown.
        x: [n, C, *E].
        causal: whether a position sees only itself and earlier ones.
        k, balanced, seed: as in `models.classes`; the seed is that of the draw of training positions, too.
    """
    extent, generator = x.shape[2:], np.random.default_rng(seed)
    radius = _RADIUS.get(len(extent), 0)
    while radius and x.shape[1] * (2 * radius + 1) ** len(extent) > _MOST_FEATURES:
        radius -= 1
    window = (2 * radius + 1,) * len(extent)
    sides = (2 * radius, 0) if causal else (radius, radius)
    centre, usual, place = np.zeros(()), np.zeros(()), np.zeros((int(np.prod(extent)), 0))
    if form == "maps":
        known = ~np.isnan(y)
        centre, usual = x.mean(axis=0), np.where(known, y, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        usual = np.where(known.any(axis=0), usual, y[known].mean())
        known = known.any(axis=1)
    else:
        flat = np.meshgrid(*(np.linspace(-1, 1, size) for size in extent), indexing="ij")
        place = np.stack([*flat, *(axis**2 for axis in flat)], axis=-1).reshape(-1, 2 * len(extent))
        y = np.where(np.isnan(y[:, 0]), -1, y[:, 0] > 0.5).astype(np.int64) if form == "masks" else y
        known = y >= 0

    def features(sample: np.ndarray) -> np.ndarray:
        """Return those of all positions of an input [C, *E], [positions, F]."""
        padded = np.pad(sample - centre, ((0, 0), *[sides] * len(extent)))
        windows = sliding_window_view(padded, window, axis=tuple(range(1, sample.ndim)))  # [C, *E, *window]
        return np.concatenate([np.moveaxis(windows, 0, len(extent)).reshape(len(place), -1), place], axis=1)

    each = max(1, min(_MOST_ROWS, _CELLS // features(x[0]).shape[1]) // len(x))
    tables, places = [], []
    for number, sample in enumerate(x):
        chosen = np.sort(generator.permutation(np.flatnonzero(known[number]))[:each])
        tables.append(features(sample)[chosen])
        places.append([np.full(len(chosen), number), *np.unravel_index(chosen, extent)])
    table, at = np.concatenate(tables), tuple(np.concatenate(places, axis=1))
    if form == "maps":
        one, about = models.numbers("linear", table, np.moveaxis(y - usual, 1, -1)[at], None, seed)
    else:
        one, about = models.classes("linear", table, y[at], at[0], 2 if form == "masks" else k, balanced, seed)

    def predict(new: np.ndarray) -> np.ndarray:
        return np.stack([one(features(sample)).T.reshape(-1, *extent) for sample in new]) + usual

    return predict, f"window {' x '.join(map(str, window))}, {about}"
