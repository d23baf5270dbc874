"""Definitions that commands share: arguments, which `orca_cli.cli` adds to a parser, and records.

A command is a module with EXAMPLES, ARGUMENTS and `execute`. A command with subcommands, such as
`orca runs`, has VERBS instead.
"""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orca_cli.terminal import Result

# The JSON-able output of a command with --json, or a part of that output.
Record = dict[str, Any]
# A function that adds an argument to a parser.
Argument = Callable[[argparse.ArgumentParser], object]
# Unit of a time -> seconds.
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Verb(NamedTuple):
    """A verb of a command, such as `list` of `orca runs`, or a command without verbs."""

    about: str
    examples: str
    arguments: Sequence[Argument]
    execute: Callable[[argparse.Namespace], Result]


def argument(*names: str, **settings: Any) -> Argument:
    """Return an argument, declared as for `argparse.ArgumentParser.add_argument`."""
    # Deferred, since only the command that the user runs gets a parser.
    return lambda parser: parser.add_argument(*names, **settings)


def number(
    kind: type[int] | type[float], lowest: float, highest: float = math.inf, hint: str = ""
) -> Callable[[str], float]:
    """Return a function for argparse that reads a number in a range, including both ends."""

    def read(text: str) -> float:
        # Any other text raises ValueError, which argparse turns into a message.
        parsed = kind(text)
        # NaN is outside every range, since every comparison with it is false.
        if not lowest <= parsed <= highest:
            allowed = f"between {lowest:g} and {highest:g}"
            if highest == math.inf:
                allowed = f"at least {lowest:g}"
            raise argparse.ArgumentTypeError(f"must be {allowed}, got {text}{hint}")
        return parsed

    # argparse uses this name in messages such as "invalid float value".
    read.__name__ = kind.__name__
    return read


def seconds(text: str) -> float:
    """Return the seconds of a time above 0, such as 90s, 30m, 8h or 2d, for argparse.

    A number without a unit means seconds.
    """
    duration_s = 0.0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is not None:
        duration_s = float(match[1]) * _SECONDS[match[2]]
    # A number of several hundred digits becomes an infinite float.
    if not 0 < duration_s < math.inf:
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 30m, 8h or 2d, got '{text}'")
    return duration_s


# Arguments that several commands share.
RUNS = argument(
    "runs",
    nargs="*",
    type=Path,
    metavar="RUNS",
    help="folders that contain runs; default: $ORCA_RUNS, or ./runs if ORCA_RUNS is not set",
)
CONFIG_DIR = argument(
    "--config-dir",
    type=Path,
    metavar="DIR",
    help="folder with your own settings files: task/x.yaml, body/x.yaml, ...",
)
ALLOW_MODULE = argument(
    "--allow-module",
    action="append",
    default=[],
    metavar="NAME",
    help="allow settings files to run code of your Python module NAME; may be repeated",
)
WHERE = argument(
    "--where",
    action="append",
    default=[],
    metavar="KEY=VALUE",
    help="use only runs with this setting, such as task=digits. The setting may come from you, "
    "from a decision of the program, or from a default. Repeat the option for several conditions",
)


def run_argument(name: str, nargs: str | None = None) -> Argument:
    """Return an argument that names a run; `nargs` allows several or none, as in argparse."""
    return argument(
        name,
        nargs=nargs,
        metavar="RUN",
        help="a run's folder, its name, or the last eight characters of its name",
    )


def own_code_words(config_dir: Path | None, modules: Sequence[str]) -> list[str]:
    """Return the options --config-dir and --allow-module as words for another command line."""
    words = []
    if config_dir is not None:
        words += ["--config-dir", str(config_dir)]
    for module in modules:
        # The option takes a single name, and is repeated for further names.
        words += ["--allow-module", module]
    return words


def add_job_options(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add --on, --at-once, --threads and --gpus, which `jobs.JobRunner` reads.

    `prefix` starts each help text, such as "with -m: ".
    """
    # These options have no defaults, so that `orca run` can refuse them without -m.
    parser.add_argument(
        "--on",
        choices=("local", "ray", "slurm"),
        help=f"{prefix}where runs are computed: local (this machine, the default), ray or slurm "
        "(docs/cluster.md)",
    )
    parser.add_argument(
        "--at-once",
        type=number(int, lowest=1),
        metavar="N",
        help=f"{prefix}number of runs at a time; default: 1 on this machine, and the number of all "
        "runs on a cluster. Several runs at a time on this machine share its CPU threads",
    )
    parser.add_argument(
        "--threads",
        type=number(int, lowest=1),
        metavar="T",
        help=f"{prefix}CPU threads of each run; default: an equal share of this machine's threads, "
        "or 1 on a cluster",
    )
    # A job is one process, and a process computes on one GPU.
    several_gpus = "; use torchrun for several GPUs per run (docs/scaling.md)"
    parser.add_argument(
        "--gpus",
        type=number(float, lowest=0, highest=1, hint=several_gpus),
        metavar="G",
        help=f"{prefix}GPUs of each run: 0, 1, or a fraction such as 0.5; "
        "default without slurm: 1 if the machine has a GPU, else 0; default with slurm: 0",
    )
