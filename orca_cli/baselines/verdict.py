"""How a run's error compares with those of simple models: better, worse, equal, or unknown.

Each word has a statistical test of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from orca_cli.baselines.compute import Baseline
from orca_cli.baselines.names import CONSTANT, FEATURES, NAMES
from orca_cli.interfaces import Error
from orca_cli.scoring.uncertainty import count_units, effective_size, standard_error
from orca_cli.terminal import counted

# Standard errors that a difference has to exceed; with 2, six in a hundred equal pairs of some 50
# numbers would differ.
BEYOND = 2.1
# The difference within which errors are equal: of errors in per cent, and of others as a share of
# the best constant's error.
POINT = 0.01
SHARE = 0.05

Word = Literal["better", "worse", "equal", "unknown"]


def verdict(
    error: Error,
    outputs: Tensor,
    targets: Tensor,
    groups: np.ndarray | None,
    baselines: Mapping[str, Baseline],
) -> dict[str, Any] | None:
    """Return how a run compares with the baseline that validates best.

    None where nothing can be compared.

    The choice by validation errors is what makes the sentence honest: the best of several models on
    the test split is flattered by that very split, so that one of them "does better" more often
    than it should.

    Args:
        error: the task's own.
        outputs, targets, groups: of the run, on the test split; the groups are the records of its
            samples, or None.
        baselines: by name.

    Returns:
        baseline: name of the rival; difference: its error less the run's; standard_error: of the
            difference over test samples, or None; is: see `word_for`; features: the same three of
            the ridge on the embedder's features, None without it; n: test samples or records;
            margin: within which errors are equal, or None; text: one sentence.
    """
    candidates = {}
    for name, baseline in baselines.items():
        # Without a validation error a model cannot be chosen by it.
        if baseline.error is not None and baseline.validation_error is not None:
            candidates[name] = baseline
    score = error(outputs.numpy(), targets.numpy(), groups)
    if score.value is None or not candidates:
        return None
    # Samples of one record are one unit.
    count = count_units(targets.numpy(), groups)
    size: float = count
    scale: float | None = None
    if error.percent:
        # Records, and classes of unequal weight, make a split count as fewer samples.
        size = effective_size(score, targets.numpy(), groups)
        # Fractions are at most 1, so the margin is one point.
        scale = 1.0
    elif CONSTANT in baselines:
        scale = baselines[CONSTANT].error
    tested = _Tested(
        error=error,
        value=score.value,
        outputs=outputs.numpy(),
        targets=targets.numpy(),
        groups=groups,
        size=size,
        scale=scale,
    )
    # Among equals the first counts, in the order of NAMES.
    rival = min(candidates, key=lambda name: candidates[name].validation_error or 0.0)
    compared = {
        # The ridge on the embedder's features shows the body's worth, whichever model is the rival.
        name: tested.compared_with(candidates[name])
        for name in candidates.keys() & {rival, FEATURES}
    }
    comparison = {"baseline": rival, **compared[rival]}
    features = compared.get(FEATURES)
    unit = "test sample" if groups is None else "test record"
    sentences = _Sentences(percent=error.percent, split=counted(count, unit))
    text = sentences.rival(rival, candidates[rival], comparison)
    text += sentences.lowest(rival, baselines)
    if features is not None:
        text += f"; {sentences.body(rival, candidates[FEATURES], features)}"
    return comparison | {"features": features, "n": count, "margin": tested.margin, "text": text}


def word_for(
    difference: float, deviation: float | None, one_sample: float | None, margin: float | None
) -> Word:
    """Return better, worse or equal where that is shown at 5 %, else unknown.

    Args:
        difference: the other model's error less the run's.
        deviation: its standard error; None where it cannot be computed.
        one_sample: what one test sample can change at most; None, like the margin, where nothing
            says what is small.
        margin: up to which errors count as equal.
    """
    if deviation is None:
        return "unknown"
    if abs(difference) > BEYOND * deviation:
        return "better" if difference > 0 else "worse"
    if one_sample is None or margin is None:
        return "unknown"
    # Two one-sided tests, after one more sample that speaks against equality: two models that agree
    # on all of 16 samples may differ on one sample in six. So n samples without a difference leave
    # some 3 / n open.
    farthest = abs(difference) + one_sample + BEYOND * math.hypot(deviation, one_sample)
    return "equal" if farthest <= margin else "unknown"


@dataclass(frozen=True)
class _Tested:
    """A run on its test split.

    Args:
        size: the number of samples of equal weight that the split counts as.
        scale: the size of a large error, or None.
    """

    error: Error
    value: float
    outputs: np.ndarray
    targets: np.ndarray
    groups: np.ndarray | None
    size: float
    scale: float | None

    @property
    def margin(self) -> float | None:
        """Return the difference up to which errors are equal."""
        if not self.scale:
            return None
        share = POINT if self.error.percent else SHARE
        return share * self.scale

    def compared_with(self, rival: Baseline) -> dict[str, Any]:
        """Return the difference of a rival's error, its standard error, and the word for it."""
        # Only models with an error are candidates, and they have outputs.
        assert rival.error is not None
        assert rival.outputs is not None
        models = [self.outputs, rival.outputs.numpy()]
        difference = rival.error - self.value
        deviation = standard_error(self.error, models, self.targets, self.groups)
        if deviation is not None:
            # As in a score test, the deviation about no difference instead of about the measured
            # one: a few samples that all agree have no deviation about their own difference.
            deviation = math.hypot(deviation, difference / math.sqrt(self.size))
        one_sample = None
        if self.scale:
            one_sample = self.scale / self.size
        word = word_for(difference, deviation, one_sample, self.margin)
        return {"difference": difference, "standard_error": deviation, "is": word}


