"""Fit one simple model and predict with it; called in a process of its own by `compute`."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np

from orca_cli import signals

_AT_ONCE = 2**22  # values of the inputs that are predicted at once
# Imported before the clock starts.
_PACKAGES = ("sklearn.linear_model", "sklearn.model_selection", "sklearn.ensemble")
_AEON = "aeon.transformations.collection.convolution_based"


class FitError(Exception):
    """A model could not be fitted; the message says why."""


class UnsuitableError(FitError):
    """There is no such model of these data, whenever it is tried."""


def fit_here(parent: int, request: dict[str, Any]) -> dict[str, Any]:
    """Return what `fitted` returns; this process ends with its parent, of that id, even in the middle."""
    signals.end_with_parent(parent)
    return fitted(**request)


def fitted(
    model: str,
    form: str,
    x: np.ndarray,
    y: np.ndarray,
    new: np.ndarray,
    fold: np.ndarray | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fit a model and return its outputs for new samples.

    Args:
        model: a name in `choice.NAMES`.
        form: of the targets: classes, labels, values; maps, class_maps or masks of dense ones.
        x, y: training inputs (features [n, F]; series and dense inputs [n, C, *E]) and targets.
        new: inputs of the same form.
        fold: [n] int64, the fold of every training sample; None asks for no outputs for these.
        settings: k, groups, causal, balanced and seed, see `models` and `windows`.

    Returns:
        outputs [m, K] or [m, K, *E] float32; seconds of computing them; about: what was chosen, in words; held_out: [n, ...],
        for each training sample by a model of the other folds alone.
    """
    for package in (*_PACKAGES, *((_AEON,) if model == "minirocket" else ())):
        importlib.import_module(package)
    start = time.process_time()
    predict, about = _fit(model, form, x, y, **settings)
    fit_result: dict[str, Any] = {"outputs": _outputs(predict, form, new), "about": about}
    fit_result["seconds"] = time.process_time() - start
    if fold is not None:
        groups = settings["groups"]
        for number in np.unique(fold):
            held = fold == number
            fold_settings = settings | {"groups": None if groups is None else groups[~held]}
            outputs = _outputs(_fit(model, form, x[~held], y[~held], **fold_settings)[0], form, x[held])
            fit_result.setdefault("held_out", np.zeros((len(x), *outputs.shape[1:]), np.float32))[held] = outputs
    return fit_result


def _outputs(predict: Any, form: str, new: np.ndarray) -> np.ndarray:
    step = max(1, _AT_ONCE // max(1, new[:1].size))
    outputs = np.concatenate([predict(new[at : at + step]) for at in range(0, len(new), step)])
    if form in ("labels", "masks"):
        outputs = outputs - 0.5 if form == "labels" else outputs[:, 1:] - outputs[:, :1]  # above 0 where present
    return outputs.astype(np.float32)


def _fit(model: str, form: str, x: np.ndarray, y: np.ndarray, **settings: Any) -> Any:
    from orca_cli.baselines import models, windows

    k, groups, seed, balanced = (settings[name] for name in ("k", "groups", "seed", "balanced"))
    if model == "minirocket":
        features, transform = models.rocket_features(x, seed)
        predict, about = _fit("features", form, features, y, **settings)
        return lambda new: predict(transform(new)), about
    if form == "maps":
        return windows.numbers(x, y, causal=settings["causal"], seed=seed)
    if form in ("class_maps", "masks"):
        truth = np.where(np.isnan(y[:, 0]), -1, y[:, 0] > 0.5).astype(np.int64) if form == "masks" else y
        classes = 2 if form == "masks" else k
        return windows.classes(x, truth, classes, causal=settings["causal"], balanced=balanced, seed=seed)
    if model in ("forest", "boosting"):
        if form == "classes":
            return models.tree_classes(model, x, y, k, balanced=balanced, seed=seed)
        return models.tree_numbers(model, x, y, seed=seed)
    if form != "classes":
        return models.ridge_numbers(x, y, groups)
    if model in ("features", "probe"):
        return models.ridge_classes(x, y, groups, k, balanced=balanced)
    return models.logistic(x, y, groups, k, balanced=balanced, seed=seed)
