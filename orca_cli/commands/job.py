"""One job of `orca run`: in this process, or in one of its own; what it reports to the command that started it."""

from __future__ import annotations

import argparse
import importlib
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import exceptions, experiment, signals, terminal
from orca_cli.commands.options import forwarded
from orca_cli.commands.summary import start_table
from orca_cli.exceptions import OrcaError
from orca_cli.launching import gpus, processes
from orca_cli.outcome import Failure, Outcome, ended_by
from orca_cli.runs import claim
from orca_cli.runs.directory import RESULT, read_or_empty

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.compose import Composed
    from orca_cli.training.team import Team

NOT_STARTED = Outcome("not started")
_LONGEST = 1000  # characters of each part of an error that a job reports
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


def run_job(job: Composed, arguments: argparse.Namespace, team: Team | None = None) -> Outcome:
    """Run one composed job, one of several on a GPU of its own, in this process or leading several.

    Prints what stage 1 made, unless the result is to be JSON.
    """
    try:
        _take_gpu(job, arguments)
    except OrcaError as error:
        return ended_by(error)

    def show_build(summary: dict[str, Any]) -> None:
        with terminal.lost_output_allowed():
            terminal.print_result(start_table(job, summary))

    more: dict[str, Any] = {} if arguments.json else {"on_build": show_build}
    outcome = experiment.run(
        job, force=arguments.force, allow_inexact=arguments.allow_inexact_resume, team=team, **more
    )
    if outcome.failure is not None:
        print_traceback(arguments, outcome.failure.cause)
    return outcome


def _take_gpu(job: Composed, arguments: argparse.Namespace) -> None:
    """Take a GPU for one of several jobs, unless the run is completed or names its device."""
    if not (arguments.job or arguments.multirun) or job.config.device not in ("auto", "cuda"):
        return
    earlier = claim.look(Path(job.config.paths.runs or ""), experiment.run_name(job))
    if arguments.force or earlier is None or not earlier.result():
        gpus.take(gpus.visible())


def message(outcome: Outcome) -> dict[str, Any]:
    """Return what a job reports to its sweep; `sweep` reads it. The result is read from the run's folder."""
    path = None if outcome.path is None else str(outcome.path)
    said: dict[str, Any] = {"state": outcome.state, "code": outcome.code, "path": path}
    if outcome.failure is not None:
        error = outcome.failure.error
        texts = {"what": error.what, "where": error.where, "hint": error.hint}
        said["error"] = {"kind": type(error).__name__, **{key: text[:_LONGEST] for key, text in texts.items()}}
    return said


def print_traceback(arguments: argparse.Namespace, cause: BaseException) -> None:
    """Print where in the program a failure came from, if --traceback asks for it."""
    if arguments.traceback:
        terminal.print_error("".join(traceback.format_exception(cause)))


def program_to_fork(arguments: argparse.Namespace) -> processes.Main | None:
    """Return the program's main function, all that jobs need imported; None if they have to be new interpreters."""
    # The user's modules may have started threads when they were imported.
    if arguments.allow_module or arguments.program is None:
        return None
    for name in _HEAVY:
        signals.check()
        importlib.import_module(name)
    return arguments.program


def words_of(overrides: list[str], arguments: argparse.Namespace) -> list[str]:
    """Return the command line of one job, with the options of the command that starts it."""
    flags = ("force", "allow_inexact_resume", "verbose", "quiet", "traceback", "json")
    return ["run", *overrides, *forwarded(arguments, *flags)]


def outcome_of(end: processes.Ended) -> Outcome:
    """Return what a job reported, or else what its exit status says."""
    if end.status is None:
        return NOT_STARTED
    if end.said:
        return _reported(end)
    if end.over_limit:
        return failed("exceeded --time-limit and had to be killed")
    if end.status >= 0:
        return failed(f"the process exited with code {end.status}", code=end.status or 1)
    name = signal.Signals(-end.status).name
    if -end.status == signals.pending():
        stopped = exceptions.InterruptionError(f"stopped by {name} before it began")
        return Outcome("interrupted", signals.exit_code(), failure=Failure(stopped, stopped))
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return failed(f"the process was killed by {name}{hint}")


def _reported(end: processes.Ended) -> Outcome:
    said = end.said
    path = None if said["path"] is None else Path(said["path"])
    if end.over_limit and said["state"] == "interrupted":
        return failed("exceeded --time-limit; the state is saved", code=said["code"], path=path)
    failure, result = None, {}
    if (facts := said.get("error")) is not None:
        kind = getattr(exceptions, facts["kind"], OrcaError)
        error = kind(facts["what"], where=facts["where"], hint=facts["hint"])
        error.code = said["code"]
        failure = Failure(error, error)
    if path is not None and said["state"] in ("completed", "skipped"):  # its baselines may have been stopped
        result = read_or_empty(path / RESULT)
    return Outcome(said["state"], said["code"], path, result, failure)


def failed(text: str, *, code: int = 1, path: Path | None = None) -> Outcome:
    """Return the outcome of a job that failed."""
    error = OrcaError(text)
    error.code = code
    return Outcome("failed", code, path, failure=Failure(error, error))
