"""Runs as function calls, and results that runs share: one alignment for all arms that agree."""

import json
import signal

import pytest

from orca_cli import experiment
from orca_cli.config import compose
from orca_cli.exceptions import DataError, InterruptionError
from orca_cli.runs import claim


def test_one_alignment_serves_all_arms_that_agree(run, small, tmp_path):
    """The bits of a run do not depend on who computed its alignment."""

    def entries(kind="alignments"):
        return len([path for path in (tmp_path / "cache" / kind).iterdir() if path.is_dir()])

    small, cache = [*small, "train.epochs=1", "align.epochs=1"], f"paths.cache={tmp_path / 'cache'}"
    arms = [["finetune=full"], ["finetune=head", "train.lr=3e-4"]]
    shared = [run(*small, *arm, cache).result for arm in arms]
    assert entries() == 1
    alone = run(*small, *arms[1], f"paths.cache={tmp_path / 'cold'}", "--force").result
    for key in ("weights_sha256", "error", "metric_value", "alignment", "splits"):
        assert shared[1][key] == alone[key], key
    for number, other in enumerate((["seed=1"], ["align.lr=1e-3"])):
        run(*small, *other, cache)
        assert entries() == number + 2, other
    assert (entries("source_features"), entries("metric_sources")) == (1, 1)
    run(*small, "seed=1", "align.source_seed=null", cache)
    assert entries("source_features") == 2


@pytest.fixture
def job(environment, small):
    with compose.session() as session:
        short = ["baselines=none", "align.epochs=1", "train.epochs=1", "train.warmup_epochs=0"]
        return session.compose([*small, *short])


def test_training_leaves_the_test_split_closed(environment, job):
    opened = []
    with claim.claim(environment, experiment.run_name(job)) as folder:
        validated = experiment.train(job, folder)
        original = validated.built.task.open_test
        object.__setattr__(
            validated.built.task, "open_test", lambda: opened.append(1) or original()
        )
        assert not opened
        assert not list(environment.glob("*/*/3_finetune/test_reads.jsonl"))
        assert 0 <= validated.trained.validation_error <= 1
        tested = experiment.test(job, folder, validated)
        assert opened == [1]
        assert tested.reads == 1


def test_a_run_is_a_call_with_a_typed_outcome(environment, job, monkeypatch):
    first = experiment.run(job)
    assert (first.state, first.code, first.failure) == ("completed", 0, None)
    assert isinstance(first.result["error"]["value"], float)
    again = experiment.run(job)
    assert (again.state, again.path, again.result) == ("skipped", first.path, first.result)

    def broken(*_):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(experiment, "train", broken)
    failed = experiment.run(job, force=True)
    assert (failed.state, failed.code) == ("failed", 1)
    assert isinstance(failed.failure.cause, ZeroDivisionError)
    assert json.loads((failed.path / "status.json").read_text())["error"]["kind"] == "OrcaError"


def test_a_signal_in_a_library_is_an_interruption(environment, job, monkeypatch):
    """This is true even if the library treats the interruption as a failure."""

    def swallowed(*_):
        try:
            raise InterruptionError.by(signal.SIGTERM)
        except Exception as error:
            raise DataError("the checkpoint cannot be read", where="body") from error

    monkeypatch.setattr(experiment, "train", swallowed)
    outcome = experiment.run(job)
    assert (outcome.state, outcome.code) == ("interrupted", 143)
    assert json.loads((outcome.path / "status.json").read_text())["state"] == "interrupted"
