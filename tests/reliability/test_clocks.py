"""Who works on a run, where the clocks of machine and file server are two hours apart: no machine's own clock is asked."""

import json
import os
import time

import pytest

from orca_cli import storage
from orca_cli.runs.claim import DEAD_AFTER_S
from tests.commands.called import call
from tests.report.trees import add_run


@pytest.fixture(params=[-7200.0, 7200.0], ids=["the server is behind", "the server is ahead"])
def served(request, tmp_path, monkeypatch):
    """A folder of runs whose file server has another clock; returns it and the server's time."""
    set_times = os.utime
    monkeypatch.setattr(
        os,
        "utime",
        lambda path, times=None, **more: set_times(path, times or (time.time() + request.param,) * 2, **more),
    )
    monkeypatch.setenv("ORCA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    return tmp_path / "runs", lambda: time.time() + request.param


def elsewhere(root, state="finetune"):
    """Make a run that a process on another machine works on, whose lock is not seen from here."""
    run = add_run(root, state=state)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"host": "another-machine", "pid": 4711}))
    os.utime(run / "lock")  # its heartbeat
    assert not storage.is_locked(run / "lock")
    return run


def test_what_another_machine_works_on_is_neither_removed_nor_collected(served):
    root, now = served
    run = elsewhere(root)
    (run / ".tmp-being-written").write_text("x")
    in_shared_folder = run.parent / ".tmp-also"
    in_shared_folder.write_text("x")
    os.utime(in_shared_folder)
    code, _, err = call("runs", "rm", run, "--yes")
    assert (code, "a process works on this run" in err) == (20, True)
    assert call("runs", "gc", "--yes")[0] == 0
    assert (run / ".tmp-being-written").exists()
    assert in_shared_folder.exists()
    (listed,) = json.loads(call("runs", "list", "--json")[1])["runs"]
    assert listed["state"] == "running"
    # Silent for long enough, by the server's clock: the other machine is dead.
    for path, age in ((run / "lock", DEAD_AFTER_S + 1), (in_shared_folder, 3601)):
        os.utime(path, (now() - age,) * 2)
    assert call("runs", "gc", "--yes")[0] == 0
    assert not (run / ".tmp-being-written").exists()
    assert not in_shared_folder.exists()
    assert call("runs", "rm", run, "--yes")[0] == 0
    assert not run.exists()


def test_a_run_that_has_just_ended_elsewhere_may_still_have_baselines_computed(served):
    root, now = served
    run = elsewhere(root, state="failed")
    assert call("runs", "rm", run, "--yes")[0] == 20
    os.utime(run / "lock", (now() - DEAD_AFTER_S - 1,) * 2)
    assert call("runs", "rm", run, "--yes")[0] == 0
