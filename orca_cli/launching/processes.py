"""The jobs of a sweep, each in a process of its own: a crash in one does not affect the others.

A job is a command line. If this process is the program itself and nothing in it has started a thread or a GPU, the job is a
fork, which has all packages imported already; otherwise it is a new interpreter. A job reports how it ended through a pipe;
if it cannot, its exit status tells.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from orca_cli import signals, terminal
from orca_cli.exceptions import StorageError

GRACE_S = 60.0  # from the SIGTERM, upon which a job saves its state, to the SIGKILL
_LOOK_EVERY_S = 0.05
_MOST_SAID = 2**14  # bytes; fits into a pipe that nobody reads yet
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)

OPTION = "--job"

Main = Callable[[list[str]], int]


@dataclass(frozen=True)
class Job:
    """A command line of this program without the program's name; its command takes the option --job, see `Place`.

    `label` starts each line that it prints, such as "[2/6]".
    """

    label: str
    words: list[str]


@dataclass(frozen=True)
class Place:
    """What a job knows of its sweep.

    Args:
        pipe: where the job reports how it ended.
        parent: the sweep's process; the job ends with it.
        is_alone: no other job runs at the same time, so the job may draw on the terminal.
    """

    label: str
    pipe: int
    parent: int
    is_alone: bool

    @classmethod
    def read(cls, values: Sequence[str]) -> Place:
        """Return what the option's values mean."""
        label, pipe, parent, is_alone = values
        return cls(label, int(pipe), int(parent), bool(int(is_alone)))


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Args:
        status: exit code; -N if signal N ended it; None if it was not started.
        said: what it reported; empty if it could not.
        over_limit: it was stopped because it exceeded the time limit.
    """

    status: int | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    over_limit: bool = False


@dataclass
class _Running:
    place: int
    pipe: int
    deadline: float
    over_limit: bool = False


def run_all(
    jobs: Sequence[Job],
    *,
    main: Main | None,
    at_once: int = 1,
    time_limit_s: float | None = None,
    ended: Callable[[int, Ended], None] = lambda place, end: None,
    watch: Callable[[], int | None] = lambda: None,
) -> list[Ended]:
    """Run all jobs, and return how each ended, in their order.

    A signal that asks this process to stop is passed to the running jobs; they save their state, and no other is started.

    Args:
        jobs: what to run.
        main: the program's main function if this process may be forked; None starts interpreters.
        at_once: how many run at the same time; they share the threads.
        time_limit_s: a job that takes longer gets SIGTERM, and GRACE_S later SIGKILL.
        ended: called with a job's place and its end when it ends.
        watch: called many times a second while jobs run; a signal that it returns is passed to them, once.
    """
    result = [Ended() for _ in jobs]
    waiting = list(reversed(range(len(jobs))))
    running: dict[int, _Running] = {}
    threads = _shared_threads(at_once)
    passed_on = False
    with _stopped_together(running):
        while running or (waiting and not signals.pending()):
            while waiting and len(running) < at_once and not signals.pending():
                place = waiting.pop()
                pid, pipe = _start(jobs[place], main, threads)
                running[pid] = _Running(place, pipe, time.monotonic() + (time_limit_s or math.inf))
            number = watch() or signals.pending()
            if number and not passed_on:
                passed_on = True
                for pid in running:
                    os.kill(pid, number)
            for pid, job in list(running.items()):
                if time.monotonic() > job.deadline:
                    os.kill(pid, signal.SIGKILL if job.over_limit else signal.SIGTERM)
                    job.over_limit, job.deadline = True, time.monotonic() + GRACE_S
                end = _reaped(pid, job)
                if end is not None:
                    del running[pid]
                    result[job.place] = end
                    ended(job.place, end)
            time.sleep(_LOOK_EVERY_S if running else 0.0)
    return result


def _reaped(pid: int, job: _Running) -> Ended | None:
    """Return how a job ended; None if it is still running."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        return None
    os.set_blocking(job.pipe, False)  # a process that the job left behind may hold the other end open
    try:
        said = json.loads(os.read(job.pipe, _MOST_SAID))
    except (BlockingIOError, ValueError):
        said = {}
    os.close(job.pipe)
    return Ended(os.waitstatus_to_exitcode(status), said, job.over_limit)


def say(pipe: int, record: Mapping[str, Any]) -> None:
    """Report, in a job, how it ends, if the sweep still listens."""
    content = json.dumps(record).encode()
    if len(content) <= _MOST_SAID:
        try:
            os.write(pipe, content)
        except OSError as error:
            terminal.log.debug(f"the sweep does not listen: {error}")


def _start(job: Job, main: Main | None, threads: int | None) -> tuple[int, int]:
    """Start a job; returns its process and the end of its pipe that is read."""
    readable, writable = os.pipe()
    place = Place(job.label, writable, os.getpid(), is_alone=threads is None)
    words = [*job.words, OPTION, place.label, str(writable), str(place.parent), str(int(place.is_alone))]
    if threads is not None or sys.platform != "linux" or threading.active_count() > 1:
        main = None
    _flush()  # or a fork would write it once more
    signals.block()
    try:
        pid = os.fork()
        if pid == 0:
            _become(words, main, threads, place)
    except OSError as error:
        os.close(readable)
        raise StorageError(f"cannot start a process: {error}", hint="end other processes and retry") from error
    finally:
        os.close(writable)
        signals.unblock()
    return pid, readable


def _become(words: list[str], main: Main | None, threads: int | None, place: Place) -> NoReturn:
    """Turn a fork into the job. Signals are blocked until the job handles them."""
    code = 1
    try:
        os.setpgid(0, 0)  # the terminal's signals reach only the sweep, which passes them on once
        end_with_parent(place.parent)
        signals.reset_in_fork()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        torch = sys.modules.get("torch")
        # A GPU driver that was initialised before the fork does not work in it.
        if main is None or (torch is not None and torch.cuda._is_in_bad_fork()):
            # A new interpreter, with the same search path for modules.
            variables = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            if threads is not None:
                variables["OMP_NUM_THREADS"] = str(threads)
            os.set_inheritable(place.pipe, True)
            os.execve(sys.executable, [sys.executable, "-P", "-m", "orca_cli", *words], variables)
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        _flush()
        os._exit(code)


def end_with_parent(parent: int) -> None:
    """Kill this process when its parent, of that process id, ends: a killed sweep leaves no jobs behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def _shared_threads(at_once: int) -> int | None:
    """Return the threads of each of several jobs at once; None for a single one, which has the usual number."""
    if at_once == 1:
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, (int(given) if given.isdigit() else processors) // at_once)


@contextmanager
def _stopped_together(running: Mapping[int, Any]) -> Iterator[None]:
    """Stop and continue the jobs with this process, as Ctrl-Z does with the processes of a group."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        for pid in running:
            os.kill(pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        for pid in running:
            os.kill(pid, signal.SIGCONT)

    previous = signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, previous)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # None, lost or closed
            stream.flush()
