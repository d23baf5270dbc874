"""How a run's error compares with its baselines: four words.

Each is wrong in at most one of twenty test splits.
"""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

from orca_cli import seeding
from orca_cli.baselines.compute import Baseline
from orca_cli.baselines.verdict import verdict, word_for
from orca_cli.scoring.classification import ZeroOne
from orca_cli.scoring.regression import RMSE, MeanSquared
from tests.tiers import count

N = 400
TARGETS = torch.zeros(N, dtype=torch.int64)


def outputs_of(is_wrong):
    """Return outputs of two classes, of which the first is right."""
    return torch.from_numpy(np.stack([~is_wrong, is_wrong], axis=1)).float()


def answers(wrong, first=0):
    """Return outputs of which `wrong` samples from `first` on are wrong."""
    place = np.arange(N)
    return outputs_of((place >= first) & (place < first + wrong))


def judged(wrong, validation_error):
    """Return a baseline of which the first `wrong` test samples are wrong."""
    return Baseline(
        error=wrong / N, validation_error=validation_error, seconds=1.0, outputs=answers(wrong)
    )


def against(baselines, ours, groups=None):
    return verdict(ZeroOne(), answers(ours), TARGETS, groups, baselines)


# Number of samples on which the run is wrong, and number for the baseline; its first wrong sample;
# the name of the baseline, the word, and a pattern of the text.
VERDICTS = [
    (20, 60, 0, "forest", "better", r"10.0 points ± .* better than a random forest \(15.0 % in 2 s\)"),
    # A difference in a few samples counts if the two models disagree on only a few samples.
    (60, 70, 0, "forest", "better", ""),
    (60, 62, 100, "forest", "unknown", r"validation error: too close to call with 400 test samples"),
    (60, 62, 0, "forest", "unknown", r"0.5 points ± 0.7 ahead of a random forest"),
    (60, 60, 0, "forest", "equal", r"as good as a random forest \(15.0 % in 2 s\).*, within 1 point"),
    (60, 20, 0, "forest", "worse", r"a random forest \(5.0 % in 2 s\) is better by 10.0.*: use it"),
    (20, 60, 0, "features", "better", "; the body helps: that ridge, which has no body, is worse$"),
    (60, 20, 0, "features", "worse", "; the body does not help: that ridge, which has no body, is better$"),
    (
        60, 60, 0, "features", "equal",
        "; the body adds nothing: that ridge, which has no body, is as good as the transfer, within 1 point$",
    ),
    (60, 62, 0, "features", "unknown", "; too close to call whether the body helps, compared with that ridge, .* no body$"),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "first", "name", "word", "text"), VERDICTS)
def test_each_word_has_a_sentence(ours, theirs, first, name, word, text):
    baselines = {
        "constant": judged(200, validation_error=0.5),
        name: Baseline(
            error=theirs / N, validation_error=0.1, seconds=2.0, outputs=answers(theirs, first)
        ),
        "minirocket": Baseline(error=None, reason="not installed"),
    }
    comparison = against(baselines, ours)
    assert (comparison["baseline"], comparison["is"]) == (name, word)
    assert comparison["difference"] == pytest.approx((theirs - ours) / N)
    assert (comparison["n"], comparison["margin"]) == (N, 0.01)
    assert re.search(text, comparison["text"])
    assert ("use it" in comparison["text"]) == (word == "worse")


def test_the_rival_validates_best_and_need_not_test_best():
    baselines = {
        "constant": judged(200, validation_error=0.5),
        "linear": judged(50, validation_error=0.10),
        "forest": judged(20, validation_error=0.11),
        "features": judged(100, validation_error=0.3),
    }
    comparison = against(baselines, 52)
    shown = (comparison["baseline"], comparison["is"], comparison["features"]["is"])
    assert shown == ("linear", "unknown", "better")
    assert comparison["text"].endswith(
        "the body helps: a ridge on the embedder's features (25.0 %), which has no body, is worse"
    )


@pytest.mark.parametrize(
    "baseline", [replace(judged(50, 0.1), validation_error=None), Baseline(error=None)]
)
def test_models_without_both_errors_are_no_rivals(baseline):
    assert against({"linear": baseline}, 52) is None


