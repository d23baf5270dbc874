"""MiniRocket of aeon with a ridge on its features (Dempster et al. 2021). Runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from orca_cli.baselines.linear import ALPHAS, Fitted

_SHORTEST = 9  # steps: the length of its kernels; shorter series are padded with zeros
_ALPHAS = np.logspace(-3, 3, 10)  # as its authors have for classes


def classes(x: np.ndarray, y: np.ndarray, k: int, *, balanced: bool, seed: int) -> Fitted:
    """Fit series [n, C, L]; it predicts scores [m, k], larger for likelier classes. Other arguments as in `linear.classes`."""
    from sklearn.linear_model import RidgeClassifierCV

    features, transform = _transformed(x, seed)
    if len(np.unique(y)) < 2:
        return lambda new: np.repeat(np.eye(k)[y[:1]], len(new), axis=0), "constant"
    model = RidgeClassifierCV(alphas=_ALPHAS, class_weight="balanced" if balanced else None).fit(features, y)

    def predict(new: np.ndarray) -> np.ndarray:
        scores = model.decision_function(transform(new))
        scores = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
        outputs = np.full((len(new), k), scores.min() - 1)
        outputs[:, model.classes_] = scores
        return outputs

    return predict, f"alpha={model.alpha_:g}"


def numbers(x: np.ndarray, y: np.ndarray, *, seed: int) -> Fitted:
    """Fit series [n, C, L] to targets [n, K], of which unknown ones (NaN) count as their output's mean."""
    from sklearn.linear_model import RidgeCV

    features, transform = _transformed(x, seed)
    known = ~np.isnan(y)
    mean = np.where(known, y, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    model = RidgeCV(alphas=ALPHAS).fit(features, np.where(known, y, mean))
    return lambda new: model.predict(transform(new)).reshape(len(new), -1), f"alpha={float(model.alpha_):g}"


def _transformed(x: np.ndarray, seed: int) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return the training features, scaled by their deviations, and what makes those of new series."""
    from aeon.transformations.collection.convolution_based import MiniRocket
    from sklearn.preprocessing import StandardScaler

    rocket: Any = MiniRocket(random_state=seed, n_jobs=1)
    scaler = StandardScaler(with_mean=False)
    features = scaler.fit_transform(rocket.fit_transform(_long_enough(x)))
    return features, lambda new: scaler.transform(rocket.transform(_long_enough(new)))


def _long_enough(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (0, max(0, _SHORTEST - x.shape[2]))))
