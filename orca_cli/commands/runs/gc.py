"""`orca runs gc`: remove what no result needs, and say how much that frees.

These are old cache entries, files that were moved aside, leftovers of interrupted writes, and superseded checkpoints. Runs that
a process works on, whatever lies behind a link, and folders that the program did not make are left alone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.data import size_text
from orca_cli.commands.options import check_at_least
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import OrcaError
from orca_cli.runs.claim import is_worked_on
from orca_cli.runs.directory import RESULT, STATUS, read_or_empty, unneeded
from orca_cli.runs.records import newer_schema
from orca_cli.runs.removal import idle, is_run
from orca_cli.runs.studies import FOLDER as STUDIES
from orca_cli.terminal import Result

# Folders of the cache whose entries are computed again where they are missing. Downloads of libraries are not ours to remove.
CACHES = ("alignments", "baselines", "floors", "generated", "metric_sources", "source_features", "unpacked")
# Folders beside the runs that many processes share; the others belong to searches and sweeps.
SHARED = (STUDIES, ".searches", ".sweeps", ".tuned")
CACHE, ASIDE, WRITE, CHECKPOINTS = "cache", "moved aside", "interrupted write", "checkpoints"
_DAY_S = 86400.0
_WRITING_S = 3600.0  # a process may still be writing a younger file
EXAMPLES = """\
examples:
  orca runs gc                  what could be freed; nothing is changed
  orca runs gc --yes            free it
  orca runs gc --days 0         with all of the cache: everything in it is computed again when a run wants it

Caches: entries in $ORCA_HOME/cache that were not used for --days. Moved aside: damaged files and folders, which were replaced.
Interrupted writes: what a killed process left. Checkpoints: of completed runs, which need none, and with keep_weights=false
no weights. No run is removed (orca runs rm), no data set is (orca data), and nothing of a run that a process works on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Collect old caches, files moved aside, interrupted writes and superseded checkpoints."
    parser.add_argument("--yes", action="store_true", help="remove it; without this, only say what would be freed")
    text = "a cache entry is old once it was not used for N days; default: 30"
    parser.add_argument("--days", type=float, default=30.0, metavar="N", help=text)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what may go, or what was removed."""
    check_at_least("--days", arguments.days, 0)
    folders = default_folders()
    leftovers = find(Path(folders["runs"]), Path(folders["cache"]), arguments.days)
    failures: list[OrcaError] = []
    if arguments.yes:
        gone = []
        for one in leftovers:
            try:
                gone += [one] if remove(one) else []
            except OrcaError as error:
                failures.append(error)
        leftovers = gone
    total = sum(one.bytes for one in leftovers)
    items = [{"path": str(one.path), "kind": one.kind, "why": one.why, "bytes": one.bytes} for one in leftovers]
    record = {"schema": 1, "dry": not arguments.yes, "bytes": total, "items": items}
    if not leftovers:
        return Result(record, ["nothing to collect"], failures)
    rows = [(str(one.path), one.kind, size_text(one.bytes), one.why) for one in leftovers]
    places = f"{size_text(total)} in {len(leftovers)} place{'s' * (len(leftovers) != 1)}"
    text = f"freed {places}" if arguments.yes else f"would free {places}; --yes does"
    return Result(record, [terminal.table(("path", "what", "size", "why"), rows), text], failures)


@dataclass(frozen=True)
class Leftover:
    """One file or folder that may be removed."""

    path: Path
    kind: str  # CACHE, ASIDE, WRITE or CHECKPOINTS
    why: str
    bytes: int  # on disk
    run: Path | None = None  # that it is in


def find(root: Path, cache: Path, days: float) -> list[Leftover]:
    """Return what may be removed, sorted by path, of the runs and of cache entries not used for some days; changes nothing."""
    root, cache = Path(os.path.realpath(root)), Path(os.path.realpath(cache))
    leftovers = list(_folder_leftovers(root))
    for folder in _folders(root):
        if is_run(folder):
            leftovers += _run_leftovers(folder)
        else:
            leftovers += _folder_leftovers(folder)
            leftovers += [one for run in _folders(folder) if is_run(run) for one in _run_leftovers(run)]
    for here, _, _ in (step for name in SHARED if not (root / name).is_symlink() for step in os.walk(root / name)):
        leftovers += _folder_leftovers(Path(here))
    for name in CACHES:
        if not (cache / name).is_symlink():
            leftovers += [*_folder_leftovers(cache / name), *_old(cache / name, days)]
    return sorted(leftovers, key=lambda one: str(one.path))


def remove(one: Leftover) -> bool:
    """Remove a leftover; returns False where it is gone already.

    Raises:
        LockedError: a process now works on the run or the cache entry.
        StorageError: the disk refuses.
    """
    with ExitStack() as stack:
        if one.run is not None:
            stack.enter_context(idle(one.run))
        elif one.kind == CACHE:
            stack.enter_context(storage.lock(_lock(one.path), timeout_s=1.0, what=f"cache entry {one.path.name}"))
        if one.path.is_symlink() or not one.path.exists():
            return False
        storage.remove(one.path)
        return True


def _entries(folder: Path) -> list[Path]:
    """Return what a folder holds, links left out; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [folder / entry.name for entry in entries if not entry.is_symlink()]
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_dir() and not _is_passing(path) and path.name[0] != "."]


