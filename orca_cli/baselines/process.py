"""Fit a model in a process of its own, with a limit of computing time; a crash there is an error here."""

from __future__ import annotations

import importlib
import math
import os
import tempfile
import time
from typing import Any

import numpy as np

from orca_cli.launching.processes import end_with_parent
from orca_cli.untrusted.worker import CrashedError, OverTimeError, StoppedError, Worker

_WAIT = 5  # times the computing time: for slow disks and busy machines
# One thread: its number would decide the last bits, and a baseline is computed once for all machines that share a cache.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_AT_ONCE = 2**22  # values of the inputs that are predicted at once
# Imported before the clock starts.
_PACKAGES = {
    "linear": ["sklearn.linear_model", "sklearn.model_selection"],
    "forest": ["sklearn.ensemble"],
    "minirocket": ["sklearn.linear_model", "aeon.transformations.collection.convolution_based"],
}


class FitError(Exception):
    """A model could not be fitted; the message says why."""


def fit(limit_s: float, **request: Any) -> dict[str, Any]:
    """Return what `fitted` returns for the same arguments.

    Raises:
        FitError: it failed, crashed, or needs more than `limit_s` seconds of computing.
        InterruptionError: a signal asked to stop.
    """
    variables = os.environ | dict.fromkeys(_THREADS, "1")
    with tempfile.TemporaryFile() as errors:
        worker = Worker(0, variables, errors)
        try:
            arguments = {"parent": os.getpid(), "request": request}
            value: dict[str, Any] = worker.ask(fit_here, arguments, "baselines", math.ceil(limit_s), _WAIT * limit_s)
            return value
        except OverTimeError as error:
            raise FitError(f"it needs more than {limit_s:g} s") from error
        except StoppedError as error:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().rpartition("\n")[2][:300]
            raise FitError(f"it {error}{f': {last}' if last and isinstance(error, CrashedError) else ''}") from error
        finally:
            worker.end()


def fit_here(parent: int, request: dict[str, Any]) -> dict[str, Any]:
    """Return what `fitted` returns; this process ends with its parent, of that id, even in the middle."""
    end_with_parent(parent)
    return fitted(**request)


def fitted(model: str, form: str, x: np.ndarray, y: np.ndarray, new: np.ndarray, **settings: Any) -> dict[str, Any]:
    """Fit a model and return its outputs for new samples.

    Args:
        model: linear, forest or minirocket.
        form: of the targets: classes, labels, values; maps, class_maps or masks of dense ones.
        x, y: training inputs (features [n, F]; series and dense inputs [n, C, *E]) and targets.
        new: inputs of the same form.
        settings: k, groups, causal, balanced and seed, see `linear` and `windows`.

    Returns:
        outputs [m, K] or [m, K, *E] float32; seconds of computing; about: what was chosen, in words.
    """
    for package in _PACKAGES[model]:
        importlib.import_module(package)
    start = time.process_time()
    predict, about = _fit(model, form, x, y, **settings)
    step = max(1, _AT_ONCE // max(1, new[:1].size))
    outputs = np.concatenate([predict(new[at : at + step]) for at in range(0, len(new), step)])
    if form in ("labels", "masks"):
        outputs = outputs - 0.5 if form == "labels" else outputs[:, 1:] - outputs[:, :1]  # above 0 where present
    return {"outputs": outputs.astype(np.float32), "seconds": time.process_time() - start, "about": about}


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
    from orca_cli.baselines import forest, linear, rocket, windows

    if form == "maps":
        return windows.numbers(x, y, causal=causal, seed=seed)
    if form in ("class_maps", "masks"):
        truth = np.where(np.isnan(y[:, 0]), -1, y[:, 0] > 0.5).astype(np.int64) if form == "masks" else y
        classes = 2 if form == "masks" else k
        return windows.classes(x, truth, classes, causal=causal, balanced=balanced, seed=seed)
    if form == "classes":
        if model == "linear":
            return linear.classes(x, y, groups, k, balanced=balanced, seed=seed)
        return {"forest": forest, "minirocket": rocket}[model].classes(x, y, k, balanced=balanced, seed=seed)
    if model == "linear":
        return linear.numbers(x, y, groups)
    return {"forest": forest, "minirocket": rocket}[model].numbers(x, y, seed=seed)
