"""`orca runs rm` and `orca runs gc`: remove files for good; without --yes only list them.

gc does not touch the content of runs, the targets of links, and folders that the program did not
make.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.options import WHERE, Record, Verb, argument, number, run_argument
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError, UsageError
from orca_cli.report.collect import collect
from orca_cli.report.selection import Values, where
from orca_cli.runs import claim
from orca_cli.terminal import Result, size_text

# Folders of the cache whose entries are computed again when they are missing. The cache also has
# downloads of libraries, which are not removed.
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
  orca runs rm 1e791e76                     \
show which run would be removed; 1e791e76 is the end of its name
  orca runs rm --yes runs/digits/2026-...   remove a run
  orca runs rm --yes 1e791e76 66f1304e      remove two runs
  orca runs rm --where state=failed         show which failed runs would be removed
  orca runs rm --where data=my --where train.lr=1e-3
        show which runs on the data set `my` with this rate would be removed

The command removes only folders of runs in $ORCA_RUNS, or in ./runs if $ORCA_RUNS is not set. It \
follows no links, and does not remove a run that a process works on. If one of several runs cannot \
be removed, the command removes none of them. A removed run cannot be restored."""
_GC = """\
examples:
  orca runs gc                  show which files would be removed; change nothing
  orca runs gc --yes            remove old cache entries and temporary files
  orca runs gc --days 0         \
also show recently used cache entries; a run that needs a removed entry computes it again

The command removes entries of $ORCA_HOME/cache that were not used for N days (--days). It also \
removes temporary files that are at least a day old and that killed processes left in the cache or \
next to runs. It removes no runs (use orca runs rm), no data sets, and no cache entries that a \
process uses."""


def rm(arguments: argparse.Namespace) -> Result:
    """Remove runs and return them; without --yes return the runs that would be removed."""
    is_dry = not arguments.yes
    root = default_folders()["runs"]
    # All runs are checked before the first is removed: if one must not be removed, none is.
    named_paths = [claim.named(name) for name in arguments.runs]
    if bool(arguments.where) == bool(named_paths):
        raise UsageError(
            "needs either runs or conditions, not both",
            where="RUN",
            hint="name runs, or use --where KEY=VALUE",
        )
    if arguments.where:
        named_paths = _selected(arguments.where, root)
    paths = [claim.check_removable(path, root) for path in named_paths]
    # A run that is named twice is removed once.
    entries = [{"run": path.name, "path": str(path)} for path in dict.fromkeys(paths)]

    def remove_run(entry: Record) -> None:
        # It checks again, since a process may have begun to work on the run.
        claim.remove(Path(entry["path"]), root)

    removed, failures = _remove_each(entries, remove_run, is_dry=is_dry)
    verb = "would remove" if is_dry else "removed"
    lines = []
    for entry in removed:
        lines.append(f"{verb} {entry['path']}, {size_text(entry['bytes'])}")
    if not removed:
        lines.append("no run meets the conditions")
    elif is_dry:
        lines.append("add --yes to remove these runs for good")
    return Result({"schema": 1, "dry": is_dry, "removed": removed}, lines, failures)


def _selected(conditions: Sequence[str], root: Path) -> list[Path]:
    """Return the folders of all runs that meet every KEY=VALUE, including replaced attempts."""
    collection = collect([root])
    values = Values()
    for condition in conditions:
        collection = where(collection, condition, values)
    runs = [*collection.runs, *collection.superseded]
    # A run behind a link is not removed, and does not prevent the removal of other runs.
    return [run.path for run in runs if root.resolve() in run.path.resolve().parents]


def gc(arguments: argparse.Namespace) -> Result:
    """Remove old cache entries and leftovers of killed processes, and return them.

    Without --yes return the entries that would be removed.
    """
    # A list, so that nothing is removed from a folder while the folder is being read.
    collectable = list(_collectable(arguments.days))
    entries, failures = _remove_each(collectable, _collect, is_dry=not arguments.yes)
    total_bytes = 0
    rows = []
    for entry in entries:
        total_bytes += entry["bytes"]
        rows.append((entry["path"], entry["kind"], size_text(entry["bytes"])))
    record = {"schema": 1, "dry": not arguments.yes, "bytes": total_bytes, "items": entries}
    if not entries:
        return Result(record, ["nothing to remove"], failures)
    table = terminal.table(("path", "what", "size"), rows)
    conclusion = f"would free {size_text(total_bytes)}; add --yes to remove these files"
    if arguments.yes:
        conclusion = f"freed {size_text(total_bytes)}"
    return Result(record, [table, conclusion], failures)


