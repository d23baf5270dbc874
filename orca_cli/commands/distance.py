"""`orca distance`: how far two labelled data sets are from each other, by any of the metrics; writes nothing."""

import argparse
from pathlib import Path
from typing import Any

from orca_cli import terminal
from orca_cli.exceptions import UsageError
from orca_cli.terminal import Result, counted

EXAMPLES = """\
examples:
  orca distance a.npz b.npz                       arrays x (n, d) or (n, ...) and y (n,) in each
  orca distance a.npz b.npz metric=otdd,mmd seed=1

A is the source, B the target. The value of a data set against itself shows what a metric calls 0."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("a", metavar="A", type=Path, help=".npz file with x and y: the source")
    parser.add_argument("b", metavar="B", type=Path, help="likewise: the target")
    parser.add_argument("settings", nargs="*", default=[], metavar="KEY=VALUE", help="metric (otdd), seed (0)")
    text = "draw at most N points from each side; 0: all; default: 1000"
    parser.add_argument("--points", type=int, default=1000, metavar="N", help=text)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the distances."""
    words = {"metric": "otdd", "seed": "0"} | dict(text.split("=", 1) for text in arguments.settings if "=" in text)
    if words.keys() != {"metric", "seed"} or any("=" not in text for text in arguments.settings):
        raise UsageError("allowed besides two files: metric=NAME,... and seed=N", where=" ".join(arguments.settings))
    if not words["seed"].isdecimal():
        raise UsageError(f"'{words['seed']}' is not an integer from 0 on", where="seed", hint="such as seed=0")
    terminal.configure_logging(quiet=True)
    from orca_cli.prediction.distance import distance

    names, seed = words["metric"].strip("[]").split(","), int(words["seed"])
    sides, measured = distance(arguments.a, arguments.b, names, points=arguments.points or None, seed=seed)
    record: dict[str, Any] = {"schema": 1, "seed": seed}
    facts = []
    for name, path, side in zip("ab", (arguments.a, arguments.b), sides, strict=True):
        points, width = side.x.shape
        record[name] = {"name": str(path), "points": points, "width": width, "classes": side.num_classes}
        facts.append((name.upper(), f"{path}: {counted(points, 'point')} of width {width}, {side.num_classes} classes"))
    record["metrics"] = [vars(one) for one in measured]
    shown = [terminal.facts(facts)]
    for one in measured:
        if one.diagnostics.get("converged") == 0.0:
            terminal.log.warning(f"{one.metric}: the solver ended above its tolerance")
        solver = ", ".join(f"{key} {value:.6g}" for key, value in one.diagnostics.items())
        rows = {"": "", one.metric: f"{one.value:.6g}   ({one.seconds:.2g} s)", "convention": one.convention}
        rows |= {"to itself": f"A {one.self_a:.6g}, B {one.self_b:.6g}", "solver": solver or "-"}
        shown.append(terminal.facts((key, text) for key, text in rows.items() if text or not key))
    return Result(record, shown)