def test_agreeing_on_a_few_samples_is_not_equality():
    outputs = outputs_of(np.zeros(18, bool))
    targets = torch.zeros(18, dtype=torch.int64)
    baselines = {"linear": Baseline(error=0.0, validation_error=0.0, outputs=outputs)}
    comparison = verdict(ZeroOne(), outputs, targets, None, baselines)
    assert comparison["is"] == "unknown"
    assert comparison["difference"] == 0
    assert comparison["standard_error"] == 0
    assert "same error as a linear model (0.0 %)" in comparison["text"]
    assert comparison["text"].endswith(": too close to call with 18 test samples")


@pytest.mark.parametrize(("n", "word"), [(4, "unknown"), (12, "better")])
def test_being_right_on_four_samples_shows_nothing(n, word):
    """Where models differ in the same way on all samples, all resamples have the same difference.

    Its deviation is 0.
    """
    right = outputs_of(np.zeros(n, bool))
    targets = torch.zeros(n, dtype=torch.int64)
    wrong = outputs_of(np.ones(n, bool))
    baselines = {"linear": Baseline(error=1.0, validation_error=0.0, outputs=wrong)}
    assert verdict(ZeroOne(), right, targets, None, baselines)["is"] == word


@pytest.mark.parametrize(
    ("samples", "word", "records"), [(1, "better", N), (20, "unknown", 20), (N, "unknown", 1)]
)
def test_records_count_and_not_their_samples(samples, word, records):
    comparison = against({"linear": judged(90, 0.1)}, 50, np.arange(N) // samples)
    assert (comparison["is"], comparison["n"]) == (word, records)


def test_a_difference_within_one_record_has_no_deviation():
    baselines = {"linear": Baseline(error=90 / N, validation_error=0.1, outputs=answers(90))}
    comparison = against(baselines, 50, np.zeros(N, int))
    assert "10.0 points ahead of a linear model (22.5 %)" in comparison["text"]
    assert "the uncertainty cannot be computed" in comparison["text"]


def test_errors_that_are_not_per_cents_have_a_margin_in_the_constants_error():
    ((ours, theirs, constant, targets),) = numbers(500, 0.1, 0.1, 0.999, splits=1)
    baselines = {}
    for name, outputs in (("forest", theirs), ("constant", constant)):
        value = RMSE()(outputs.numpy(), targets.numpy()).value
        baselines[name] = Baseline(error=value, validation_error=value, outputs=outputs)
    comparison = verdict(RMSE(), ours, targets, None, baselines)
    assert comparison["is"] == "equal"
    margin = (
        "within a margin of 5 % of the best constant prediction's error: the two errors differ by"
    )
    assert margin in comparison["text"]


def rates(n, only_ours, only_theirs):
    """Return how often each word describes two models.

    The probabilities are those with which one model alone is wrong on a sample.

    Every possible number of samples on which the models differ is evaluated, with the standard error
    of an endless bootstrap.
    """
    share = Counter()
    total = only_ours + only_theirs
    for differing in range(int(n * total + 10 * np.sqrt(n * total) + 20)):
        weight = binom.pmf(differing, n, total)
        theirs = np.arange(differing + 1)
        chances = weight * binom.pmf(theirs, differing, only_theirs / total)
        for number, chance in zip(theirs.tolist(), chances.tolist(), strict=True):
            difference = (2 * number - differing) / n
            share[word_for(difference, np.sqrt(differing) / n, 1 / n, 0.01)] += chance
    return share


@pytest.mark.parametrize("n", [10, 16, 30, 100, 400])
@pytest.mark.parametrize("differ", [0.02, 0.1, 0.4])
def test_equally_good_models_are_rarely_better_or_worse(n, differ):
    share = rates(n, differ / 2, differ / 2)
    assert share["better"] + share["worse"] <= 0.05


@pytest.mark.parametrize("n", [16, 100, 309, 310, 400, 500, 1000])
@pytest.mark.parametrize("both", [1e-9, 0.002, 0.01])
def test_models_a_point_apart_are_rarely_called_equal(n, both):
    share = rates(n, both, 0.01 + both)
    assert share["equal"] <= 0.05
    # With fewer than 310 samples without a difference, a true difference of a point is possible.
    assert share["equal"] == 0 or n >= 310


def test_equal_models_are_equal_once_there_are_enough_samples():
    assert rates(310, 1e-4, 1e-4)["equal"] > 0.5
    assert rates(1000, 0.001, 0.001)["equal"] > 0.95


def said(pairs, error):
    """Return how often each word describes the models on test splits.

    Each is (outputs of the run, of the other model, of the constant, targets).
    """
    words = Counter()
    for ours, theirs, constant, targets in pairs:
        baselines = {}
        for name, outputs in (("features", theirs), ("constant", constant)):
            value = error(outputs.numpy(), targets.numpy()).value
            baselines[name] = Baseline(
                error=value, validation_error=0.1 * len(name), outputs=outputs
            )
        comparison = verdict(
            error, ours, targets, None, {"features": baselines["features"]} | baselines
        )
        words[comparison["is"]] += 1
    return words


def classes(n, run, other, both, splits):
    """Yield test splits on which two models are wrong with these probabilities.

    With the probability `both` they are wrong together.
    """
    generator = seeding.numpy_generator(0, "tests", "verdict", n, str((run, other)))
    for _ in range(splits):
        u = generator.random(n)
        theirs = (u < both) | ((u >= run) & (u < run + other - both))
        constant = outputs_of(np.arange(n) % 2 == 1)
        yield outputs_of(u < run), outputs_of(theirs), constant, torch.zeros(n, dtype=torch.int64)


def numbers(n, run, other, correlation, splits):
    """Yield test splits of numbers of deviation 1.

    Two models miss them by normal differences of these deviations.
    """
    generator = seeding.numpy_generator(0, "tests", "verdict", n, str((run, other)))
    for _ in range(splits):
        target, common, own = torch.from_numpy(generator.normal(size=(3, n, 1)))
        theirs = other * (correlation * common + (1 - correlation**2) ** 0.5 * own)
        yield target + run * common, target + theirs, torch.zeros(n, 1), target


SPLITS = count(pr=40, nightly=1000)
MOST = binom.ppf(0.999, SPLITS, 0.05)  # wrong words of one in twenty


@pytest.mark.parametrize("n", [16, 100])
def test_no_difference_is_seldom_taken_for_one(n):
    words = said(classes(n, 0.15, 0.15, 0.0225, SPLITS), ZeroOne())
    assert words["better"] + words["worse"] <= MOST
    words = said(numbers(n, 0.3, 0.3, 0.5, SPLITS), MeanSquared())
    assert words["better"] + words["worse"] <= MOST


@pytest.mark.parametrize(("n", "least"), [(100, 0.05), (200, 0.2), (500, 0.6)])
def test_a_body_that_helps_is_never_said_to_add_nothing(n, least):
    words = said(classes(n, 0.06, 0.09, 0.0425, SPLITS), ZeroOne())
    assert words["equal"] == 0
    assert words["worse"] <= 1
    assert words["better"] >= least * SPLITS


def test_a_difference_at_the_margin_is_seldom_called_equal():
    assert said(classes(500, 0.05, 0.06, 0.05, SPLITS), ZeroOne())["equal"] <= MOST


@pytest.mark.parametrize(("n", "least", "most"), [(30, 0, 0), (100, 0.8, 1)])
def test_numbers_are_equal_once_there_are_enough_of_them(n, least, most):
    words = said(numbers(n, 0.3, 0.3, 0.999, SPLITS), MeanSquared())
    assert least * SPLITS <= words["equal"] <= most * SPLITS


def test_the_margin_of_numbers_is_a_share_of_the_constants_error():
    ((ours, theirs, constant, targets),) = numbers(50, 0.3, 0.3, 0.9, 1)
    error = RMSE()(constant.numpy(), targets.numpy()).value
    baselines = {
        "constant": Baseline(error=error, validation_error=1.0, outputs=constant),
        "linear": Baseline(error=0.3, validation_error=0.1, outputs=theirs),
    }
    assert verdict(RMSE(), ours, targets, None, baselines)["margin"] == pytest.approx(0.05 * error)
    del baselines["constant"]
    assert verdict(RMSE(), ours, targets, None, baselines)["margin"] is None


LOWEST = [
    ({"linear": judged(40, 0.1), "forest": judged(60, 0.2)}, None),
    ({"linear": judged(60, 0.1), "forest": judged(40, 0.2)}, "a random forest"),
    # If errors are equal, the rival has the lowest error.
    ({"linear": judged(40, 0.2), "forest": judged(40, 0.1)}, None),
    # Nobody would use the constant as a model.
    ({"constant": judged(0, 0.9), "linear": judged(60, 0.1)}, None),
]


@pytest.mark.parametrize(("baselines", "name"), LOWEST, ids=str)
def test_the_model_that_is_best_on_the_test_split_is_named_if_it_is_another(baselines, name):
    text = against(baselines, ours=50)["text"]
    assert ("has the lowest test error" in text) == (name is not None)
    assert name is None or f"; {name} has the lowest test error (10.0 %)" in text
