"""The plan of a run: rules decide open settings alone, and a resumed run keeps its decisions."""

from types import SimpleNamespace

import numpy as np
import pytest

from orca_cli.config import setting_checks
from orca_cli.config.schema import Config, Train
from orca_cli.data.samples import ArraySamples
from orca_cli.exceptions import ConfigError
from orca_cli.stages.member_training import is_better, members_of
from orca_cli.stages.plan import BEST_FROM, ERROR_FROM, Decision, Facts, decide, read_decisions

NAMES = ("members", "epochs", "batch_size", "lr", "warmup_epochs", "weight_decay", "clip")
MILLION = 1_000_000
FEW, MIDDLE, MANY = BEST_FROM - 1, BEST_FROM, ERROR_FROM


def task(n, validation=1000, drawn=False):
    return SimpleNamespace(train=range(n), validation=range(validation), validation_drawn=drawn)


def plan_for(
    n=200,
    tokens=40,
    parameters=10 * MILLION,
    level="normal",
    starts_with_features=False,
    starts_as_ridge=True,
    recorded=None,
    **train,
):
    facts = Facts(
        config=Config(train=Train(**train), budget=level),
        task=task(n),
        tokens=tokens,
        parameters=parameters,
        starts_as_ridge=starts_as_ridge,
        starts_with_features=starts_with_features,
    )
    return decide(facts, recorded or {})


def facts_of(config, data, tokens=25, parameters=MILLION):
    """Facts of a model that starts at random."""
    return Facts(
        config=config,
        task=data,
        tokens=tokens,
        parameters=parameters,
        starts_as_ridge=False,
        starts_with_features=False,
    )


def by_budget(plan):
    return {key for key in plan.decided if key.removeprefix("train.") in NAMES}


def steps(plan, n):
    return plan.train.epochs * -(-n // (min(plan.train.batch_size, n) * plan.train.accumulation))


def test_open_settings_are_decided():
    composed = Config()
    plan = decide(facts_of(composed, task(85), parameters=10 * MILLION), {})
    assert by_budget(plan) == {f"train.{name}" for name in NAMES}
    for key, decision in plan.decided.items():
        assert getattr(plan.train, key.removeprefix("train.")) == decision.value
    assert composed == Config()


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_was_typed_stays(name):
    value = {"members": 2, "epochs": 3, "batch_size": 5, "lr": 7.0}.get(name, 0.0)
    plan = plan_for(**{name: value})
    assert getattr(plan.train, name) == value
    assert by_budget(plan) == {f"train.{other}" for other in NAMES if other != name}


SPLITS = {"train": {"n": 85}}
RECORD = {
    "decided": {"train.epochs": {"value": 50, "why": "once"}, "train.lr": {"value": 9, "why": ""}},
    "splits": {"train": {"n": 85}, "test": {"n": 9}},
}


@pytest.mark.parametrize(
    ("record", "splits", "keys"),
    [
        (RECORD, SPLITS, {"train.epochs", "train.lr"}),
        (RECORD, {"train": {"n": 86}}, set()),
        ({}, SPLITS, set()),
    ],
)
def test_decisions_are_read_where_the_data_are_the_same(record, splits, keys):
    assert read_decisions(record, splits).keys() == keys


def test_a_resumed_run_takes_the_decisions_that_it_recorded():
    """Rules, which may be a later version's, still decide what follows from a recorded number."""
    plan = plan_for(85, 25, MILLION, recorded=read_decisions(RECORD, SPLITS), lr=0.5)
    assert plan.decided["train.epochs"] == Decision(value=50, why="once")
    assert (plan.train.epochs, plan.train.warmup_epochs) == (50, 5)
    # No rule changes a setting that was set on the command line.
    assert plan.train.lr == 0.5
    assert "train.lr" not in plan.decided


def test_a_recorded_choice_decides_the_rules_below_it():
    """The rule that chooses the weights decides the training samples, and so the number of steps."""
    config = Config()
    data = task(400, validation=MANY, drawn=True)
    recorded = {"train.select": Decision(value="last", why="once")}
    plan = decide(facts_of(config, data), recorded)
    assert (plan.train.select, plan.train.select_by, plan.train.refit) == ("last", "auto", True)
    assert plan.decided["train.epochs"].why.startswith("budget=normal: 700 samples of 25 tokens")
    assert list(plan.decided)[:3] == ["train.select", "train.refit", "train.batch_size"]


@pytest.mark.parametrize(
    ("level", "expected", "tolerance"), [("quick", 100, 0.1), ("normal", 400, 0.04)]
)
@pytest.mark.parametrize("n", [7, 500])
def test_small_sets_get_about_400_steps(n, level, expected, tolerance):
    assert steps(plan_for(n, level=level), n) == pytest.approx(expected, rel=tolerance)


def test_large_sets_are_seen_whole():
    taken = [steps(plan_for(n), n) for n in (501, 1441, 5000, 5001, 50_000)]
    assert taken == sorted(taken)
    assert (plan_for(1441).train.epochs, plan_for(50_000_000).train.epochs) == (8, 1)


def test_steps_count_where_the_batch_is_set():
    assert steps(plan_for(480, batch_size=16, accumulation=3), 480) == pytest.approx(400, rel=0.06)


def test_a_start_with_features_takes_a_quarter_of_the_steps():
    plan = plan_for(300, 64, MILLION, starts_with_features=True)
    assert (plan.train.members, steps(plan, 300)) == (1, pytest.approx(100, abs=10))


@pytest.mark.parametrize(
    ("changes", "members"),
    [
        ({"level": "quick"}, 1),
        ({"level": "normal"}, 2),
        ({"level": "thorough"}, 5),
        ({"level": "thorough", "folds": 3}, 1),  # each fold is a model already
        ({"level": 5.0}, 1),
        # A normal run has two members if they cost little and its length is left open.
        ({"n": 5000}, 2),
        ({"n": 5001}, 1),
        ({"tokens": 129}, 1),
        ({"parameters": 51 * MILLION}, 1),
        ({"epochs": 3}, 1),
    ],
)
def test_members_follow_from_the_budget_and_their_cost(changes, members):
    assert plan_for(**changes).train.members == members


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"epochs": 30}, 3),
        ({"epochs": 30, "decay_epochs": 10.0}, 1),
        ({"epochs": 1}, 0.1),
    ],
)
def test_the_warm_up_is_a_tenth_of_the_epochs_with_a_rate(settings, length):
    assert plan_for(**settings).train.warmup_epochs == pytest.approx(length)


