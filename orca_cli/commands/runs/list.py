"""`orca runs list`: all runs, the newest first, the unreadable ones among them."""

import argparse
from pathlib import Path
from typing import Any

from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.commands.data import size_text
from orca_cli.commands.runs import age, named_error, run_record, since
from orca_cli.config.configuration import default_folders
from orca_cli.report.collect import Broken, Run, collect
from orca_cli.report.selection import Values, where
from orca_cli.terminal import Result, counted

EXAMPLES = """\
examples:
  orca runs list                                all runs of ./runs (or $ORCA_RUNS)
  orca runs list runs/digits                    one task; several folders may be given
  orca runs list --where state=failed,dead      by state: completed, failed, interrupted, running, dead
  orca runs list --where metric=otdd --where train.lr=1e-4     by any setting, typed, decided or left as it is

A state in brackets is that of an attempt that a newer folder of the same run replaces. Below the table: what was set, or why a
run is not completed or cannot be read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    text = "folders of runs; default: $ORCA_RUNS, else ./runs"
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help=text)
    text = "only runs with this; may be repeated"
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=text)


def execute(arguments: argparse.Namespace) -> Result:
    """Return the runs and the folders that cannot be read."""
    collection = collect(arguments.runs or [Path(default_folders()["runs"])])
    values = Values()
    for text in arguments.where:
        collection = where(collection, text, values)
    replaced = {run.path for run in collection.superseded}
    entries: list[Run | Broken] = [*collection.runs, *collection.superseded]
    entries += [] if arguments.where else collection.broken
    entries = sorted(entries, key=lambda one: since(one.path), reverse=True)
    records = [_record(one) | {"replaced": one.path in replaced} for one in entries]
    rows, below = [], []
    for record in records:
        is_good = record["state"] in ("completed", "running")
        state = Text(f"({record['state']})" if record["replaced"] else record["state"], style="" if is_good else "red")
        words = record["run"].split("_")  # date, time, body, metric, finetune, seed, identity
        short, what = (words[-1], " ".join(words[2:-1])) if len(words) > 3 else (record["run"], "")
        error = "" if record["error"] is None else record["error"]["text"]
        rows.append((short, record.get("task", ""), what, state, error, record["age"], size_text(record["bytes"])))
        set_there = " ".join(f"{key}={value}" for key, value in record.get("variant", {}).items())
        if note := set_there if is_good else record["reason"]:
            below.append(f"{short}  {note}")
    table = terminal.table(("run", "task", "with", "state", "error", "age", "size"), rows)
    total = size_text(sum(record["bytes"] for record in records))
    return Result({"schema": 1, "runs": records}, [table, *below, f"{counted(len(entries), 'run')}, {total}"])


def _record(one: Run | Broken) -> dict[str, Any]:
    error = None
    if isinstance(one, Run) and one.score is not None:
        error = {"name": one.score.error_name, "value": one.score.value, "text": named_error(one)}
    return run_record(one) | {"age": age(one.path), "bytes": storage.size(one.path), "error": error}
