"""Runs as calls, and what runs share: one alignment for all arms that agree, whoever computed it."""

import json
import signal
import threading

import pytest
import torch

from orca_cli import experiment, storage, terminal
from orca_cli.config import compose
from orca_cli.exceptions import DataError, InterruptionError
from orca_cli.runs import claim
from orca_cli.training.cache import Entry, cached


def trajectories(cache):
    return sorted(path for path in (cache / "alignments").iterdir() if path.is_dir())


def test_one_alignment_serves_all_ways_of_fine_tuning(run, small, tmp_path):
    """The bits of a run do not depend on who computed its alignment."""
    cache = tmp_path / "cache"
    small = [*small, "train.epochs=1"]
    arms = [["finetune=full"], ["finetune=head", "train.lr=3e-4"]]
    shared = [run(*small, *arm, f"paths.cache={cache}").result for arm in arms]
    assert len(trajectories(cache)) == 1
    alone = run(*small, *arms[1], f"paths.cache={tmp_path / 'cold'}", "--force").result
    for key in ("weights_sha256", "error", "metric_value", "alignment", "splits"):
        assert shared[1][key] == alone[key], key
    for other in (["seed=1"], ["align.lr=1e-3"], ["embedder.init=random"]):
        before = len(trajectories(cache))
        run(*small, *other, f"paths.cache={cache}")
        assert len(trajectories(cache)) == before + 1, other


def test_a_damaged_entry_is_computed_again(tmp_path, capfd):
    terminal.configure_logging()
    entry = tmp_path / "alignments" / "key"
    cached(entry, lambda: Entry({"x": torch.arange(3.0)}))
    content = bytearray((entry / "tensors.safetensors").read_bytes())
    content[-3] ^= 4
    (entry / "tensors.safetensors").write_bytes(content)
    assert cached(entry, lambda: Entry({"x": torch.ones(3)})).tensors["x"].tolist() == [1, 1, 1]
    assert "damaged cache entry" in capfd.readouterr().err


def test_who_waits_for_another_process_says_so_and_takes_its_result(tmp_path, capfd):
    terminal.configure_logging()
    entry = tmp_path / "alignments" / "key"
    cached(entry, lambda: Entry({"x": torch.arange(3.0)}))
    held, free = threading.Event(), threading.Event()

    def hold():
        with storage.lock(entry.with_name("key.lock")):
            held.set()
            free.wait(1.5)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    result = cached(entry, lambda: pytest.fail("computed although it was there"))
    other.join()
    assert result.tensors["x"].tolist() == [0, 1, 2]
    assert capfd.readouterr().err.count("waiting for another process that computes the same alignments") == 1


class Listener:
    def __init__(self):
        self.lines = {}

    def record(self, stage, line):
        self.lines.setdefault(stage, []).append(dict(line))

    def rewind(self, stage, lines):
        self.lines[stage] = [dict(line) for line in lines]


@pytest.fixture
def job(environment, small):
    with compose.session() as session:
        return session.compose([str(word) for word in small])


def test_training_is_a_call_that_leaves_the_test_split_closed(environment, job, monkeypatch):
    listener = Listener()
    opened = []
    with claim.claim(environment, experiment.run_name(job)) as folder:
        folder.attach(listener)
        validated = experiment.train(job, folder)
        original = validated.built.task.open_test
        object.__setattr__(validated.built.task, "open_test", lambda: opened.append(1) or original())
        assert not opened
        assert not list(environment.glob("*/*/3_finetune/test_reads.jsonl"))
        assert 0 <= validated.trained.validation_error <= 1
        tested = experiment.test(job, folder, validated)
        assert opened == [1]
        assert tested.reads == 1
    for stage, name in (("align", "2_align"), ("finetune", "3_finetune")):
        written = storage.read_json_lines(folder.path / name / "metrics.jsonl")
        assert listener.lines[stage] == written


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


def test_a_signal_that_a_library_takes_for_a_failure_is_an_interruption(environment, job, monkeypatch):
    def swallowed(*_):
        try:
            raise InterruptionError.by(signal.SIGTERM)
        except Exception as error:
            raise DataError("the checkpoint cannot be read", where="body") from error

    monkeypatch.setattr(experiment, "train", swallowed)
    outcome = experiment.run(job)
    assert (outcome.state, outcome.code) == ("interrupted", 143)
    assert json.loads((outcome.path / "status.json").read_text())["state"] == "interrupted"


def test_scratch_draws_body_and_embedder_and_aligns_only_if_asked(run, small):
    plain, aligned = (run(*small, "finetune=scratch", "train.epochs=1", *more) for more in ([], ["metric=otdd"]))
    assert "the body is random, but its own embedding layer is not" in aligned.err
    assert (plain.result["metric"], plain.result["metric_value"]["before"]) == ("none", None)
    assert aligned.result["metric_value"]["before"] is not None
    assert "init: random" in (plain.folder / "config.yaml").read_text()
