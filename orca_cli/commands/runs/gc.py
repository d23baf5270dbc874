"""`orca runs gc`: remove old cache entries, what was moved aside, and leftovers of interrupted writes.

The content of runs, whatever lies behind a link, and folders that the program did not make are left alone.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from orca_cli import storage, terminal
from orca_cli.commands.data import size_text
from orca_cli.commands.options import number
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError
from orca_cli.runs.claim import is_run
from orca_cli.terminal import Result

# Folders of the cache whose entries are computed again where they are missing. Downloads of libraries are not ours to remove.
CACHES = ("alignments", "baselines", "floors", "generated", "metric_sources", "source_features", "unpacked")
_DAY_S = 86400.0
EXAMPLES = """\
examples:
  orca runs gc                  what could be freed; nothing is changed
  orca runs gc --yes            free it
  orca runs gc --days 0         with all of the cache: everything in it is computed again when a run wants it

Entries of $ORCA_HOME/cache that were not used for --days, and what a killed process left beside runs and in the cache for a
day. No run is touched (orca runs rm), no data set (orca data), and no entry that a process uses."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("--yes", action="store_true", help="remove it; without this, only say what would be freed")
    text = "a cache entry is old once it was not used for N days; default: 30"
    parser.add_argument("--days", type=number(float, 0), default=30.0, metavar="N", help=text)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what may go, or what was removed."""
    items: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    for path, kind in list(_found(arguments.days)):
        item = {"path": str(path), "kind": kind, "bytes": storage.size(path)}
        try:
            if arguments.yes:
                with storage.lock(_lock(path), timeout_s=1.0, what="it") if kind == "cache" else nullcontext():
                    storage.remove(path)
            items.append(item)
        except OrcaError as error:
            failures.append(error)
    total = sum(item["bytes"] for item in items)
    record = {"schema": 1, "dry": not arguments.yes, "bytes": total, "items": items}
    rows = [(item["path"], item["kind"], size_text(item["bytes"])) for item in items]
    text = f"freed {size_text(total)}" if arguments.yes else f"would free {size_text(total)}; --yes does"
    shown = [terminal.table(("path", "what", "size"), rows), text] if items else ["nothing to collect"]
    return Result(record, shown, failures)


def _found(days: float) -> Iterator[tuple[Path, str]]:
    """Yield what a killed process left in folders that many processes write to, what was damaged, and old cache entries."""
    folders = default_folders()
    root, cache = (Path(os.path.realpath(folders[name])) for name in ("runs", "cache"))
    tasks = [path for path in _entries(root) if path.is_dir() and path.name[0] != "." and not is_run(path)]
    tasks = [path for path in tasks if not storage.is_aside(path)]  # which goes as a whole
    caches = [cache / name for name in CACHES if not (cache / name).is_symlink()]
    for folder in (root, *tasks, *caches):
        for path in _entries(folder):
            if storage.is_aside(path) or (storage.is_temporary(path) and _idle_days(path) >= 1):
                yield path, "interrupted write"
            elif folder in caches and not storage.is_temporary(path):
                is_ours = any((inner / storage.MANIFEST).is_file() for inner in (path, *_entries(path)))
                if is_ours and not storage.is_locked(_lock(path)) and _idle_days(path) >= days:
                    yield path, "cache"


def _lock(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


def _entries(folder: Path) -> list[Path]:
    """Return what a folder holds, links left out; nothing where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if not path.is_symlink())
    except OSError:
        return []


def _idle_days(path: Path) -> float:
    """Return the days since a file, or any file in a folder, was read or written, by the file system's own clock.

    0 where that clock cannot be read, as in a folder that is read-only here.
    """
    last, moment = 0.0, storage.clock(path.parent)
    for file in (path, *(path.rglob("*") if path.is_dir() else ())):
        try:
            facts = os.lstat(file)
        except OSError:
            continue
        # Listing a folder counts as reading it.
        last = max(last, facts.st_mtime, facts.st_atime if file.is_file() else 0.0)
    return 0.0 if moment is None else (moment - last) / _DAY_S
