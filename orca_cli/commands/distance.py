"""`orca distance`: how far two labelled data sets are from each other, by any of the metrics; writes nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import parts, terminal
from orca_cli.exceptions import UsageError

if TYPE_CHECKING:
    from orca_cli.comparison.distance import Comparison, Measured, Side

SCHEMA = 1
_BOUNDS = ("newton_steps", "max_iterations")  # parameters that end a solver before it reaches its tolerance
EXAMPLES = """\
examples:
  orca distance a.npz b.npz                              arrays x (n, d) or (n, ...) and y (n,) in each
  orca distance a.npz b.npz --metric otdd,mmd reg=0.5    several metrics; KEY=VALUE goes to those that have the key
  orca distance a.npz b.npz --metric all --ci 50         with 95 % confidence intervals, from 50 random halves
  orca distance stdlib_docs task=digits --body minilm    embedded data; align.features=pooled, source.size=500, ...
  orca distance source=digits cifar10 --body swin_tiny   task= or source= where both have the name

A is the source, B the target. The value of a data set against itself shows what a metric calls 0. An interval is moved so
that the mean over the halves lies on the value, because fewer points give another value on average."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "The distance between two labelled data sets: .npz files, or names of tasks and sources."
    parser.epilog = EXAMPLES
    parser.add_argument("a", metavar="A", help=".npz file, or name of a task or source: the source")
    parser.add_argument("b", metavar="B", help="likewise: the target")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="a metric's parameters, and what embeds named data"
    )
    parser.add_argument(
        "--metric", default="otdd", metavar="NAMES", help="one, several with commas, or all; default: otdd"
    )
    parser.add_argument(
        "--points",
        type=int,
        default=1000,
        metavar="N",
        help="points of each side, drawn at random; 0: all; default: 1000",
    )
    parser.add_argument(
        "--ci", type=int, default=0, metavar="N", help="95 %% confidence interval from N random halves; default: none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws; default: 0")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N or mps; default: cpu")
    parser.add_argument("--body", metavar="NAME", help="embeds named data; default: the one that the task picks")
    parser.add_argument("--checkpoint", metavar="PATH", help="of the body: hub id or folder")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="folder with your own metric/x.yaml, task/x.yaml, ..."
    )
    parser.add_argument(
        "--allow-module", action="append", default=[], metavar="NAME", help="trust a module that a YAML file names"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Print the distances, and return the exit code."""
    for text in arguments.settings:
        if "=" not in text:
            raise UsageError(f"'{text}' is a third data set", hint="two are compared; settings are KEY=VALUE")
    terminal.configure_logging(quiet=True)
    for module in arguments.allow_module:
        parts.allow_module(module)
    from orca_cli.comparison.distance import distance

    comparison = distance(
        arguments.a,
        arguments.b,
        metrics=[name.strip() for name in arguments.metric.split(",") if name.strip()],
        settings=arguments.settings,
        points=arguments.points or None,
        repeats=arguments.ci,
        seed=arguments.seed,
        dtype=arguments.dtype,
        device=arguments.device,
        body=arguments.body,
        checkpoint=arguments.checkpoint,
        config_dir=arguments.config_dir,
    )
    if arguments.json:
        record = {"schema": SCHEMA, **dataclasses.asdict(comparison)}
        terminal.print_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
    else:
        _print(comparison)
    for measured in comparison.metrics:
        if measured.diagnostics.get("converged") == 0.0:
            terminal.log.warning(_unsolved(measured))
    return 0


def _print(comparison: Comparison) -> None:
    computed = f"{comparison.dtype}, seed {comparison.seed}"
    if comparison.body:
        computed += f", embedded by {comparison.body}"
    rows = [("A", _side(comparison.a)), ("B", _side(comparison.b)), ("computed", computed)]
    if comparison.left_out:
        rows.append(("left out", "; ".join(f"{name}: {lack}" for name, lack in comparison.left_out.items())))
    terminal.print_result(_table(rows))
    for measured in comparison.metrics:
        terminal.print_result(_table([("", ""), *_lines(measured, comparison.repeats)]))


def _side(side: Side) -> str:
    drawn = f" of {side.available}" if side.available not in (None, side.points) else ""
    return f"{side.name}: {side.points}{drawn} points of width {side.width}, {side.classes} classes"


def _lines(measured: Measured, repeats: int) -> list[tuple[str, str]]:
    lines = [(measured.metric, f"{_number(measured.value)}   ({measured.seconds:.2g} s)")]
    if measured.interval is not None and measured.halves_mean is not None:
        low, high = map(_number, measured.interval)
        lines.append(("95 % interval", f"{low} to {high}; mean of {repeats} halves {_number(measured.halves_mean)}"))
    if measured.convention:
        lines.append(("convention", measured.convention))
    lines.append(("to itself", f"A {_number(measured.self_a)}, B {_number(measured.self_b)}"))
    if measured.parameters:
        lines.append(("parameters", " ".join(f"{key}={_typed(value)}" for key, value in measured.parameters.items())))
    lines.append(("solver", ", ".join(f"{key} {_number(value)}" for key, value in measured.diagnostics.items())))
    return lines


def _unsolved(measured: Measured) -> str:
    """Return what to say of a value whose solver gave up, and which of the metric's own parameters make it go on."""
    known = {"marginal error": measured.diagnostics.get("marginal_error")}
    known["tolerance"] = measured.parameters.get("tolerance")
    reached = ", ".join(f"{name} {value:.4g}" for name, value in known.items() if value is not None)
    bounds = [name for name in _BOUNDS if name in measured.parameters]
    advice = [" ".join(f"{name}={2 * measured.parameters[name]}" for name in bounds)] if bounds else []
    if known["tolerance"] is not None:
        advice.append("a larger tolerance")
    text = f"{measured.metric}: the solver ended above its tolerance{f' ({reached})' if reached else ''}"
    return f"{text}; try {' or '.join(advice)}" if advice else text


def _number(value: float) -> str:
    return f"{value:.0f}" if value == math.floor(value) and abs(value) < 1e9 else f"{value:.6g}"


def _typed(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _table(rows: list[tuple[str, str]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(Text(name), Text(text))
    return table
