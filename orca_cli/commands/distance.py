"""`orca distance`: how far two labelled data sets are from each other, by any of the metrics; writes nothing."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.commands.options import add_allow_module, add_config_dir
from orca_cli.exceptions import UsageError
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted

if TYPE_CHECKING:  # imports torch
    from orca_cli.prediction.distance import Comparison, Side

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
    text = "metric (default: otdd), seed, device (cpu), body; a metric's parameters; how named data are embedded"
    parser.add_argument("settings", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    text = "draw at most N points from each side; 0: all; default: 1000"
    parser.add_argument("--points", type=int, default=1000, metavar="N", help=text)
    add_config_dir(parser, "metric/x.yaml, task/x.yaml, ...")
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the distances."""
    words: dict[str, str] = {"metric": "otdd", "seed": "0", "device": "cpu", "body": ""}
    others = []
    for text in arguments.settings:
        key, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"'{text}' is a third data set", hint="two are compared; settings are KEY=VALUE")
        if key in words:
            words[key] = value.strip("[]'\"")
        else:
            others.append(text)
    if not words["seed"].isdecimal():
        raise UsageError(f"'{words['seed']}' is not an integer from 0 on", where="seed", hint="such as seed=0")
    terminal.configure_logging(quiet=True)
    from orca_cli.prediction.distance import distance

    comparison = distance(
        arguments.a,
        arguments.b,
        metrics=[name.strip() for name in words["metric"].split(",") if name.strip()],
        settings=others,
        points=arguments.points or None,
        seed=int(words["seed"]),
        device=words["device"],
        body=words["body"] or None,
        config_dir=arguments.config_dir,
    )
    for measured in comparison.metrics:
        if measured.diagnostics.get("converged") == 0.0:
            terminal.log.warning(f"{measured.metric}: the solver ended above its tolerance; raise metric.reg")
    return Result({"schema": 1, **dataclasses.asdict(comparison)}, _show(comparison))


def _show(comparison: Comparison) -> Iterator[RenderableType]:
    """Yield what was compared, and a table for each metric."""
    embedded = f", embedded by {comparison.body}" if comparison.body else ""
    rows = [("A", _side(comparison.a)), ("B", _side(comparison.b))]
    rows.append(("computed", f"seed {comparison.seed}{embedded}"))
    yield terminal.facts(rows)
    for measured in comparison.metrics:
        rows = [("", ""), (measured.metric, f"{measured.value:.6g}   ({measured.seconds:.2g} s)")]
        if measured.convention:
            rows.append(("convention", measured.convention))
        rows.append(("to itself", f"A {measured.self_a:.6g}, B {measured.self_b:.6g}"))
        rows.append(("parameters", " ".join(f"{key}={as_typed(one)}" for key, one in measured.parameters.items())))
        rows.append(("solver", ", ".join(f"{key} {value:.6g}" for key, value in measured.diagnostics.items()) or "-"))
        yield terminal.facts(rows)


def _side(side: Side) -> str:
    return f"{side.name}: {counted(side.points, 'point')} of width {side.width}, {side.classes} classes"
