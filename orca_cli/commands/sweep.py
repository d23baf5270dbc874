"""`orca run --dry-run`, which shows the runs without training, and `orca run -m`, a sweep."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from rich.console import RenderableType
from rich.text import Text

from orca_cli import experiment, signals, storage, terminal
from orca_cli.commands.jobs import NOT_STARTED, JobRunner, job_outcome, runs_root
from orca_cli.commands.options import Record
from orca_cli.commands.summary import build_table, declared_table, error_text, outcome_record
from orca_cli.config.study import absent_lines
from orca_cli.exceptions import InterruptionError, OrcaError, SweepError
from orca_cli.launching import needs
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.runs import claim, studies
from orca_cli.runs.outcome import Outcome, State
from orca_cli.terminal import Result, counted, duration

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.composed import Composed, Sweep

# State of a run from `claim.peek` -> action that a command would take.
_WOULD = {"new": "run", "resume": "resume", "completed": "skip", "running": "wait"}
# Largest number of rows in a dry run's table; the record has all runs.
_MOST_ROWS = 40
_NAMES = ("task", "body", "metric", "finetune", "seed")


def dry_run(sweep: Sweep, arguments: argparse.Namespace) -> Result:
    """Return the actions that a command would take; for a study, no model is built.

    If files are missing, no model can be built, and the failure of the result names the files.
    """
    jobs = sweep.experiments
    summary: Record = {}
    failures: list[OrcaError] = []
    if not sweep.study:
        missing = _missing_error(jobs, arguments)
        if missing is None:
            summary = _built(jobs)
        else:
            failures.append(missing)
    runs = [_peeked(job, force=arguments.force) for job in jobs]
    counts = Counter(run["would"] for run in runs)
    # Stage -> seconds of the first job, which are assumed for every job.
    stage_seconds = summary.get("expected_s") or {}
    run_s = sum(stage_seconds.values())
    # None if no step could be timed, or no run is left.
    expected_s = (len(jobs) - counts["skip"]) * run_s or None
    left_out = [{"runs": count, "reason": reason} for reason, count in sweep.absent.items()]
    record = {
        "schema": 1,
        "study": sweep.study,
        "jobs": runs,
        "build": summary,
        "would": {action: counts[action] for action in _WOULD.values()},
        "expected_s": expected_s,
        "left_out": left_out,
    }
    columns = ("would", *_NAMES)
    rows = []
    for run_record in runs[:_MOST_ROWS]:
        rows.append([str(run_record[column]) for column in columns])
    if len(runs) > _MOST_ROWS:
        rows.append(["..." for _ in columns])
    action_counts = ", ".join(f"{action} {count}" for action, count in counts.items())
    conclusion = f"{counted(len(jobs), 'run')}: would {action_counts or 'do nothing'}"
    if expected_s is not None:
        conclusion += f"; expected time about {duration(expected_s)}"
    shown: list[RenderableType] = []
    if summary:
        shown.append(build_table(jobs[0], summary))
    elif failures:
        shown.append(declared_table(jobs[0]))
    shown += [terminal.table(columns, rows), conclusion, *absent_lines(sweep.absent)]
    return Result(record, shown, failures)


def _missing_error(jobs: Sequence[Composed], arguments: argparse.Namespace) -> OrcaError | None:
    """Return the error that names all files that jobs lack on this machine; None without any.

    Completed jobs need no files.
    """
    left = [job for job in jobs if _peeked(job, force=arguments.force)["would"] != "skip"]
    return needs.missing_error(left, arguments.overrides, arguments.config_dir)


def _peeked(job: Composed, *, force: bool) -> Record:
    """Return the action that a command would take for a run, with the run's names."""
    signals.check()
    run_name = experiment.run_name(job)
    # It only reads: it makes no folder and takes no lock.
    state = claim.peek(runs_root(job), run_name, force=force)
    return {"would": _WOULD[state], **vars(run_name), "labels": job.labels}


def _built(jobs: list[Composed]) -> Record:
    """Build the first job and time some of its steps.

    Returns:
        the summary of stage 1, including `expected_s`.

    Raises:
        UnavailableError: this machine lacks the device of a job.
    """
    from orca_cli.stages.build import build
    from orca_cli.stages.expected_time import planned
    from orca_cli.training.engine import Engine, choose_device, choose_precision

    # Also the devices of jobs that are not built, so that a missing device is found.
    devices = [choose_device(job.config.device) for job in jobs]
    config = jobs[0].config
    # The time of building counts towards a budget in minutes, as it does in a run.
    start_s = time.monotonic()
    reporter = terminal.LogReporter()
    built = build(config, reporter, is_trained=False)
    precision = choose_precision(config.precision, devices[0], built.model.body.width)
    engine = Engine(devices[0], precision)
    planned_build = planned(
        config=config,
        built=built,
        engine=engine,
        # Times are measured again, even if an earlier attempt has recorded some.
        earlier={},
        spent_s=time.monotonic() - start_s,
        reporter=reporter,
    )
    return planned_build.summary


