"""`orca run -m`: run all jobs of a sweep, on this machine or on others, and say how each of them ended."""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.text import Text

from orca_cli import experiment, signals, storage, terminal
from orca_cli.commands.engine import NOT_STARTED, Engine, job_outcome
from orca_cli.commands.summary import error_text, outcome_record
from orca_cli.exceptions import OrcaError, SweepError
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.runs import studies
from orca_cli.runs.claim import Activity
from orca_cli.runs.outcome import Outcome, State
from orca_cli.terminal import Result, counted

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Sweep

_NAMED = {"skipped": "already completed"}  # states


@dataclass
class _Jobs:
    """The jobs of a sweep, in their order; see `driver.Work`."""

    engine: Engine
    left: Iterator[Job]
    outcomes: dict[str, Outcome]  # by label, such as [2/6]

    def next(self) -> Job | None:
        """Return the next job that is not done yet."""
        return next(self.left, None)

    def watch(self, job: Job, seen: Activity) -> bool:
        """Stop nothing."""
        return False

    def ended(self, job: Job, end: Ended) -> None:
        """Keep how a job ended, and print the error that it could not print itself."""
        label = job.command.label
        outcome = self.outcomes[label] = job_outcome(end)
        if outcome.failure is not None and (end.over_limit or not end.report or not self.engine.is_local):
            terminal.print_error(f"{label} orca: error: {outcome.failure.error}")


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
    # What distinguishes each job from the others: the choices of a study, or the overrides, that not all have.
    named = [[f"{axis}={name}" for axis, name in job.labels.items()] or job.overrides for job in jobs]
    common = set.intersection(*map(set, named)) if len(jobs) > 1 else set()
    settings = [" ".join(text for text in texts if text not in common) for texts in named]
    outcomes: dict[str, Outcome] = {}

    def left() -> Iterator[Job]:
        for label, job, setting in zip(labels, jobs, settings, strict=True):
            if arguments.force or (done := experiment.done_before(job)) is None:
                yield engine.job(label, job, setting)
            else:
                terminal.log.info(f"{label} already completed, not run again (--force does): {done.path}")
                outcomes[label] = done

    failures: list[OrcaError] = []
    try:
        engine.run(_Jobs(engine, left(), outcomes), len(jobs))
        signals.check()
    except OrcaError as error:
        failures.append(error)
    records, rows = [], []
    for label, setting in zip(labels, settings, strict=True):
        outcome = outcomes.get(label, NOT_STARTED)
        records.append({"settings": setting, **outcome_record(outcome)})
        note = error_text(outcome.result) if outcome.failure is None else str(outcome.failure.error)
        ended = f"{outcome.state} ({outcome.code})" if outcome.code > 0 else outcome.state
        rows.append([Text(cell, style="red" if outcome.code else "") for cell in (label, setting, ended, note)])
    counts = Counter(record["state"] for record in records)
    lost = len(jobs) - counts["completed"] - counts["skipped"]
    if lost and not failures:
        text = f"{lost} of {counted(len(jobs), 'run')} {'is' if lost == 1 else 'are'} not completed"
        failures.append(SweepError(text, where="sweep", hint="fix the cause and rerun the command"))
    named_counts = (f"{counts[state]} {_NAMED.get(state, state)}" for state in get_args(State) if counts[state])
    total = f"sweep of {counted(len(jobs), 'run')}: {', '.join(named_counts)}"
    return Result(
        {"schema": 1, "jobs": records}, [terminal.table(("job", "settings", "ended", ""), rows), total], failures
    )
