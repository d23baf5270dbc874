"""Options that several commands have."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path


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
    parser.add_argument("--at-once", type=number(int, 1), metavar="N", help=text)
    text = f"{prefix}threads of each job; elsewhere than local 1 by default"
    parser.add_argument("--threads", type=number(int, 1), metavar="T", help=text)
    several = "; several GPUs for one run: torchrun (docs/scaling.md)"
    text = f"{prefix}GPUs of each job: 0, 1, or a part such as 0.5; default: 1 where there are some (on slurm: 0)"
    parser.add_argument("--gpus", type=number(float, 0, 1, several), metavar="G", help=text)


def add_run(parser: argparse.ArgumentParser, name: str, nargs: str | None = None) -> None:
    """Add one run, or several."""
    text = "a run's folder, its name, or the eight digits at its end"
    parser.add_argument(name, nargs=nargs, metavar="RUN", help=text)
