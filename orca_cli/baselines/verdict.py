"""How a run's error compares with its baselines' errors: better, worse, equal, or unknown.

Each word has its own statistical test.
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

# Number of standard errors that a difference has to exceed. With 2, models of equal quality, tested
# on some 50 numbers, would count as different in six of a hundred comparisons.
BEYOND = 2.1
# Largest difference that counts as equal: POINT for errors in per cent, and for other errors SHARE
# of the best constant's error.
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
    """Return how a run compares with its rival, the baseline with the lowest validation error.

    None if no comparison is possible.

    The rival is not chosen by test error, because such a choice is biased: the baseline with the
    lowest test error owes some of its lead to chance, and would be called better than the run too
    often.

    Args:
        error: the task's own error.
        outputs, targets, groups: the run's outputs, the targets and the records of the test
            samples; groups is None if samples are not cut from records.
        baselines: name -> baseline.

    Returns:
        baseline: name of the rival; difference: the rival's error minus the run's; standard_error:
            standard error of the difference over test samples, or None; is: word of `word_for`;
            features: difference, standard_error and is for the ridge on the embedder's features, or
            None without this baseline; n: number of test samples or records; margin: largest
            difference that counts as equal, or None; text: a sentence.
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
        # These errors are fractions of at most 1, so the margin is one point.
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
    # Of equal validation errors, the first in the order of NAMES counts.
    rival = min(candidates, key=lambda name: candidates[name].validation_error or 0.0)
    compared = {
        # The ridge on the embedder's features shows whether the body helps, whatever the rival is.
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
    """Return better, worse or equal if a test at the 5 % level shows it, else unknown.

    Args:
        difference: the other model's error minus the run's.
        deviation: standard error of the difference; None if it cannot be computed.
        one_sample: largest change of the difference by one test sample; None, like the margin, if
            the size of a large error is unknown.
        margin: largest difference that counts as equal.
    """
    if deviation is None:
        return "unknown"
    if abs(difference) > BEYOND * deviation:
        return "better" if difference > 0 else "worse"
    if one_sample is None or margin is None:
        return "unknown"
    # Two one-sided tests, after adding one sample that speaks against equality: two models that
    # agree on all of 16 samples may still differ on one sample in six. After n samples without a
    # difference, a true difference of some 3 / n is still possible.
    farthest = abs(difference) + one_sample + BEYOND * math.hypot(deviation, one_sample)
    return "equal" if farthest <= margin else "unknown"


@dataclass(frozen=True)
class _Tested:
    """The outputs and the error of a run on its test split.

    Args:
        size: number of samples of equal weight that the split counts as.
        scale: size of a large error, or None if unknown.
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
        """Return the largest difference that counts as equal; None without a scale."""
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
            # As in a score test, the deviation is taken about 0, not about the measured difference:
            # a few samples that all show the same difference do not deviate from it.
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
        """Return the clause on the comparison with the rival."""
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
        chosen = f"{model}, the baseline with the lowest validation error"
        side = "ahead of" if difference > 0 else "behind"
        match comparison["is"]:
            case "better":
                return f"{distance} better than {chosen}"
            case "worse":
                advice = "try more training data or another body"
                # Nobody should use the constant; it shows that the run has learned nothing.
                if name != CONSTANT:
                    advice = f"use it, or {advice}"
                return f"{model} is better by {distance}: {advice}"
            case "equal":
                return (
                    f"as good as {chosen}, within {self._margin}: "
                    f"the two errors differ by {distance}"
                )
            case _ if deviation is None:
                return f"{distance} {side} {chosen}; the uncertainty cannot be computed"
            # The deviation contains the difference, which is then 0 as well.
            case _ if deviation == 0:
                return f"same error as {chosen}: too close to call with {self.split}"
            case _:
                return f"{distance} {side} {chosen}: too close to call with {self.split}"

    def lowest(self, rival: str, baselines: Mapping[str, Baseline]) -> str:
        """Return a clause on the baseline with the lowest test error, unless it is the rival."""
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
        """Return a clause on whether the body helps.

        `comparison` is with the ridge on the embedder's features, which does not use the body.
        """
        model = "that ridge"
        if rival != FEATURES:
            model = f"{NAMES[FEATURES]} ({self._shown(ridge.error)})"
        match comparison["is"]:
            case "better":
                return f"the body helps: {model}, which has no body, is worse"
            case "worse":
                return f"the body does not help: {model}, which has no body, is better"
            case "equal":
                return (
                    f"the body adds nothing: {model}, which has no body, is as good as the "
                    f"transfer, within {self._margin}"
                )
            case _:
                return (
                    f"too close to call whether the body helps, compared with {model}, "
                    "which has no body"
                )

    @property
    def _margin(self) -> str:
        if self.percent:
            return "1 point"
        return f"a margin of {100 * SHARE:.0f} % of the best constant prediction's error"

    def _shown(self, value: float | None, unit: str = " %") -> str:
        if self.percent:
            return f"{100 * (value or 0.0):.1f}{unit}"
        return f"{value or 0.0:.3g}"
