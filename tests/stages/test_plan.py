"""What is decided about a run: only what is open, the same for the same settings and data, and as recorded on a resume."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from orca_cli.config import checks
from orca_cli.config.schema import Config, Train
from orca_cli.data.samples import ArraySamples
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.stages.finetune import choice_record
from orca_cli.stages.member_training import is_better, members_of
from orca_cli.stages.plan import BEST_FROM, ERROR_FROM, decide, read_decisions

NAMES = ("members", "epochs", "batch_size", "lr", "warmup_epochs", "weight_decay", "clip")
MILLION = 1_000_000
FEW, MIDDLE, MANY = BEST_FROM - 1, BEST_FROM, ERROR_FROM


def task(n, validation=1000, drawn=False):
    return SimpleNamespace(train=range(n), validation=range(validation), validation_drawn=drawn)


def plan_for(n=200, tokens=40, parameters=10 * MILLION, level="normal", is_started=False, **train):
    config = Config(train=Train(**train), budget=level)
    return decide(config, task(n), tokens, parameters=parameters, is_started=is_started)


def by_budget(plan):
    return {key for key in plan.decided if key.removeprefix("train.") in NAMES}


def steps(plan, n):
    return plan.train.epochs * -(-n // (min(plan.train.batch_size, n) * plan.train.accumulation))


def test_everything_that_is_open_is_decided_and_what_is_set_is_not():
    composed = Config()
    plan = decide(composed, task(85), 25, parameters=10 * MILLION)
    assert by_budget(plan) == {f"train.{name}" for name in NAMES}
    assert all(getattr(plan.train, key.removeprefix("train.")) == one.value for key, one in plan.decided.items())
    assert plan.decided["train.epochs"].why == "budget=normal: 85 samples of 25 tokens, 10 M parameters"
    assert composed == Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.train.lr = 1.0
    for name in NAMES:
        value = {"members": 2, "epochs": 3, "batch_size": 5, "lr": 7.0}.get(name, 0.0)
        plan = plan_for(**{name: value})
        assert getattr(plan.train, name) == value
        assert by_budget(plan) == {f"train.{other}" for other in NAMES if other != name}


def test_a_resumed_run_takes_what_it_recorded_and_nothing_changes_what_is_set():
    """Whatever the rules would say, such as those of a later version; what follows from a recorded number does."""
    decisions = {"train.epochs": {"value": 50, "why": "once"}, "train.lr": {"value": 9, "why": ""}}
    record = {"decided": decisions, "splits": {"train": {"n": 85}, "test": {"n": 9}}}
    recorded = read_decisions(record, {"train": {"n": 85}})
    assert read_decisions(record, {"train": {"n": 86}}) == read_decisions({}, {"train": {"n": 85}}) == {}
    plan = decide(Config(train=Train(lr=0.5)), task(85), 25, parameters=MILLION, recorded=recorded)
    assert (plan.train.epochs, plan.decided["train.epochs"].why, plan.train.warmup_epochs) == (50, "once", 5)
    assert (plan.train.lr, "train.lr" in plan.decided) == (0.5, False)


def test_small_sets_get_about_400_steps_and_large_ones_are_seen_whole():
    for n in (7, 85, 500):
        quick, normal, thorough = (steps(plan_for(n, level=one), n) for one in ("quick", "normal", "thorough"))
        assert (quick, normal) == (pytest.approx(100, rel=0.1), pytest.approx(400, rel=0.04))
        assert thorough == normal
    taken = [steps(plan_for(n), n) for n in (501, 1441, 5000, 5001, 50_000)]
    assert taken == sorted(taken)
    assert (plan_for(1441).train.epochs, plan_for(50_000_000).train.epochs) == (8, 1)
    # Steps count, not epochs, where the batch is set.
    assert steps(plan_for(480, batch_size=16, accumulation=3), 480) == pytest.approx(400, rel=0.06)
    assert plan_for(7).train.batch_size == 7
    # A model that starts from what it knows takes a quarter of the steps and one member.
    normal, thorough = (plan_for(300, 64, MILLION, one, is_started=True) for one in ("normal", "thorough"))
    assert (normal.train.members, steps(normal, 300)) == (1, pytest.approx(100, abs=10))
    assert (thorough.train.members, steps(thorough, 300)) == (5, pytest.approx(400, abs=10))


def test_members_rate_and_warm_up_follow_from_the_budget_and_what_is_set():
    assert [plan_for(level=level).train.members for level in ("quick", "normal", "thorough", 5.0)] == [1, 2, 5, 1]
    assert plan_for(level="thorough", folds=3).train.members == 1
    # A normal run has two where they cost little and its length is left open.
    sizes = [{}, {"n": 5000}, {"n": 5001}, {"tokens": 129}, {"parameters": 51 * MILLION}, {"epochs": 3}]
    assert [plan_for(**size).train.members for size in sizes] == [2, 2, 1, 1, 1, 1]
    assert plan_for(level="thorough", epochs=3).train.members == 5
    for settings, length in (({"epochs": 30}, 3), ({"epochs": 30, "decay_epochs": 10.0}, 1), ({"epochs": 1}, 0.1)):
        assert plan_for(**settings).train.warmup_epochs == pytest.approx(length)
    assert plan_for(parameters=125 * MILLION).train.lr < plan_for().train.lr


@pytest.mark.parametrize(
    ("data", "settings", "expected"),
    [
        ((FEW, True), {}, ("last", None, True)),
        ((MIDDLE, True), {}, ("best", "loss", False)),
        ((MANY, True), {}, ("best", "error", False)),
        ((FEW, True), {"select": "best"}, ("best", "loss", False)),
        ((MANY, True), {"select": "last", "refit": False}, ("last", None, False)),
        ((MANY, False), {"refit": True}, ("last", None, True)),
        ((MANY, True), {"folds": 3}, ("last", None, True)),
        # What was asked to be small, or is the test split, is not trained on.
        ((FEW, True), {"train_fraction": 0.5}, ("last", None, False)),
        ((FEW, True), {"validate_on": "test"}, ("last", None, False)),
    ],
)
def test_what_chooses_the_weights(data, settings, expected):
    fraction = {"train_fraction": settings.pop("train_fraction")} if "train_fraction" in settings else {}
    config = Config(task=fraction, train=Train(epochs=2, **settings))
    checks.check_settings(config)
    train = decide(config, task(30, *data), 25, parameters=MILLION).train
    assert (train.select, train.select_by if train.select == "best" else None, train.refit) == expected


def test_contradictions_are_refused_before_any_data_are_read():
    for train, budget, message in (
        ({"folds": 3, "members": 2}, "normal", "train.members=2: contradicts train.folds=3"),
        ({"folds": 3, "select": "best"}, "normal", "train.folds=3: leaves no samples to choose by"),
        ({"refit": True, "select": "best"}, "normal", "train.refit=true: leaves no samples to choose by"),
        ({"refit": True, "validate_on": "test"}, "normal", "train.refit=true: does not go with train.validate_on=test"),
        ({}, "fast", "budget"),
        ({}, float("nan"), "budget"),
    ):
        with pytest.raises(ConfigError, match=message):
            checks.check_settings(Config(train=Train(**train), budget=budget))


def test_among_equal_epochs_the_later_is_better_and_an_undefined_one_never_than_a_known():
    cases = [(0.5, True), (0.5, 0.6, False), (0.5, 0.4, 0.4, True), (0.5, None, False), (None, 0.9, True)]
    for *earlier, value, better in cases:
        lines = [{"validation_error": one} for one in [*earlier, value]]
        assert is_better(lines[-1], lines[:-1], "validation_error") is better, (earlier, value)


def samples(n, start=0):
    x = np.arange(start, start + n, dtype=np.float32)[:, None, None] * np.ones((1, 1, 4), np.float32)
    return ArraySamples(x, np.arange(start, start + n) % 3)


def members(validation, seed=5, split_seed=0, epochs=None, **settings):
    """Return what was built of 30 training samples and some for validation, and its members."""
    parts = {"train": samples(30), "validation": samples(validation, 30), "validation_drawn": True}
    data = SimpleNamespace(kind="classes", input_shape=(1, 4), **parts)
    config = Config(task={"split_seed": split_seed}, seed=seed, train=Train(epochs=epochs, **settings))
    plan = decide(config, data, 4, parameters=MILLION)
    summary = {"splits": {"val": {"sha256": "v"}}}
    built = SimpleNamespace(plan=plan, task=data, learned=plan.train.learned(data), summary=summary)
    return built, members_of(built)


def numbers(samples):
    """Return which samples of the data these are; an input holds its number."""
    return sorted(samples.batch(np.arange(len(samples))).x[:, 0, 0].int().tolist())


def test_a_refit_trains_on_every_sample_and_leaves_none_to_judge():
    built, (only,) = members(9, select="last", epochs=2)
    assert numbers(only.samples) == list(range(built.plan.train.count_learned(built.task))) == list(range(39))
    assert (only.held_out, only.folder, only.seed) == (None, "", 5)
    record = choice_record(built, [2])
    assert (record["on"], record["n"], record["learned"], record["sha256"]) == ("nothing", 0, 39, None)
    assert "trained on the validation samples" in record["reason"]
    built, (only,) = members(9, select="last", refit=False, epochs=2)
    assert (numbers(only.samples), numbers(only.held_out)) == (list(range(30)), list(range(30, 39)))
    assert choice_record(built, [2])["sha256"] == "v"


def test_every_sample_is_held_out_by_one_fold_and_trained_on_by_the_others():
    """Folds are drawn by the seed of the split, members by that of the run."""
    built, folds = members(9, folds=4)
    assert [member.folder for member in folds] == ["fold-0", "fold-1", "fold-2", "fold-3"]
    assert sorted(number for member in folds for number in numbers(member.held_out)) == list(range(39))
    for member in folds:
        assert sorted(numbers(member.samples) + numbers(member.held_out)) == list(range(39))
        assert numbers(member.held_out) == sorted(member.rows.tolist())
        assert np.ptp(np.bincount(member.held_out.targets(), minlength=3)) <= 1
    assert built.plan.train.count_learned(built.task) == max(len(member.samples) for member in folds) == 30
    assert built.plan.decided["train.epochs"].why.startswith("budget=normal: 30 samples")
    assert (built.plan.train.members, built.plan.train.models) == (1, 4)
    record = choice_record(built, [2] * 4)
    assert (record["on"], record["n"], record["epoch"], record["members"]) == ("folds", 39, 2, 4)
    with pytest.raises(DataError, match="50 folds of 39 training samples"):
        members(9, folds=50)
    other, moved = (members(9, folds=4, **change)[1] for change in ({"seed": 6}, {"split_seed": 1}))
    assert [numbers(one.held_out) for one in folds] == [numbers(one.held_out) for one in other]
    assert [numbers(one.held_out) for one in folds] != [numbers(one.held_out) for one in moved]
    assert len({one.seed for one in (*folds, *other, *members(FEW, members=3, refit=False)[1])}) == 4 + 4 + 3
