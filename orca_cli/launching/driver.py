"""The driver: takes jobs, has an executor run them, watches them, tries again what was lost, and passes signals on.

A job is a command line; which runs are done, and who works on one, is decided by the runs' own records and locks
(`runs.claim`). So a driver that was killed is typed again, and several drivers may share one sweep: a run that another
process works on is passed over, and looked at again until it has ended.
"""

from __future__ import annotations

import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from orca_cli import exceptions, signals, terminal
from orca_cli.exceptions import LockedError, OrcaError
from orca_cli.launching.process import LOOK_EVERY_S, Command, Ended
from orca_cli.launching.table import Row, Table
from orca_cli.runs import claim
from orca_cli.runs.activity import Activity, activity
from orca_cli.runs.directory import RunName

# How often a job is tried again, by what ended it. Whatever is not named here is a failure.
RETRIES = {"lost": 3, "preempted": 100, "storage": 2, "memory": 1, "network": 3}
_BY_CODE = {
    exceptions.PreemptionError.code: "preempted",
    exceptions.StorageError.code: "storage",
    exceptions.MemoryExhaustedError.code: "memory",
    exceptions.NetworkError.code: "network",
}
PAUSE_S = {"storage": 5.0, "network": 5.0}  # before the next try; doubled each time
_READ_EVERY_S = 1.0  # the records of running jobs
_ELSEWHERE_S = 2.0  # between looks at a run that another process works on


@dataclass(frozen=True)
class Job:
    """One run to be done.

    Args:
        command: what to run.
        root: folder of all runs.
        name: of the run.
        settings: what distinguishes it from the others, in words.
        is_forced: it is to be run although it is completed.
    """

    command: Command
    root: Path
    name: RunName
    settings: str = ""
    is_forced: bool = False


class Executor(Protocol):
    """Where jobs run."""

    name: str
    at_once: float  # jobs that are given to it at a time

    def start(self, commands: Sequence[Command]) -> list[Any]:
        """Start or submit some commands; returns a handle for each."""

    def ended(self, handle: Any) -> Ended | None:
        """Return how a job ended; None while it waits or runs."""

    def signal(self, handle: Any, number: int) -> None:
        """Pass a signal on to a job; one that waits is withdrawn."""


class Work(Protocol):
    """Where jobs come from, and what becomes of them."""

    def next(self) -> Job | None:
        """Return the next job; None if there is none now."""

    def watch(self, job: Job, seen: Activity) -> bool:
        """Look at a running job; returns whether it is to be stopped."""

    def ended(self, job: Job, end: Ended) -> None:
        """Take how a job ended, after which it is not tried again."""


@dataclass
class _Attempt:
    job: Job
    handle: Any
    is_stopped: bool = False
    first_seen: tuple[str, int, float] | None = None  # stage, step and moment, from which the time left is estimated


@dataclass
class _Waiting:
    job: Job
    until: float


