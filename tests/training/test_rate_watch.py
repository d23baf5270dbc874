"""When the watch on the learning rate acts, on losses with known answers; and the loss of the best constant."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from orca_cli.losses.masked import MaskedBCE, MaskedCrossEntropy, MaskedMAE, MaskedMSE
from orca_cli.stages.rate_watch import BestConstant, RateWatch
from tests.training.toy import Pairs


def watch(total=600, warmup=60, per_epoch=6, constant=2.0, **more):
    constant_loss = None if constant is None else lambda _: constant
    return RateWatch(1e-3, total=total, warmup=warmup, per_epoch=per_epoch, constant=constant_loss, **more)


def until_changed(one, losses):
    """Return the number of losses after which the rate has to change; None if it never has."""
    return next((count for count, loss in enumerate(losses, 1) if one.saw(float(loss), np.arange(1))), None)


def noise(size, scale, seed=0):
    return np.random.default_rng(seed).normal(0, scale, size)


@pytest.mark.parametrize("seed", range(5))
def test_a_training_that_learns_is_left_alone_whatever_its_noise(seed):
    learns = 2 * np.exp(-np.arange(600) / 300) + noise(600, 0.4, seed)
    slow_start = np.where(np.arange(600) < 100, 2.1, 1.5) + noise(600, 0.4, seed)
    spikes = np.where(np.arange(600) % 40 == 0, 30.0, 1.8) * np.exp(-np.arange(600) / 300)
    for losses in (learns, slow_start, spikes):
        one = watch()
        assert until_changed(one, losses) is None
        assert (one.change, one.lr) == (None, 1e-3)


def test_a_loss_that_blows_up_ends_the_attempt_before_the_warm_up_is_over():
    one = watch()
    count = until_changed(one, [2.1, *(10.0 * 2**i for i in range(100))])
    assert count < 60
    assert one.lr == pytest.approx(1e-4)
    assert one.change.before == 1e-3
    assert "diverges" in one.change.why


def test_a_loss_that_stays_above_its_start_ends_it_soon_after_the_warm_up():
    one = watch()
    count = until_changed(one, [2.1] * 60 + [3.6] * 540)
    assert 60 < count <= 120
    assert one.lr == pytest.approx(1e-4)


def test_a_loss_that_stays_a_little_above_its_start_is_too_high_a_rate():
    one = watch()
    assert until_changed(one, [2.1] * 60 + [2.3] * 540) == 200
    assert one.lr == pytest.approx(1e-3 / 3, rel=1e-2)


def test_a_loss_that_does_not_get_below_the_constants_is_too_low_a_rate():
    one = watch()
    assert until_changed(one, np.linspace(2.6, 2.05, 600)) == 200
    assert one.lr == pytest.approx(3e-3)
    assert "200 steps" in one.change.why


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_does_not_move_is_too_low_a_rate_whatever_the_noise_of_the_first_step(seed):
    one = watch()
    assert until_changed(one, 2.05 + noise(600, 0.2, seed)) == 200
    assert one.lr == pytest.approx(3e-3)


def test_short_trainings_are_not_judged_by_their_effect_and_none_without_a_constant():
    assert until_changed(watch(total=50, warmup=5), [2.2] * 50) is None
    assert until_changed(watch(constant=None), [2.2] * 600) is None


def test_a_rate_is_changed_once_and_not_where_that_is_off():
    first = watch()
    assert first.overflowed()
    second = watch(changed=first.change)
    assert second.lr == pytest.approx(1e-4)
    assert not second.overflowed()
    assert until_changed(second, [2.0] + [100.0] * 599) is None
    off = watch(enabled=False)
    assert not off.overflowed()
    assert until_changed(off, [2.0] + [100.0] * 599) is None


def test_late_overflows_are_not_blamed_on_the_rate():
    one = watch()
    assert until_changed(one, np.full(400, 1.0)) is None
    assert not one.overflowed()


@pytest.mark.parametrize("losses", [[2.1] * 60 + [3.6] * 540, np.linspace(2.6, 2.05, 600), [2.1] + [1e4] * 599])
@pytest.mark.parametrize("stop", [1, 30, 61, 75, 150, 199])
def test_what_is_resumed_decides_the_same_at_the_same_step(losses, stop):
    whole, begun = watch(), watch()
    expected = until_changed(whole, losses)
    before = until_changed(begun, losses[:stop])
    resumed = watch()
    resumed.restore(json.loads(json.dumps(begun.plain())))
    after = None if before else until_changed(resumed, losses[stop:])
    assert (before or after + stop) == expected
    assert (resumed.change, resumed.lr) == (whole.change, whole.lr)


def test_the_best_constant_of_classes_is_their_frequencies():
    y = np.repeat([0, 1, 2], [70, 20, 10])
    entropy = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    for loss in (nn.CrossEntropyLoss(), MaskedCrossEntropy()):
        assert BestConstant(loss, Pairs(y), 3, 0).loss() == pytest.approx(entropy, rel=1e-3)
    balanced = nn.CrossEntropyLoss(torch.tensor([1 / 70, 1 / 20, 1 / 10]))
    assert BestConstant(balanced, Pairs(y), 3, 0).loss() == pytest.approx(np.log(3), rel=1e-3)


def test_the_best_constant_of_labels_is_their_frequencies():
    y = np.array([[1, 0], [0, 0], [0, 1], [0, np.nan]], np.float32)
    entropies = [-(p * np.log(p) + (1 - p) * np.log(1 - p)) for p in (1 / 4, 1 / 3)]
    assert BestConstant(MaskedBCE(), Pairs(y), 2, 0).loss() == pytest.approx(
        (4 * entropies[0] + 3 * entropies[1]) / 7, rel=1e-3
    )


@pytest.mark.parametrize("units", [1.0, 1e-6, 1e20])
def test_the_best_constant_of_numbers_is_their_mean_or_median_in_the_units_of_the_reported_loss(units):
    y = np.array([[0.0], [1.0], [2.0], [9.0], [3.0]]) * units
    squares = BestConstant(MaskedMSE(), Pairs(y.astype(np.float32)), 1, 0, unit=float(y.std())).loss()
    assert squares == pytest.approx(y.var(), rel=1e-3)
    absolute = BestConstant(MaskedMAE(), Pairs(y.astype(np.float32)), 1, 0, unit=float(y.std())).loss()
    assert absolute == pytest.approx(np.abs(y - 2 * units).mean(), rel=0.02)
    several = np.concatenate([y, 1000 * y], axis=1)
    loss = BestConstant(
        MaskedMSE(), Pairs(several.astype(np.float32)), 2, 0, unit=torch.tensor(several.std(0)).float()
    ).loss()
    assert loss == pytest.approx(1, rel=1e-3)


def test_the_best_constant_of_maps_is_one_for_all_positions():
    y = np.arange(24, dtype=np.float32).reshape(4, 1, 6)
    assert BestConstant(MaskedMSE(), Pairs(y), 1, 0).loss() == pytest.approx(y.var(), rel=1e-3)
    classes = np.repeat([[0], [1], [1], [1]], 6, axis=1)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert BestConstant(nn.CrossEntropyLoss(), Pairs(classes), 2, 0).loss() == pytest.approx(entropy, rel=1e-3)


def test_a_loss_that_adds_up_does_so_over_the_samples_of_a_step():
    best_constant = BestConstant(nn.CrossEntropyLoss(reduction="sum"), Pairs(np.array([0, 1, 0, 1])), 2, 0)
    assert best_constant.loss(np.array([0, 1, 2])) == pytest.approx(3 * np.log(2), rel=1e-3)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("draw", ["lognormal", "one outlier", "normal"])
def test_targets_of_which_a_few_are_large_do_not_look_like_a_rate_that_diverges(draw, seed):
    """A model that is 3 % better than the best constant on every sample, in batches of 16."""
    rng = np.random.default_rng(seed)
    y = {
        "lognormal": lambda: np.exp(1.5 * rng.normal(size=2000)),
        "one outlier": lambda: np.append(rng.normal(size=1999), 1000.0),
        "normal": lambda: rng.normal(size=2000),
    }[draw]()
    best_constant = BestConstant(MaskedMSE(), Pairs(y[:, None].astype(np.float32)), 1, 0, unit=float(y.std()))
    one = RateWatch(1e-3, total=600, warmup=60, per_epoch=125, constant=best_constant.loss)
    for _ in range(5):
        order = rng.permutation(2000)
        for rows in np.split(order, 125):
            assert not one.saw(0.97 * ((y[rows] - y.mean()) ** 2).mean(), rows)


def test_a_loss_below_0_and_steps_without_known_targets_say_nothing_of_the_rate():
    assert until_changed(watch(constant=-42.0), np.linspace(-41, -43, 600)) is None
    assert until_changed(watch(constant=None), [0.0, *[0.3] * 599]) is None
    assert until_changed(watch(constant=float("nan")), [5.0] * 600) is None
    learns = watch(constant=2.0)
    assert until_changed(learns, [0.0, *np.linspace(2.1, 1.0, 599)]) is None
