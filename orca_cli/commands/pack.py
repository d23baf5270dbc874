"""`orca pack`: one file with all that is needed to check the numbers of a table: records, predictions, statistics."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from orca_cli import terminal
from orca_cli.bundles.layout import Options
from orca_cli.commands.data.selection import size_text
from orca_cli.commands.report import MARGIN
from orca_cli.configuration import default_folders
from orca_cli.exceptions import UsageError
from orca_cli.report.records.filters import pair
from orca_cli.runs.naming import named
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca pack --out all.zip                          all runs of ./runs (or $ORCA_RUNS)
  orca pack runs/digits --out digits.zip           one task; also single runs, or several folders
  orca pack --study alignment --against metric=none --out alignment.zip      a study, with its comparison
  orca pack 1e791e76 66f1304e --out two.zip        runs by the eight digits that their names end with
  orca pack --task ecg --weights --out ecg.zip     with the weights, so that the runs predict

In the bundle: settings, overrides, environment, results, curves, predictions with targets, checksums, and the table that
`orca report` shows. Not in it: weights (without --weights), logs, input data, paths and names of this machine. The same
runs give the same bytes. `orca verify FILE` computes all of it again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Write runs into one file from which every number of their table can be computed again."
    parser.epilog = EXAMPLES
    text = "folders of runs, or runs by folder, name or eight digits; default: $ORCA_RUNS, else ./runs"
    parser.add_argument("runs", nargs="*", metavar="RUNS", help=text)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file, a zip archive")
    for key in ("task", "metric"):
        text = f"only this {key}; may be repeated"
        parser.add_argument(f"--{key}", action="append", default=[], metavar="NAME", help=text)
    parser.add_argument("--study", metavar="NAME", help="only the runs of this study, named by its axes")
    text = "only runs with this; may be repeated"
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=text)
    text = "with the comparison with KEY=VALUE, as in orca report"
    parser.add_argument("--against", metavar="KEY=VALUE", help=text)
    text = "with --against: a mean gain within +-X counts as none; default: 0.5"
    parser.add_argument("--margin", type=float, metavar="X", help=text)
    parser.add_argument("--weights", action="store_true", help="with the weights, so that the runs predict")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def execute(arguments: argparse.Namespace) -> Result:
    """Write the bundle, and return what is in it."""
    margin = MARGIN if arguments.margin is None else arguments.margin
    if not 0 <= margin < math.inf:
        raise UsageError(f"{margin} is out of range", where="--margin", hint="allowed: 0 or more")
    if arguments.margin is not None and arguments.against is None:
        raise UsageError("applies only to a comparison", where="--margin", hint="add --against metric=none")
    if arguments.against is not None:
        pair(arguments.against, "--against")
    if arguments.out.exists() and not arguments.force:
        raise UsageError(f"{arguments.out} exists", where="--out", hint="choose another name, or add --force")
    from orca_cli.bundles.packing import pack

    folders = [named(word) for word in arguments.runs] or [Path(default_folders()["runs"])]
    options = Options(arguments.study, arguments.task, arguments.metric, arguments.where, arguments.against, margin)
    packed = pack(folders, options, arguments.out, weights=arguments.weights)
    index = packed.index
    record = {
        "schema": 1,
        "written": str(arguments.out),
        "sha256": index.digest,
        "bytes": packed.bytes,
        "runs": [entry.folder for entry in index.runs],
        "left_out": dict(index.left_out),
        "without_predictions": list(packed.without_predictions),
    }
    counted = f"{len(index.runs)} run{'s' * (len(index.runs) != 1)}, {len(index.files)} files"
    shown = [f"packed {counted}: {arguments.out} ({size_text(packed.bytes)})", f"digest {index.digest}"]
    if packed.without_predictions:
        shown.append(
            f"without predictions, so that their error cannot be computed again: {len(packed.without_predictions)} runs"
        )
        shown += [f"  {name}" for name in packed.without_predictions]
    left_out = [terminal.table(("left out", "why"), list(index.left_out.items()), indent=0)] if index.left_out else []
    return Result(record, [*shown, *left_out, f"next: orca verify {arguments.out}"])
