"""`orca runs rm`: remove runs; without --yes it only says which."""

import argparse
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.commands.data import size_text
from orca_cli.commands.options import add_run
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError
from orca_cli.runs import claim
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca runs rm 1e791e76                     what would be removed: by the eight digits that its name ends with
  orca runs rm --yes runs/digits/2026-...   remove it
  orca runs rm --yes 1e791e76 66f1304e      several

Only folders of runs in $ORCA_RUNS, else ./runs, are removed, never through a link, and none that a process works on: if one
of those that are named may not be removed, none is. What is removed cannot be brought back."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_run(parser, "runs", "+")
    parser.add_argument("--yes", action="store_true", help="remove them; without this, only say what would be removed")


def execute(arguments: argparse.Namespace) -> Result:
    """Remove the runs, and return which ones were; without --yes which ones would be."""
    root = Path(default_folders()["runs"])
    paths = dict.fromkeys(claim.check_removable(claim.named(word), root) for word in arguments.runs)
    removed: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    for path in paths:
        entry: dict[str, Any] = {"run": path.name, "path": str(path), "bytes": storage.size(path)}
        try:
            if arguments.yes:
                claim.remove(path, root)
            removed.append(entry)
        except OrcaError as error:
            failures.append(error)
    verb = "removed" if arguments.yes else "would remove"
    shown = [f"{verb} {one['path']}, {size_text(one['bytes'])}" for one in removed]
    shown += [] if arguments.yes else ["--yes removes what is listed, for good"]
    return Result({"schema": 1, "dry": not arguments.yes, "removed": removed}, shown, failures)
