"""The driver with processes of this machine: how jobs end, what is tried again, signals, time limits."""

import faulthandler
import hashlib
import os
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from orca_cli import exceptions, signals
from orca_cli.launching import process
from orca_cli.launching.driver import RETRIES, Driver, Job
from orca_cli.launching.process import Command, Local, Place
from orca_cli.runs.directory import RunName

FATES = {"disk": exceptions.StorageError, "memory": exceptions.MemoryExhaustedError}


def fate(words):
    """Stand in for the program: a job that ends as its first word says, and notes down that it began."""
    place = Place.read(words[words.index(process.OPTION) + 1 :])
    kind, _, times = words[0].partition("*")
    notes = Path(words[1])
    with open(notes, "a") as file:
        file.write(f"{place.label}\n")
    begun = notes.read_text().splitlines().count(place.label)
    if times and begun > int(times):
        kind = "says"
    if kind == "says":
        process.report(
            place.pipe, {"state": "completed", "code": 0, "path": None, "label": place.label}
        )
        return 0
    if kind == "raises":
        raise ZeroDivisionError("on purpose")
    if kind.isdigit():
        raise SystemExit(int(kind))
    if kind in FATES:
        error = FATES[kind]("on purpose")
        process.report(place.pipe, process.failure_report(error))
        return error.code
    if kind in ("KILL", "SEGV"):
        faulthandler.disable()  # the tests' own
        os.kill(os.getpid(), signal.Signals[f"SIG{kind}"])
    with signals.deferred(insistent=False):
        an_hour_passes(notes)
        while not signals.pending():
            time.sleep(0.01)
        if kind == "deaf":
            an_hour_passes(notes)
            time.sleep(600)
        process.report(
            place.pipe, {"state": "interrupted", "code": signals.exit_code(), "path": None}
        )
    return signals.exit_code()


def an_hour_passes(notes):
    """Let a driver believe that; see `test_a_job_whose_time_is_up...`."""
    (notes.parent / f"hour-{os.getpid()}-{time.monotonic_ns()}").touch()


class Jobs:
    def __init__(self, folder, *kinds, time_limit_s=None, ended=lambda: None):
        self.notes, self.ends, self.on_end = folder / "notes", {}, ended
        names = [hashlib.sha256(bytes([number])).hexdigest() for number in range(len(kinds))]
        self.jobs = [
            Job(
                Command(f"[{number}]", [kind, str(self.notes)], time_limit_s=time_limit_s),
                folder / "runs",
                RunName("t", "b", "s", "m", "f", number, "clean", name, name, {}),
            )
            for number, (kind, name) in enumerate(zip(kinds, names, strict=True))
        ]
        self._left = list(self.jobs)

    def next(self):
        return self._left.pop(0) if self._left else None

    def watch(self, job):
        return False

    def ended(self, job, end):
        self.ends[job.command.label] = end
        self.on_end()

    def begun(self):
        return Counter(self.notes.read_text().split()) if self.notes.exists() else Counter()

    def in_order(self):
        return [self.ends.get(job.command.label) for job in self.jobs]


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Fork although other tests may have left threads in this process: these jobs wait for none of them."""
    monkeypatch.setattr(process.threading, "active_count", lambda: 1)


def drive(work, at_once=1, main=fate):
    with signals.deferred():
        Driver(work, Local(at_once, main), len(work.jobs)).run()
        return signals.pending()


def children():
    return {
        number
        for task in Path("/proc/self/task").iterdir()
        for number in (task / "children").read_text().split()
    }


def test_a_lost_job_is_tried_again_and_affects_no_other(tmp_path):
    before, work = (
        children(),
        Jobs(tmp_path, "says", "7", "KILL", "says", "SEGV", "raises", "KILL*2", "says"),
    )
    drive(work, at_once=2)
    ends = work.in_order()
    assert [end.status for end in ends] == [0, 7, -signal.SIGKILL, 0, -signal.SIGSEGV, 1, 0, 0]
    assert [bool(end.report) for end in ends] == [end.status == 0 for end in ends]
    always = 1 + RETRIES["lost"]  # a job that kills its process every time is given up
    assert [work.begun()[f"[{number}]"] for number in range(8)] == [
        1, 1, always, 1, always, 1, 3, 1,
    ]  # fmt: skip
    assert children() == before


def test_each_cause_has_its_count(tmp_path, monkeypatch):
    monkeypatch.setattr("orca_cli.launching.driver.PAUSE_S", {})
    monkeypatch.setitem(RETRIES, "preempted", 5)
    causes = {"disk": "storage", "memory": "memory", "75": "preempted"}
    work = Jobs(
        tmp_path,
        *(kind for name, cause in causes.items() for kind in (f"{name}*{RETRIES[cause]}", name)),
    )
    drive(work, at_once=2)
    ends, begun = work.in_order(), work.begun()
    for place, (name, cause) in enumerate(causes.items()):
        code = FATES[name].code if name in FATES else int(name)
        assert [end.status for end in ends[2 * place : 2 * place + 2]] == [0, code]
        assert [begun[f"[{2 * place + more}]"] for more in (0, 1)] == [RETRIES[cause] + 1] * 2


def test_a_job_over_its_time_limit_is_asked_then_killed(tmp_path, monkeypatch):
    hours = SimpleNamespace(
        monotonic=lambda: time.monotonic() + 3600 * len(list(tmp_path.glob("hour-*")))
    )
    monkeypatch.setattr(process, "time", hours)
    work = Jobs(tmp_path, "waits", "deaf", "says", time_limit_s=1800.0)
    drive(work)
    interrupted, deaf, after = work.in_order()
    assert (interrupted.status, interrupted.report["state"], interrupted.over_limit) == (
        143,
        "interrupted",
        True,
    )
    assert (deaf.status, dict(deaf.report), deaf.over_limit) == (-signal.SIGKILL, {}, True)
    assert (after.status, after.over_limit) == (0, False)
    assert set(work.begun().values()) == {1}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_a_signal_is_passed_on_and_no_other_job_starts(tmp_path, number, code):
    # After the first; the second has been started already. The others would wait for ever.
    work = Jobs(
        tmp_path,
        "says",
        "waits",
        "waits",
        ended=lambda: signals.pending() or os.kill(os.getpid(), number),
    )
    assert drive(work, at_once=2) == number
    first, second, third = work.in_order()
    assert first.status == 0
    assert third is None
    assert (second.status, second.report["state"]) == (code, "interrupted")


def test_jobs_end_with_the_process_that_started_them(tmp_path):
    """A driver that is killed leaves no process behind."""
    pid = os.fork()
    if pid == 0:
        try:

            def main(words):
                (tmp_path / "pid").write_text(str(os.getpid()))
                return fate(words)

            drive(Jobs(tmp_path, "deaf"), main=main)
        finally:
            os._exit(1)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    job = int((tmp_path / "pid").read_text())
    assert os.getpgid(job) == job  # what a terminal sends to the driver's group does not reach it
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until(lambda: not is_running(job))


def until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
