"""What the program decides about stage 3: only what is left open, and the same for the same settings and data."""

import dataclasses
from types import SimpleNamespace

import pytest

from orca_cli.config import compose
from orca_cli.config.schema import Config, Train, lookup
from orca_cli.config.setting_checks import check
from orca_cli.exceptions import ConfigError
from orca_cli.stages import budget
from orca_cli.stages.build import decide, with_values
from orca_cli.stages.decision import Decision

NAMES = ("members", "epochs", "batch_size", "lr", "warmup_epochs", "weight_decay", "clip")
MILLION = 1_000_000


def task(n, validation=1000, drawn=False):
    return SimpleNamespace(train=range(n), validation=range(validation), validation_drawn=drawn)


def decided(n=200, tokens=40, parameters=10 * MILLION, level="normal", **train):
    """Return the settings with everything decided, and what the budget decided."""
    config, decisions = decide(Config(train=Train(**train), budget=level), task(n), tokens, parameters=parameters)
    return config, {key: decision for key, decision in decisions.items() if key.removeprefix("train.") in NAMES}


def steps(config, n):
    train = config.train
    return train.epochs * -(-n // (min(train.batch_size, n) * train.accumulation))


def test_everything_that_is_open_is_decided_and_the_composed_settings_stay_as_they_are():
    composed = Config()
    config, decisions = decide(composed, task(85), 25, parameters=10 * MILLION)
    assert set(decisions) >= {f"train.{name}" for name in NAMES}
    assert all(lookup(config, key) == decision.value for key, decision in decisions.items())
    assert decisions["train.epochs"].why == "budget=normal: 85 samples of 25 tokens, 10 M parameters"
    assert all(getattr(composed.train, name) is None for name in NAMES)
    assert (config, decisions) == decide(composed, task(85), 25, parameters=10 * MILLION)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_set_is_not_decided_whatever_its_value(name):
    value = {"members": 2, "epochs": 3, "batch_size": 5, "lr": 7.0}.get(name, 0.0)
    config, decisions = decided(**{name: value})
    assert getattr(config.train, name) == value
    assert set(decisions) == {f"train.{other}" for other in NAMES if other != name}


def test_a_model_that_starts_from_what_it_knows_takes_a_quarter_of_the_steps_and_one_member():
    normal, typed = (
        decide(Config(train=Train(epochs=epochs)), task(300), 64, parameters=MILLION, is_started=True)[0]
        for epochs in (None, 7)
    )
    assert (normal.train.members, typed.train.epochs) == (1, 7)
    assert steps(normal, 300) == pytest.approx(100, abs=10)
    thorough = decide(Config(budget="thorough"), task(300), 64, parameters=MILLION, is_started=True)[0]
    assert (thorough.train.members, steps(thorough, 300)) == (5, pytest.approx(400, abs=10))


def test_a_rule_cannot_change_what_is_set():
    with pytest.raises(ValueError, match="train.epochs=3 is set"):
        with_values(Config(train=Train(epochs=3)), {"train.epochs": Decision(4, "")})


@pytest.mark.parametrize("n", [7, 36, 85, 200, 500])
def test_small_sets_get_about_400_steps_quick_a_quarter_and_each_member_of_thorough_as_many(n):
    whole = {level: steps(decided(n, level=level)[0], n) for level in ("quick", "normal", "thorough")}
    assert whole["normal"] == pytest.approx(400, rel=0.04)
    assert whole["quick"] == pytest.approx(100, rel=0.1)
    assert whole["thorough"] == whole["normal"]


def test_large_sets_are_seen_whole_and_steps_grow_with_the_samples_only():
    taken = [steps(decided(n)[0], n) for n in (501, 1441, 5000, 5001, 50_000)]
    assert taken == sorted(taken)
    assert decided(50_000_000)[0].train.epochs == 1
    assert decided(1441)[0].train.epochs == 8


def test_the_samples_that_count_are_those_that_stage_3_trains_on():
    """Including validation samples in a refit, excluding those that a fold holds out."""
    config, decisions = decide(Config(), task(85, 15, drawn=True), 25, parameters=10 * MILLION)
    assert decisions["train.epochs"].why.startswith("budget=normal: 100 samples")
    config, decisions = decide(Config(train=Train(folds=5)), task(100, 15), 25, parameters=10 * MILLION)
    assert decisions["train.epochs"].why.startswith("budget=normal: 80 samples")
    assert config.train.members == 1


def test_members_by_the_budget_and_folds_are_members_enough():
    assert [decided(level=level)[0].train.members for level in ("quick", "normal", "thorough", 5.0)] == [1, 2, 5, 1]
    assert decided(level="thorough", folds=3)[0].train.members == 1


def test_a_normal_run_has_two_members_where_they_cost_little_and_its_length_is_left_open():
    sizes = [{}, {"n": 5000}, {"n": 5001}, {"tokens": 129}, {"parameters": 51 * MILLION}, {"epochs": 3}]
    assert [decided(**size)[0].train.members for size in sizes] == [2, 2, 1, 1, 1, 1]
    assert decided(level="thorough", epochs=3)[0].train.members == 5


def test_the_warm_up_is_a_share_of_what_is_set():
    assert decided(epochs=30)[0].train.warmup_epochs == pytest.approx(3)
    assert decided(epochs=30, decay_epochs=10.0)[0].train.warmup_epochs == pytest.approx(1)
    assert decided(epochs=1)[0].train.warmup_epochs == pytest.approx(0.1)


def test_steps_count_not_epochs_when_the_batch_is_set():
    few, many = (decided(480, batch_size=size)[0].train for size in (16, 48))
    assert 3 * few.epochs == pytest.approx(many.epochs, abs=2)
    assert steps(decided(480, batch_size=16, accumulation=3)[0], 480) == pytest.approx(400, rel=0.06)


def test_a_batch_is_not_larger_than_the_set():
    assert decided(7)[0].train.batch_size == 7


def test_large_bodies_get_a_lower_rate():
    assert decided(parameters=125 * MILLION)[0].train.lr < decided()[0].train.lr


@pytest.mark.parametrize("protocol", ["paper", "release"])
def test_other_protocols_leave_nothing_to_the_budget(protocol):
    with compose.session() as session:
        config = session.compose(["task=digits", f"protocol={protocol}"]).config
        assert decide(config, task(85), 25, parameters=10 * MILLION)[1] == {}
        assert (config.train.epochs, config.train.batch_size, config.train.clip) == (60, 32, 0)
        with pytest.raises(ConfigError, match="protocol="):
            session.compose(["task=digits", f"protocol={protocol}", "budget=quick"])


def test_a_budget_that_decides_nothing_is_said():
    config, decisions = decided(epochs=3, level="quick")
    assert "budget=quick" in budget.unused(config, decisions)
    assert budget.unused(*decided(level="quick")) == budget.unused(*decided(epochs=3)) == ""


@pytest.mark.parametrize("value", ["fast", 0, -1, True, float("nan"), None])
def test_other_budgets_are_refused(value):
    with pytest.raises(ConfigError, match="budget"):
        check(dataclasses.replace(Config(), budget=value))
