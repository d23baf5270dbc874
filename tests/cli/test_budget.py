"""Decisions and records of a budget, the predicted time of a run, and budgets in minutes."""

import json
from types import SimpleNamespace

import pytest

from orca_cli import experiment
from orca_cli.config import compose
from orca_cli.exceptions import OrcaError
from orca_cli.stages import expected_time
from orca_cli.stages.build import build
from orca_cli.stages.expected_time import Costs, expected
from orca_cli.terminal import LogReporter
from tests.training.toy import engine

NAMES = (
    "epochs", "members", "batch_size", "lr", "outer_rate", "warmup_epochs", "weight_decay", "clip",
)  # fmt: skip


@pytest.fixture
def bare(small):
    """A small run whose settings of stage 3 are left to the budget."""
    open_ = [
        f"train.{name}=null" for name in (*NAMES, "decay_epochs")
    ]  # the task has its own settings
    return [*(word for word in small if not word.startswith("train.")), "metric=none", *open_]


def typed(*words, **more):
    """Return overrides in which a later value of a setting replaces an earlier one."""
    return [
        f"{key}={value}"
        for key, value in (dict(word.split("=", 1) for word in words) | more).items()
    ]


@pytest.fixture
def timed(monkeypatch):
    """Set the cost of the steps that are timed before a run; without costs, no steps are timed."""

    def call(**costs):
        measured = Costs(**({"align": 0.0} | costs)) if costs else None
        monkeypatch.setattr(expected_time, "time_steps", lambda *_: measured)

    return call


@pytest.fixture
def planned(orca, bare):
    """Return the record that a dry run prints as JSON, and its standard error."""

    def call(*words):
        code, out, err = orca("run", "--dry-run", "--json", *typed(*bare, *words))
        assert code == 0, err
        return json.loads(out), err

    return call


def test_decisions_of_a_budget_give_the_same_plan_when_typed(run, bare):
    """The steps that are timed before a run leave no trace in it."""
    bare = [*bare, "task.validation_size=5"]
    first = run(*bare, "budget=quick")
    decided = first.result["decided"]
    assert {key for key in decided if "budget=quick" in decided[key]["why"]} == {
        f"train.{name}" for name in NAMES
    }
    assert len(first.result["curves"]["finetune"]) == decided["train.epochs"]["value"]
    assert (first.result["protocol"], first.result["variant"]["budget"]) == ("clean", "quick")
    values = {key: str(decision["value"]).lower() for key, decision in decided.items()}
    with compose.session() as session:
        jobs = [
            session.compose(words).config
            for words in ([*bare, "budget=quick"], typed(*bare, **values))
        ]
    plans = [build(config, LogReporter()).plan for config in jobs]
    assert (vars(plans[0].train), plans[1].decided) == (vars(plans[1].train), {})


def test_minutes_become_epochs_which_a_resumed_run_keeps(orca, run, bare, timed, monkeypatch):
    """A run with these epochs set on the command line has the same bits."""

    def fails(*_):
        raise OrcaError("stop", where="test")

    words = [*bare, "task.validation_size=5", "budget=1"]
    timed(step=2.0)
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "test", fails)
        assert orca("run", *words)[0] == 1
    monkeypatch.setattr(expected_time, "time_steps", lambda *_: pytest.fail("timed again"))
    first = run(*words)
    assert first.result["expected_s"]["finetune"] > 0
    epochs = first.result["decided"]["train.epochs"]["value"]
    assert 5 <= epochs <= 7  # of 3.75 steps, 2 s each, in nine tenths of a minute
    timed()
    second = run(*typed(*bare, "task.validation_size=5", f"train.epochs={epochs}"))
    assert first.result["weights_sha256"] == second.result["weights_sha256"]


def test_minutes_that_are_too_few_for_an_epoch(planned, timed):
    timed(step=9.0)
    plan, err = planned("budget=0.1")
    assert plan["build"]["decided"]["train.epochs"]["value"] == 1
    assert "too short" in err


@pytest.mark.parametrize(("words", "members", "epochs"), [([], 2, 100), (["train.folds=3"], 3, 67)])
def test_minutes_left_over_are_spent_on_members(planned, timed, words, members, epochs):
    """An epoch of 60 samples takes 18.75 s, and 100 of them are 400 steps.

    Each member is aligned separately; 99 minutes are used.
    """
    timed(step=5.0, align=200.0)
    plan, _ = planned("metric=minibatch_ot", "budget=110", "task.validation_size=5", *words)
    record = plan["build"]
    assert (record["members"], record["decided"]["train.epochs"]["value"]) == (members, epochs)
    assert sum(record["expected_s"].values()) < 99 * 60


@pytest.mark.parametrize(
    ("words", "epoch_s", "members", "realigned"),
    [
        # A sample takes a quarter of the time in validation.
        (["task.validation_size=100"], 60 / 16 * 2 + 100 / 32, 1, 0),
        (["task.validation_size=5", "train.members=3"], 60 / 16 * 2 + 5 / 32, 3, 2),
        (["task.validation_size=5", "train.folds=3"], 40 / 16 * 2 + 20 / 32, 3, 3),
    ],
    ids=["one model", "members", "folds"],
)
def test_the_expected_time_is_that_of_all_members(
    environment, bare, words, epoch_s, members, realigned
):
    """Of all their steps and validations."""
    with compose.session() as session:
        job = session.compose(typed(*bare, *words, "train.epochs=5"))
    built = build(job.config, LogReporter())
    seconds = expected(built, Costs(step=2.0, align=7.0))
    test_s = members * (60 + len(built.task.validation)) / 32
    assert seconds["align"] == 7
    expected_s = 5 * members * epoch_s + test_s + 7 * realigned
    assert seconds["finetune"] == pytest.approx(expected_s, rel=0.02)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("cost", [0.01, 0.2, 2.0])
def test_a_step_is_expected_to_take_as_long_as_its_samples(
    environment, bare, monkeypatch, cost, accumulation
):
    """By a clock that only the model's forward passes move.

    Slow steps are timed with a few of their samples.
    """
    words = typed(*bare, "train.batch_size=16", f"train.accumulation={accumulation}")
    with compose.session() as session:
        built = build(session.compose(words).config, LogReporter())
    seconds = [0.0]

    def advance(model, inputs, outputs):
        seconds[0] += cost * len(inputs[0])

    built.model.register_forward_hook(advance)
    clock = SimpleNamespace(perf_counter=lambda: seconds[0])
    monkeypatch.setattr(expected_time, "time", clock)
    costs = expected_time.time_steps(built, engine(), LogReporter())
    assert costs.step == pytest.approx(16 * accumulation * cost)
