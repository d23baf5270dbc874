"""Options that several commands have."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from orca_cli.exceptions import UsageError


def add_config_dir(parser: argparse.ArgumentParser, files: str = "task/x.yaml, ...") -> None:
    """Add --config-dir."""
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help=f"folder with your own {files}")


def add_allow_module(parser: argparse.ArgumentParser) -> None:
    """Add --allow-module."""
    text = "trust a module of yours that a YAML file names"
    parser.add_argument("--allow-module", action="append", default=[], metavar="NAME", help=text)


def add_engine(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Add --on, --at-once, --threads and --gpus; `prefix` starts each help text, such as "with -m: "."""
    text = f"{prefix}where jobs run: local (default), ray or slurm; docs/cluster.md"
    parser.add_argument("--on", choices=("local", "ray", "slurm"), help=text)
    text = f"{prefix}jobs at a time; default: 1 on local, where they share the threads; all elsewhere"
    parser.add_argument("--at-once", type=int, metavar="N", help=text)
    parser.add_argument(
        "--threads", type=int, metavar="T", help=f"{prefix}threads of each job; elsewhere than local 1 by default"
    )
    text = f"{prefix}GPUs of each job: 0, 1, or a part such as 0.5; default: 1 where there are some (on slurm: 0)"
    parser.add_argument("--gpus", type=float, metavar="G", help=text)


def add_run(parser: argparse.ArgumentParser, name: str, nargs: str | None = None) -> None:
    """Add one run, or several."""
    text = "a run's folder, its name, or the eight digits at its end"
    parser.add_argument(name, nargs=nargs, metavar="RUN", help=text)


def check_at_least(option: str, value: float | None, least: float) -> None:
    """Refuse a number that is too small; None stands for an option that was not typed.

    Raises:
        UsageError: it is below `least`, or not finite.
    """
    if value is not None and not least <= value < math.inf:
        raise UsageError(f"{value:g} is out of range", where=option, hint=f"allowed: {least:g} or more")


def check_engine(arguments: argparse.Namespace) -> None:
    """Refuse numbers of `add_engine` that are out of range.

    Raises:
        UsageError: one is.
    """
    check_at_least("--at-once", arguments.at_once, 1)
    check_at_least("--threads", arguments.threads, 1)
    if arguments.gpus is not None and not 0 <= arguments.gpus <= 1:
        hint = "allowed: 0 to 1; several GPUs for one run: torchrun (docs/scaling.md)"
        raise UsageError(f"{arguments.gpus:g} is out of range", where="--gpus", hint=hint)
