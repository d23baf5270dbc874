"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from orca_cli.exceptions import UsageError

EXECUTORS = ("local", "ray", "slurm")


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
    parser.add_argument("--on", choices=EXECUTORS, help=text)
    text = f"{prefix}jobs at a time; default: 1 on local, where they share the threads; all elsewhere"
    parser.add_argument("--at-once", type=int, metavar="N", help=text)
    parser.add_argument(
        "--threads", type=int, metavar="T", help=f"{prefix}threads of each job; elsewhere than local 1 by default"
    )
    text = f"{prefix}GPUs of each job: 0, 1, or a part such as 0.5; default: 1 where there are some (on slurm: 0)"
    parser.add_argument("--gpus", type=float, metavar="G", help=text)


def check_engine(arguments: argparse.Namespace) -> None:
    """Refuse numbers of `add_engine` that are out of range.

    Raises:
        UsageError: one is.
    """
    for option, value in (("--at-once", arguments.at_once), ("--threads", arguments.threads)):
        if value is not None and value < 1:
            raise UsageError(f"{value} is out of range", where=option, hint="allowed: 1 or more")
    if arguments.gpus is not None and not 0 <= arguments.gpus <= 1:
        hint = "allowed: 0 to 1; several GPUs for one run: torchrun (docs/scaling.md)"
        raise UsageError(f"{arguments.gpus:g} is out of range", where="--gpus", hint=hint)


def forwarded(arguments: argparse.Namespace, *flags: str) -> list[str]:
    """Return the options to pass on to the commands that this one starts; `flags` are options without a value."""
    words = [] if arguments.config_dir is None else ["--config-dir", str(arguments.config_dir)]
    words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
    return words + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(arguments, flag, False)]
