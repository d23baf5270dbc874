"""`orca run`: compose, then build, align and finetune; one run, or a sweep with -m."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import experiment, signals, terminal
from orca_cli.commands import sweep
from orca_cli.commands.engine import job_report
from orca_cli.commands.options import ALLOW_MODULE, CONFIG_DIR, add_engine, argument, seconds
from orca_cli.commands.summary import build_table, run_result
from orca_cli.exceptions import ConfigError, OrcaError, UsageError
from orca_cli.launching import process
from orca_cli.runs import claim, program
from orca_cli.runs.outcome import Outcome, ended_by
from orca_cli.terminal import Result
from orca_cli.training import gpus, ranks

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed
    from orca_cli.config.schema import Config
    from orca_cli.training.team import Team

EXAMPLES = """\
examples:
  orca run                                          the defaults: digits with MiniLM, less than a minute
  orca run task=listops body=minilm seed=1          another task; any setting is KEY=VALUE (orca list settings)
  orca run task=arrays task.kind=classes task.train=my.npz    your own arrays x and y; shapes and classes inferred
  orca run budget=quick                             a quarter of the steps; thorough, or a number of minutes
  orca run --dry-run task=darcy body=swin_tiny      shapes, parameters, steps, time; trains nothing
  orca run -m metric=otdd,none seed=0,1,2           a sweep of six runs; repeated, it runs only what is missing
  orca run -m study=alignment metric=none,otdd seed=0         a part of a study (orca list studies); --dry-run counts it
  orca run --config-dir my_conf task=mine           my_conf/task/mine.yaml
  orca run -m seed='range(40)' --at-once 2          two at a time, which share the threads; on clusters: docs/cluster.md

Repeating a command never repeats a completed run, and resumes an interrupted one from its last checkpoint.
SIGTERM, SIGHUP and Ctrl-C save the state; a second Ctrl-C stops at once. SIGUSR1 means preemption: the state is saved, the
exit code is 75.

Each job of a sweep runs in a process of its own. The same sweep typed on several machines with one folder of runs is shared
between them (docs/cluster.md)."""
_FLAGS = {
    "-m --multirun": "run every combination of comma lists, range() and glob()",
    "--dry-run": "compose, check, build and time some steps that are thrown away. A study: list its runs",
    "--force": "repeat completed runs, in a new folder",
    "--allow-inexact-resume": "resume although program, threads, packages, data or weights have changed; the result says so",
    "-q --quiet": "log warnings only, and leave the picture of the answer out",
}
_TIME = "with -m: stop a job after this time (90s, 30m, 8h, 2d); it saves its state and counts as failed"
ARGUMENTS = (
    argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings, and choices of groups (orca list)",
    ),
    CONFIG_DIR,
    ALLOW_MODULE,
    *(argument(*words.split(), action="store_true", help=text) for words, text in _FLAGS.items()),
    partial(add_engine, prefix="with -m: "),
    argument("--time-limit", type=seconds, metavar="TIME", help=_TIME),
    argument(process.OPTION, nargs=5, help=argparse.SUPPRESS),  # given by a driver to its jobs
)


def execute(arguments: argparse.Namespace) -> Result:
    """Run, and return how that ended."""
    place = process.Place.read(arguments.job) if arguments.job else None
    if place is not None:
        signals.end_with_parent(place.parent)
        if arguments.json:  # the sweep prints the record of all jobs
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    terminal.configure_logging(
        quiet=arguments.quiet, prefix=f"{place.label} " if place else "", bars=place is None
    )
    rank = ranks.from_environment() if place is None else None
    with signals.deferred(insistent=place is None and (rank is None or rank.leads)):
        team: Team | None = None
        if rank is not None:
            from orca_cli.training.team import Team

            team = Team(rank)
        if team is not None and not team.leads:
            return _follow(team, arguments)
        code = 1
        try:
            ended = _execute(arguments, place, team)
            code = ended.code
        except OrcaError as error:
            code = error.code
            if place is None:
                raise
            ended = ended_by(error)
        finally:
            if team is not None:
                team.end(code)
        if isinstance(ended, Result):
            return ended
        if arguments.traceback and ended.failure is not None:
            terminal.print_error("".join(traceback.format_exception(ended.failure.cause)))
        if place is not None:
            process.report(place.pipe, job_report(ended))
        return run_result(ended, alone=place is None, pictured=not arguments.quiet)


def _follow(team: Team, arguments: argparse.Namespace) -> Result:
    """Share the work of the leading process, which also reports how the run ended."""
    from orca_cli.config import compose
    from orca_cli.stages import optimizer_steps

    def settings() -> Config:
        with compose.session(arguments.config_dir) as session:
            return session.compose(arguments.overrides).config

    code = optimizer_steps.share(team, settings)
    team.wait_for_the_end()
    return Result({}, code=code)


def _check_same(place: process.Place, job: Composed) -> None:
    """Raise ConfigError where a sweep's job is another experiment here, or has another program, than where it was typed."""
    if place.identity not in ("", job.identity.run):
        hint = "its data files and the files of --config-dir have to be the same on all machines"
        raise ConfigError(
            "is another experiment here than for the sweep", where=place.label, hint=hint
        )
    if place.program not in ("", program.digest()):
        hint = "install the same version on all machines, and do not change it while the sweep runs"
        raise ConfigError(
            "the program has other sources here than for the sweep", where=place.label, hint=hint
        )


def _execute(
    arguments: argparse.Namespace, place: process.Place | None, team: Team | None
) -> Outcome | Result:
    for name in ("on", "at_once", "threads", "gpus", "time_limit"):
        if getattr(arguments, name) is not None and not arguments.multirun:
            raise UsageError(
                "applies only to sweeps", where=f"--{name.replace('_', '-')}", hint="add -m"
            )
    from orca_cli.config import compose

    signals.check()
    with compose.session(arguments.config_dir) as session:
        expansion = (
            session.expand(arguments.overrides, may_be_empty=arguments.dry_run)
            if arguments.multirun
            else compose.Sweep([session.compose(arguments.overrides)])
        )
        signals.check()
        if arguments.dry_run:
            return sweep.dry_run(expansion, force=arguments.force)
        if arguments.multirun:
            return sweep.run(expansion, arguments)
        (job,) = expansion.jobs
        if place is not None:
            _check_same(place, job)
    if place is not None and job.config.device in (
        "auto",
        "cuda",
    ):  # a job of a sweep takes a GPU of its own
        earlier = claim.look(Path(job.config.paths.runs or ""), experiment.run_name(job))
        if arguments.force or earlier is None or not earlier.result():
            gpus.take(gpus.visible())

    def show_build(summary: dict[str, Any]) -> None:
        with terminal.lost_output_allowed():
            terminal.print_result(build_table(job, summary))

    more: dict[str, Any] = {} if arguments.json else {"on_build": show_build}
    return experiment.run(
        job, force=arguments.force, allow_inexact=arguments.allow_inexact_resume, team=team, **more
    )
