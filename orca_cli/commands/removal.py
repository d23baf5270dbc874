"""`orca runs rm` and `orca runs gc`: what goes for good; without --yes they only say what would.

The content of runs, whatever lies behind a link, and folders that the program did not make are left alone by gc.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from orca_cli import storage, terminal
from orca_cli.commands.options import Verb, argument, number, run_argument
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError
from orca_cli.runs import claim
from orca_cli.terminal import Result, size_text

# Folders of the cache whose entries are computed again where they are missing. Downloads of libraries are not ours to remove.
CACHES = (
    "alignments",
    "baselines",
    "floors",
    "generated",
    "metric_sources",
    "source_features",
    "unpacked",
)
_DAY_S = 86400.0
_RM = """\
examples:
  orca runs rm 1e791e76                     what would be removed: by the eight digits that its name ends with
  orca runs rm --yes runs/digits/2026-...   remove it
  orca runs rm --yes 1e791e76 66f1304e      several

Only folders of runs in $ORCA_RUNS, else ./runs, are removed, never through a link, and none that a process works on: if one
of those that are named may not be removed, none is. What is removed cannot be brought back."""
_GC = """\
examples:
  orca runs gc                  what could be freed; nothing is changed
  orca runs gc --yes            free it
  orca runs gc --days 0         with all of the cache: everything in it is computed again when a run wants it

Entries of $ORCA_HOME/cache that were not used for --days, and what a killed process left beside runs and in the cache for a
day. No run is touched (orca runs rm), no data set (orca data), and no entry that a process uses."""


def rm(arguments: argparse.Namespace) -> Result:
    """Remove runs, and return which ones were; without --yes which ones would be."""
    root = Path(default_folders()["runs"])
    paths = dict.fromkeys(claim.check_removable(claim.named(word), root) for word in arguments.runs)
    items = [{"run": path.name, "path": str(path)} for path in paths]
    removed, failures = _removed(
        items, lambda item: claim.remove(Path(item["path"]), root), arguments.yes
    )
    verb = "removed" if arguments.yes else "would remove"
    shown = [f"{verb} {one['path']}, {size_text(one['bytes'])}" for one in removed]
    shown += [] if arguments.yes else ["--yes removes what is listed, for good"]
    return Result({"schema": 1, "dry": not arguments.yes, "removed": removed}, shown, failures)


def gc(arguments: argparse.Namespace) -> Result:
    """Remove old cache entries and what killed processes left, and return which; without --yes return what would go."""

    def remove(item: dict[str, Any]) -> None:
        path = Path(item["path"])
        with (
            storage.lock(_lock(path), timeout_s=1.0, what="it")
            if item["kind"] == "cache"
            else nullcontext()
        ):
            storage.remove(path)

    collectable = [{"path": str(path), "kind": kind} for path, kind in _collectable(arguments.days)]
    items, failures = _removed(collectable, remove, arguments.yes)
    total = sum(item["bytes"] for item in items)
    record = {"schema": 1, "dry": not arguments.yes, "bytes": total, "items": items}
    rows = [(item["path"], item["kind"], size_text(item["bytes"])) for item in items]
    text = (
        f"freed {size_text(total)}"
        if arguments.yes
        else f"would free {size_text(total)}; --yes does"
    )
    shown = (
        [terminal.table(("path", "what", "size"), rows), text] if items else ["nothing to collect"]
    )
    return Result(record, shown, failures)


def _removed(
    items: Iterable[dict[str, Any]], remove: Callable[[dict[str, Any]], None], really: bool
) -> tuple[list[dict[str, Any]], list[OrcaError]]:
    """Return what was removed, or would be, with its size; and why the rest was not."""
    removed, failures = [], []
    for item in items:
        item["bytes"] = storage.size(Path(item["path"]))
        try:
            if really:
                remove(item)
            removed.append(item)
        except OrcaError as error:
            failures.append(error)
    return removed, failures


def _collectable(days: float) -> Iterator[tuple[Path, str]]:
    """Yield what a killed process left in folders that many processes write to, what was damaged, and old cache entries."""
    root, cache = (Path(os.path.realpath(default_folders()[name])) for name in ("runs", "cache"))
    tasks = [
        path
        for path in _entries(root)
        if path.is_dir() and path.name[0] != "." and not claim.is_run(path)
    ]
    tasks = [path for path in tasks if not storage.is_aside(path)]  # which goes as a whole
    caches = [cache / name for name in CACHES if not (cache / name).is_symlink()]
    for folder in (root, *tasks, *caches):
        for path in _entries(folder):
            if storage.is_aside(path) or (storage.is_temporary(path) and _idle_days(path) >= 1):
                yield path, "interrupted write"
            elif folder in caches and not storage.is_temporary(path):
                is_ours = any(
                    (inner / storage.MANIFEST).is_file() for inner in (path, *_entries(path))
                )
                if is_ours and not storage.is_locked(_lock(path)) and _idle_days(path) >= days:
                    yield path, "cache"


def _lock(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


def _entries(folder: Path) -> list[Path]:
    """Return what a folder holds, links left out; nothing where it cannot be read."""
    return sorted(path for path in folder.glob("*") if not path.is_symlink())


def _idle_days(path: Path) -> float:
    """Return the days since a file, or any file in a folder, was read or written, by the file system's own clock.

    0 where that clock cannot be read, as in a folder that is read-only here.
    """
    last, moment = 0.0, storage.clock(path.parent)
    for file in (path, *(path.rglob("*") if path.is_dir() else ())):
        with suppress(OSError):
            facts = os.lstat(file)
            # Listing a folder counts as reading it.
            last = max(last, facts.st_mtime, facts.st_atime if file.is_file() else 0.0)
    return 0.0 if moment is None else (moment - last) / _DAY_S


_YES = argument(
    "--yes", action="store_true", help="remove it; without this, only say what would be removed"
)
_OLD = "a cache entry is old once it was not used for N days; default: 30"
_DAYS = argument("--days", type=number(float, 0), default=30.0, metavar="N", help=_OLD)
VERBS = {
    "rm": Verb("remove runs; --yes does", _RM, (run_argument("runs", "+"), _YES), rm),
    "gc": Verb("what may go: old caches, leftovers of interrupted writes", _GC, (_YES, _DAYS), gc),
}
