"""`orca run -m`: run all jobs of a sweep, on this machine or on others, and say how each of them ended."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.text import Text

from orca_cli import experiment, signals, storage, terminal
from orca_cli.commands.engine import NOT_STARTED, Engine, job_outcome
from orca_cli.commands.summary import error_text, outcome_record
from orca_cli.config.compose import Composed, Sweep
from orca_cli.exceptions import OrcaError, SweepError
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.runs import studies
from orca_cli.runs.claim import Activity
from orca_cli.runs.outcome import Outcome, State
from orca_cli.terminal import Result, counted


@dataclass
class _Jobs:
    """The jobs of a sweep, in their order; see `driver.Work`."""

    engine: Engine
    labels: list[str]
    settings: list[str]
    jobs: list[Composed]
    force: bool
    outcomes: list[Outcome]
    places: Iterator[int]  # of the jobs that were not yet looked at

    def next(self) -> Job | None:
        """Return the next job that is not done yet."""
        for place in self.places:
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


def run(sweep: Sweep, arguments: argparse.Namespace) -> Result:
    """Run all experiments, each in a process of its own."""
    jobs = sweep.experiments
    same = len(sweep.jobs) - len(jobs)
    terminal.log.info(f"sweep of {counted(len(jobs), 'run')}" + (f"; repeats left out: {same}" if same else ""))
    root = Path(jobs[0].config.paths.runs or "")
    storage.check_writable(root)
    if sweep.study:
        studies.add(root, sweep.study, [studies.Member(job.identity.run, job.labels) for job in sweep.jobs])
    labels = [f"[{number}/{len(jobs)}]" for number in range(1, len(jobs) + 1)]
    digest = hashlib.sha256("".join(job.identity.run for job in jobs).encode()).hexdigest()[:8]
    engine = Engine(arguments, root, f"{sweep.study or jobs[0].choices['task']}-{digest}")
    outcomes, places = [NOT_STARTED] * len(jobs), iter(range(len(jobs)))
    # What distinguishes each job from the others: the choices of a study, or the overrides, that not all have.
    named = [[f"{axis}={name}" for axis, name in job.labels.items()] or job.overrides for job in jobs]
    common = set.intersection(*map(set, named)) if len(jobs) > 1 else set()
    settings = [" ".join(text for text in texts if text not in common) for texts in named]
    work = _Jobs(engine, labels, settings, jobs, arguments.force, outcomes, places)
    failures: list[OrcaError] = []
    try:
        engine.run(work, len(jobs))
        signals.check()
        if lost := sum(outcome.state not in ("completed", "skipped") for outcome in outcomes):
            text = f"{lost} of {counted(len(jobs), 'run')} {'is' if lost == 1 else 'are'} not completed"
            failures.append(SweepError(text, where="sweep", hint="fix the cause and rerun the command"))
    except OrcaError as error:
        failures.append(error)
    return _result(work, failures)


def _result(work: _Jobs, failures: list[OrcaError]) -> Result:
    records, rows = [], []
    for label, setting, outcome in zip(work.labels, work.settings, work.outcomes, strict=True):
        records.append({"settings": setting, **outcome_record(outcome)})
        note = error_text(outcome.result) if outcome.failure is None else str(outcome.failure.error)
        ended = f"{outcome.state} ({outcome.code})" if outcome.code > 0 else outcome.state
        rows.append([Text(cell, style="red" if outcome.code else "") for cell in (label, setting, ended, note)])
    counts: Counter[str] = Counter(outcome.state for outcome in work.outcomes)
    named = {"skipped": "already completed"}
    words = ", ".join(f"{counts[state]} {named.get(state, state)}" for state in get_args(State) if counts[state])
    shown = [
        terminal.table(("job", "settings", "ended", ""), rows),
        f"sweep of {counted(len(records), 'run')}: {words}",
    ]
    return Result({"schema": 1, "jobs": records}, shown, failures)