@dataclass(frozen=True)
class _Sentences:
    """The clauses of the sentence about a comparison.

    Args:
        percent: whether errors are shown in per cent.
        split: the test split in words, such as "200 test samples".
    """

    percent: bool
    split: str

    def rival(self, name: str, rival: Baseline, comparison: Mapping[str, Any]) -> str:
        """Return what the comparison with the rival shows."""
        difference = comparison["difference"]
        deviation = comparison["standard_error"]
        distance = self._shown(abs(difference), " points")
        if deviation is not None:
            distance += f" ± {self._shown(BEYOND * deviation, '')}"
        duration = ""
        if rival.seconds:
            number_format = ".0f" if rival.seconds >= 10 else ".2g"
            duration = f" in {rival.seconds:{number_format}} s"
        model = f"{NAMES[name]} ({self._shown(rival.error)}{duration})"
        chosen = f"{model}, the simple model that validates best"
        side = "below" if difference > 0 else "above"
        match comparison["is"]:
            case "better":
                return f"{distance} better than {chosen}"
            case "worse":
                advice = "try more training data or another body"
                # Nobody should use the constant; it shows that the run has learned nothing.
                if name != CONSTANT:
                    advice = f"use it, or {advice}"
                return f"{model} does better here by {distance}: {advice}"
            case "equal":
                return f"as good as {chosen}, within {self._margin}: they are {distance} apart"
            case _ if deviation is None:
                return f"{distance} {side} {chosen}; how sure that is cannot be computed"
            # The deviation contains the difference, so that is 0 as well.
            case _ if deviation == 0:
                return (
                    f"no different from {chosen}, on {self.split}: too few to tell which is better"
                )
            case _:
                return (
                    f"{distance} {side} {chosen}: which is better cannot be told with {self.split}"
                )

    def lowest(self, rival: str, baselines: Mapping[str, Baseline]) -> str:
        """Return the simple model with the lowest test error, if another one validates best."""
        errors = {
            name: baseline.error
            for name, baseline in baselines.items()
            if name != CONSTANT and baseline.error is not None
        }
        name = min(errors, key=errors.__getitem__, default=rival)
        if name == rival or baselines[rival].error == errors[name]:
            return ""
        return f"; {NAMES[name]} has the lowest test error ({self._shown(errors[name])})"

    def body(self, rival: str, ridge: Baseline, comparison: Mapping[str, Any]) -> str:
        """Return what the body is worth.

        The ridge on the embedder's features has no body; `comparison` is with it.
        """
        model = "that ridge"
        if rival != FEATURES:
            model = f"{NAMES[FEATURES]} ({self._shown(ridge.error)})"
        match comparison["is"]:
            case "better":
                return f"the body helps: {model} does worse without it"
            case "worse":
                return f"the body is no help: {model} does better without it"
            case "equal":
                return f"the body adds nothing to {model}, within {self._margin}"
            case _:
                return f"whether the body adds anything to {model} cannot be told"

    @property
    def _margin(self) -> str:
        if self.percent:
            return "1 point"
        return f"{100 * SHARE:.0f} % of the best constant's error"

    def _shown(self, value: float | None, unit: str = " %") -> str:
        if self.percent:
            return f"{100 * (value or 0.0):.1f}{unit}"
        return f"{value or 0.0:.3g}"
