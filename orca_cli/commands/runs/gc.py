"""`orca runs gc`: what may go without loss of a result, and what that frees."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.commands.data.selection import size_text
from orca_cli.configuration import default_folders
from orca_cli.exceptions import OrcaError, UsageError
from orca_cli.runs import leftovers
from orca_cli.runs.leftovers import Leftover
from orca_cli.terminal import Result

DAYS = 30.0
EXAMPLES = """\
examples:
  orca runs gc                  what could be freed; nothing is changed
  orca runs gc --yes            free it
  orca runs gc --days 0         with all of the cache: everything in it is computed again when a run wants it

Caches: entries in $ORCA_HOME/cache that were not used for --days. Moved aside: damaged files and folders, which were replaced.
Interrupted writes: what a killed process left. Checkpoints: of completed runs, which need none. No run is removed
(orca runs rm), no data set is (orca data), and nothing of a run that a process works on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Collect old caches, files moved aside, interrupted writes and superseded checkpoints."
    parser.epilog = EXAMPLES
    parser.add_argument("--yes", action="store_true", help="remove it; without this, only say what would be freed")
    text = "a cache entry is old once it was not used for N days; default: 30"
    parser.add_argument("--days", type=float, default=DAYS, metavar="N", help=text)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what may go, or what was removed."""
    if not 0 <= arguments.days < math.inf:
        raise UsageError(f"{arguments.days} is out of range", where="--days", hint="allowed: 0 or more")
    folders = default_folders()
    found = leftovers.find(Path(folders["runs"]), Path(folders["cache"]), arguments.days)
    failures: list[OrcaError] = []
    if arguments.yes:
        gone = []
        for one in found:
            try:
                gone += [one] if leftovers.remove(one) else []
            except OrcaError as error:
                failures.append(error)
        found = gone
    total = sum(one.bytes for one in found)
    items = [{"path": str(one.path), "kind": one.kind, "why": one.why, "bytes": one.bytes} for one in found]
    record: dict[str, Any] = {"schema": 1, "dry": not arguments.yes, "bytes": total, "items": items}
    return Result(record, _shown(found, total, arguments.yes), failures)


def _shown(found: list[Leftover], total: int, is_done: bool) -> Iterator[RenderableType]:
    if not found:
        yield "nothing to collect"
        return
    yield terminal.table(
        ("path", "what", "size", "why"), [(str(one.path), one.kind, size_text(one.bytes), one.why) for one in found]
    )
    places = f"{len(found)} place{'s' * (len(found) != 1)}"
    yield (
        f"freed {size_text(total)} in {places}" if is_done else f"would free {size_text(total)} in {places}; --yes does"
    )
