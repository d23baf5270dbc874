"""One sentence on what a run's error is worth beside simple models, and the standard errors that it rests on."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from orca_cli import seeding
from orca_cli.baselines.completion import CONSTANT, FEATURES, NAMES
from orca_cli.baselines.compute import Baseline
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import Error

BEYOND = 2.0  # standard errors up to which a difference is none
_RESAMPLES = 200
_LEAST = 20
_CELLS = 2**26  # of outputs that all resamples together measure


def verdict(
    error: Error,
    value: float | None,
    outputs: Tensor,
    targets: Tensor,
    groups: np.ndarray | None,
    baselines: Mapping[str, Baseline],
) -> dict[str, Any] | None:
    """Return how a run compares with the baseline that validates best; None where nothing can be compared.

    The choice by validation errors is what makes the sentence honest: the best of several models on the test split is
    flattered by that very split, so that one of them "does better" more often than it should.

    Args:
        error, value: the task's own, and the run's on the test split.
        outputs, targets, groups: of the run, on the test split; the groups are the records of its samples, or None.
        baselines: by name.

    Returns:
        baseline: name of the rival; difference: its error less the run's; standard_error: of the difference over test samples,
        or None; is: better, about as good, worse, or unknown without a standard error; features: the same three of the ridge
        on the embedder's features, None without it; text: one sentence.
    """
    candidates = {
        name: one
        for name, one in baselines.items()
        if None not in (one.error, one.validation_error)
    }
    if value is None or not candidates:
        return None

    def beside(name: str) -> dict[str, Any]:
        one: Any = candidates[name]
        difference, deviation = (
            one.error - value,
            standard_error(error, outputs, one.outputs, targets, groups),
        )
        word = "better" if difference > 0 else "worse"
        if deviation is None or abs(difference) <= BEYOND * deviation:
            word = "unknown" if deviation is None else "about as good"
        return {"difference": difference, "standard_error": deviation, "is": word}

    def shown(value: float | None, unit: str = " %") -> str:
        return f"{100 * (value or 0.0):.1f}{unit}" if error.percent else f"{value or 0.0:.3g}"

    name = min(candidates, key=lambda name: candidates[name].validation_error or 0.0)
    rival, comparison = candidates[name], {"baseline": name, **beside(name)}
    features = beside(FEATURES) if FEATURES in candidates else None
    difference, deviation = comparison["difference"], comparison["standard_error"]
    apart = shown(abs(difference), " points")
    within = "" if deviation is None else f" ± {shown(BEYOND * deviation, '')}"
    took = (
        f" in {rival.seconds:{'.0f' if rival.seconds >= 10 else '.2g'}} s" if rival.seconds else ""
    )
    what, use = (
        f"{NAMES[name]} ({shown(rival.error)}{took})",
        "" if name == CONSTANT else "use it, or ",
    )
    side = "below" if difference > 0 else "above"
    text = {
        "better": f"{apart}{within} better than {what}, the simple model that validates best",
        "about as good": f"a tie with {what}, the simple model that validates best: {apart}{within}",
        "unknown": f"the transfer's error is {apart} {side} that of {what}, and how sure that is cannot be computed",
        "worse": f"{what} does better here by {apart}{within}: {use}try more training data or another body",
    }[comparison["is"]]
    if features is not None and features["is"] in ("about as good", "worse"):
        named = (
            "it" if name == FEATURES else f"{NAMES[FEATURES]} ({shown(candidates[FEATURES].error)})"
        )
        text += f"; the body adds nothing to {named}"
    return comparison | {"features": features, "text": text}


def standard_error(
    error: Error, outputs: Tensor, other: Tensor, targets: Tensor, groups: np.ndarray | None
) -> float | None:
    """Return the deviation of the difference of two models' errors over test sets like this one, by the paired bootstrap.

    Whole records, of `groups` [n], are drawn where samples belong to records (Efron and Tibshirani 1993, chapters 6 and 8).
    None where it cannot be computed: for fewer than two samples or records, outputs too large to be measured 20 times, or an
    error that is undefined on half of the drawn sets.
    """
    resamples = min(_RESAMPLES, _CELLS // max(1, outputs.numel()))
    # The samples of each record.
    members = (
        None if groups is None else [np.flatnonzero(groups == one) for one in np.unique(groups)]
    )
    count = len(outputs) if members is None else len(members)
    if count < 2 or resamples < _LEAST:
        return None
    generator = seeding.numpy_generator(0, "baselines", "bootstrap")
    differences = []
    pair, truth = (outputs.numpy(), other.numpy()), targets.numpy()
    for _ in range(resamples):
        drawn, records = generator.integers(count, size=count), None
        if members is not None:
            parts = [members[place] for place in drawn]
            drawn = np.concatenate(parts)
            records = np.repeat(np.arange(count), [len(part) for part in parts])
        try:
            first, second = (error(one[drawn], truth[drawn], records).value for one in pair)
        except OrcaError:
            return None
        if first is not None and second is not None:
            differences.append(second - first)
    return float(np.std(differences, ddof=1)) if len(differences) > resamples / 2 else None
