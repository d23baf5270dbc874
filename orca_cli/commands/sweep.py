"""`orca run -m`: run all jobs of a sweep, on this machine or on others, and say how each of them ended."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from orca_cli import experiment, signals, storage, terminal
from orca_cli.commands.engine import NOT_STARTED, Engine, job_outcome
from orca_cli.commands.summary import sweep_result
from orca_cli.config.compose import Composed, Sweep
from orca_cli.exceptions import OrcaError, SweepError
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.runs import studies
from orca_cli.runs.activity import Activity
from orca_cli.runs.outcome import Outcome
from orca_cli.terminal import Result


@dataclass
class _Jobs:
    """The jobs of a sweep, in their order; see `driver.Work`."""

    engine: Engine
    labels: list[str]
    settings: list[str]
    jobs: list[Composed]
    force: bool
    outcomes: list[Outcome] = field(init=False)
    _next: int = 0

    def __post_init__(self) -> None:
        self.outcomes = [NOT_STARTED for _ in self.jobs]

    def next(self) -> Job | None:
        """Return the next job that is not done yet."""
        while self._next < len(self.jobs):
            place, self._next = self._next, self._next + 1
            done = None if self.force else experiment.done_before(self.jobs[place])
            if done is None:
                return self.engine.job(self.labels[place], self.jobs[place], self.settings[place])
            terminal.log.info(f"{self.labels[place]} already completed, not run again (--force does): {done.path}")
            self.outcomes[place] = done
        return None

    def watch(self, job: Job, seen: Activity) -> bool:
        """Stop nothing."""
        return False

    def ended(self, job: Job, end: Ended) -> None:
        """Keep how a job ended, and print the error that it could not print itself."""
        outcome = job_outcome(end)
        self.outcomes[self.labels.index(job.command.label)] = outcome
        if outcome.failure is not None and (end.over_limit or not end.report or not self.engine.is_shown):
            terminal.print_error(f"{job.command.label} orca: error: {outcome.failure.error}")


def run(sweep: Sweep, arguments: argparse.Namespace, time_limit_s: float | None) -> Result:
    """Run all experiments, each in a process of its own.

    Args:
        sweep: the jobs.
        arguments: the command line.
        time_limit_s: of each job.
    """
    jobs = sweep.experiments
    same = len(sweep.jobs) - len(jobs)
    terminal.log.info(f"sweep of {len(jobs)} runs" + (f"; {same} more are the same experiments" if same else ""))
    root = Path(jobs[0].config.paths.runs or "")
    storage.check_writable(root)
    if sweep.study:
        studies.add(root, sweep.study, [studies.Member(job.identity.run, job.labels) for job in sweep.jobs])
    labels = [f"[{number}/{len(jobs)}]" for number in range(1, len(jobs) + 1)]
    digest = hashlib.sha256("".join(job.identity.run for job in jobs).encode()).hexdigest()[:8]
    engine = Engine(arguments, root, f"{sweep.study or jobs[0].choices['task']}-{digest}", time_limit_s)
    work = _Jobs(engine, labels, _settings(jobs), jobs, arguments.force)
    failure: OrcaError | None = None
    try:
        engine.run(work, len(jobs))
    except OrcaError as error:
        failure = error
    lost = sum(outcome.state not in ("completed", "skipped") for outcome in work.outcomes)
    try:
        signals.check()
        if failure is None and lost:
            text = f"{lost} of {len(jobs)} runs are not completed"
            failure = SweepError(text, where="sweep", hint="fix the cause and rerun the command")
    except OrcaError as stop:
        failure = failure or stop
    return sweep_result(labels, work.settings, work.outcomes, [failure] if failure else [], sweep.study)


def _settings(jobs: list[Composed]) -> list[str]:
    """Return what distinguishes each job from the others: the choices of a study, or the overrides, that not all have."""
    named = [[f"{axis}={name}" for axis, name in job.labels.items()] or job.overrides for job in jobs]
    common = set.intersection(*map(set, named)) if len(jobs) > 1 else set()
    return [" ".join(text for text in texts if text not in common) for texts in named]