def _collect(entry: Record) -> None:
    """Remove a leftover, or a cache entry that no process uses."""
    path = Path(entry["path"])
    # No process looks for a leftover by its name, so removing it needs no lock.
    if entry["kind"] != "cache":
        storage.remove(path)
        return
    # If a process has begun to use the entry since it was listed, the process has this lock, and
    # the entry stays.
    with storage.lock(_lock(path), timeout_s=1.0, what="it"):
        storage.remove(path)


def _remove_each(
    entries: Iterable[Record], remove: Callable[[Record], None], *, is_dry: bool
) -> tuple[list[Record], list[OrcaError]]:
    """Return the entries that were or would be removed, with their sizes; and the failures.

    `remove` removes one entry; a dry run does not call it.
    """
    removed = []
    failures = []
    for entry in entries:
        # Measured while the entry still exists.
        entry["bytes"] = storage.size(Path(entry["path"]))
        try:
            if not is_dry:
                remove(entry)
            removed.append(entry)
        except OrcaError as error:
            failures.append(error)
    return removed, failures


def _collectable(days: float) -> Iterator[Record]:
    """Yield path and kind of each entry that gc removes.

    The entries are damaged files, leftovers of killed processes in folders that many processes
    write to, and cache entries that were not used for some days.
    """
    # These two folders may be links that the user made. Links inside them are not followed.
    root = Path(os.path.realpath(default_folders()["runs"]))
    cache = Path(os.path.realpath(default_folders()["cache"]))
    data_set_folders = [path for path in _entries(root) if _is_data_set_folder(path)]
    cache_folders = []
    for name in CACHES:
        folder = cache / name
        if not folder.is_symlink():
            cache_folders.append(folder)
    # Leftovers inside a run are removed by the next process that claims the run.
    for folder in (root, *data_set_folders, *cache_folders):
        for path in _entries(folder):
            is_temporary = storage.is_temporary(path)
            # A younger temporary file may belong to a process that is still writing.
            if storage.is_aside(path) or (is_temporary and _idle_days(path) >= 1):
                yield {"path": str(path), "kind": "interrupted write"}
            elif folder in cache_folders and not is_temporary and _is_unused(path, days):
                yield {"path": str(path), "kind": "cache"}


def _is_data_set_folder(path: Path) -> bool:
    """Return whether a path in the folder of runs is the folder of a data set.

    Damaged folders, which were moved aside, are removed as a whole.
    """
    # Hidden folders belong to the program, such as those of studies and searches.
    if not path.is_dir() or path.name.startswith("."):
        return False
    return not claim.is_run(path) and not storage.is_aside(path)


def _is_unused(entry: Path, days: float) -> bool:
    """Return whether a path in a cache is an entry of the program that was unused for some days."""
    # An entry is a folder with a manifest, or contains such folders.
    manifests = [folder / storage.MANIFEST for folder in (entry, *_entries(entry))]
    if not any(manifest.is_file() for manifest in manifests):
        return False
    return not storage.is_locked(_lock(entry)) and _idle_days(entry) >= days


def _lock(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


def _entries(folder: Path) -> list[Path]:
    """Return the sorted content of a folder without links; [] if it cannot be read."""
    paths = [path for path in folder.glob("*") if not path.is_symlink()]
    return sorted(paths)


def _idle_days(path: Path) -> float:
    """Return the days since a file, or any file in a folder, was read or written.

    The days are measured with the file system's clock; 0 if that clock cannot be read, as in a
    read-only folder.
    """
    files = [path]
    if path.is_dir():
        files += path.rglob("*")
    last_use_s = 0.0
    now_s = storage.clock(path.parent)
    if now_s is None:
        return 0.0
    for file in files:
        # A file may vanish meanwhile.
        with suppress(OSError):
            facts = os.lstat(file)
            last_use_s = max(last_use_s, facts.st_mtime)
            # Listing a folder counts as reading it, so only the access times of files are used.
            if file.is_file():
                last_use_s = max(last_use_s, facts.st_atime)
    return (now_s - last_use_s) / _DAY_S


_YES = argument(
    "--yes",
    action="store_true",
    help="remove the files; without this option, only show which would be removed",
)
_DAYS = argument(
    "--days",
    type=number(float, lowest=0),
    default=30.0,
    metavar="N",
    help="remove cache entries that were not used for N days; default: 30",
)
VERBS = {
    "rm": Verb(
        about="remove runs, or without --yes show which would be removed",
        examples=_RM,
        arguments=(run_argument("runs", "*"), WHERE, _YES),
        execute=rm,
    ),
    "gc": Verb(
        about="remove old cache entries and temporary files, or without --yes show them",
        examples=_GC,
        arguments=(_YES, _DAYS),
        execute=gc,
    ),
}
