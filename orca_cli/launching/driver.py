"""The driver: takes jobs, has an executor run them, retries lost jobs, and passes signals on.

A job is a command line. The records and locks of the runs determine which runs are completed and
which process works on a run (`runs.claim`). After a driver was killed, its command can simply be
rerun. Several drivers may share one sweep: a driver skips a run that another process works on, and
checks it again until it has ended.
"""

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from orca_cli import exceptions, signals, terminal
from orca_cli.exceptions import FingerprintError, LockedError, OrcaError
from orca_cli.launching.process import LOOK_EVERY_S, Command, Ended
from orca_cli.runs import claim
from orca_cli.runs.directory import RunName

# Cause that ended a job -> number of retries. Any other cause is a failure.
RETRIES = {"lost": 3, "preempted": 100, "storage": 2, "memory": 1, "network": 3}
# Cause -> pause in seconds before the next attempt, which doubles each time.
PAUSE_S = {"storage": 5.0, "network": 5.0}
_BY_CODE = {
    exceptions.PreemptionError.code: "preempted",
    exceptions.StorageError.code: "storage",
    exceptions.MemoryExhaustedError.code: "memory",
    exceptions.NetworkError.code: "network",
}
# Seconds between checks of running jobs; checking may take at most a fifth of the time.
_WATCH_EVERY_S = 1.0
_WATCH_SHARE = 5
# Seconds between checks of a run that another process works on.
_ELSEWHERE_S = 2.0
_LINE_EVERY_S = 60.0


@dataclass(frozen=True)
class Job:
    """A run to be executed."""

    command: Command
    root: Path  # the folder of runs
    name: RunName


class Executor(Protocol):
    """Runs jobs somewhere: on this machine or on a cluster."""

    name: str
    at_once: float  # largest number of jobs at a time

    def start(self, commands: Sequence[Command]) -> list[Any]:
        """Start or submit commands; return a handle for each."""

    def ended(self, handle: Any) -> Ended | None:
        """Return how a job ended; None while it waits or runs."""

    def signal(self, handle: Any, number: int) -> None:
        """Pass a signal on to a job; withdraw a job that still waits."""


class Work(Protocol):
    """The source of jobs, which is also notified of their ends."""

    def next(self) -> Job | None:
        """Return the next job; None if no job may start before another one has ended."""

    def watch(self, job: Job) -> bool:
        """Return whether a running job has to be stopped."""

    def ended(self, job: Job, end: Ended) -> None:
        """Store the final end of a job, after which it is not retried."""


class _Running(NamedTuple):
    job: Job
    handle: Any  # the executor's handle of the job


class _Waiting(NamedTuple):
    moment: float  # time of the next attempt, on the monotonic clock
    job: Job


