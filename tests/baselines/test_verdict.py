"""What a run's error is worth beside its baselines."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from orca_cli.baselines.compute import Baseline
from orca_cli.baselines.verdict import standard_error, verdict
from orca_cli.scoring.classification import ZeroOne

N = 400
TARGETS = torch.zeros(N, dtype=torch.int64)


def answers(wrong, first=0):
    """Return outputs of two classes; `wrong` samples from `first` on are wrong."""
    outputs = torch.tensor([1.0, 0.0]).repeat(N, 1)
    outputs[first : first + wrong] = torch.tensor([0.0, 1.0])
    return outputs


def against(baselines, ours, groups=None):
    return verdict(ZeroOne(), ours / N, answers(ours), TARGETS, groups, baselines)


def test_the_standard_error_is_that_of_the_paired_difference():
    # 40 samples are wrong in the first only, 20 in the second only.
    first, second = answers(40), answers(20, 40)
    difference = np.r_[-np.ones(40), np.ones(20), np.zeros(N - 60)]
    expected = difference.std() / np.sqrt(N)
    assert standard_error(ZeroOne(), first, second, TARGETS, None) == pytest.approx(
        expected, rel=0.15
    )
    assert standard_error(ZeroOne(), first, first, TARGETS, None) == 0
    # Twenty samples of a record that are right or wrong together count as one.
    groups = np.repeat(np.arange(20), 20)
    record_error = difference.reshape(20, 20).mean(axis=1).std() / np.sqrt(20)
    assert standard_error(ZeroOne(), first, second, TARGETS, groups) == pytest.approx(
        record_error, rel=0.25
    )
    assert standard_error(ZeroOne(), first, second, TARGETS, np.zeros(N, dtype=int)) is None


# (errors of the transfer, of the baseline, its first wrong sample, which one is named, what it is, what the text has)
VERDICTS = [
    (
        20,
        60,
        0,
        "forest",
        "better",
        r"10.0 points ± .* better than a random forest \(15.0 % in 2 s\)",
    ),
    (60, 62, 100, "forest", "about as good", "a tie with a random forest"),
    (
        60,
        70,
        0,
        "forest",
        "better",
        "",
    ),  # a difference in few samples counts when the two models disagree on few
    (60, 64, 0, "forest", "about as good", ""),  # between one and two standard errors
    (
        60,
        20,
        0,
        "forest",
        "worse",
        r"a random forest \(5.0 % in 2 s\) does better here by 10.0.*: use it",
    ),
    (60, 20, 0, "features", "worse", "; the body adds nothing to it"),
]


@pytest.mark.parametrize(("ours", "theirs", "first", "name", "verdict", "text"), VERDICTS)
def test_a_difference_beyond_two_standard_errors_is_said_in_points(
    ours, theirs, first, name, verdict, text
):
    baselines = {
        "constant": Baseline(0.5, 0.5, outputs=answers(200)),
        name: Baseline(theirs / N, 0.1, 2.0, outputs=answers(theirs, first)),
        "minirocket": Baseline(None, reason="not installed"),
    }
    comparison = against(baselines, ours)
    assert (comparison["baseline"], comparison["is"]) == (name, verdict)
    assert comparison["difference"] == pytest.approx((theirs - ours) / N)
    assert re.search(text, comparison["text"])
    assert ("use it" in comparison["text"]) == (verdict == "worse")


def test_the_rival_is_the_one_that_validates_best_and_not_the_best_on_the_test_split():
    baselines = {
        "constant": Baseline(0.5, 0.5, outputs=answers(200)),
        "linear": Baseline(50 / N, 0.10, 1.0, outputs=answers(50)),
        "forest": Baseline(20 / N, 0.11, 1.0, outputs=answers(20)),
        "features": Baseline(100 / N, 0.3, 1.0, outputs=answers(100)),
    }
    comparison = against(baselines, 52)
    is_linear = (comparison["baseline"], comparison["is"], comparison["features"]["is"])
    assert is_linear == ("linear", "about as good", "better")
    # Without validation errors, a standard error or an error there is no verdict.
    assert (
        against({name: replace(one, validation_error=None) for name, one in baselines.items()}, 52)
        is None
    )
    alone = against(baselines, 52, np.zeros(N, dtype=int))
    assert (alone["is"], alone["features"]["is"]) == ("unknown", "unknown")
    assert verdict(ZeroOne(), None, answers(1), TARGETS, None, baselines) is None
    assert against({"forest": Baseline(None)}, 52) is None


@pytest.mark.slow
def test_of_three_equally_good_models_few_are_called_better_or_worse():
    """Run, linear model and forest err on 15 % of all samples, each on its own: a word but "about as good" is wrong.

    Of one standard error and the better of both on the test split, a quarter of the words were wrong.
    """
    generator, words, count = np.random.default_rng(5), [], 250
    for _ in range(count):
        wrong = generator.random((3, N)) < 0.15
        models = [torch.from_numpy(np.stack([~one, one], axis=1)).float() for one in wrong]
        chosen = generator.binomial(100, 0.15, size=2) / 100
        baselines = {
            name: Baseline(
                float(wrong[place].mean()), float(chosen[place - 1]), outputs=models[place]
            )
            for place, name in ((1, "linear"), (2, "forest"))
        }
        words.append(
            verdict(ZeroOne(), float(wrong[0].mean()), models[0], TARGETS, None, baselines)["is"]
        )
    assert sum(word != "about as good" for word in words) / count < 0.08  # 4.4 %