def _is_passing(path: Path) -> bool:
    return storage.is_temporary(path) or storage.is_aside(path)


def _folder_leftovers(folder: Path) -> Iterator[Leftover]:
    """Yield leftovers of interrupted writes, and what was moved aside, directly in a folder that many processes write to."""
    entries = _entries(folder)
    is_used = any(storage.is_locked(path) for path in entries if path.suffix == ".lock")
    for path in filter(_is_passing, entries):
        if storage.is_aside(path) or (not is_used and _idle_s(path) > _WRITING_S):
            yield _passing_leftover(path)


def _passing_leftover(path: Path, run: Path | None = None) -> Leftover:
    kind, why = (ASIDE, "was found damaged") if storage.is_aside(path) else (WRITE, "its process ended early")
    return Leftover(path, kind, why, storage.size(path), run)


def _run_leftovers(run: Path) -> Iterator[Leftover]:
    if is_worked_on(run, read_or_empty(run / STATUS), recent_counts=True) or newer_schema(run / STATUS, run / RESULT):
        return
    superseded, result = [], read_or_empty(run / RESULT)
    if result.get("state") == "completed":
        superseded = [folder for folder in unneeded(run, result) if not folder.is_symlink()]
    for path in superseded:
        yield Leftover(path, CHECKPOINTS, "its run is completed and does not need it", storage.size(path), run)
    for here, folders, files in os.walk(run):
        paths = [Path(here) / name for name in (*folders, *files)]
        passing = [path for path in paths if not path.is_symlink() and _is_passing(path)]
        yield from (_passing_leftover(path, run) for path in passing)
        folders[:] = [name for name in folders if Path(here) / name not in (*passing, *superseded)]


def _old(folder: Path, days: float) -> Iterator[Leftover]:
    """Yield the entries of a cache that were not used for some days, and that no process uses now."""
    for path in _entries(folder):
        is_ours = any((inner / storage.MANIFEST).is_file() for inner in (path, *_folders(path)))
        if _is_passing(path) or not is_ours or storage.is_locked(_lock(path)):
            continue
        unused = _idle_s(path) / _DAY_S
        if unused >= days:
            yield Leftover(path, CACHE, f"not used for {unused:.0f} days", storage.size(path))


def _lock(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.lock")


def _idle_s(path: Path) -> float:
    """Return the seconds since a file, or any file in a folder, was read or written, by the file system's own clock.

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
    return 0.0 if moment is None else moment - last
