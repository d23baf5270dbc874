"""`orca run`: compose the settings, then build, align and finetune: one run, or a sweep with -m."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Any

from orca_cli import experiment, signals, terminal
from orca_cli.commands import sweep
from orca_cli.commands.jobs import job_report, runs_root
from orca_cli.commands.options import ALLOW_MODULE, CONFIG_DIR, add_job_options, argument, seconds
from orca_cli.commands.summary import build_table, run_result
from orca_cli.exceptions import ConfigError, OrcaError, UsageError
from orca_cli.launching import process
from orca_cli.runs import claim, program
from orca_cli.runs.outcome import Outcome, ended_by
from orca_cli.terminal import Result
from orca_cli.training import gpus, ranks

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.composed import Composed
    from orca_cli.config.schema import Config
    from orca_cli.training.team import Team

EXAMPLES = """\
examples:
  orca run                                          \
the defaults: the data set MNIST-1D and the body MiniLM, about a minute
  orca run task=listops body=minilm seed=1          \
another task; `orca list settings` explains every KEY=VALUE
  orca run task=arrays task.kind=classes task.train=my.npz    \
your own arrays x and y in a file; orca infers shapes and classes
  orca run task=table task.train=my.csv task.target=y budget=quick    \
a table whose targets are in the column y, trained with a quarter of the usual steps; `budget` \
may also be `thorough` or a number of minutes
  orca run --dry-run task=darcy body=swin_tiny      \
only show shapes, parameters, steps and expected time
  orca run -m metric=otdd,none seed=0,1,2           \
a sweep of six runs; if you rerun the command, it skips completed runs
  orca run -m study=alignment metric=none,otdd seed=0         \
a part of a study (`orca list studies`); add --dry-run to see its runs
  orca run --config-dir my_conf task=mine           a task of your own, in my_conf/task/mine.yaml
  orca run -m seed='range(40)' --at-once 2          \
a sweep of 40 runs, two at a time; for clusters see docs/cluster.md

`orca --help` explains words such as metric, sweep and study. At its end, a run prints the test \
error. It also compares the trained model (the transfer) with baselines, such as a random forest, \
that were fitted to the same data.

If you rerun a command, it skips completed runs, and resumes an interrupted run from its last \
checkpoint. SIGTERM, SIGHUP and Ctrl-C save the state and stop the run; a second Ctrl-C stops it \
at once. A scheduler that needs the machine can send SIGUSR1, which also saves the state and stops \
the run, with exit code 75.

