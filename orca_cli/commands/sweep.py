"""The runs of a command, one or a sweep of many: what it would do with each (`--dry-run`); running them all (`-m`)."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import RenderableType
from rich.text import Text

from orca_cli import experiment, signals, storage, terminal
from orca_cli.commands.engine import NOT_STARTED, Engine, job_outcome
from orca_cli.commands.summary import build_table, error_text, outcome_record
from orca_cli.config.study import absent_lines
from orca_cli.exceptions import InterruptionError, OrcaError, SweepError
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.runs import claim, studies
from orca_cli.runs.outcome import Outcome, State
from orca_cli.terminal import Result, counted, duration

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed, Sweep

_WOULD = {
    "new": "run",
    "resume": "resume",
    "completed": "skip",
    "running": "wait",
}  # by `claim.peek`
_MOST_ROWS = 40
_NAMES = ("task", "body", "metric", "finetune", "seed")


def dry_run(sweep: Sweep, *, force: bool) -> Result:
    """Return what a command, with or without --force, would do; of a study nothing is built."""
    jobs, records = sweep.experiments, []
    summary = {} if sweep.study else _built(jobs)
    for job in jobs:
        signals.check()
        name = experiment.run_name(job)
        peeked = claim.peek(Path(job.config.paths.runs or ""), name, force=force)
        records.append({"would": _WOULD[peeked], **vars(name), "labels": job.labels})
    counts = Counter(one["would"] for one in records)
    expected_s = (len(jobs) - counts["skip"]) * sum(
        (summary.get("expected_s") or {}).values()
    ) or None
    record: dict[str, Any] = {"schema": 1, "study": sweep.study, "jobs": records, "build": summary}
    record |= {
        "would": {would: counts[would] for would in _WOULD.values()},
        "expected_s": expected_s,
    }
    record["left_out"] = [
        {"runs": count, "reason": reason} for reason, count in sweep.absent.items()
    ]
    rows = [[str(one[key]) for key in ("would", *_NAMES)] for one in records[:_MOST_ROWS]]
    rows += [["..."] * (1 + len(_NAMES))] * (len(jobs) > _MOST_ROWS)
    would = ", ".join(f"{word} {count}" for word, count in counts.items())
    total = f"{counted(len(jobs), 'run')}: would {would or 'do nothing'}"
    total += f"; about {duration(expected_s)}" if expected_s else ""
    shown: list[RenderableType] = [build_table(jobs[0], summary)] if summary else []
    return Result(
        record,
        [*shown, terminal.table(("would", *_NAMES), rows), total, *absent_lines(sweep.absent)],
    )


def _built(jobs: list[Composed]) -> dict[str, Any]:
    """Build the first job and time some of its steps; returns the summary of stage 1 with `expected_s`."""
    from orca_cli.stages.build import build
    from orca_cli.stages.expected_time import planned
    from orca_cli.training import engine as training

    devices = [
        training.choose_device(job.config.device) for job in jobs
    ]  # one that is absent is refused
    config, device, start, reporter = (
        jobs[0].config,
        devices[0],
        time.monotonic(),
        terminal.LogReporter(),
    )
    built = build(config, reporter, is_trained=False)
    engine = training.Engine(
        device, training.choose_precision(config.precision, device, built.model.body.width)
    )
    return planned(config, built, engine, {}, time.monotonic() - start, reporter).summary


@dataclass
class _Jobs:
    """The jobs of a sweep, in their order; see `driver.Work`."""

    engine: Engine
    left: Iterator[tuple[str, Composed]]  # label, such as [2/6], and run
    is_forced: bool  # runs that are completed are run again
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # by label

    def next(self) -> Job | None:
        """Return the next job that is not done yet."""
        for label, job in self.left:
            if self.is_forced or (done := experiment.done_before(job)) is None:
                return self.engine.job(label, job)
            terminal.log.info(
                f"{label} already completed, not run again (--force does): {done.path}"
            )
            self.outcomes[label] = done
        return None

    def watch(self, job: Job) -> bool:
        """Stop nothing."""
        return False

    def ended(self, job: Job, end: Ended) -> None:
        """Keep how a job ended, and print the error that it could not print itself."""
        label = job.command.label
        outcome = self.outcomes[label] = job_outcome(end)
        if outcome.failure is None:
            return
        has_printed = bool(end.report) and self.engine.is_local and not end.over_limit
        if not has_printed or isinstance(outcome.failure.error, InterruptionError):
            terminal.print_error(f"{label} orca: error: {outcome.failure.error}")


def run(sweep: Sweep, arguments: argparse.Namespace) -> Result:
    """Run all experiments, each in a process of its own, and return how each ended; a study is recorded before.

    The result's failure is what stopped the sweep early, or else that some runs are not completed.
    """
    jobs = sweep.experiments
    for line in absent_lines(sweep.absent):
        terminal.log.warning(line)
    terminal.log.info(f"sweep of {counted(len(jobs), 'run')}")
    root = Path(jobs[0].config.paths.runs or "")
    storage.check_writable(root)
    if sweep.study:
        studies.add(
            root, sweep.study, [studies.Member(job.identity.run, job.labels) for job in sweep.jobs]
        )
    labels = [f"[{number}/{len(jobs)}]" for number in range(1, len(jobs) + 1)]
    digest = hashlib.sha256("".join(job.identity.run for job in jobs).encode()).hexdigest()[:8]
    engine = Engine(arguments, root, f"{sweep.study or jobs[0].choices['task']}-{digest}")
    # What distinguishes each job from the others: the choices of a study, or the overrides, that not all have.
    named = [
        [f"{axis}={name}" for axis, name in job.labels.items()] or job.overrides for job in jobs
    ]
    common = set.intersection(*map(set, named)) if len(jobs) > 1 else set()
    settings = [" ".join(text for text in texts if text not in common) for texts in named]
    work = _Jobs(engine, zip(labels, jobs, strict=True), arguments.force)
    failures: list[OrcaError] = []
    try:
        engine.run(work, len(jobs))
        signals.check()
    except OrcaError as error:
        failures.append(error)
    records, rows = [], []
    for label, setting in zip(labels, settings, strict=True):
        outcome = work.outcomes.get(label, NOT_STARTED)
        records.append({"settings": setting, **outcome_record(outcome)})
        note = error_text(outcome.result) if outcome.failure is None else str(outcome.failure.error)
        ended = f"{outcome.state} ({outcome.code})" if outcome.code > 0 else outcome.state
        rows.append(
            [
                Text(cell, style="red" if outcome.code else "")
                for cell in (label, setting, ended, note)
            ]
        )
    counts = Counter(record["state"] for record in records)
    lost = len(jobs) - counts["completed"] - counts["skipped"]
    if lost and not failures:
        text = f"{lost} of {counted(len(jobs), 'run')} {'is' if lost == 1 else 'are'} not completed"
        failures.append(SweepError(text, where="sweep", hint="fix the cause and rerun the command"))
    words = ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])
    total = f"sweep of {counted(len(jobs), 'run')}: {words.replace('skipped', 'already completed')}"
    table = terminal.table(("job", "settings", "ended", ""), rows)
    return Result({"schema": 1, "jobs": records}, [table, total], failures)
