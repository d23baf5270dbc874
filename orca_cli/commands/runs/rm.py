"""`orca runs rm`: remove runs, after a question."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.data import size_text
from orca_cli.commands.options import add_run
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError, UsageError
from orca_cli.runs import removal
from orca_cli.runs.naming import named
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca runs rm 1e791e76                     by the eight digits that its name ends with; asks first
  orca runs rm --yes runs/digits/2026-...   without a question
  orca runs rm --yes 1e791e76 66f1304e      several

Only folders of runs in $ORCA_RUNS, else ./runs, are removed, never through a link, and none that a process works on: if one
of those that are named may not be removed, none is. What is removed cannot be brought back."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Remove runs with all their files."
    add_run(parser, "runs", "+")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def execute(arguments: argparse.Namespace) -> Result:
    """Remove the runs, and return which ones were."""
    root = Path(default_folders()["runs"])
    paths = list(dict.fromkeys(map(named, arguments.runs)))
    real = list(dict.fromkeys(removal.check_removable(path, root) for path in paths))
    sizes = {path: storage.size(path) for path in real}
    if not arguments.yes:
        if arguments.json:
            raise UsageError("removes only with --yes", where="--json")
        rows = [(os.path.relpath(path), size_text(size)) for path, size in sizes.items()]
        terminal.print_result(terminal.table(("run", "size"), rows))
        if not terminal.confirmed(f"remove {len(sizes)} run{'s' * (len(sizes) != 1)} for good?"):
            return Result({"schema": 1, "removed": []}, ["nothing was removed"])
    removed: list[dict[str, object]] = []
    failures: list[OrcaError] = []
    freed = 0
    for path, size in sizes.items():
        try:
            removal.remove(path, root)
        except OrcaError as error:
            failures.append(error)
            continue
        freed += size
        removed.append({"run": path.name, "path": str(path), "bytes": size})
    text = f"removed {len(removed)} run{'s' * (len(removed) != 1)}, {size_text(freed)}"
    return Result({"schema": 1, "removed": removed}, [text] if removed else [], failures)