def test_a_large_model_learns_at_a_lower_rate():
    assert plan_for(parameters=125 * MILLION).train.lr < plan_for().train.lr


@pytest.mark.parametrize(("lr", "outer_rate"), [(None, 10.0), (1e-3, 1.0)])
def test_a_rate_that_was_typed_is_that_of_all_parameters(lr, outer_rate):
    assert plan_for(lr=lr).train.outer_rate == outer_rate


@pytest.mark.parametrize(
    ("validation", "drawn", "settings", "expected"),
    [
        (FEW, True, {}, ("last", None, True)),
        (MIDDLE, True, {}, ("best", "loss", False)),
        (MANY, True, {}, ("best", "error", False)),
        (MANY, False, {"refit": True}, ("last", None, True)),
        # A split that was asked to be small, and the test split, are not trained on.
        (FEW, True, {"train_fraction": 0.5}, ("last", None, False)),
        (FEW, True, {"validate_on": "test"}, ("last", None, False)),
    ],
)
def test_what_chooses_the_weights(validation, drawn, settings, expected):
    typed = dict(settings)
    fraction = {"train_fraction": typed.pop("train_fraction", None)}
    config = Config(task=fraction, train=Train(epochs=2, **typed))
    setting_checks.check_settings(config)
    data = task(30, validation, drawn)
    train = decide(facts_of(config, data), {}).train
    rule = train.select_by if train.select == "best" else None
    assert (train.select, rule, train.refit) == expected


def test_a_refit_that_validates_on_the_test_split_is_refused():
    with pytest.raises(ConfigError, match="train.refit=true: trains on all samples"):
        setting_checks.check_settings(Config(train=Train(refit=True, validate_on="test")))


@pytest.mark.parametrize(
    ("earlier", "value", "better"),
    [
        ([0.5], 0.6, False),
        ([0.5, 0.4], 0.4, True),
        ([0.5], None, False),
        ([None], 0.9, True),
        ([None], None, True),
    ],
)
def test_the_later_of_equal_epochs_is_better(earlier, value, better):
    """An undefined error is never better than a known error."""
    lines = [{"validation_error": error} for error in earlier]
    assert is_better({"validation_error": value}, lines, "validation_error") is better


def samples(n, start=0):
    x = np.arange(start, start + n, dtype=np.float32)[:, None, None] * np.ones(
        (1, 1, 4), np.float32
    )
    return ArraySamples(x, np.arange(start, start + n) % 3)


def members(seed=5, split_seed=0, **settings):
    data = SimpleNamespace(
        kind="classes",
        input_shape=(1, 4),
        train=samples(30),
        validation=samples(9, 30),
        validation_drawn=True,
    )
    config = Config(task={"split_seed": split_seed}, seed=seed, train=Train(**settings))
    plan = decide(facts_of(config, data, tokens=4), {})
    learned = plan.train.learned(data)
    return members_of(SimpleNamespace(plan=plan, task=data, learned=learned, summary={}))


def numbers(samples):
    return sorted(samples.batch(np.arange(len(samples))).x[:, 0, 0].int().tolist())


def held_out(members):
    return [numbers(member.held_out) for member in members]


def test_every_sample_is_held_out_by_exactly_one_fold():
    folds = members(folds=4)
    assert sorted(sum(held_out(folds), [])) == list(range(39))
    for member in folds:
        assert sorted(numbers(member.samples) + numbers(member.held_out)) == list(range(39))
        assert np.ptp(np.bincount(member.held_out.targets(), minlength=3)) <= 1


def test_folds_are_drawn_by_the_seed_of_the_split():
    folds = held_out(members(folds=4))
    assert folds == held_out(members(folds=4, seed=6))
    assert folds != held_out(members(folds=4, split_seed=1))


def test_members_and_folds_have_seeds_of_their_own():
    drawn = [*members(folds=4), *members(folds=4, seed=6), *members(members=3, refit=False)]
    assert len({member.seed for member in drawn}) == 4 + 4 + 3


@pytest.mark.parametrize(
    ("settings", "validation", "folds"),
    [
        ({}, 9, 5),
        ({}, BEST_FROM, 0),
        # Each of these settings decides how the weights are chosen, or the number of models.
        ({"refit": True}, 9, 0),
        ({"select": "last"}, 9, 0),
        ({"members": 2}, 9, 0),
        ({"validate_on": "test"}, 9, 0),
    ],
)
def test_folds_judge_where_validation_is_small(settings, validation, folds):
    data = SimpleNamespace(
        input_shape=(1, 4),
        train=samples(30),
        validation=samples(validation, 30),
        validation_drawn=True,
    )
    config = Config(train=Train(folds=None, **settings))
    assert decide(facts_of(config, data), {}).train.folds == folds
