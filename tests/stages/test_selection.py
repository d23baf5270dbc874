"""What chooses the weights: by the number of validation samples, by what is typed, and by nothing where nothing is left."""

from types import SimpleNamespace

import numpy as np
import pytest

from orca_cli.config import setting_checks
from orca_cli.config.schema import Config, Train
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.stages import selection
from orca_cli.stages.build import with_values
from orca_cli.stages.member_training import is_better
from orca_cli.stages.members import members_of
from orca_cli.tasks.shared.samples import ArraySamples


def samples(n, start=0):
    x = np.arange(start, start + n, dtype=np.float32)[:, None, None] * np.ones((1, 1, 4), np.float32)
    return ArraySamples(x, np.arange(start, start + n) % 3)


def task(validation, drawn=True, train=30):
    return SimpleNamespace(
        kind="classes",
        input_shape=(1, 4),
        train=samples(train),
        validation=samples(validation, train),
        validation_drawn=drawn,
    )


def decided(data, task_settings=None, **settings):
    """Return select, select_by and refit as decided."""
    config = Config(task=task_settings or {}, train=Train(epochs=2, **settings))
    setting_checks.check(config)
    train = with_values(config, selection.decide(config, data)).train
    setting_checks.check(with_values(config, selection.decide(config, data)))
    return train.select, train.select_by if train.select == "best" else None, train.refit


FEW, MIDDLE, MANY = selection.BEST_FROM - 1, selection.BEST_FROM, selection.ERROR_FROM


@pytest.mark.parametrize(
    ("data", "settings", "expected"),
    [
        (task(FEW), {}, ("last", None, True)),
        (task(FEW, drawn=False), {}, ("last", None, False)),
        (task(MIDDLE), {}, ("best", "loss", False)),
        (task(MANY - 1), {}, ("best", "loss", False)),
        (task(MANY), {}, ("best", "error", False)),
        (task(FEW), {"select": "best"}, ("best", "loss", False)),
        (task(FEW), {"select": "best", "select_by": "error"}, ("best", "error", False)),
        (task(MANY), {"select": "last"}, ("last", None, True)),
        (task(MANY), {"select": "last", "refit": False}, ("last", None, False)),
        (task(MANY, drawn=False), {"refit": True}, ("last", None, True)),
        (task(MANY), {"folds": 3}, ("last", None, True)),
        (task(MANY, drawn=False), {"folds": 3}, ("last", None, False)),
        (task(MANY), {"members": 3}, ("best", "error", False)),
    ],
)
def test_the_rule(data, settings, expected):
    assert decided(data, **settings) == expected


def test_what_was_asked_to_be_small_or_is_the_test_split_is_not_trained_on():
    assert decided(task(FEW), {"train_fraction": 0.5}) == ("last", None, False)
    assert decided(task(FEW), validate_on="test") == ("last", None, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "train.folds: 1 is not allowed"),
        ({"folds": 3, "members": 2}, "train.members=2: contradicts train.folds=3"),
        ({"folds": 3, "select": "best"}, "train.folds=3: leaves no samples to choose by"),
        ({"refit": True, "select": "best"}, "train.refit=true: leaves no samples to choose by"),
        ({"refit": True, "validate_on": "test"}, "train.refit=true: does not go with train.validate_on=test"),
        ({"refit": "yes"}, "train.refit"),
    ],
)
def test_contradictions_are_told_before_any_data_are_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        setting_checks.check(Config(train=Train(**settings)))


def line(value):
    return {"validation_error": value}


@pytest.mark.parametrize(
    ("earlier", "value", "better"),
    [
        ([], 0.5, True),
        ([0.5], 0.4, True),
        ([0.5], 0.6, False),
        ([0.5, 0.4], 0.4, True),  # the later of equal ones
        ([0.5, None], 0.5, True),
        ([0.5], None, False),
        ([None], None, True),
        ([None], 0.9, True),
    ],
)
def test_of_equal_epochs_the_later_is_better_and_an_undefined_one_never_than_a_known(earlier, value, better):
    assert is_better(line(value), [line(one) for one in earlier], "validation_error") is better


def members(data, **settings):
    config = Config(task={}, seed=5, train=Train(epochs=2, **settings))
    config = with_values(config, selection.decide(config, data))
    built = SimpleNamespace(task=data, learned=selection.learned(config, data))
    return config, built, members_of(config, built)


def numbers(samples):
    """Return which samples of the data these are; an input holds its number."""
    return sorted(samples.batch(np.arange(len(samples))).x[:, 0, 0].int().tolist())


def test_a_refit_trains_on_every_sample_and_leaves_none_to_judge():
    config, built, (only,) = members(task(9), select="last")
    assert numbers(only.samples) == list(range(39))
    assert only.held_out is None
    assert (only.folder, only.seed) == ("", 5)
    record = selection.record(config, built.task, built.learned, {"val": {"sha256": "v"}}, [2])
    assert (record["on"], record["n"], record["learned"], record["sha256"]) == ("nothing", 0, 39, None)
    assert "trained on the validation samples" in record["reason"]
    _, _, (only,) = members(task(9), select="last", refit=False)
    assert (numbers(only.samples), numbers(only.held_out)) == (list(range(30)), list(range(30, 39)))


def test_every_sample_is_held_out_by_one_fold_and_trained_on_by_the_others():
    config, built, fold_members = members(task(9), folds=4)
    assert [member.folder for member in fold_members] == ["fold-0", "fold-1", "fold-2", "fold-3"]
    assert len({member.seed for member in fold_members}) == 4
    assert sorted(number for member in fold_members for number in numbers(member.held_out)) == list(range(39))
    for member in fold_members:
        assert sorted(numbers(member.samples) + numbers(member.held_out)) == list(range(39))
        assert numbers(member.held_out) == sorted(member.rows.tolist())
        assert np.ptp(np.bincount(member.held_out.targets(), minlength=3)) <= 1
    assert selection.count_learned(config, built.task) == max(len(member.samples) for member in fold_members)
    record = selection.record(config, built.task, built.learned, {}, [2] * 4)
    assert (record["on"], record["n"], record["epoch"], record["members"]) == ("folds", 39, 2, 4)
    with pytest.raises(DataError, match="50 folds of 39 training samples"):
        members(task(9), folds=50)


def test_folds_are_drawn_by_the_seed_of_the_split_and_members_by_that_of_the_run():
    config, built, first = members(task(9), folds=3)
    other = members_of(Config(**{**vars(config), "seed": 6}), built)
    moved = members_of(Config(**{**vars(config), "task": {"split_seed": 1}}), built)
    assert [numbers(one.held_out) for one in first] == [numbers(one.held_out) for one in other]
    assert [numbers(one.held_out) for one in first] != [numbers(one.held_out) for one in moved]
    assert {one.seed for one in first}.isdisjoint(one.seed for one in other)
    _, _, several = members(task(FEW), members=3, refit=False)
    assert [one.folder for one in several] == ["member-0", "member-1", "member-2"]
    assert len({one.seed for one in several}) == 3
