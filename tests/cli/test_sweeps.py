"""Sweeps: the jobs' processes, the options of the launcher, other launchers."""

import faulthandler
import json
import os
import signal
import time
from pathlib import Path

import pytest

from orca_cli import signals
from orca_cli.launching import processes
from tests.cli.conftest import run_folders


def fate(words):
    """Stand in for the program: a job that ends as its first word says."""
    place = processes.Place.read(words[words.index(processes.OPTION) + 1 :])
    kind = words[0]
    if kind == "says":
        processes.say(place.pipe, {"state": "completed", "label": place.label})
        return 0
    if kind == "raises":
        raise ZeroDivisionError("on purpose")
    if kind.isdigit():
        raise SystemExit(int(kind))
    if kind in ("KILL", "SEGV"):
        faulthandler.disable()  # the tests' own
        os.kill(os.getpid(), signal.Signals[f"SIG{kind}"])
    with signals.deferred(insistent=False):
        while kind == "deaf" or not signals.pending():
            time.sleep(0.01)
        processes.say(place.pipe, {"state": "interrupted", "code": signals.exit_code()})
    return signals.exit_code()


@pytest.fixture
def forked(monkeypatch):
    """Fork although other tests may have left threads in this process: these jobs wait for none of them."""
    monkeypatch.setattr(processes.threading, "active_count", lambda: 1)


def jobs(*kinds):
    return [processes.Job(f"[{number}/{len(kinds)}]", [kind]) for number, kind in enumerate(kinds, 1)]


def children() -> set[str]:
    """Return the processes that this one has started and not yet waited for."""
    return {number for task in Path("/proc/self/task").iterdir() for number in (task / "children").read_text().split()}


@pytest.mark.usefixtures("forked")
def test_no_end_of_a_job_reaches_the_others(capfd):
    kinds = ["says", "7", "KILL", "says", "SEGV", "raises", "says"]
    told, before = [], children()
    with signals.deferred():
        ended = processes.run_all(jobs(*kinds), main=fate, ended=lambda place, end: told.append(place))
    assert [end.status for end in ended] == [0, 7, -signal.SIGKILL, 0, -signal.SIGSEGV, 1, 0]
    assert [bool(end.said) for end in ended] == [kind == "says" for kind in kinds]
    assert ended[3].said["label"] == "[4/7]"
    assert told == list(range(7))
    assert children() == before


@pytest.mark.usefixtures("forked")
def test_a_job_whose_time_is_up_is_asked_and_then_killed(monkeypatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    with signals.deferred():
        asked, deaf, after = processes.run_all(jobs("waits", "deaf", "says"), main=fate, time_limit_s=4.0)
    assert (asked.status, asked.said["state"], asked.over_limit) == (143, "interrupted", True)
    assert (deaf.status, dict(deaf.said), deaf.over_limit) == (-signal.SIGKILL, {}, True)
    assert (after.status, after.over_limit) == (0, False)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_passed_on_and_no_other_job_starts(number):
    with signals.deferred():
        started = time.monotonic()

        def ended(place, end):
            os.kill(os.getpid(), number)  # after the first; the second may have been started already, or not

        first, *others = processes.run_all(jobs("says", "waits", "waits"), main=fate, ended=ended)
        assert signals.pending() == number
    assert first.status == 0
    assert [end.status for end in others] == [None, None]
    assert time.monotonic() - started < 30  # the others would wait for ever


def test_jobs_end_with_the_process_that_started_them(tmp_path):
    """A sweep that is killed leaves no process behind."""
    pid = os.fork()
    if pid == 0:
        try:

            def main(words):
                (tmp_path / "pid").write_text(str(os.getpid()))
                return fate(words)

            with signals.deferred():
                processes.run_all(jobs("deaf"), main=main)
        finally:
            os._exit(1)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    job = int((tmp_path / "pid").read_text())
    assert os.getpgid(job) == job  # what a terminal sends to the sweep's group does not reach it
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until(lambda: not is_running(job))


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
def test_jobs_at_once_share_the_threads(start, environment, small):
    process = start(
        *["run", "-m", *small, "metric=none", "train.epochs=1", "seed=0,1", "--at-once", "2"],
        more={"OMP_NUM_THREADS": "2"},
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "2 completed" in out
    runs = run_folders(environment)
    assert len(runs) == 2
    assert [json.loads((run / "env.json").read_text())["threads"] for run in runs] == ["1", "1"]
    first, second = (json.loads((run / "status.json").read_text())["attempts"][0] for run in runs)
    assert first["pid"] != second["pid"]
    assert second["started"] < first["ended"]
