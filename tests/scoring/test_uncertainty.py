"""How far an error on some samples may be from the error on many: known answers, scipy's, and simulated test sets."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from orca_cli import seeding
from orca_cli.interfaces import Score
from orca_cli.scoring.classification import Balanced, ZeroOne
from orca_cli.scoring.multilabel import MeanAveragePrecision
from orca_cli.scoring.regression import MAE, RMSE
from orca_cli.scoring.uncertainty import effective_size, interval, standard_error
from tests.tiers import count

N = 400
ZEROS = np.zeros(N, np.int64)


def answers(targets, is_wrong):
    """Return outputs of two classes for targets of 0 and 1."""
    return np.eye(2, dtype=np.float32)[np.where(is_wrong, 1 - targets, targets)]


def two_models():
    """Return models of which the first alone is wrong on 40 samples, and the second alone on 20; their differences."""
    place = np.arange(N)
    models = [answers(ZEROS, place < 40), answers(ZEROS, (place >= 40) & (place < 60))]
    return models, np.r_[-np.ones(40), np.ones(20), np.zeros(N - 60)]


def test_the_standard_error_is_that_of_the_paired_difference():
    models, difference = two_models()
    expected = difference.std() / np.sqrt(N)
    assert standard_error(ZeroOne(), models, ZEROS, None) == pytest.approx(expected, rel=0.15)
    same = [models[0], models[0]]
    assert standard_error(ZeroOne(), same, ZEROS, None) == 0
    alone = standard_error(ZeroOne(), models[:1], ZEROS, None)
    assert alone == pytest.approx(np.sqrt(0.1 * 0.9 / N), rel=0.15)


def test_samples_of_one_record_count_as_one():
    models, difference = two_models()
    records = np.repeat(np.arange(20), 20)
    by_record = difference.reshape(20, 20).mean(axis=1)
    expected = by_record.std() / np.sqrt(20)
    assert standard_error(ZeroOne(), models, ZEROS, records) == pytest.approx(expected, rel=0.25)
    assert standard_error(ZeroOne(), models, ZEROS, ZEROS) is None  # of one record


def measured(error, outputs, targets, groups=None):
    return interval(error, error(outputs, targets, groups), outputs, targets, groups)


@pytest.mark.parametrize(("wrong", "n"), [(0, 16), (1, 16), (16, 16), (30, 497), (7, 1000)])
def test_of_a_0_1_error_it_is_clopper_and_pearsons(wrong, n):
    targets = np.arange(n + 3) % 2
    outputs = answers(targets, np.arange(n + 3) < wrong)
    targets[n:] = -100  # without a class, so that they do not count
    expected = binomtest(wrong, n).proportion_ci(method="exact")
    assert measured(ZeroOne(), outputs, targets) == pytest.approx(tuple(expected))


def test_records_count_and_not_their_samples():
    targets = np.arange(80) % 2
    records = np.repeat(np.arange(16), 5)
    low, high = measured(ZeroOne(), answers(targets, targets < 0), targets, records)
    assert (low, high) == pytest.approx((0, binomtest(0, 16).proportion_ci(method="exact").high))


@pytest.mark.parametrize(
    ("score", "targets", "groups", "size"),
    [
        (Score(0.1, 100), np.arange(100) % 2, None, 100),
        (Score(0.1, 2), np.arange(100) % 2, None, 100),
        # A mean over two classes, one of 97 and one of 3 samples: 4 / (1/97 + 1/3).
        (Score(0.1, 2), (np.arange(100) < 3).astype(int), None, 11.64),
        # A mean over two labels, of 50 and of 5 samples, none of which has both.
        (Score(0.1, 2), np.repeat([[0, 1.0], [1, 0], [0, 0]], (5, 50, 45), axis=0), None, 18.18),
        # A mean over labels that no sample has, one of which was predicted.
        (Score(1.0, 1, 1), np.zeros((100, 2)), None, 1),
        # One record of 50 samples, 50 records of one: 100^2 / (50^2 + 50).
        (Score(0.1, 100), np.arange(100) % 2, np.maximum(np.arange(100) - 49, 0), 3.92),
    ],
)
def test_rare_classes_and_unequal_records_make_it_small(score, targets, groups, size):
    assert effective_size(score, targets, groups) == pytest.approx(size, rel=1e-3)


def test_a_rare_class_that_is_right_three_times_says_little():
    targets = (np.arange(1000) < 3).astype(int)
    right = answers(targets, targets < 0)
    assert (
        measured(ZeroOne(), right, targets)[1]
        < 0.004
        < 0.2
        < measured(Balanced(), right, targets)[1]
    )


CLASSES, NUMBERS, LABELS = "classes", "numbers", "labels"


def drawn(kind, n, generator):
    """Return outputs and targets of a model with an error of 0.16 (balanced), 0.3 (RMSE), 0.239 (MAE) or 0.194 (1 - mAP)."""
    if kind == CLASSES:
        targets = (generator.random(n) < 0.1).astype(int)
        targets[:2] = 0, 1
        return answers(targets, generator.random(n) < np.where(targets, 0.3, 0.02)), targets
    if kind == NUMBERS:
        targets = generator.normal(size=(n, 1))
        return targets + 0.3 * generator.normal(size=(n, 1)), targets
    targets = (generator.random((n, 4)) < [0.1, 0.2, 0.3, 0.5]).astype(float)
    targets[0] = 1
    return generator.normal(size=(n, 4)) + 2 * targets - 1, targets


@pytest.mark.parametrize(
    ("error", "kind", "n", "truth"),
    [
        (Balanced(), CLASSES, 200, 0.16),
        (RMSE(), NUMBERS, 50, 0.3),
        (MAE(), NUMBERS, 50, 0.239),
        (MeanAveragePrecision(), LABELS, 100, 0.194),
    ],
    ids=["balanced", "RMSE", "MAE", "mAP"],
)
def test_it_holds_the_truth_in_some_95_per_cent_of_test_sets(error, kind, n, truth):
    sets, generator = count(pr=40, nightly=1000), seeding.numpy_generator(0, "tests", "interval", n)
    held = 0
    for _ in range(sets):
        low, high = measured(error, *drawn(kind, n, generator))
        held += low <= truth <= high
    # 0.92 is the coverage for the RMSE of 50 normal differences.
    assert held >= binom.ppf(0.001, sets, 0.92)


@pytest.mark.parametrize("outputs", [np.zeros((1, 1)), np.zeros((16, 1))], ids=["one", "all right"])
def test_of_numbers_where_nothing_varies_there_is_none(outputs):
    targets = outputs + (len(outputs) == 1)
    assert measured(RMSE(), outputs, targets) is None
