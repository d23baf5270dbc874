"""What a run's error is worth beside simple models: better, worse, equal, or unknown, each word by a test of its own."""

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
POINT, SHARE = 0.01, 0.05  # within which errors are equal: of a per cent; of the constant's error

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
    candidates = {
        name: baseline
        for name, baseline in baselines.items()
        if baseline.error is not None and baseline.validation_error is not None
    }
    score = error(outputs.numpy(), targets.numpy(), groups)
    if score.value is None or not candidates:
        return None
    count = count_units(targets.numpy(), groups)
    constant = None if CONSTANT not in baselines else baselines[CONSTANT].error
    tested = _Tested(
        error=error,
        value=score.value,
        outputs=outputs.numpy(),
        targets=targets.numpy(),
        groups=groups,
        size=effective_size(score, targets.numpy(), groups) if error.percent else count,
        scale=1.0 if error.percent else constant,
    )
    name = min(candidates, key=lambda name: candidates[name].validation_error or 0.0)
    compared = {key: tested.beside(candidates[key]) for key in candidates.keys() & {name, FEATURES}}
    comparison, features = {"baseline": name, **compared[name]}, compared.get(FEATURES)
    words = _Words(
        error.percent, counted(count, "test sample" if groups is None else "test record")
    )
    text = words.rival(name, candidates[name], comparison)
    if features is not None:
        text += f"; {words.body(name, candidates[FEATURES], features)}"
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

    `size`: as how many samples of equal weight the split counts; `scale`: the size of a large
    error, or None.
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
        return (POINT if self.error.percent else SHARE) * self.scale if self.scale else None

    def beside(self, other: Baseline) -> dict[str, Any]:
        """Return the difference of another model's error, its standard error, and the word for it."""
        assert other.error is not None
        assert other.outputs is not None
        models = [self.outputs, other.outputs.numpy()]
        difference = other.error - self.value
        deviation = standard_error(self.error, models, self.targets, self.groups)
        if deviation is not None:
            # About no difference instead of about the one that was seen, as in a score test: few
            # samples show less.
            deviation = math.hypot(deviation, difference / math.sqrt(self.size))
        one_sample = self.scale / self.size if self.scale else None
        word = word_for(difference, deviation, one_sample, self.margin)
        return {"difference": difference, "standard_error": deviation, "is": word}


@dataclass(frozen=True)
class _Words:
    """The sentence.

    `percent`: of the error, `split`: the test split in words, such as "200 test samples".
    """

    percent: bool
    split: str

    def rival(self, name: str, rival: Baseline, comparison: Mapping[str, Any]) -> str:
        """Return what the comparison with the rival shows."""
        difference, deviation = comparison["difference"], comparison["standard_error"]
        apart = self._shown(abs(difference), " points")
        if deviation is not None:
            apart += f" ± {self._shown(BEYOND * deviation, '')}"
        took = ""
        if rival.seconds:
            took = f" in {rival.seconds:{'.0f' if rival.seconds >= 10 else '.2g'}} s"
        named = f"{NAMES[name]} ({self._shown(rival.error)}{took})"
        chosen = f"{named}, the simple model that validates best"
        side = "below" if difference > 0 else "above"
        match comparison["is"]:
            case "better":
                return f"{apart} better than {chosen}"
            case "worse":
                use = "" if name == CONSTANT else "use it, or "
                return f"{named} does better here by {apart}: {use}try more training data or another body"
            case "equal":
                return f"as good as {chosen}, within {self._margin}: they are {apart} apart"
            case _ if deviation is None:
                return f"{apart} {side} {chosen}; how sure that is cannot be computed"
            case _ if deviation == 0:
                return (
                    f"no different from {chosen}, on {self.split}: too few to tell which is better"
                )
            case _:
                return f"{apart} {side} {chosen}: which is better cannot be told with {self.split}"

    def body(self, rival: str, ridge: Baseline, comparison: Mapping[str, Any]) -> str:
        """Return what the body is worth, by the comparison with the ridge on the embedder's features, which has no body."""
        named = "that ridge"
        if rival != FEATURES:
            named = f"{NAMES[FEATURES]} ({self._shown(ridge.error)})"
        match comparison["is"]:
            case "better":
                return f"the body helps: {named} does worse without it"
            case "worse":
                return f"the body is no help: {named} does better without it"
            case "equal":
                return f"the body adds nothing to {named}, within {self._margin}"
            case _:
                return f"whether the body adds anything to {named} cannot be told"

    @property
    def _margin(self) -> str:
        return "1 point" if self.percent else f"{100 * SHARE:.0f} % of the best constant's error"

    def _shown(self, value: float | None, unit: str = " %") -> str:
        if self.percent:
            return f"{100 * (value or 0.0):.1f}{unit}"
        return f"{value or 0.0:.3g}"