Each run of a sweep has its own process. Several machines that share one folder of runs divide a \
sweep among them if each machine runs the same command (docs/cluster.md)."""
# Names of an option without a value -> its help.
_FLAG_HELP = {
    "-m --multirun": "run a sweep: one run for every combination of the values of all settings; "
    "values are separated by commas, or come from range() or glob()",
    "--dry-run": "train nothing: check the settings, build the model, and show shapes, steps and "
    "expected time; for a study, only list its runs",
    "--force": "rerun completed runs, in new folders",
    "--allow-inexact-resume": "resume a run even if the program, threads, packages, data or "
    "weights have changed since it started; the result records the change",
    "-q --quiet": "log warnings only, and do not print tables or matrices of predictions",
}
# Names, in `arguments`, of options that apply only to sweeps.
_SWEEP_OPTIONS = ("on", "at_once", "threads", "gpus", "time_limit")
ARGUMENTS = (
    argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings such as train.lr=1e-4 (`orca list settings` shows all), and choices such as "
        "task=digits (`orca list` shows all)",
    ),
    CONFIG_DIR,
    ALLOW_MODULE,
    *(
        argument(*names.split(), action="store_true", help=about)
        for names, about in _FLAG_HELP.items()
    ),
    partial(add_job_options, prefix="with -m: "),
    argument(
        "--time-limit",
        type=seconds,
        metavar="TIME",
        help="with -m: stop each run that takes longer than this time (90s, 30m, 8h, 2d); a "
        "stopped run saves its state and counts as failed",
    ),
    # The driver of a sweep passes this option to its jobs.
    argument(process.OPTION, nargs=5, help=argparse.SUPPRESS),
)


def execute(arguments: argparse.Namespace) -> Result:
    """Run, and return how the run or the sweep ended.

    This process may be a job of a sweep, or one of several processes of one run.
    """
    # First, since the log of a job has its own prefix.
    if arguments.job:
        return _execute_job(process.Place.read(arguments.job), arguments)
    terminal.configure_logging(quiet=arguments.quiet)
    rank = ranks.from_environment()
    # Only the leading process of a run ends at once upon a second Ctrl-C.
    with signals.deferred(insistent=rank is None or rank.leads):
        if rank is None:
            return _result(_run_or_sweep(arguments, team=None), arguments)
        # Imported late: it needs torch, which a run in a single process may not need at all.
        from orca_cli.training.team import Team

        team = Team(rank)
        if team.leads:
            return _lead(team, arguments)
        return _follow(team, arguments)


def _execute_job(place: process.Place, arguments: argparse.Namespace) -> Result:
    """Run as a job of a sweep, and report to the driver how the run ended."""
    # So a driver that is killed leaves no running jobs behind.
    signals.end_with_parent(place.parent)
    if arguments.json:
        # The sweep prints the record of all jobs.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # Jobs share the terminal, where their progress bars would overwrite each other.
    terminal.configure_logging(quiet=arguments.quiet, prefix=f"{place.label} ", bars=False)
    # The driver acts on a second Ctrl-C, for all of its jobs.
    with signals.deferred(insistent=False):
        try:
            outcome = _run_job(place, arguments)
        except OrcaError as error:
            # Composing raises failures; `experiment.run` returns them.
            outcome = ended_by(error)
        _print_cause(outcome, arguments)
        # Before anything is printed, since printing may fail.
        process.report(place.pipe, job_report(outcome))
        return run_result(outcome, alone=False, pictured=not arguments.quiet)


def _run_job(place: process.Place, arguments: argparse.Namespace) -> Outcome:
    """Compose the job where it runs, check that it equals the planned job, and run it."""
    from orca_cli.config import compose

    signals.check()
    with compose.session(arguments.config_dir) as session:
        job = session.compose(arguments.overrides)
        signals.check()
        _check_same(place, job)
    # Each job reserves a GPU, unless its run is completed and is not repeated.
    # With cuda:N the user has chosen the GPU.
    if job.config.device in ("auto", "cuda"):
        earlier = claim.look(runs_root(job), experiment.run_name(job))
        if arguments.force or earlier is None or not earlier.result():
            gpus.take(gpus.visible())
    return _run_single(job, arguments, team=None)


def _check_same(place: process.Place, job: Composed) -> None:
    """Check that a job has the same settings, data and program as on the machine of the sweep.

    Raises:
        ConfigError: they differ.
    """
    # The content of data files is part of the identity.
    if place.identity not in ("", job.identity.run):
        raise ConfigError(
            "data files or settings files on this machine differ from the files on the machine "
            "where the sweep began",
            where=place.label,
            hint="make the data files and the files of --config-dir the same on all machines",
        )
    if place.program not in ("", program.digest()):
        raise ConfigError(
            "this machine has another version of orca than the machine where the sweep began",
            where=place.label,
            hint="install the same version on all machines, and do not change it while the sweep "
            "runs",
        )


def _lead(team: Team, arguments: argparse.Namespace) -> Result:
    """Run with the other processes of the run, which learn how it ended."""
    # The code for any exception that is not an OrcaError, such as a bug.
    code = 1
    try:
        ended = _run_or_sweep(arguments, team)
        code = ended.code
    except OrcaError as error:
        code = error.code
        raise
    finally:
        # Always: otherwise the other processes would wait for the next order forever.
        team.end(code)
    return _result(ended, arguments)


def _follow(team: Team, arguments: argparse.Namespace) -> Result:
    """Share the work of the leading process, which also reports how the run ended."""
    from orca_cli.config import compose
    from orca_cli.stages import optimizer_steps

    # Called only after the leading process has read the data, and so has written the files that all
    # processes share.
    def settings() -> Config:
        with compose.session(arguments.config_dir) as session:
            return session.compose(arguments.overrides).config

    code = optimizer_steps.share(team, settings)
    team.wait_for_the_end()
    return Result({}, code=code)


def _run_or_sweep(arguments: argparse.Namespace, team: Team | None) -> Outcome | Result:
    """Execute the run, the sweep, or the dry run that the command line asks for."""
    for name in _SWEEP_OPTIONS:
        if getattr(arguments, name) is not None and not arguments.multirun:
            option = f"--{name.replace('_', '-')}"
            raise UsageError("applies only to sweeps", where=option, hint="add -m or remove it")
    from orca_cli.config import compose

    signals.check()
    with compose.session(arguments.config_dir) as session:
        if arguments.multirun:
            # A dry run may show a study without any possible run, with the reasons.
            expansion = session.expand(arguments.overrides, may_be_empty=arguments.dry_run)
        else:
            expansion = compose.Sweep([session.compose(arguments.overrides)])
        signals.check()
        if arguments.dry_run:
            return sweep.dry_run(expansion, arguments)
        if arguments.multirun:
            return sweep.run(expansion, arguments)
    (job,) = expansion.jobs
    return _run_single(job, arguments, team)


def _run_single(job: Composed, arguments: argparse.Namespace, team: Team | None) -> Outcome:
    """Execute one run, and show its shapes once the model is built."""

    def show_build(summary: dict[str, Any]) -> None:
        if arguments.json:
            return
        # A closed pipe must not end a run, whose records are in its folder.
        with terminal.lost_output_allowed():
            terminal.print_result(build_table(job, summary))

    return experiment.run(
        job,
        force=arguments.force,
        allow_inexact=arguments.allow_inexact_resume,
        on_build=show_build,
        team=team,
    )


def _result(ended: Outcome | Result, arguments: argparse.Namespace) -> Result:
    """Return the result of a single run; the result of a sweep or a dry run passes unchanged."""
    if isinstance(ended, Result):
        return ended
    _print_cause(ended, arguments)
    return run_result(ended, alone=True, pictured=not arguments.quiet)


def _print_cause(outcome: Outcome, arguments: argparse.Namespace) -> None:
    """Print the traceback of a failed run if --traceback asks for it."""
    if arguments.traceback and outcome.failure is not None:
        terminal.print_error("".join(traceback.format_exception(outcome.failure.cause)))