@dataclass
class SweepWork:
    """The jobs of a sweep, in their order; see `driver.Work`."""

    runner: JobRunner
    # Label, such as [2/6], and run of each job that has not been started yet.
    waiting: Iterator[tuple[str, Composed]]
    # Whether completed runs are run again.
    is_forced: bool
    # Label -> how the job ended.
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def next(self) -> Job | None:
        """Return the next job whose run is not completed."""
        for label, job in self.waiting:
            # Checked here, since starting a process only to find the run completed takes seconds.
            outcome = None if self.is_forced else experiment.done_before(job)
            if outcome is None:
                return self.runner.job(label, job)
            terminal.log.info(
                f"{label} already completed, not run again (--force runs it again): {outcome.path}"
            )
            self.outcomes[label] = outcome
        return None

    def watch(self, job: Job) -> bool:
        """Return False: a sweep stops no job."""
        return False

    def ended(self, job: Job, end: Ended) -> None:
        """Store how a job ended, and print an error that the job could not print itself."""
        label = job.command.label
        outcome = job_outcome(end)
        self.outcomes[label] = outcome
        if outcome.failure is None:
            return
        # A job on this machine prints its own failure, unless it exceeded its time limit.
        has_printed = bool(end.report) and self.runner.is_local and not end.over_limit
        if not has_printed or isinstance(outcome.failure.error, InterruptionError):
            terminal.print_error(f"{label} orca: error: {outcome.failure.error}")


def run(sweep: Sweep, arguments: argparse.Namespace) -> Result:
    """Run all experiments, each in a separate process, and return how each ended.

    A study is recorded before its first run. The failure of the result is the error that stopped
    the sweep early, or else the number of runs that are not completed.
    """
    jobs = sweep.experiments
    for line in absent_lines(sweep.absent):
        terminal.log.warning(line)
    terminal.log.info(f"sweep of {counted(len(jobs), 'run')}")
    missing = _missing_error(jobs, arguments)
    if missing is not None:
        raise missing
    root = runs_root(jobs[0])
    # Before the first job, since all jobs would fail in the same way.
    storage.check_writable(root)
    if sweep.study:
        # All jobs, since different choices of a study may be the same experiment.
        members = [studies.Member(job.identity.run, job.labels) for job in sweep.jobs]
        studies.add(root, sweep.study, members)
    # Only sweeps of the same runs have the same name.
    # SLURM's executor uses it to withdraw the jobs that an earlier driver left waiting.
    identities = "".join(job.identity.run for job in jobs)
    digest = hashlib.sha256(identities.encode()).hexdigest()
    subject = sweep.study or jobs[0].choices["task"]
    runner = JobRunner(arguments, root, f"{subject}-{digest[:8]}")
    labels = [f"[{number}/{len(jobs)}]" for number in range(1, len(jobs) + 1)]
    waiting = zip(labels, jobs, strict=True)
    work = SweepWork(runner=runner, waiting=waiting, is_forced=arguments.force)
    failures: list[OrcaError] = []
    try:
        runner.run(work, len(jobs))
        # After a signal the driver returns as if all jobs had ended.
        signals.check()
    except OrcaError as error:
        # Not raised, since the table still shows how each job ended.
        failures.append(error)
    # Jobs without an outcome were never started, because of a signal or an error.
    outcomes = {label: work.outcomes.get(label, NOT_STARTED) for label in labels}
    return _result(jobs, outcomes, failures)


def _result(
    jobs: Sequence[Composed], outcomes: Mapping[str, Outcome], failures: list[OrcaError]
) -> Result:
    """Return how a sweep ended; `outcomes` maps the label of each job to its outcome."""
    counts = Counter(outcome.state for outcome in outcomes.values())
    runs_text = counted(len(jobs), "run")
    lost_count = len(jobs) - counts["completed"] - counts["skipped"]
    # An error that stopped the sweep already explains the missing runs.
    if lost_count and not failures:
        verb = "is" if lost_count == 1 else "are"
        message = f"{lost_count} of {runs_text} {verb} not completed"
        hint = "fix the cause and rerun the command"
        failures.append(SweepError(message, where="sweep", hint=hint))
    records = []
    rows = []
    for settings, (label, outcome) in zip(_distinct_settings(jobs), outcomes.items(), strict=True):
        records.append({"settings": settings, **outcome_record(outcome)})
        rows.append(_row(label, settings, outcome))
    table = terminal.table(("job", "settings", "ended", ""), rows)
    state_counts = [f"{counts[state]} {state}" for state in get_args(State) if counts[state]]
    states_text = ", ".join(state_counts).replace("skipped", "already completed")
    conclusion = f"sweep of {runs_text}: {states_text}"
    return Result({"schema": 1, "jobs": records}, [table, conclusion], failures)


def _distinct_settings(jobs: Sequence[Composed]) -> list[str]:
    """Return the settings that distinguish each job from the others.

    They are the choices of a study, or else the overrides, that not all jobs share.
    """
    settings_of_jobs = []
    for job in jobs:
        choices = [f"{axis}={name}" for axis, name in job.labels.items()]
        # Only jobs of a study have labels.
        settings_of_jobs.append(choices or job.overrides)
    common_settings = set[str]()
    if len(jobs) > 1:
        # A single job shares all its settings with itself, and so would show none.
        common_settings = set.intersection(*map(set, settings_of_jobs))
    distinct_texts = []
    for settings in settings_of_jobs:
        distinct = [setting for setting in settings if setting not in common_settings]
        distinct_texts.append(" ".join(distinct))
    return distinct_texts


def _row(label: str, settings: str, outcome: Outcome) -> list[Text]:
    """Return the cells of a job's row, in red if the job failed."""
    ended: str = outcome.state
    if outcome.code > 0:
        ended = f"{outcome.state} ({outcome.code})"
    note = error_text(outcome.result)
    if outcome.failure is not None:
        note = str(outcome.failure.error)
    style = "red" if outcome.code else ""
    return [Text(cell_text, style=style) for cell_text in (label, settings, ended, note)]
