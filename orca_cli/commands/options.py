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
