"""The driver: takes jobs, has an executor run them, counts them, retries what was lost, and passes signals on.

A job is a command line; which runs are done, and who works on one, is decided by the runs' own records and locks
(`runs.claim`). So the command of a killed driver is simply rerun, and several drivers may share one sweep: a run that
another process works on is passed over, and looked at again until it has ended.
"""

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from orca_cli import exceptions, signals, terminal
from orca_cli.exceptions import FingerprintError, LockedError, OrcaError
from orca_cli.launching.process import LOOK_EVERY_S, Command, Ended
from orca_cli.runs import claim
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
_WATCH_EVERY_S = 1.0  # running jobs
_ELSEWHERE_S = 2.0  # between looks at a run that another process works on
_LINE_EVERY_S = 60.0


@dataclass(frozen=True)
class Job:
    """One run to be done."""

    command: Command
    root: Path  # folder of its run and others
    name: RunName


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

    def watch(self, job: Job) -> bool:
        """Look at a running job; returns whether it is to be stopped."""

    def ended(self, job: Job, end: Ended) -> None:
        """Take the final end of a job, which is not retried any more."""


@dataclass
class Driver:
    """Does all of some work, where an executor runs jobs; says now and then how far they are."""

    work: Work
    executor: Executor
    total: int  # jobs
    _running: list[tuple[Job, Any]] = field(default_factory=list)  # with the executor's handles
    _waiting: list[tuple[float, Job]] = field(default_factory=list)  # (moment of the next try, job)
    # By the run's identity: how often each cause has ended an attempt.
    _counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _stopped: set[str] = field(default_factory=set)  # by the work; identities
    _ended: Counter[str] = field(default_factory=Counter)  # by state
    _is_passed_on: bool = False
    _has_more: bool = True
    _next_watch: float = 0.0
    _next_line: float = field(default_factory=lambda: time.monotonic() + _LINE_EVERY_S)

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
                for _, handle in self._running:
                    self.executor.signal(handle, signal.SIGTERM)
                while self._running:
                    self._running = [
                        one for one in self._running if self.executor.ended(one[1]) is None
                    ]
                    time.sleep(LOOK_EVERY_S)
            raise

    def _step(self) -> bool:
        """Start, watch and end what there is; returns whether anything is left."""
        number = signals.pending()
        if number is None:
            self._start()
        elif not self._is_passed_on:
            self._is_passed_on = True
            for _, handle in self._running:
                self.executor.signal(handle, number)
        for job, handle in list(self._running):
            if (end := self.executor.ended(handle)) is not None:
                self._running.remove((job, handle))
                is_final = (
                    job.name.identity in self._stopped
                    or end.over_limit
                    or signals.pending() is not None
                )
                if is_final or not self._again(job, end):
                    self._end(job, end)
        if (begun := time.monotonic()) > self._next_watch:
            for job, handle in self._running:
                if job.name.identity not in self._stopped and self.work.watch(job):
                    self._stopped.add(job.name.identity)
                    self.executor.signal(handle, signal.SIGTERM)
            self._next_watch = time.monotonic() + max(
                _WATCH_EVERY_S, 5 * (time.monotonic() - begun)
            )
        if self._running and begun > self._next_line:
            self._next_line = begun + _LINE_EVERY_S
            counts = self._ended | Counter(running=len(self._running), waiting=len(self._waiting))
            terminal.log.info(
                f"{', '.join(f'{count} {state}' for state, count in counts.items())} of {self.total}"
            )
        return bool(self._running) or (
            signals.pending() is None and (bool(self._waiting) or self._has_more)
        )

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
            state = claim.peek(job.root, job.name, force="--force" in job.command.words)
            run = (
                claim.look(job.root, job.name)
                if state == "completed" and job.name.identity in self._counts
                else None
            )
            if state == "running":
                self._pass_over(job)
            elif run is not None:  # by another process meanwhile
                self._end(job, Ended(0, {"state": "skipped", "code": 0, "path": str(run.path)}))
            else:
                jobs.append(job)
        handles = self.executor.start([job.command for job in jobs]) if jobs else []
        self._running += zip(jobs, handles, strict=True)

    def _end(self, job: Job, end: Ended) -> None:
        self._has_more = True
        self.work.ended(job, end)
        self._ended[str(end.report.get("state") or "failed")] += 1

    def _pass_over(self, job: Job) -> None:
        """Put a job back until the process that works on its run may have ended."""
        counts = self._counts[job.name.identity]
        if not counts["elsewhere"]:
            terminal.log.info(
                f"{job.command.label} another process works on this run; going on with the others"
            )
        counts["elsewhere"] += 1
        self._waiting.append((time.monotonic() + _ELSEWHERE_S, job))

    def _again(self, job: Job, end: Ended) -> bool:
        """Schedule a retry unless the job itself failed; returns whether one is scheduled."""
        counts, status = self._counts[job.name.identity], end.status or 0
        is_moved = self.executor.name != "local" or any(counts[cause] for cause in RETRIES)
        if status == LockedError.code:
            self._pass_over(job)
            return True
        if status == FingerprintError.code and is_moved and not counts["restarted"]:
            counts["restarted"] += 1
            text = "cannot be resumed exactly there (other processor, threads, packages or program): starting the run again"
            terminal.log.warning(f"{job.command.label} {text}")
            command = replace(job.command, words=[*job.command.words, "--force"])
            self._waiting.append((0.0, replace(job, command=command)))
            return True
        cause = "lost" if end.lost or status < 0 else _BY_CODE.get(status, "")
        if not cause or counts[cause] >= RETRIES[cause]:
            return False
        counts[cause] += 1
        killed = (
            f"its process was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"exit code {status}"
        )
        reason = end.lost or (end.report.get("error") or {}).get("what") or killed
        again = f"trying it again ({counts[cause]} of {RETRIES[cause]} times)"
        terminal.log.warning(f"{job.command.label} {reason}; {again}")
        pause_s = PAUSE_S.get(cause, 0.0) * 2 ** (counts[cause] - 1)
        self._waiting.append((time.monotonic() + pause_s, job))
        return True
