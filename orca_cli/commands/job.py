"""One job of `orca run` in this process, and what it reports to the sweep that started it."""

from __future__ import annotations

import argparse
import traceback
from typing import TYPE_CHECKING, Any

from orca_cli import experiment, terminal
from orca_cli.commands.summary import build_table
from orca_cli.experiment import Outcome

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.compose import Composed

_LONGEST = 1000  # characters of each part of an error that a job reports


def run_job(job: Composed, arguments: argparse.Namespace) -> Outcome:
    """Run one composed job; prints what stage 1 made, unless the result is to be JSON."""

    def show_build(summary: dict[str, Any]) -> None:
        with terminal.lost_output_allowed():
            terminal.print_result(build_table(job, summary))

    more: dict[str, Any] = {} if arguments.json else {"on_build": show_build}
    outcome = experiment.run(job, force=arguments.force, allow_inexact=arguments.allow_inexact_resume, **more)
    if outcome.failure is not None:
        print_traceback(arguments, outcome.failure.cause)
    return outcome


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
