"""The process that fits one model: arrays come on standard input, outputs for new samples go to what was standard output."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import numpy as np

from orca_cli.launching.processes import end_with_parent
from orca_cli.untrusted import transfer

_MOST_BYTES = 2**33
_AT_ONCE = 2**22  # values of the inputs that are predicted at once
# Imported before the clock starts.
_PACKAGES = {
    "linear": ["sklearn.linear_model", "sklearn.model_selection"],
    "forest": ["sklearn.ensemble"],
    "minirocket": ["sklearn.linear_model", "aeon.transformations.collection.convolution_based"],
}


def main() -> None:
    """Answer one request; the process's arguments are its parent's id and its limit in seconds of computing."""
    parent, limit_s = map(int, sys.argv[1:])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is not an answer
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the parent, which ends this process
    end_with_parent(parent)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 1))
    with os.fdopen(0, "rb") as requests:

        def fill(buffer: memoryview) -> None:
            if requests.readinto(buffer) != len(buffer):
                raise EOFError

        request = transfer.unpack(_MOST_BYTES, fill)
    try:
        answer: dict[str, Any] = {"value": fitted(**request)}
    except MemoryError:
        answer = {"failed": "not enough memory"}
    except Exception as error:  # noqa: BLE001 - a library can fail in any way; the parent says so
        answer = {"failed": f"{type(error).__name__}: {error}"[:500]}
    with answers:
        answers.writelines(transfer.pack(answer))


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


if __name__ == "__main__":
    main()
