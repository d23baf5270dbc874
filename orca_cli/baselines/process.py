"""Fit models in a separate process, one at a time, each with a limit of computing time; a crash there becomes an error here."""

from __future__ import annotations

import importlib
import math
import os
import tempfile
import time
from typing import Any

import numpy as np

from orca_cli import signals
from orca_cli.untrusted.worker import CrashedError, OverTimeError, StoppedError, Worker

_WAIT = 5  # times the computing time: for slow disks and busy machines
# One thread: the last bits depend on the number of threads, and machines that share a cache share its baselines.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_AT_ONCE = 2**22  # values of the inputs that are predicted at once
# Imported before the clock starts.
_PACKAGES = ("sklearn.linear_model", "sklearn.model_selection", "sklearn.ensemble")
_AEON = "aeon.transformations.collection.convolution_based"


class FitError(Exception):
    """A model could not be fitted; the message says why."""


class UnsuitableError(FitError):
    """There is no such model of these data, whenever it is tried."""


class Fitter:
    """Fits models in a process of its own, which is started with the first one, and again after a crash."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this

    def fit(self, limit_s: float, **request: Any) -> dict[str, Any]:
        """Return what `fitted` returns for the same arguments.

        Raises:
            FitError: it failed, crashed, or needs more than `limit_s` seconds of computing.
            InterruptionError: a signal asked to stop.
        """
        if self._worker is None or not self._worker.usable:
            self.end()
            self._errors.seek(0)
            self._errors.truncate()
            self._worker = Worker(0, os.environ | dict.fromkeys(_THREADS, "1"), self._errors)
        arguments = {"parent": os.getpid(), "request": request}
        try:
            value: dict[str, Any] = self._worker.ask(
                fit_here, arguments, "baselines", math.ceil(limit_s), _WAIT * limit_s
            )
            return value
        except OverTimeError as error:
            raise FitError(f"it needs more than {limit_s:g} s") from error
        except StoppedError as error:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2][:300]
            raise FitError(f"it {error}{f': {last}' if last and isinstance(error, CrashedError) else ''}") from error

    def end(self) -> None:
        """End the process, whatever it does."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None


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
        settings: k, groups, causal, balanced and seed, see `linear` and `windows`.

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


def _fit(
    model: str,
    form: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    k: int,
    groups: np.ndarray | None,
    causal: bool,
    balanced: bool,
    seed: int,
) -> Any:
    from orca_cli.baselines import linear, rocket, trees, windows

    if model == "minirocket":
        features, transform = rocket.transformed(x, seed)
        predict, about = _fit(
            "features", form, features, y, k=k, groups=groups, causal=causal, balanced=balanced, seed=seed
        )
        return lambda new: predict(transform(new)), about
    if form == "maps":
        return windows.numbers(x, y, causal=causal, seed=seed)
    if form in ("class_maps", "masks"):
        truth = np.where(np.isnan(y[:, 0]), -1, y[:, 0] > 0.5).astype(np.int64) if form == "masks" else y
        classes = 2 if form == "masks" else k
        return windows.classes(x, truth, classes, causal=causal, balanced=balanced, seed=seed)
    if model in ("forest", "boosting"):
        if form == "classes":
            return trees.classes(model, x, y, k, balanced=balanced, seed=seed)
        return trees.numbers(model, x, y, seed=seed)
    if form != "classes":
        return linear.numbers(x, y, groups)
    if model in ("features", "probe"):
        return linear.ridge(x, y, groups, k, balanced=balanced)
    return {"linear": linear.classes}[model](x, y, groups, k, balanced=balanced, seed=seed)
