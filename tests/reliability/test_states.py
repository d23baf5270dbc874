"""States that are derived when a run is read and never written (section 4.3): running, dead, stale."""

import json
import os
import time

import numpy as np
import pytest

from orca_cli import storage
from tests.cli.conftest import run_folders
from tests.report.trees import add_run

FIGURE = "derived states of runs / told by report and doctor"
ELSEWHERE = "another-machine"


def state_in_report(orca, root):
    code, out, err = orca("report", root, "--format", "json")
    assert code == 0, err
    (run,) = json.loads(out)["unfinished"]
    return run["state"]


WORKS = "a process works on this run"
# name -> (state, host, age of the heartbeat, state in the report, exit code of doctor, what doctor says)
STATES = {
    "killed_here": ("finetune", None, 0.0, "dead", 0, "state dead"),
    "beats_elsewhere": ("finetune", ELSEWHERE, 1.0, "running", 20, WORKS),
    "late_beat_elsewhere": ("finetune", ELSEWHERE, 2.5 * storage.HEARTBEAT_S, "running", 20, WORKS),
    "no_beat_elsewhere": ("finetune", ELSEWHERE, 3.5 * storage.HEARTBEAT_S, "dead", 0, "state dead"),
    "clock_of_elsewhere_ahead": ("finetune", ELSEWHERE, -5.0, "running", 20, WORKS),
    # The lock file of a run that has just failed is as fresh as that of one at work.
    "ended_elsewhere": ("failed", ELSEWHERE, 0.0, "failed", 0, "state failed"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_run_that_says_it_is_at_work_or_has_ended(orca, tmp_path, counted, name):
    """A lock that is free here says nothing of a process on another machine; its heartbeat does."""
    state, host, age, in_report, code, message = STATES[name]
    run = add_run(tmp_path / "runs", state=state)
    assert not storage.is_locked(run / "lock")  # the premise
    if host:
        status = json.loads((run / "status.json").read_text())
        (run / "status.json").write_text(json.dumps(status | {"host": host}))
    os.utime(run / "lock", times=(time.time() - age,) * 2)
    before = (run / "status.json").read_bytes()
    reported = state_in_report(orca, tmp_path / "runs")
    exit_code, out, err = orca("doctor", run)
    passed = (reported, exit_code) == (in_report, code) and message in out + err
    counted(FIGURE, passed, (reported, exit_code, out, err))
    assert (run / "status.json").read_bytes() == before


@pytest.mark.slow
def test_data_that_have_changed_are_reported(orca, environment, tiny, tmp_path, scorecard):
    """Stale: doctor names the file; it says nothing where the data are what they were, or not on this machine."""
    rng = np.random.default_rng(0)
    file = tmp_path / "own.npz"
    arrays = {"x": rng.normal(size=(60, 2, 9)).astype(np.float32), "y": np.arange(60) % 3}
    np.savez(file, **arrays)
    words = ["task=arrays", "task.kind=classes", "task.train=own.npz", f"body.checkpoint={tiny['bert']}", "metric=none"]
    code, _, err = orca("run", *words, "train.epochs=1", "train.batch_size=8", "train.warmup_epochs=0")
    assert code == 0, err
    (run,) = run_folders(environment)
    facts = file.stat()

    def stale():
        code, out, err = orca("doctor", run, "--json")
        assert code == 0, err
        (record,) = json.loads(out)["runs"]
        assert any("stale" in note for note in record["notes"]) == bool(record["stale"])
        return record["stale"]

    unchanged = stale()
    arrays["x"][7, 1, 3] += 1
    np.savez(file, **arrays)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file.stat().st_size == facts.st_size  # the premise: one value, same size and time
    changed = stale()
    file.unlink()
    passed = (unchanged, changed, stale()) == ([], [str(file)], [])
    scorecard.add(FIGURE, cases=2, passed=2 * int(passed), target=2)
    assert passed, (unchanged, changed)
