"""`orca run -m`: run all jobs of a sweep and find out how each of them ended, or put them into the folder of runs."""

from __future__ import annotations

import argparse
import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from orca_cli import experiment, signals, storage, terminal
from orca_cli.commands.job import NOT_STARTED, failed, outcome_of, program_to_fork, run_job, words_of
from orca_cli.commands.options import forwarded
from orca_cli.commands.summary import of_run, of_sweep
from orca_cli.compose import Composed, Session, Sweep
from orca_cli.exceptions import OrcaError, SweepError
from orca_cli.launching import processes, queue
from orca_cli.outcome import Outcome
from orca_cli.runs import claim, studies
from orca_cli.terminal import Result


@dataclass(frozen=True)
class _Here:
    """Runs one job in this process, wherever a launcher has put it."""

    arguments: argparse.Namespace
    process: int

    def __call__(self, job: Composed) -> None:
        result = of_run(run_job(job, self.arguments))
        if self.arguments.json:  # the record of all jobs is printed at the end
            result.shown = ()
        with terminal.lost_output_allowed():
            terminal.render(result)
        if os.getpid() == self.process and signals.pending():
            raise SystemExit(signals.exit_code())  # the only thing that Hydra's own launcher does not catch


def run(session: Session | None, sweep: Sweep, arguments: argparse.Namespace, time_limit_s: float | None) -> Result:
    """Run all experiments, each in a process of its own or by the launcher that hydra/launcher names.

    Args:
        session: launches them; None without a launcher.
        sweep: the jobs.
        arguments: the command line.
        time_limit_s: of each job.
    """
    jobs = sweep.experiments
    same = len(sweep.jobs) - len(jobs)
    terminal.log.info(f"sweep of {len(jobs)} runs" + (f"; {same} more are the same experiments" if same else ""))
    root = Path(jobs[0].config.paths.runs or "")
    storage.check_writable(root)
    _record_study(sweep, root)
    labels = [f"[{number}/{len(jobs)}]" for number in range(1, len(jobs) + 1)]
    failure: OrcaError | None = None
    if session is None:
        outcomes = _in_processes(labels, jobs, arguments, time_limit_s)
    else:
        failure = _launch(session, replace(sweep, jobs=jobs), arguments, root)
        outcomes = [_recorded(job) for job in jobs]
    lost = sum(outcome.state not in ("completed", "skipped") for outcome in outcomes)
    try:
        signals.check()
        if failure is None and lost:
            text = f"{lost} of {len(jobs)} runs are not completed"
            failure = SweepError(text, where="sweep", hint="fix the cause and rerun the command")
    except OrcaError as stop:
        failure = failure or stop
    return of_sweep(labels, _settings(jobs), outcomes, [failure] if failure else [], sweep.study)


def enqueue(sweep: Sweep, arguments: argparse.Namespace) -> Result:
    """Put the jobs into the folder of runs, for workers; those that failed are tried again.

    Returns:
        the sweep's name, and the command of its workers.
    """
    root = Path(sweep.jobs[0].config.paths.runs or "").absolute()
    storage.check_writable(root)
    _record_study(sweep, root)
    jobs = [
        queue.Job(settings, [text for text in job.overrides if not text.startswith("paths.runs=")], job.identity.run)
        for settings, job in zip(_settings(sweep.experiments), sweep.experiments, strict=True)
    ]
    put = queue.put(root, sweep.study or sweep.jobs[0].choices["task"], sweep.study, jobs)
    again = put.again()
    # A file in a shared folder may not give options, so the workers need them.
    command = shlex.join(["orca", "worker", put.name, *forwarded(arguments, "allow_inexact_resume")])
    record = {"schema": 1, "sweep": put.name, "folder": str(put.folder), "jobs": len(jobs), "again": again}
    lines = [f"sweep {put.name}: {len(jobs)} jobs in {put.folder}"]
    lines += [f"{again} jobs that had failed are tried again"] if again else []
    lines += [
        f"on every machine that sees this folder, with ORCA_RUNS={shlex.quote(str(root))}: {command}",
        f"its state: orca worker --list {put.name}",
    ]
    return Result(record | {"command": command}, lines)


def _record_study(sweep: Sweep, root: Path) -> None:
    """Record which runs belong to a study, if the sweep is one."""
    if sweep.study:
        studies.add(root, sweep.study, [studies.Member(job.identity.run, job.labels) for job in sweep.jobs])


def _settings(jobs: list[Composed]) -> list[str]:
    """Return what distinguishes each job from the others: the choices of a study, or the overrides, that not all have."""
    named = [[f"{axis}={name}" for axis, name in job.labels.items()] or job.overrides for job in jobs]
    common = set.intersection(*map(set, named)) if len(jobs) > 1 else set()
    return [" ".join(text for text in texts if text not in common) for texts in named]


def _launch(session: Session, sweep: Sweep, arguments: argparse.Namespace, root: Path) -> OrcaError | None:
    """Run the jobs by a launcher; returns why that failed."""
    try:
        folder = root / ".sweeps" / storage.timestamp()
        session.launch(sweep, arguments.overrides, _Here(arguments, os.getpid()), folder)
    except SystemExit:
        pass  # a launcher that works in this process was stopped by a signal
    except OrcaError as error:
        return error
    except Exception as error:  # noqa: BLE001 - launchers are other people's programs
        return SweepError(f"the launcher failed: {type(error).__name__}: {error}", where="hydra/launcher")
    return None


def _in_processes(
    labels: list[str], jobs: list[Composed], arguments: argparse.Namespace, time_limit_s: float | None
) -> list[Outcome]:
    main = program_to_fork(arguments)
    commands = [
        processes.Job(label, words_of(job.overrides, arguments)) for label, job in zip(labels, jobs, strict=True)
    ]

    def ended(place: int, end: processes.Ended) -> None:
        failure = outcome_of(end).failure
        if failure is not None and (end.over_limit or not end.said):
            terminal.print_error(f"{labels[place]} orca: error: {failure.error}")

    at_once = arguments.at_once or 1
    ends = processes.run_all(commands, main=main, at_once=at_once, time_limit_s=time_limit_s, ended=ended)
    return [outcome_of(end) for end in ends]


def _recorded(job: Composed) -> Outcome:
    """Return how a job ended according to its run's records, which are found by its identity."""
    run = claim.look(Path(job.config.paths.runs or ""), experiment.run_name(job))
    if run is None:
        return NOT_STARTED
    if result := run.result():
        return Outcome("completed", path=run.path, result=result)
    status = run.status()
    state = status.get("state")
    if state not in ("failed", "interrupted"):
        return failed(f"its process ended in stage {state}, or is still running", path=run.path)
    text = str((status.get("error") or {}).get("message", ""))
    return replace(failed(text, code=int(status.get("exit_code") or 1), path=run.path), state=state)
