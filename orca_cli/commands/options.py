"""Arguments of commands as values, which `orca_cli.cli` adds to a parser; some of them are several commands'.

A command is a module with EXAMPLES, ARGUMENTS and `execute`, or with VERBS, such as `orca runs`.
"""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orca_cli.terminal import Result

Argument = Callable[[argparse.ArgumentParser], object]  # adds something to a parser
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Verb(NamedTuple):
    """One of the verbs of a command; the last three are what a command of one verb has as a module."""

    about: str
    examples: str
    arguments: Sequence[Argument]
    execute: Callable[[argparse.Namespace], Result]


def argument(*names: str, **more: Any) -> Argument:
    """Return an argument; names and settings are those of `argparse.ArgumentParser.add_argument`."""
    return lambda parser: parser.add_argument(*names, **more)


def number(
    kind: type[int] | type[float], least: float, most: float = math.inf, hint: str = ""
) -> Callable[[str], float]:
    """Return what argparse reads an option with: a number that is in a range, and not NaN."""

    def read(text: str) -> float:
        if least <= (value := kind(text)) <= most:
            return value
        allowed = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}{hint}"
        raise argparse.ArgumentTypeError(f"{text} is out of range; allowed: {allowed}")

    read.__name__ = kind.__name__  # argparse says "invalid float value" by this name
    return read


def seconds(text: str) -> float:
    """Return the seconds of a time above 0, such as 90s, 30m, 8h or 2d, for argparse; a number alone is in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None or not 0 < (value := float(match[1]) * _SECONDS[match[2]]) < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time; such as 90s, 30m, 8h or 2d")
    return value


RUNS = argument(
    "runs",
    nargs="*",
    type=Path,
    metavar="RUNS",
    help="folders of runs; default: $ORCA_RUNS, else ./runs",
)
_WHERE = "only runs with this, such as task=digits: any setting, typed, decided or left as it is; may be repeated"
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
WHERE = argument("--where", action="append", default=[], metavar="KEY=VALUE", help=_WHERE)


def run_argument(name: str, nargs: str | None = None) -> Argument:
    """Return one run, or several."""
    return argument(
        name,
        nargs=nargs,
        metavar="RUN",
        help="a run's folder, its name, or the eight digits at its end",
    )


def add_engine(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add --on, --at-once, --threads and --gpus; `prefix` starts each help text, such as "with -m: "."""
    text = f"{prefix}where jobs run: local (default), ray or slurm; docs/cluster.md"
    parser.add_argument("--on", choices=("local", "ray", "slurm"), help=text)
    text = (
        f"{prefix}jobs at a time; default: 1 on local, where they share the threads; all elsewhere"
    )
    parser.add_argument("--at-once", type=number(int, 1), metavar="N", help=text)
    text = f"{prefix}threads of each job; elsewhere than local 1 by default"
    parser.add_argument("--threads", type=number(int, 1), metavar="T", help=text)
    several = "; several GPUs for one run: torchrun (docs/scaling.md)"
    text = f"{prefix}GPUs of each job: 0, 1, or a part such as 0.5; default: 1 where there are some (on slurm: 0)"
    parser.add_argument("--gpus", type=number(float, 0, 1, several), metavar="G", help=text)
