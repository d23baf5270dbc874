"""The driver: takes jobs, has an executor run them, watches them, retries what was lost, and passes signals on.

A job is a command line; which runs are done, and who works on one, is decided by the runs' own records and locks
(`runs.claim`). So the command of a killed driver is simply rerun, and several drivers may share one sweep: a run that
another process works on is passed over, and looked at again until it has ended.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orca_cli import exceptions, signals, terminal
from orca_cli.exceptions import FingerprintError, LockedError, OrcaError
from orca_cli.launching.process import LOOK_EVERY_S, Command, Ended
from orca_cli.runs import claim
from orca_cli.runs.claim import Activity, activity
from orca_cli.runs.directory import RunName

# Retries of a job, by what ended it. Any other cause is a failure.
RETRIES = {"lost": 3, "preempted": 100, "storage": 2, "memory": 1, "network": 3}
PAUSE_S = {"storage": 5.0, "network": 5.0}  # before the next try; doubled each time
_BY_CODE = {
    exceptions.PreemptionError.code: "preempted",
    exceptions.StorageError.code: "storage",
    exceptions.MemoryExhaustedError.code: "memory",
    exceptions.NetworkError.code: "network",
}
_READ_EVERY_S = 1.0  # the records of running jobs
_ELSEWHERE_S = 2.0  # between looks at a run that another process works on
_HEADERS = ("job", "where", "stage", "step", "error so far")
_MOST_ROWS = 20
_LINE_EVERY_S = 60.0


@dataclass(frozen=True)
class Job:
    """One run to be done.

    Args:
        command: what to run.
        root: folder of all runs.
        name: of the run.
        settings: what distinguishes it from the others, in words.
    """

    command: Command
    root: Path
    name: RunName
    settings: str = ""

    @property
    def is_forced(self) -> bool:
        """Return whether it is to be run although it is completed."""
        return "--force" in self.command.words


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
        """Return the next job; None if there is none until another one has ended."""

    def watch(self, job: Job, seen: Activity) -> bool:
        """Look at a running job; returns whether it is to be stopped."""

    def ended(self, job: Job, end: Ended) -> None:
        """Take the final end of a job, which is not retried any more."""


@dataclass
class Table:
    """What is shown of a sweep or a search: drawn anew on a terminal; in a file, a line now and then.

    Args:
        total: how many jobs there are; 0 if that is not known.
        is_drawn: on a terminal, where nothing else is written meanwhile.
    """

    total: int
    is_drawn: bool = False
    ended: Counter[str] = field(default_factory=Counter)  # by state
    _live: Live | None = None
    _next_line: float = field(default_factory=lambda: time.monotonic() + _LINE_EVERY_S)

    @contextmanager
    def shown(self) -> Iterator[Table]:
        """Draw it inside the block."""
        if not self.is_drawn:
            yield self
            return
        handlers = [one for one in terminal.log.handlers if isinstance(one, logging.StreamHandler)]
        # No thread of its own: with one, jobs could not be forked.
        with Live(console=Console(file=sys.stderr, highlight=False), auto_refresh=False, transient=True) as self._live:
            before = [one.setStream(sys.stderr) for one in handlers]  # so that lines of the log stand above the table
            try:
                yield self
            finally:
                for one, stream in zip(handlers, before, strict=True):
                    one.setStream(stream)

    def show(self, rows: Sequence[Sequence[str]], waiting: int) -> None:
        """Show the running jobs.

        Args:
            rows: of them, with the cells of _HEADERS.
            waiting: how many wait to be tried again, or for another process.
        """
        words = [f"{count} {state}" for state, count in self.ended.items()] + [f"{len(rows)} running"]
        words += [f"{waiting} waiting for a retry or for another process"] * bool(waiting)
        text = f"{', '.join(words)}{f' of {self.total}' if self.total else ''}"
        if self._live is not None:
            with suppress(OSError):  # a terminal that was closed
                drawn = Group(terminal.table(_HEADERS, rows[:_MOST_ROWS]), Text(text))
                self._live.update(drawn, refresh=True)
        elif rows and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            for line in (text, *("  ".join(filter(None, row)) for row in rows[:_MOST_ROWS])):
                terminal.log.info(line)


@dataclass
class _Attempt:
    job: Job
    handle: Any
    is_stopped: bool = False


@dataclass
class Driver:
    """Does all of some work, where an executor runs jobs; a table shows how far they are."""

    work: Work
    executor: Executor
    table: Table
    _running: list[_Attempt] = field(default_factory=list)
    _waiting: list[tuple[float, Job]] = field(default_factory=list)  # (moment of the next try, job)
    # By the run's identity: how often each cause has ended an attempt.
    _counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
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
                is_final = attempt.is_stopped or end.over_limit or signals.pending() is not None
                if is_final or not self._again(attempt.job, end):
                    self._end(attempt.job, end)
        if time.monotonic() > self._next_read:
            begun = time.monotonic()
            self.table.show([self._look(attempt) for attempt in self._running], len(self._waiting))
            self._next_read = time.monotonic() + max(_READ_EVERY_S, 5 * (time.monotonic() - begun))
        return bool(self._running) or (signals.pending() is None and (bool(self._waiting) or self._has_more))

    def _start(self) -> None:
        """Give the executor as many jobs as it takes."""
        jobs: list[Job] = []
        due = [one for one in self._waiting if one[0] <= time.monotonic()]
        while len(self._running) + len(jobs) < self.executor.at_once:
            job = due[0][1] if due else self.work.next()
            if job is None:
                self._has_more = False
                break
            if due:
                self._waiting.remove(due.pop(0))
            state = claim.peek(job.root, job.name, force=job.is_forced)
            run = claim.look(job.root, job.name) if state == "completed" and job.name.identity in self._counts else None
            if state == "running":
                self._pass_over(job)
            elif run is not None:  # by another process meanwhile
                self._end(job, Ended(0, {"state": "skipped", "code": 0, "path": str(run.path)}))
            else:
                jobs.append(job)
        handles = self.executor.start([job.command for job in jobs]) if jobs else []
        self._running += [_Attempt(job, handle) for job, handle in zip(jobs, handles, strict=True)]

    def _end(self, job: Job, end: Ended) -> None:
        self._has_more = True
        self.work.ended(job, end)
        self.table.ended[str(end.report.get("state") or "failed")] += 1

    def _pass_over(self, job: Job) -> None:
        """Put a job back until the process that works on its run may have ended."""
        counts = self._counts[job.name.identity]
        if not counts["elsewhere"]:
            terminal.log.info(f"{job.command.label} another process works on this run; going on with the others")
        counts["elsewhere"] += 1
        self._waiting.append((time.monotonic() + _ELSEWHERE_S, job))

    def _again(self, job: Job, end: Ended) -> bool:
        """Schedule a retry unless the job itself failed; returns whether one is scheduled."""
        counts = self._counts[job.name.identity]
        is_moved = self.executor.name != "local" or any(counts[cause] for cause in RETRIES)
        if end.status == LockedError.code:
            self._pass_over(job)
            return True
        if end.status == FingerprintError.code and is_moved and not counts["restarted"]:
            counts["restarted"] += 1
            text = "cannot be resumed exactly there (other processor, threads or packages): starting the run again"
            terminal.log.warning(f"{job.command.label} {text}")
            command = replace(job.command, words=[*job.command.words, "--force"])
            self._waiting.append((0.0, replace(job, command=command)))
            return True
        is_lost = bool(end.lost) or (end.status is not None and end.status < 0)
        cause = "lost" if is_lost else _BY_CODE.get(end.status or 0, "")
        if not cause or counts[cause] >= RETRIES[cause]:
            return False
        counts[cause] += 1
        again = f"trying it again ({counts[cause]} of {RETRIES[cause]} times)"
        reason = end.lost or str((end.report.get("error") or {}).get("what") or f"exit code {end.status}")
        if not end.lost and end.status is not None and end.status < 0:
            reason = f"its process was killed by {signal.Signals(-end.status).name}"
        terminal.log.warning(f"{job.command.label} {reason}; {again}")
        pause_s = PAUSE_S.get(cause, 0.0) * 2 ** (counts[cause] - 1)
        self._waiting.append((time.monotonic() + pause_s, job))
        return True

    def _look(self, attempt: _Attempt) -> list[str]:
        """Look at a running job, and stop it if the work says so; returns its row of the table."""
        job = attempt.job
        label = f"{job.command.label} {job.settings}".strip()
        if (seen := activity(job.root, job.name)) is None:
            return [label, "", "waiting", "", ""]
        if not attempt.is_stopped and self.work.watch(job, seen):
            attempt.is_stopped = True
            self.executor.signal(attempt.handle, signal.SIGTERM)
        step = f"{seen.step}/{seen.steps}" if seen.steps else ""
        return [label, seen.host, seen.stage, step, "" if seen.error is None else f"{seen.error:.4g}"]
