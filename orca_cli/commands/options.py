"""What commands have in common: arguments, which `orca_cli.cli` adds to a parser, and records.

A command is a module with EXAMPLES, ARGUMENTS and `execute`, or with VERBS, such as `orca runs`.
"""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orca_cli.terminal import Result

# What a command prints with --json, or a part of it: JSON-able.
Record = dict[str, Any]
# Adds an argument to a parser.
Argument = Callable[[argparse.ArgumentParser], object]
# Unit of a time -> seconds.
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Verb(NamedTuple):
    """One verb of a command, such as `orca runs list`, or a command that has no verbs."""

    about: str
    examples: str
    arguments: Sequence[Argument]
    execute: Callable[[argparse.Namespace], Result]


def argument(*names: str, **settings: Any) -> Argument:
    """Return an argument, declared as for `argparse.ArgumentParser.add_argument`."""
    # Deferred, since only the command that was typed gets a parser.
    return lambda parser: parser.add_argument(*names, **settings)


def number(
    kind: type[int] | type[float], lowest: float, highest: float = math.inf, hint: str = ""
) -> Callable[[str], float]:
    """Return the function by which argparse reads a number in a range, ends included."""

    def read(text: str) -> float:
        # argparse makes a message of the ValueError that any other text raises.
        parsed = kind(text)
        # NaN is in no range, since every comparison with it is false.
        if not lowest <= parsed <= highest:
            allowed = f"{lowest:g} to {highest:g}{hint}"
            if highest == math.inf:
                allowed = f"{lowest:g} or more"
            raise argparse.ArgumentTypeError(f"{text} is out of range; allowed: {allowed}")
        return parsed

    # argparse says "invalid float value" by this name.
    read.__name__ = kind.__name__
    return read


def seconds(text: str) -> float:
    """Return a time above 0, such as 90s, 30m, 8h or 2d, in seconds, for argparse.

    A number without a unit is in seconds.
    """
    duration_s = 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is not None:
        duration_s = float(match[1]) * _SECONDS[match[2]]
    # A number of some hundred digits is infinite as a float.
    if not 0 < duration_s < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time; such as 90s, 30m, 8h or 2d")
    return duration_s


# Arguments that several commands share.
RUNS = argument(
    "runs",
    nargs="*",
    type=Path,
    metavar="RUNS",
    help="folders of runs; default: $ORCA_RUNS, else ./runs",
)
CONFIG_DIR = argument(
    "--config-dir",
    type=Path,
    metavar="DIR",
    help="folder with your own task/x.yaml, body/x.yaml, ...",
)
ALLOW_MODULE = argument(
    "--allow-module",
    action="append",
    default=[],
    metavar="NAME",
    help="trust a module of yours that a YAML file names",
)
WHERE = argument(
    "--where",
    action="append",
    default=[],
    metavar="KEY=VALUE",
    help="only runs with this, such as task=digits: any setting, typed, decided or left as it is; "
    "may be repeated",
)


def run_argument(name: str, nargs: str | None = None) -> Argument:
    """Return an argument that names one run, or several."""
    return argument(
        name,
        nargs=nargs,
        metavar="RUN",
        help="a run's folder, its name, or the eight digits at its end",
    )


def own_code_words(config_dir: Path | None, modules: Sequence[str]) -> list[str]:
    """Return CONFIG_DIR and ALLOW_MODULE as words of another command line."""
    words = []
    if config_dir is not None:
        words += ["--config-dir", str(config_dir)]
    for module in modules:
        # The option takes a single name, and is repeated for others.
        words += ["--allow-module", module]
    return words


def add_job_options(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add --on, --at-once, --threads and --gpus, which `jobs.JobRunner` reads.

    `prefix` starts each help text, such as "with -m: ".
    """
    # None of these has a default, so that `orca run` can refuse those that are typed without -m.
    parser.add_argument(
        "--on",
        choices=("local", "ray", "slurm"),
        help=f"{prefix}where jobs run: local (default), ray or slurm; docs/cluster.md",
    )
    parser.add_argument(
        "--at-once",
        type=number(int, lowest=1),
        metavar="N",
        help=f"{prefix}jobs at a time; default: 1 on local, where they share the threads; "
        "all elsewhere",
    )
    parser.add_argument(
        "--threads",
        type=number(int, lowest=1),
        metavar="T",
        help=f"{prefix}threads of each job; elsewhere than local 1 by default",
    )
    # A job is one process, and a process computes on one GPU.
    several_gpus = "; several GPUs for one run: torchrun (docs/scaling.md)"
    parser.add_argument(
        "--gpus",
        type=number(float, lowest=0, highest=1, hint=several_gpus),
        metavar="G",
        help=f"{prefix}GPUs of each job: 0, 1, or a part such as 0.5; "
        "default: 1 where there are some (on slurm: 0)",
    )
