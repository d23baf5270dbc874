"""One composed run in this process: by itself, as a job of a driver, or leading several processes."""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import experiment, terminal
from orca_cli.commands.summary import start_table
from orca_cli.exceptions import OrcaError
from orca_cli.outcome import Outcome, ended_by
from orca_cli.runs import claim
from orca_cli.training import gpus

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed
    from orca_cli.training.team import Team


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
    if not arguments.job or job.config.device not in ("auto", "cuda"):
        return
    earlier = claim.look(Path(job.config.paths.runs or ""), experiment.run_name(job))
    if arguments.force or earlier is None or not earlier.result():
        gpus.take(gpus.visible())


def print_traceback(arguments: argparse.Namespace, cause: BaseException) -> None:
    """Print where in the program a failure came from, if --traceback asks for it."""
    if arguments.traceback:
        terminal.print_error("".join(traceback.format_exception(cause)))
