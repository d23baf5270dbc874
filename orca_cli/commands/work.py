"""What a worker does: lease a job, run it in a process of its own, record how that ended, and take the next."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from orca_cli import compose, experiment, signals, storage, terminal
from orca_cli.commands.job import outcome_of, program_to_fork, words_of
from orca_cli.commands.summary import job_row
from orca_cli.compose import Composed, Session
from orca_cli.exceptions import ConfigError, LockedError, OrcaError, StorageError, SweepError
from orca_cli.launching import processes
from orca_cli.launching.queue import Lease, Queue
from orca_cli.outcome import Outcome, ended_by
from orca_cli.runs import claim
from orca_cli.terminal import Result, log

_LOOK_EVERY_S = 5.0  # for jobs that others give back
_DONE = ("completed", "skipped")


@dataclass
class _Worker:
    queue: Queue
    session: Session
    arguments: argparse.Namespace
    main: processes.Main | None
    ended: list[tuple[int, Outcome]] = field(default_factory=list)
    # Job that a process without a lease does -> when to look again.
    busy: dict[int, float] = field(default_factory=dict)

    def next(self) -> Lease | None:
        """Lease a job, or wait for one; None if there is none left for this worker."""
        look_every_s = min(_LOOK_EVERY_S, self.arguments.lease / 3)
        while True:
            signals.check()
            now = time.monotonic()
            self.busy = {number: until for number, until in self.busy.items() if until > now}
            lease = self.queue.lease(self.arguments.retries, self.arguments.lease, self.busy)
            if lease is not None:
                return lease
            is_leased = any(state.kind == "leased" for state in self.queue.states())
            if not self.arguments.wait or not (is_leased or self.busy):
                return None
            time.sleep(look_every_s)

    def do(self, lease: Lease) -> None:
        """Do the job of a lease.

        Raises:
            InterruptionError: a signal asked this process to stop; the job is given back.
            ConfigError: the job is another experiment on this machine.
            StorageError: the disk refuses; the job is given back.
        """
        try:
            outcome = self._outcome(lease)
        except OrcaError:
            lease.release()
            raise
        if outcome is None:  # another process does it
            lease.release()
            return
        self.ended.append((lease.number, outcome))
        if outcome.state in _DONE:
            lease.end("done", {"run": None if outcome.path is None else outcome.path.name})
        elif outcome.failure is None or isinstance(outcome.failure.error, StorageError):
            lease.release()
            raise (
                outcome.failure.error if outcome.failure else SweepError("a job was not started", where=self.queue.name)
            )
        else:
            error = outcome.failure.error
            lease.end("failed", {"error": str(error), "code": error.code})

    def _outcome(self, lease: Lease) -> Outcome | None:
        """Return how a job ended; None if another process does it, or now has the lease."""
        job = self.queue.jobs[lease.number - 1]
        label = f"[{lease.number}/{len(self.queue.jobs)}]"
        try:
            composed = self.session.compose(job.overrides)
        except OrcaError as error:
            terminal.print_error(f"{label} orca: error: {error}")
            return ended_by(error)
        self._check(composed, lease.number)
        root, name = self.queue.root, experiment.run_name(composed)
        state = claim.peek(root, name)
        if state == "completed" and (run := claim.look(root, name)) is not None:
            return Outcome("skipped", path=run.path, result=run.result())
        if state == "running":
            self._pass_over(lease, f"{label} a process without a lease works on it")
            return None
        watch = _Watch(lease, label)
        words = words_of(job.overrides, self.arguments)
        (end,) = processes.run_all([processes.Job(label, words)], main=self.main, watch=watch)
        outcome = outcome_of(end)
        if outcome.state in _DONE:
            return outcome
        if watch.is_lost:
            return None
        signals.check()
        if outcome.failure is not None and isinstance(outcome.failure.error, LockedError):
            self._pass_over(lease, f"{label} {outcome.failure.error}")
            return None
        if outcome.failure is not None and not end.said:
            terminal.print_error(f"{label} orca: error: {outcome.failure.error}")
        return outcome

    def _check(self, composed: Composed, number: int) -> None:
        """Refuse a job that is not the one that was put into the folder, because its files or this program differ here."""
        where = f"job {number} of {self.queue.name}"
        if composed.identity.run != self.queue.jobs[number - 1].identity:
            hint = f"start the worker in {self.queue.typed_in} or one like it, with the same data files, options and program"
            raise ConfigError("is another experiment on this machine", where=where, hint=hint)
        runs = Path(composed.config.paths.runs or "").absolute()
        if runs != self.queue.root:
            what = f"its run would go to {runs}, not to {self.queue.root}"
            raise ConfigError(what, where=where, hint="see paths.runs")

    def _pass_over(self, lease: Lease, text: str) -> None:
        log.info(f"{text}; going on with another")
        self.busy[lease.number] = time.monotonic() + min(_LOOK_EVERY_S, lease.lease_s / 3)


class _Watch:
    """Renews a lease while its job runs; once it is lost, asks the job to save its state and stop."""

    def __init__(self, lease: Lease, label: str) -> None:
        self.is_lost = False
        self._lease, self._label, self._next = lease, label, 0.0

    def __call__(self) -> int | None:
        """Return the signal for the job; None while the lease is held."""
        if self.is_lost or time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + self._lease.renew_every_s
        try:
            self.is_lost = not self._lease.renew()
        except OrcaError as error:  # a server that is away for a moment
            log.warning(f"{self._label} its lease could not be renewed: {error}")
        if not self.is_lost:
            return None
        log.warning(
            f"{self._label} its lease was not renewed in time, and was taken away: stopping the job if it still runs"
        )
        return signal.SIGTERM


def work(queue: Queue, arguments: argparse.Namespace) -> Result:
    """Work until no job is left.

    Raises:
        InterruptionError, ConfigError, StorageError: as for `_Worker.do`.
    """
    os.environ["ORCA_RUNS"] = str(queue.root)  # wherever this machine has it; the jobs inherit it
    storage.check_writable(queue.folder / "jobs")
    main = program_to_fork(arguments)
    with compose.session(arguments.config_dir) as session:
        worker = _Worker(queue, session, arguments, main)
        failure: OrcaError | None = None
        try:
            while (lease := worker.next()) is not None:
                worker.do(lease)
        except OrcaError as stop:
            failure = stop
    return _result(worker, failure)


def _result(worker: _Worker, failure: OrcaError | None) -> Result:
    queue, retries = worker.queue, worker.arguments.retries
    rows, jobs = [], []
    for number, outcome in worker.ended:
        settings = queue.jobs[number - 1].settings
        rows.append(job_row(f"[{number}/{len(queue.jobs)}]", settings, outcome))
        path = None if outcome.path is None else str(outcome.path)
        jobs.append({"job": number, "settings": settings, "state": outcome.state, "code": outcome.code, "path": path})
    states = queue.states()
    counts = Counter("todo" if state.kind == "failed" and state.is_open(retries) else state.kind for state in states)
    if failure is None and counts["failed"]:
        hint = f"see orca worker --list {queue.name}; fix the cause, and type the command with --enqueue again"
        failure = SweepError(f"{counts['failed']} of {len(states)} jobs failed", where=queue.name, hint=hint)
    left = ", ".join(f"{counts[kind]} {kind}" for kind in ("done", "failed", "leased", "todo") if counts[kind])
    text = f"this worker ended {len(jobs)} jobs; sweep {queue.name} of {len(states)}: {left}"
    shown = [terminal.table(("job", "settings", "ended", ""), rows), text]
    record = {"schema": 1, "sweep": queue.name, "jobs": jobs, "counts": dict(counts)}
    return Result(record, shown, [failure] if failure else [])
