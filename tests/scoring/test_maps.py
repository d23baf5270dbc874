"""Errors of distance maps and masks: against NumPy and scikit-learn, by hand, and at the size of the real test set."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from orca_cli import parts
from orca_cli.exceptions import ConfigError, DataError, NonFiniteError
from orca_cli.scoring.distances import LongRangeMAE
from orca_cli.scoring.masks import MaskError

NAN = float("nan")


def proteins(lengths=(40, 25, 60), width=64, seed=0):
    rng = np.random.default_rng(seed)
    targets = np.full((len(lengths), 1, width, width), np.nan, np.float32)
    for target, length in zip(targets, lengths, strict=True):
        distance = rng.uniform(2, 30, (length, length))
        target[0, :length, :length] = (distance + distance.T) / 2
    targets[0, 0, 3, :] = np.nan  # an unknown residue
    return rng.uniform(-5, 30, targets.shape).astype(np.float32), targets


def long_range(output, target, separation, threshold, weight):
    errors = []
    for i in range(len(target)):
        for j in range(i + separation, len(target)):
            if target[i, j] <= threshold:
                predicted = max(weight * output[j, i] + (1 - weight) * output[i, j], 0.01)
                errors.append(abs(predicted - target[i, j]))
    return np.mean(errors) if errors else None


@pytest.mark.parametrize(("settings", "weight"), [({}, 0.5), ({"symmetrize_twice": True}, 0.75)])
def test_long_range_error_agrees_with_loops(settings, weight):
    outputs, targets = proteins()
    expected = [long_range(o[0], t[0], 24, 8.0, weight) for o, t in zip(outputs, targets, strict=True)]
    assert expected[1] is None  # 25 residues have one pair only, and that is far
    score = LongRangeMAE(**settings)(torch.from_numpy(outputs), torch.from_numpy(targets))
    assert (score.value, score.n, score.skipped) == (pytest.approx(np.mean([expected[0], expected[2]])), 2, 1)
    values = LongRangeMAE(separation=3, threshold=12.0)(torch.from_numpy(outputs), torch.from_numpy(targets))
    expected = [long_range(o[0], t[0], 3, 12.0, 0.5) for o, t in zip(outputs, targets, strict=True)]
    assert values.value == pytest.approx(np.mean(expected))


def test_averaging_a_map_with_its_transpose_in_place_twice_is_three_quarters():
    output = np.random.default_rng(0).uniform(1, 9, (6, 6))
    twice = output.copy()
    for _ in range(2):
        for i in range(6):
            for j in range(i + 1, 6):
                twice[i, j] = (twice[i, j] + twice[j, i]) / 2
    target = torch.full((1, 1, 6, 6), NAN)
    target[0, 0, 1, 4] = 5.0
    score = LongRangeMAE(separation=1, symmetrize_twice=True)(torch.from_numpy(output)[None, None], target)
    assert score.value == pytest.approx(abs(twice[1, 4] - 5.0))


def test_long_range_constant_is_the_best_distance_for_all_maps():
    _, targets = (torch.from_numpy(a) for a in proteins())
    error = LongRangeMAE(separation=4)
    constant = error.constant(targets, 1)
    assert constant.shape == (1, 64, 64)
    value = error(constant.expand(targets.shape), targets).value
    rivals = [error(torch.full(targets.shape, float(d)), targets).value for d in np.linspace(2, 8, 61)]
    assert value <= min(rivals) + 1e-6
    assert LongRangeMAE().constant(torch.full((2, 1, 9, 9), NAN), 1).unique().tolist() == [4.0]


def test_long_range_faults():
    outputs, targets = (torch.from_numpy(a) for a in proteins())
    assert LongRangeMAE(separation=63)(outputs, targets).value is None
    outputs[0, 0, :, 50:] = NAN  # padding of the first protein
    assert LongRangeMAE()(outputs[:1], targets[:1]).n == 1
    outputs[2, 0] = -float("inf")
    with pytest.raises(NonFiniteError, match="NaN or infinite in protein 2"):
        LongRangeMAE()(outputs, targets)
    with pytest.raises(DataError, match="do not fit"):
        LongRangeMAE()(outputs[:, 0], targets)
    with pytest.raises(ConfigError, match=r"task\.error\.separation"):
        parts.build({"_target_": "orca_cli.scoring.distances.LongRangeMAE", "separation": 0}, "task.error")


def masks(n=30, side=4, seed=0):
    rng = np.random.default_rng(seed)
    outputs = rng.integers(-4, 5, (n, 1, side, side)) / 2.0  # ties, and scores at the threshold
    targets = (rng.random(outputs.shape) < 0.3).astype(np.float32)
    targets[rng.random(outputs.shape) < 0.2] = NAN
    targets[:, 0, 0, 0] = 0  # no positive at this position
    targets[:, 0, 0, 1] = NAN
    return outputs, targets


def expected_masks(outputs, targets, threshold):
    known = ~np.isnan(targets)
    scores, truth = outputs[known], targets[known] == 1
    columns = []
    for z, y in zip(outputs.reshape(len(outputs), -1).T, targets.reshape(len(targets), -1).T, strict=True):
        seen = ~np.isnan(y)
        if len(np.unique(y[seen])) == 2:
            columns.append(roc_auc_score(y[seen], z[seen]))
    return {
        "auroc": 1 - roc_auc_score(truth, scores),
        "balanced": 1 - balanced_accuracy_score(truth, scores > 0),
        "fnr": np.mean(1 / (1 + np.exp(-scores[truth])) <= threshold),
        "pixel_auroc": 1 - np.mean(columns),
    }, len(columns)


@pytest.mark.parametrize("count_ignored", [False, True])
def test_the_four_errors_of_masks_agree_with_scikit_learn(count_ignored):
    outputs, targets = masks()
    known = ~np.isnan(targets)
    reference = (np.where(known, outputs, 0), np.where(known, targets, 0)) if count_ignored else (outputs, targets)
    values, positions = expected_masks(*reference, 0.6)
    for report, value in values.items():
        error = MaskError(report, count_ignored=count_ignored, threshold=0.6)
        score = error(torch.from_numpy(outputs), torch.from_numpy(targets))
        assert score.value == pytest.approx(value), report
        assert sorted(score.others.values()) == pytest.approx(sorted(set(values.values()) - {value}))
        pixels = targets.size if count_ignored else int(known.sum())
        assert score.n == (positions if report == "pixel_auroc" else pixels)
        assert score.n + score.skipped == (16 if report == "pixel_auroc" else targets.size)


def test_the_released_error_of_masks_is_half_of_both_rates():
    # 2 positives, one missed; 4 negatives, one false alarm; 2 ignored pixels become true negatives.
    outputs = torch.tensor([1.0, -1.0, 3.0, -1.0, -2.0, -3.0, 9.0, 9.0]).reshape(1, 1, 2, 4)
    targets = torch.tensor([1, 1, 0, 0, 0, 0, NAN, NAN]).reshape(1, 1, 2, 4)
    assert MaskError("balanced")(outputs, targets).value == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert MaskError("balanced", count_ignored=True)(outputs, targets).value == pytest.approx((1 / 2 + 1 / 6) / 2)


def test_masks_of_one_value_or_nothing_known_are_undefined():
    zeros = torch.zeros(2, 1, 2, 2)
    for targets in (zeros, torch.full_like(zeros, NAN)):
        for report in ("auroc", "balanced", "fnr", "pixel_auroc"):
            score = MaskError(report)(zeros, targets)
            assert (score.value, score.n) == (None, 0)
            assert set(score.others.values()) == {None}
            assert score.skipped > 0
    everywhere = MaskError("fnr")(zeros - 1, torch.ones_like(zeros))
    assert everywhere.value == 1


def test_a_mask_that_is_no_number_is_told_where_it_counts():
    outputs, targets = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, 0.0], [0.0, NAN]]]])
    outputs[0, 0, 1, 1] = NAN
    assert MaskError()(outputs, targets).value == 0.5
    outputs[0, 0, 0, 0] = NAN
    with pytest.raises(NonFiniteError, match="1 outputs are NaN"):
        MaskError()(outputs, targets)


def test_constant_masks():
    _, targets = (torch.from_numpy(a) for a in masks())
    for report in ("auroc", "balanced", "fnr"):
        error = MaskError(report)
        constant = error.constant(targets, 1)
        assert constant.shape == (1, 4, 4)
        value = error(constant.expand(targets.shape), targets).value
        for other in (torch.zeros(1, 4, 4), torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))):
            assert value <= error(other.expand(targets.shape), targets).value
    assert MaskError("pixel_auroc")(constant.expand(targets.shape), targets).value == 0.5


def test_masks_as_many_as_the_real_test_set():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(420, 1, 128, 128, generator=generator)
    targets = (torch.rand(outputs.shape, generator=generator) < 0.01).float()
    score = MaskError()(outputs, targets)
    assert score.n == 6_881_280
    assert score.value == pytest.approx(0.5, abs=0.005)


def test_mask_settings_out_of_range_are_refused():
    node = {"_target_": "orca_cli.scoring.masks.MaskError"}
    for settings, message in (({"report": "auc"}, r"report: 'auc'.*auroc"), ({"threshold": 1.0}, "threshold: 1.0")):
        with pytest.raises(ConfigError, match=rf"task\.error\.{message}"):
            parts.build(node | settings, "task.error")
    with pytest.raises(DataError, match="do not fit"):
        MaskError()(torch.zeros(2, 4, 4), torch.zeros(2, 1, 4, 4))
