"""`orca run`: compose, then build, align and finetune; one run, or a sweep with -m."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from orca_cli import experiment, parts, signals, terminal
from orca_cli.commands.summary import Ended, print_failure, run_job
from orca_cli.exceptions import InterruptionError, OrcaError, PreemptionError, UsageError
from orca_cli.launching import processes, slurm

_LONGEST_NOTE = 2000
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

EXAMPLES = """\
examples:
  orca run                                          the defaults: digits with MiniLM, two minutes on a laptop
  orca run task=listops body=minilm seed=1          another task; any setting is KEY=VALUE (orca list settings)
  orca run task=arrays task.kind=classes task.train=my.npz    your own arrays x and y; shapes and classes inferred
  orca run --dry-run task=darcy body=swin_tiny      shapes, parameters, steps; trains nothing
  orca run -m metric=otdd,none seed=0,1,2           a sweep: six runs; again: only those that are missing
  orca run -m seed='range(5)' finetune='glob(*)'    ranges and all choices of a group
  orca run --config-dir my_conf task=mine           my_conf/task/mine.yaml

Repeating a command never repeats a completed run, and goes on with an interrupted one from its last checkpoint.

Each job of a sweep runs in a process of its own; what ends one does not reach the others. SIGTERM, SIGHUP and Ctrl-C save the
state; a second Ctrl-C ends at once. SIGUSR1 (or the signal in ORCA_PREEMPTION_SIGNAL: USR1, USR2, TERM, HUP or XCPU) means
preemption: the state is saved, the exit code is 75, and inside a SLURM job `scontrol requeue` is called. To run the jobs of
a sweep on a cluster, install a launcher of Hydra and name it: hydra/launcher=submitit_slurm."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Transfer a pretrained transformer to a task: build, align, finetune, test."
    parser.epilog = EXAMPLES
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings; groups are task, body, source, metric, finetune, hparams, study",
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="run every combination of comma lists, range() and glob()"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="compose, check, build and do one forward pass; train nothing"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="folder with your own task/x.yaml, body/x.yaml, ..."
    )
    parser.add_argument("--force", action="store_true", help="run again, in a new folder, what is already completed")
    parser.add_argument(
        "--allow-inexact-resume",
        action="store_true",
        help="go on with a run although threads, packages, data or weights have changed; the result says so",
    )
    parser.add_argument(
        "--allow-module",
        action="append",
        default=[],
        metavar="NAME",
        help="trust a module of your own that a YAML file names",
    )
    parser.add_argument(
        "--at-once", type=int, metavar="N", help="with -m: so many jobs at the same time, which share the threads (1)"
    )
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        help="with -m: a job that takes longer (90s, 30m, 8h, 2d) is stopped; it saves its state and counts as failed",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    parser.add_argument(processes.OPTION, nargs=4, help=argparse.SUPPRESS)  # given by a sweep to its jobs


def execute(arguments: argparse.Namespace) -> int:
    """Run, and return the exit code."""
    place = processes.Place.read(arguments.job) if arguments.job else None
    if place is not None:
        processes.end_with_parent(place.parent)
    terminal.configure_logging(
        verbose=arguments.verbose,
        quiet=arguments.quiet,
        prefix=f"{place.label} " if place else "",
        bars=place is None or place.is_alone,
    )
    with signals.deferred(insistent=place is None):
        try:
            outcome = _execute(arguments)
        except OrcaError as error:
            print_failure(error, arguments.traceback)
            outcome = Ended(
                "interrupted" if isinstance(error, InterruptionError) else "failed", error.code, note=str(error)
            )
        if place is not None:
            processes.say(place.pipe, vars(replace(outcome, note=outcome.note[:_LONGEST_NOTE])))
        elif outcome.code == PreemptionError.code:
            slurm.requeue()
        return outcome.code


def _execute(arguments: argparse.Namespace) -> Ended:
    for module in arguments.allow_module:
        parts.allow_module(module)
    settings = _of_launcher(arguments)
    from orca_cli import compose

    signals.check()
    with compose.session(arguments.config_dir) as session:
        if not arguments.multirun:
            if arguments.job is None:
                _refuse_sweep_words(arguments.overrides)
            job = session.compose(arguments.overrides)
            signals.check()
            if arguments.dry_run:
                return _dry_run([job])
            return run_job(
                job,
                force=arguments.force,
                allow_inexact=arguments.allow_inexact_resume,
                traceback_wanted=arguments.traceback,
            )
        jobs = session.expand(arguments.overrides)
        if arguments.dry_run:
            return _dry_run(jobs)
        return _sweep(session, jobs, arguments, settings)


def _sweep(session: Any, jobs: list[Any], arguments: argparse.Namespace, settings: list[str]) -> Ended:
    from orca_cli.commands import sweep

    return sweep.run(session, jobs, arguments, settings)


def _of_launcher(arguments: argparse.Namespace) -> list[str]:
    """Return the options of a sweep as settings of its launcher.

    Raises:
        UsageError: a value out of range, or an option that says nothing here.
    """
    given = {"--at-once": arguments.at_once, "--time-limit": arguments.time_limit}
    for option, value in given.items():
        if value is not None and not arguments.multirun:
            raise UsageError(f"{option} is about sweeps", where=option, hint="add -m")
        if value is not None and any(text.startswith("hydra/launcher=") for text in arguments.overrides):
            raise UsageError(
                "says nothing to another launcher", where=option, hint="orca run -m ... hydra.launcher.KEY=VALUE"
            )
    settings = []
    if arguments.at_once is not None:
        if arguments.at_once < 1:
            raise UsageError(f"{arguments.at_once} is out of range", where="--at-once", hint="allowed: 1 or more")
        settings.append(f"hydra.launcher.at_once={arguments.at_once}")
    if arguments.time_limit is not None:
        settings.append(f"hydra.launcher.time_limit_s={_seconds(arguments.time_limit)}")
    return settings


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS else (text, "s")
    try:
        seconds = float(number) * _SECONDS[unit]
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"'{text}' is no time", where="--time-limit", hint="such as 90s, 30m, 8h or 2d")
    return seconds


def _dry_run(jobs: list[Any]) -> Ended:
    """Build the first job, do one forward pass, and list what all jobs would do."""
    from orca_cli.commands.summary import print_build, print_plan
    from orca_cli.runs import claim
    from orca_cli.stages.build import build, forward_once
    from orca_cli.training.engine import choose_device

    for job in jobs:
        choose_device(job.config.device)
    built = build(jobs[0].config, terminal.LogReporter())
    shape = forward_once(built, jobs[0].config)
    print_build(jobs[0], built.summary | {"output_shape": shape})
    print_plan(
        [(experiment.run_name(job), claim.peek(Path(job.config.paths.runs), experiment.run_name(job))) for job in jobs],
        built.summary,
    )
    return Ended("completed", 0)


def _refuse_sweep_words(overrides: list[str]) -> None:
    for text in overrides:
        key, _, value = text.partition("=")
        plain = not value.startswith(("[", "{", "'", '"'))
        if plain and ("," in value or value.startswith(("range(", "glob(", "choice("))):
            raise UsageError(f"'{text}' names several values", where=key, hint="add -m for a sweep")
