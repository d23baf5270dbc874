"""`orca distance`: how far two labelled data sets are from each other, by any of the metrics; writes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.commands.options import add_allow_module, add_config_dir
from orca_cli.exceptions import UsageError
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result

if TYPE_CHECKING:  # imports torch
    from orca_cli.prediction.distance import Comparison, Measured, Side

_BOUNDS = ("newton_steps", "max_iterations")  # parameters that end a solver before it reaches its tolerance
_WORDS = ("metric", "body", "seed", "device")  # settings of `orca run` that are options here as well
EXAMPLES = """\
examples:
  orca distance a.npz b.npz                            arrays x (n, d) or (n, ...) and y (n,) in each
  orca distance a.npz b.npz metric=otdd,mmd reg=0.5    several metrics; a parameter goes to those that have it
  orca distance stdlib_docs task=digits body=minilm    embedded data; align.features=pooled, source.size=500, ...
  orca distance source=digits cifar10 body=swin_tiny   task= or source= if both have the name

A is the source, B the target. The value of a data set against itself shows what a metric calls 0."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "The distance between two labelled data sets: .npz files, or names of tasks and sources."
    parser.add_argument("a", metavar="A", help=".npz file, or name of a task or source: the source")
    parser.add_argument("b", metavar="B", help="likewise: the target")
    text = "metric, body, seed, device as in orca run; a metric's parameters; how named data are embedded"
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=text)
    parser.add_argument("--metric", default="otdd", metavar="NAMES", help="as metric=NAMES; default: otdd")
    text = "draw at most N points from each side; 0: all; default: 1000"
    parser.add_argument("--points", type=int, default=1000, metavar="N", help=text)
    parser.add_argument("--seed", default=0, help="of all draws; default: 0")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps; default: cpu")
    parser.add_argument("--body", metavar="NAME", help="embeds named data; default: the body that the task picks")
    parser.add_argument("--checkpoint", metavar="PATH", help="as body.checkpoint=PATH: hub id or folder")
    add_config_dir(parser, "metric/x.yaml, task/x.yaml, ...")
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the distances."""
    settings = _take_words(arguments)
    terminal.configure_logging(quiet=True)
    from orca_cli.prediction.distance import distance

    comparison = distance(
        arguments.a,
        arguments.b,
        metrics=[name.strip() for name in arguments.metric.split(",") if name.strip()],
        settings=settings,
        points=arguments.points or None,
        seed=arguments.seed,
        device=arguments.device,
        body=arguments.body,
        config_dir=arguments.config_dir,
    )
    for measured in comparison.metrics:
        if measured.diagnostics.get("converged") == 0.0:
            terminal.log.warning(_unsolved(measured))
    return Result({"schema": 1, **dataclasses.asdict(comparison)}, _show(comparison))


def _show(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what was compared, and a table for each metric."""
    embedded = f", embedded by {comparison.body}" if comparison.body else ""
    rows = [
        ("A", _side(comparison.a)),
        ("B", _side(comparison.b)),
        ("computed", f"seed {comparison.seed}{embedded}"),
    ]
    yield _table(rows)
    for measured in comparison.metrics:
        yield _table([("", ""), *_lines(measured)])


def _take_words(arguments: argparse.Namespace) -> list[str]:
    """Set the options that are given as KEY=VALUE, and return the other settings."""
    others = [f"body.checkpoint='{arguments.checkpoint}'"] if arguments.checkpoint else []
    for text in arguments.settings:
        key, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"'{text}' is a third data set", hint="two are compared; settings are KEY=VALUE")
        if key in _WORDS:
            setattr(arguments, key, value.strip("[]'\""))
        else:
            others.append(text)
    try:
        arguments.seed = int(arguments.seed)
    except ValueError as error:
        raise UsageError(f"'{arguments.seed}' is not an integer", where="seed", hint="such as seed=0") from error
    return others


def _side(side: Side) -> str:
    return f"{side.name}: {side.points} points of width {side.width}, {side.classes} classes"


def _lines(measured: Measured) -> Iterator[tuple[str, str]]:
    yield measured.metric, f"{_number(measured.value)}   ({measured.seconds:.2g} s)"
    if measured.convention:
        yield "convention", measured.convention
    yield "to itself", f"A {_number(measured.self_a)}, B {_number(measured.self_b)}"
    if measured.parameters:
        yield "parameters", " ".join(f"{key}={as_typed(value)}" for key, value in measured.parameters.items())
    yield "solver", ", ".join(f"{key} {_number(value)}" for key, value in measured.diagnostics.items()) or "-"


def _unsolved(measured: Measured) -> str:
    """Return a warning that a solver stopped above its tolerance, with the parameters that let it go on."""
    figures = {"marginal error": measured.diagnostics.get("marginal_error")}
    figures["tolerance"] = measured.parameters.get("tolerance")
    reached = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
    bounds = [name for name in _BOUNDS if name in measured.parameters]
    advice = [" ".join(f"{name}={2 * measured.parameters[name]}" for name in bounds)] if bounds else []
    if figures["tolerance"] is not None:
        advice.append("a larger tolerance")
    text = f"{measured.metric}: the solver ended above its tolerance{f' ({reached})' if reached else ''}"
    return f"{text}; try {' or '.join(advice)}" if advice else text


def _number(value: float) -> str:
    return f"{value:.0f}" if value == math.floor(value) and abs(value) < 1e9 else f"{value:.6g}"


def _table(rows: list[tuple[str, str]]) -> RenderableType:
    """Return names and texts; the tables of all metrics have a first column of the same width."""
    return terminal.facts([(f"{name:<13}", text) for name, text in rows])