@dataclass
class Driver:
    """Has an executor run all jobs of its work, and logs progress once a minute."""

    work: Work
    executor: Executor
    total: int  # number of jobs
    _running: list[_Running] = field(default_factory=list)
    _waiting: list[_Waiting] = field(default_factory=list)
    # Identity of a run -> how often each cause has ended an attempt.
    _counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    # Identities of runs that the work has stopped.
    _stopped: set[str] = field(default_factory=set)
    # State -> number of jobs that have ended in this state.
    _ended: Counter[str] = field(default_factory=Counter)
    _is_signal_passed_on: bool = False
    _has_more: bool = True
    _next_watch: float = 0.0
    _next_line: float = field(default_factory=lambda: time.monotonic() + _LINE_EVERY_S)

    def run(self) -> None:
        """Run jobs until no job is left, or a signal has stopped all jobs.

        Raises:
            OrcaError: the executor or the work failed; the running jobs have been stopped.
        """
        try:
            while self._step():
                time.sleep(LOOK_EVERY_S)
        except OrcaError:
            # An executor that has failed cannot stop its jobs.
            with suppress(OrcaError):
                self._stop_all()
            raise

    def _stop_all(self) -> None:
        """Stop all running jobs, and wait until they have ended."""
        for _, handle in self._running:
            self.executor.signal(handle, signal.SIGTERM)
        while self._running:
            for running in list(self._running):
                if self.executor.ended(running.handle) is not None:
                    self._running.remove(running)
            time.sleep(LOOK_EVERY_S)

    def _step(self) -> bool:
        """Start jobs, handle those that ended, watch the others; return whether any job is left."""
        signal_number = signals.pending()
        if signal_number is None:
            self._start()
        elif not self._is_signal_passed_on:
            self._is_signal_passed_on = True
            for _, handle in self._running:
                self.executor.signal(handle, signal_number)
        self._take_ends()
        now = time.monotonic()
        if now > self._next_watch:
            self._watch()
            watched_s = time.monotonic() - now
            self._next_watch = time.monotonic() + max(_WATCH_EVERY_S, _WATCH_SHARE * watched_s)
        if self._running and now > self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self._log_counts()
        if self._running:
            return True
        return signals.pending() is None and (bool(self._waiting) or self._has_more)

    def _take_ends(self) -> None:
        """Handle the jobs that have ended, and schedule retries."""
        for running in list(self._running):
            end = self.executor.ended(running.handle)
            if end is None:
                continue
            self._running.remove(running)
            job = running.job
            is_stopped = job.name.identity in self._stopped or signals.pending() is not None
            if is_stopped or end.over_limit or not self._retry(job, end):
                self._end(job, end)

    def _watch(self) -> None:
        """Stop the running jobs that the work no longer needs."""
        for job, handle in self._running:
            if job.name.identity not in self._stopped and self.work.watch(job):
                self._stopped.add(job.name.identity)
                self.executor.signal(handle, signal.SIGTERM)

    def _log_counts(self) -> None:
        counts = self._ended | Counter(running=len(self._running), waiting=len(self._waiting))
        progress = ", ".join(f"{count} {state}" for state, count in counts.items())
        terminal.log.info(f"jobs: {progress}; {self.total} in total")

    def _start(self) -> None:
        """Give the executor as many jobs as it accepts, first those that are due for a retry."""
        jobs_to_start: list[Job] = []
        due_retries = [waiting for waiting in self._waiting if waiting.moment <= time.monotonic()]
        while len(self._running) + len(jobs_to_start) < self.executor.at_once:
            if due_retries:
                waiting = due_retries.pop(0)
                self._waiting.remove(waiting)
                job: Job | None = waiting.job
            else:
                job = self.work.next()
            if job is None:
                self._has_more = False
                break
            if not self._is_elsewhere(job):
                jobs_to_start.append(job)
        if not jobs_to_start:
            return
        handles = self.executor.start([job.command for job in jobs_to_start])
        for job, handle in zip(jobs_to_start, handles, strict=True):
            self._running.append(_Running(job, handle))

    def _is_elsewhere(self, job: Job) -> bool:
        """Return whether another process works on a job's run, or has completed it by now."""
        state = claim.peek(job.root, job.name, force="--force" in job.command.words)
        if state == "running":
            self._pass_over(job)
            return True
        if state != "completed" or job.name.identity not in self._counts:
            return False
        completed_run = claim.look(job.root, job.name)
        if completed_run is None:
            return False
        # Another process has completed the run while this driver was waiting.
        report = {"state": "skipped", "code": 0, "path": str(completed_run.path)}
        self._end(job, Ended(status=0, report=report))
        return True

    def _end(self, job: Job, end: Ended) -> None:
        self._has_more = True
        self.work.ended(job, end)
        state = str(end.report.get("state") or "failed")
        self._ended[state] += 1

    def _pass_over(self, job: Job) -> None:
        """Schedule another check of a run that another process works on."""
        counts = self._counts[job.name.identity]
        if not counts["elsewhere"]:
            label = job.command.label
            terminal.log.info(
                f"{label} another process works on this run; continuing with the other runs"
            )
        counts["elsewhere"] += 1
        next_look = time.monotonic() + _ELSEWHERE_S
        self._waiting.append(_Waiting(next_look, job))

    def _retry(self, job: Job, end: Ended) -> bool:
        """Schedule a retry unless the job itself has failed; return whether one is scheduled."""
        counts = self._counts[job.name.identity]
        status = end.status or 0
        if status == LockedError.code:
            self._pass_over(job)
            return True
        is_moved = self.executor.name != "local" or any(counts[cause] for cause in RETRIES)
        if status == FingerprintError.code and is_moved and not counts["restarted"]:
            counts["restarted"] += 1
            self._restart(job)
            return True
        cause = "lost" if end.lost or status < 0 else _BY_CODE.get(status, "")
        if not cause or counts[cause] >= RETRIES[cause]:
            return False
        counts[cause] += 1
        label = job.command.label
        plan = f"starting the run again (retry {counts[cause]} of at most {RETRIES[cause]})"
        terminal.log.warning(f"{label} {_reason(end)}; {plan}")
        pause_s = PAUSE_S.get(cause, 0.0) * 2 ** (counts[cause] - 1)
        next_try = time.monotonic() + pause_s
        self._waiting.append(_Waiting(next_try, job))
        return True

    def _restart(self, job: Job) -> None:
        """Schedule a job that starts its run again, since it cannot resume on another machine."""
        command = job.command
        terminal.log.warning(
            f"{command.label} the run cannot be resumed exactly on another machine, whose"
            " processor, threads, packages or program differ; starting the run again"
        )
        forced_command = replace(command, words=[*command.words, "--force"])
        self._waiting.append(_Waiting(0.0, replace(job, command=forced_command)))


def _reason(end: Ended) -> str:
    """Return the reason why a job has ended, in words."""
    if end.lost:
        return end.lost
    error = end.report.get("error") or {}
    message = error.get("what")
    if message:
        return str(message)
    status = end.status or 0
    if status < 0:
        signal_name = signal.Signals(-status).name
        return f"the run's process was killed by {signal_name}"
    return f"exit code {status}"
