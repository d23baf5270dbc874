"""What is decided about a run: only what is open, the same for the same settings and data, and as recorded on a resume."""

from types import SimpleNamespace

import numpy as np
import pytest

from orca_cli.config import checks
from orca_cli.config.schema import Config, Train
from orca_cli.data.samples import ArraySamples
from orca_cli.exceptions import ConfigError
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
    assert all(
        getattr(plan.train, key.removeprefix("train.")) == one.value
        for key, one in plan.decided.items()
    )
    assert composed == Config()
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
    assert (
        read_decisions(record, {"train": {"n": 86}})
        == read_decisions({}, {"train": {"n": 85}})
        == {}
    )
    plan = decide(Config(train=Train(lr=0.5)), task(85), 25, parameters=MILLION, recorded=recorded)
    assert (plan.train.epochs, plan.decided["train.epochs"].why, plan.train.warmup_epochs) == (
        50,
        "once",
        5,
    )
    assert (plan.train.lr, "train.lr" in plan.decided) == (0.5, False)


def test_small_sets_get_about_400_steps_and_large_ones_are_seen_whole():
    for n in (7, 500):
        quick, normal = (steps(plan_for(n, level=one), n) for one in ("quick", "normal"))
        assert (quick, normal) == (pytest.approx(100, rel=0.1), pytest.approx(400, rel=0.04))
    taken = [steps(plan_for(n), n) for n in (501, 1441, 5000, 5001, 50_000)]
    assert taken == sorted(taken)
    assert (plan_for(1441).train.epochs, plan_for(50_000_000).train.epochs) == (8, 1)
    # Steps count, not epochs, where the batch is set.
    assert steps(plan_for(480, batch_size=16, accumulation=3), 480) == pytest.approx(400, rel=0.06)
    # A model that starts from what it knows takes a quarter of the steps and one member.
    normal = plan_for(300, 64, MILLION, is_started=True)
    assert (normal.train.members, steps(normal, 300)) == (1, pytest.approx(100, abs=10))


def test_members_rate_and_warm_up_follow_from_the_budget_and_what_is_set():
    assert [
        plan_for(level=level).train.members for level in ("quick", "normal", "thorough", 5.0)
    ] == [1, 2, 5, 1]
    # A normal run has two where they cost little and its length is left open.
    sizes = [
        {},
        {"n": 5000},
        {"n": 5001},
        {"tokens": 129},
        {"parameters": 51 * MILLION},
        {"epochs": 3},
    ]
    assert [plan_for(**size).train.members for size in sizes] == [2, 2, 1, 1, 1, 1]
    for settings, length in (
        ({"epochs": 30}, 3),
        ({"epochs": 30, "decay_epochs": 10.0}, 1),
        ({"epochs": 1}, 0.1),
    ):
        assert plan_for(**settings).train.warmup_epochs == pytest.approx(length)
    assert plan_for(parameters=125 * MILLION).train.lr < plan_for().train.lr


@pytest.mark.parametrize(
    ("data", "settings", "expected"),
    [
        ((FEW, True), {}, ("last", None, True)),
        ((MIDDLE, True), {}, ("best", "loss", False)),
        ((MANY, True), {}, ("best", "error", False)),
        ((MANY, False), {"refit": True}, ("last", None, True)),
        # What was asked to be small, or is the test split, is not trained on.
        ((FEW, True), {"train_fraction": 0.5}, ("last", None, False)),
        ((FEW, True), {"validate_on": "test"}, ("last", None, False)),
    ],
)
def test_what_chooses_the_weights(data, settings, expected):
    fraction = (
        {"train_fraction": settings.pop("train_fraction")} if "train_fraction" in settings else {}
    )
    config = Config(task=fraction, train=Train(epochs=2, **settings))
    checks.check_settings(config)
    train = decide(config, task(30, *data), 25, parameters=MILLION).train
    assert (
        train.select,
        train.select_by if train.select == "best" else None,
        train.refit,
    ) == expected


def test_a_refit_that_validates_on_the_test_split_is_refused_before_any_data_are_read():
    with pytest.raises(ConfigError, match="train.refit=true: leaves no samples to choose by"):
        checks.check_settings(Config(train=Train(refit=True, validate_on="test")))


def test_among_equal_epochs_the_later_is_better_and_an_undefined_one_never_than_a_known():
    for *earlier, value, better in (
        (0.5, 0.6, False),
        (0.5, 0.4, 0.4, True),
        (0.5, None, False),
        (None, 0.9, True),
    ):
        lines = [{"validation_error": one} for one in [*earlier, value]]
        assert is_better(lines[-1], lines[:-1], "validation_error") is better, (earlier, value)


def samples(n, start=0):
    x = np.arange(start, start + n, dtype=np.float32)[:, None, None] * np.ones(
        (1, 1, 4), np.float32
    )
    return ArraySamples(x, np.arange(start, start + n) % 3)


def members(seed=5, split_seed=0, **settings):
    parts = {"train": samples(30), "validation": samples(9, 30), "validation_drawn": True}
    data = SimpleNamespace(kind="classes", input_shape=(1, 4), **parts)
    config = Config(task={"split_seed": split_seed}, seed=seed, train=Train(**settings))
    plan = decide(config, data, 4, parameters=MILLION)
    return members_of(
        SimpleNamespace(plan=plan, task=data, learned=plan.train.learned(data), summary={})
    )


def numbers(samples):
    return sorted(samples.batch(np.arange(len(samples))).x[:, 0, 0].int().tolist())


def test_every_sample_is_held_out_by_one_fold_and_trained_on_by_the_others():
    """Folds are drawn by the seed of the split, members by that of the run."""
    folds = members(folds=4)
    assert sorted(number for member in folds for number in numbers(member.held_out)) == list(
        range(39)
    )
    for member in folds:
        assert sorted(numbers(member.samples) + numbers(member.held_out)) == list(range(39))
        assert np.ptp(np.bincount(member.held_out.targets(), minlength=3)) <= 1
    other, moved = (members(folds=4, **change) for change in ({"seed": 6}, {"split_seed": 1}))
    assert [numbers(one.held_out) for one in folds] == [numbers(one.held_out) for one in other]
    assert [numbers(one.held_out) for one in folds] != [numbers(one.held_out) for one in moved]
    assert (
        len({one.seed for one in (*folds, *other, *members(members=3, refit=False))}) == 4 + 4 + 3
    )
