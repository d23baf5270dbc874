"""One sentence on what a run's error is worth beside simple models, and the standard error that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding
from orca_cli.baselines.compute import CONSTANT, Baseline
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import Error, TaskData
from orca_cli.schema import Config

_RESAMPLES = 200
_LEAST = 20
_CELLS = 2**26  # of outputs that all resamples together measure
_NAMES = {
    CONSTANT: "the best constant",
    "linear": "a linear model",
    "forest": "a random forest",
    "minirocket": "MiniRocket with ridge",
}


def verdict(
    error: Error,
    value: float | None,
    outputs: Tensor,
    targets: Tensor,
    groups: np.ndarray | None,
    baselines: Mapping[str, Baseline],
    ways: Sequence[str],
) -> dict[str, Any] | None:
    """Return how a run compares with the best of its baselines; None where nothing can be compared.

    Args:
        error: the task's own.
        value: the run's test error.
        outputs, targets: of the run, on the test split.
        groups: records of the test samples, or None.
        baselines: by name.
        ways: settings to try where a baseline is better.

    Returns:
        baseline: name of the best one; difference: its error less the run's, above 0 where the run is better;
        standard_error: of the difference over test samples, None where it is unknown; is: better, about as good or worse;
        text: one sentence.
    """
    known = {name: one.error for name, one in baselines.items() if one.error is not None}
    if value is None or not known:
        return None
    name = min(known, key=lambda name: known[name])
    best, difference = baselines[name], known[name] - value
    deviation = None if best.outputs is None else standard_error(error, outputs, best.outputs, targets, groups)
    within = abs(difference) <= (deviation or 0.0)
    word = "about as good" if within else "better" if difference > 0 else "worse"
    text = _text(error, word, name, best, difference, deviation, ways)
    return {"baseline": name, "difference": difference, "standard_error": deviation, "is": word, "text": text}


def standard_error(
    error: Error, outputs: Tensor, other: Tensor, targets: Tensor, groups: np.ndarray | None
) -> float | None:
    """Return the deviation of a difference of two errors over test sets like this one, by the paired bootstrap.

    Whole records are drawn where samples belong to records (Efron and Tibshirani 1993, chapters 6 and 8).

    Args:
        error: what is measured.
        outputs, other: of two models, [n, K] or [n, K, *E].
        targets: [n, ...].
        groups: [n], or None.
    """
    resamples = min(_RESAMPLES, _CELLS // max(1, outputs.numel()))
    members = None if groups is None else _members(groups)
    count = len(outputs) if members is None else len(members)
    if count < 2 or resamples < _LEAST:
        return None
    generator = seeding.numpy_generator(0, "baselines", "bootstrap")
    found = []
    for _ in range(resamples):
        drawn, records = generator.integers(count, size=count), None
        if members is not None:
            parts = [members[place] for place in drawn]
            drawn = np.concatenate(parts)
            records = torch.from_numpy(np.repeat(np.arange(count), [len(part) for part in parts]))
        rows = torch.from_numpy(drawn)
        try:
            first, second = (error(one[rows], targets[rows], records).value for one in (outputs, other))
        except OrcaError:
            return None
        if first is not None and second is not None:
            found.append(second - first)
    return float(np.std(found, ddof=1)) if len(found) > resamples / 2 else None


def ways(config: Config, task: TaskData) -> list[str]:
    """Return the two settings that are most likely to help a run that a baseline beats, and are not set already."""
    found = []
    if config.budget != "thorough" and config.protocol == "clean":
        found.append("budget=thorough")
    if "multiscale" not in str(config.embedder) and not task.causal:
        found.append("embedder=multiscale")
    return [*found, "more training data", "another body"][:2]


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """Return the samples of each record."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _text(
    error: Error,
    word: str,
    name: str,
    best: Baseline,
    difference: float,
    deviation: float | None,
    ways: Sequence[str],
) -> str:
    value = _shown(best.error or 0.0, error.percent)
    apart = _shown(abs(difference), error.percent, " points")
    within = "" if deviation is None else f" ± {_shown(deviation, error.percent, '')}"
    seconds = "" if best.seconds is None or name == CONSTANT else f" in {best.seconds:.2g} s"
    what = f"{_NAMES[name]}, {value}{seconds}"
    if word == "better":
        return f"the transfer is {apart}{within} better than the best simple model ({what})"
    if word == "about as good":
        return f"the transfer is about as good as the best simple model ({what}): the difference is {apart}{within}"
    use = "" if name == CONSTANT else "use it, or "
    return f"{_NAMES[name]} does better here by {apart}{within} ({value}{seconds}): {use}try {' or '.join(ways)}"


def _shown(value: float, percent: bool, unit: str = " %") -> str:
    return f"{100 * value:.1f}{unit}" if percent else f"{value:.3g}"