@dataclass
class Driver:
    """Does all of some work.

    Args:
        work: the jobs.
        executor: where they run.
        table: how far they are.
    """

    work: Work
    executor: Executor
    table: Table
    _running: list[_Attempt] = field(default_factory=list)
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _tried: dict[str, Counter[str]] = field(default_factory=dict)  # by the run's identity: what has ended its attempts
    _is_passed_on: bool = False
    _has_more: bool = True
    _next_read: float = 0.0

    def run(self) -> None:
        """Return once there is no job left, or a signal has stopped them all.

        Raises:
            OrcaError: of the executor or of the work; the jobs that run are stopped before.
        """
        try:
            while self._step():
                time.sleep(LOOK_EVERY_S)
        except OrcaError:
            with suppress(OrcaError):  # of an executor that is gone
                for attempt in self._running:
                    self.executor.signal(attempt.handle, signal.SIGTERM)
                while self._running:
                    self._running = [one for one in self._running if self.executor.ended(one.handle) is None]
                    time.sleep(LOOK_EVERY_S)
            raise

    def _step(self) -> bool:
        """Start, watch and end what there is; returns whether anything is left."""
        number = signals.pending()
        if number is None:
            self._start()
        elif not self._is_passed_on:
            self._is_passed_on = True
            for attempt in self._running:
                self.executor.signal(attempt.handle, number)
        for attempt in list(self._running):
            if (end := self.executor.ended(attempt.handle)) is not None:
                self._running.remove(attempt)
                self._end(attempt.job, end, is_final=attempt.is_stopped)
        self._read()
        return bool(self._running) or (signals.pending() is None and (bool(self._waiting) or self._has_more))

    def _start(self) -> None:
        now = time.monotonic()
        jobs: list[Job] = []
        due = [one for one in self._waiting if one.until <= now]
        while len(self._running) + len(jobs) < self.executor.at_once:
            job: Job | None
            if due:
                self._waiting.remove(waiting := due.pop(0))
                job = waiting.job
            else:
                job = self.work.next()
            if job is None:
                self._has_more = False  # until one has ended
                break
            state = claim.peek(job.root, job.name, force=job.is_forced)
            if state == "running":
                self._pass_over(job)
            elif state == "completed" and job.name.identity in self._tried and (run := claim.look(job.root, job.name)):
                self._end(job, Ended(0, {"state": "skipped", "code": 0, "path": str(run.path)}))  # by another process
            else:
                jobs.append(job)
        handles = self.executor.start([job.command for job in jobs]) if jobs else []
        self._running += [_Attempt(job, handle) for job, handle in zip(jobs, handles, strict=True)]

    def _pass_over(self, job: Job) -> None:
        """Come back to a job when the process that works on its run may have ended."""
        counts = self._tried.setdefault(job.name.identity, Counter())
        if not counts["elsewhere"]:
            terminal.log.info(f"{job.command.label} another process works on this run; going on with the others")
        counts["elsewhere"] += 1
        self._waiting.append(_Waiting(job, time.monotonic() + _ELSEWHERE_S))

    def _end(self, job: Job, end: Ended, *, is_final: bool = False) -> None:
        """Try a job again, or hand its end over."""
        if signals.pending() is None and not (is_final or end.over_limit):
            counts = self._tried.setdefault(job.name.identity, Counter())
            if end.status == LockedError.code:
                self._pass_over(job)
                return
            if self._must_restart(end, counts):
                text = "cannot be resumed exactly there (other processor, threads or packages): starting the run again"
                terminal.log.warning(f"{job.command.label} {text}")
                command = replace(job.command, words=[*job.command.words, "--force"])
                self._waiting.append(_Waiting(replace(job, command=command, is_forced=True), 0.0))
                return
            cause = _cause(end)
            if cause and counts[cause] < RETRIES[cause]:
                counts[cause] += 1
                pause = PAUSE_S.get(cause, 0.0) * 2 ** (counts[cause] - 1)
                again = f"trying it again ({counts[cause]} of {RETRIES[cause]} times)"
                terminal.log.warning(f"{job.command.label} {_reason(end, cause)}; {again}")
                self._waiting.append(_Waiting(job, time.monotonic() + pause))
                return
        self._has_more = True
        self.work.ended(job, end)
        self.table.end(end)

    def _must_restart(self, end: Ended, counts: Counter[str]) -> bool:
        """Return whether a run cannot be resumed where the executor has put it, which is not the user's choice."""
        if end.status != exceptions.FingerprintError.code or counts["restarted"]:
            return False
        counts["restarted"] += 1
        return self.executor.name != "local" or any(counts[cause] for cause in RETRIES)

    def _read(self) -> None:
        """Read how far the running jobs are, show it, and stop those that are to be stopped."""
        now = time.monotonic()
        if now < self._next_read:
            return
        rows = []
        for attempt in self._running:
            job = attempt.job
            seen = activity(job.root, job.name)
            if seen is None:
                rows.append(Row(job.command.label, job.settings))
                continue
            if not attempt.is_stopped and self.work.watch(job, seen):
                attempt.is_stopped = True
                self.executor.signal(attempt.handle, signal.SIGTERM)
            left = _left_s(attempt, seen, now)
            rows.append(
                Row(job.command.label, job.settings, seen.host, seen.stage, seen.step, seen.steps, seen.error, left)
            )
        self.table.show(rows, len(self._waiting))
        self._next_read = time.monotonic() + max(_READ_EVERY_S, 5 * (time.monotonic() - now))


def _left_s(attempt: _Attempt, seen: Activity, now: float) -> float | None:
    """Return the seconds until the stage ends, by the pace since it was first seen; None while unknown."""
    if attempt.first_seen is None or attempt.first_seen[0] != seen.stage:
        attempt.first_seen = (seen.stage, seen.step, now)
    done = seen.step - attempt.first_seen[1]
    return (now - attempt.first_seen[2]) / done * (seen.steps - seen.step) if done > 0 and seen.steps else None


def _cause(end: Ended) -> str:
    """Return which entry of RETRIES an end belongs to; empty if to none."""
    if end.lost or (end.status is not None and end.status < 0):
        return "lost"
    return "" if end.status is None else _BY_CODE.get(end.status, "")


def _reason(end: Ended, cause: str) -> str:
    if end.lost:
        return end.lost
    if end.status is not None and end.status < 0:
        return f"its process was killed by {signal.Signals(-end.status).name}"
    error = end.report.get("error") or {}
    return str(error.get("what") or f"{cause} (exit code {end.status})")
