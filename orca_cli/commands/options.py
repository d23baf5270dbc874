"""Options that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_config_dir(parser: argparse.ArgumentParser, files: str = "task/x.yaml, ...") -> None:
    """Add --config-dir."""
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help=f"folder with your own {files}")


def add_allow_module(parser: argparse.ArgumentParser) -> None:
    """Add --allow-module."""
    text = "trust a module of yours that a YAML file names"
    parser.add_argument("--allow-module", action="append", default=[], metavar="NAME", help=text)


def forwarded(arguments: argparse.Namespace, *flags: str) -> list[str]:
    """Return the options of a command line that the commands it starts need too; `flags` are arguments without a value."""
    words = [] if arguments.config_dir is None else ["--config-dir", str(arguments.config_dir)]
    words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
    return words + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(arguments, flag, False)]
