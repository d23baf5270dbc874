"""`orca run -m`: run all jobs of a sweep, and find out how each of them ended."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orca_cli import exceptions, experiment, signals, storage, terminal
from orca_cli.commands.job import run_job
from orca_cli.commands.summary import of_run, of_sweep
from orca_cli.compose import Composed, Session, Sweep
from orca_cli.exceptions import OrcaError, SweepError
from orca_cli.experiment import Failure, Outcome
from orca_cli.launching import processes
from orca_cli.runs import claim, studies
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.terminal import Result

_NOT_STARTED = Outcome("not started")
# Imported before the first fork, so that no job has to: that takes seconds. None of them computes or looks for a GPU.
_HEAVY = (
    "orca_cli.stages.build",
    "orca_cli.stages.align",
    "orca_cli.stages.finetune",
    "sklearn.datasets",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
)


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
    """Run all jobs, each in a process of its own or by the launcher that hydra/launcher names.

    Args:
        session: launches them; None without a launcher.
        sweep: the jobs.
        arguments: the command line.
        time_limit_s: of each job.
    """
    jobs = sweep.jobs
    terminal.log.info(f"sweep of {len(jobs)} runs")
    root = Path(jobs[0].config.paths.runs or "")
    storage.check_writable(root)
    if sweep.study:
        studies.add(root, sweep.study, [studies.Member(job.identity.run, job.labels) for job in jobs])
    labels = [f"[{number}/{len(jobs)}]" for number in range(1, len(jobs) + 1)]
    failure: OrcaError | None = None
    if session is None:
        outcomes = _in_processes(labels, jobs, arguments, time_limit_s)
    else:
        failure = _launch(session, sweep, arguments, root)
        outcomes = [_recorded(job) for job in jobs]
    lost = sum(outcome.state not in ("completed", "skipped") for outcome in outcomes)
    try:
        signals.check()
        if failure is None and lost:
            text = f"{lost} of {len(jobs)} runs are not completed"
            failure = SweepError(text, where="sweep", hint="fix the cause and rerun the command")
    except OrcaError as stop:
        failure = failure or stop
    # What distinguishes each job from the others: the choices of a study, or the overrides, that not all have.
    named = [[f"{axis}={name}" for axis, name in job.labels.items()] or job.overrides for job in jobs]
    common = set.intersection(*map(set, named)) if len(jobs) > 1 else set()
    settings = [" ".join(text for text in texts if text not in common) for texts in named]
    return of_sweep(labels, settings, outcomes, [failure] if failure else [], sweep.study)


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
    main = forkable(arguments)
    commands = [processes.Job(label, _words(job, arguments)) for label, job in zip(labels, jobs, strict=True)]

    def ended(place: int, end: processes.Ended) -> None:
        failure = outcome_of(end).failure
        if failure is not None and (end.over_limit or not end.said):
            terminal.print_error(f"{labels[place]} orca: error: {failure.error}")

    at_once = arguments.at_once or 1
    ends = processes.run_all(commands, main=main, at_once=at_once, time_limit_s=time_limit_s, ended=ended)
    return [outcome_of(end) for end in ends]


def forkable(arguments: argparse.Namespace) -> processes.Main | None:
    """Return the program's main function with all that jobs import, where this process may be forked into them; else None."""
    # The user's modules may have started threads when they were imported.
    main: processes.Main | None = None if arguments.allow_module else arguments.program
    if main is not None:
        for name in _HEAVY:
            signals.check()
            importlib.import_module(name)
    return main


def _words(job: Composed, arguments: argparse.Namespace) -> list[str]:
    """Return the command line of one job."""
    words = ["run", *job.overrides]
    if arguments.config_dir is not None:
        words += ["--config-dir", str(arguments.config_dir)]
    for module in arguments.allow_module:
        words += ["--allow-module", module]
    flags = ("force", "allow_inexact_resume", "verbose", "quiet", "traceback", "json")
    return words + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(arguments, flag)]


def outcome_of(end: processes.Ended) -> Outcome:
    """Return what a job reported, or else what its exit status says."""
    if end.status is None:
        return _NOT_STARTED
    if end.said:
        return _reported(end.said, end.over_limit)
    if end.over_limit:
        return _failed("exceeded --time-limit and had to be killed")
    if end.status >= 0:
        return _failed(f"the process exited with code {end.status}", code=end.status or 1)
    name = signal.Signals(-end.status).name
    if -end.status == signals.pending():
        stopped = exceptions.InterruptionError(f"stopped by {name} before it began")
        return Outcome("interrupted", signals.exit_code(), failure=Failure(stopped, stopped))
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return _failed(f"the process was killed by {name}{hint}")


def _reported(said: Mapping[str, Any], over_limit: bool) -> Outcome:
    path = None if said["path"] is None else Path(said["path"])
    if over_limit and said["state"] == "interrupted":
        return _failed("exceeded --time-limit; the state is saved", code=said["code"], path=path)
    failure, result = None, {}
    if (facts := said.get("error")) is not None:
        kind = getattr(exceptions, facts["kind"], OrcaError)
        error = kind(facts["what"], where=facts["where"], hint=facts["hint"])
        error.code = said["code"]
        failure = Failure(error, error)
    elif path is not None:
        result = read_or_empty(path / RESULT)
    return Outcome(said["state"], said["code"], path, result, failure)


def _failed(text: str, *, code: int = 1, path: Path | None = None) -> Outcome:
    error = OrcaError(text)
    error.code = code
    return Outcome("failed", code, path, failure=Failure(error, error))


def _recorded(job: Composed) -> Outcome:
    """Return how a job ended according to its run's records, which are found by its identity."""
    run = claim.look(Path(job.config.paths.runs or ""), experiment.run_name(job))
    if run is None:
        return _NOT_STARTED
    if result := run.result():
        return Outcome("completed", path=run.path, result=result)
    status = run.status()
    state = status.get("state")
    if state not in ("failed", "interrupted"):
        return _failed(f"its process ended in stage {state}, or is still running", path=run.path)
    text = str((status.get("error") or {}).get("message", ""))
    return replace(_failed(text, code=int(status.get("exit_code") or 1), path=run.path), state=state)
