"""States that are derived when a run is read and never written (section 4.3), also where machines' clocks differ."""

import json
import os
import time

import numpy as np
import pytest

from orca_cli import storage
from orca_cli.runs.claim import DEAD_AFTER_S
from tests.cli.conftest import run_folders
from tests.commands.called import call
from tests.report.trees import add_run

FIGURE = "derived states of runs / told by report and doctor"


def elsewhere(root, state="finetune", seed=0):
    """Make a run that a process on another machine works on, whose lock is not seen from here."""
    run = add_run(root, state=state, seed=seed)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"host": "another-machine", "pid": 4711}))
    os.utime(run / "lock")  # its heartbeat
    assert not storage.is_locked(run / "lock")  # the premise
    return run


# name -> (state, age of the heartbeat, state in the report, exit code of doctor, what doctor says)
STATES = {
    "beats_elsewhere": ("finetune", 1.0, "running", 20, "a process works on this run"),
    "no_beat_elsewhere": (
        "finetune",
        3.5 * storage.HEARTBEAT_S,
        "dead",
        0,
        "state of the run: dead",
    ),
    # The lock file of a run that has just failed is as fresh as that of one at work.
    "ended_elsewhere": ("failed", 0.0, "failed", 0, "state of the run: failed"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_run_that_says_it_is_at_work_or_has_ended(orca, tmp_path, counted, name):
    """A lock that is free here says nothing of a process on another machine; its heartbeat does."""
    state, age, in_report, code, message = STATES[name]
    run = elsewhere(tmp_path / "runs", state)
    os.utime(run / "lock", times=(time.time() - age,) * 2)
    before = (run / "status.json").read_bytes()
    (listed,) = json.loads(orca("report", tmp_path / "runs", "--format", "json")[1])["unfinished"]
    exit_code, out, err = orca("doctor", run)
    passed = (listed["state"], exit_code) == (in_report, code) and message in out + err
    counted(FIGURE, passed, (listed, exit_code, out, err))
    assert (run / "status.json").read_bytes() == before


@pytest.mark.slow
def test_data_that_have_changed_are_reported(orca, environment, tiny, tmp_path, counted):
    """Stale: doctor names the file; it says nothing where the data are what they were, or not on this machine."""
    file = tmp_path / "own.npz"
    arrays = {
        "x": np.random.default_rng(0).normal(size=(60, 2, 9)).astype(np.float32),
        "y": np.arange(60) % 3,
    }
    np.savez(file, **arrays)
    words = [
        "task=arrays",
        "task.kind=classes",
        "task.train=own.npz",
        f"body.checkpoint={tiny['bert']}",
        "metric=none",
    ]
    code, _, err = orca(
        "run", *words, "train.epochs=1", "train.batch_size=8", "train.warmup_epochs=0"
    )
    assert code == 0, err
    (run,) = run_folders(environment)
    facts, seen = file.stat(), []

    def look():
        code, out, err = orca("doctor", run, "--json")
        assert code == 0, err
        record = json.loads(out)
        assert any("stale" in note for note in record["notes"]) == bool(record["stale"])
        seen.append(record["stale"])

    look()
    arrays["x"][7, 1, 3] += 1
    np.savez(file, **arrays)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file.stat().st_size == facts.st_size  # the premise: one value, same size and time
    look()
    file.unlink()
    look()
    counted(FIGURE, seen == [[], [str(file)], []], seen, cases=2, target=2)


@pytest.mark.parametrize("ahead_s", [-7200.0, 7200.0])
def test_what_another_machine_works_on_is_neither_removed_nor_collected(
    environment, tmp_path, monkeypatch, ahead_s
):
    """Also where the clock of the file server is another than that of this machine."""
    set_times = os.utime

    def by_the_server(path, times=None, **more):
        set_times(path, times or (time.time() + ahead_s,) * 2, **more)

    monkeypatch.setattr(os, "utime", by_the_server)
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))  # of which gc frees what nobody uses
    run = elsewhere(environment)
    in_shared_folder = run.parent / ".tmp-also"
    in_shared_folder.write_text("x")
    os.utime(in_shared_folder)
    code, _, err = call("runs", "rm", run, "--yes")
    assert (code, "a process works on this run" in err) == (20, True)
    assert call("runs", "gc", "--yes")[0] == 0
    assert in_shared_folder.exists()
    (listed,) = json.loads(call("runs", "list", "--json")[1])["runs"]
    assert listed["state"] == "running"
    # Silent for long enough, by the server's clock: the other machine is dead.
    for path, age in ((run / "lock", DEAD_AFTER_S + 1), (in_shared_folder, 86401)):
        os.utime(path, (time.time() + ahead_s - age,) * 2)
    assert call("runs", "gc", "--yes")[0] == 0
    assert not in_shared_folder.exists()
    assert call("runs", "rm", run, "--yes")[0] == 0
    assert not run.exists()
    ended = elsewhere(environment, "failed", seed=1)  # its baselines may still be computed
    assert call("runs", "rm", ended, "--yes")[0] == 20
