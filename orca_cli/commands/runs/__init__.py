"""`orca runs`: the run folders themselves; each verb is a module of its own, and reads a run by `one_run`."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, DataError
from orca_cli.report.collect import Broken, Run, collect
from orca_cli.runs.claim import begun, named
from orca_cli.runs.directory import RESULT, STATUS
from orca_cli.runs.records import newer_schema
from orca_cli.terminal import duration, percent_or_number

VERBS = {
    "list": "all runs, the newest first: state, error, age, size",
    "show": "one run: what it is, result, decided settings, baselines, picture, files",
    "diff": "two runs side by side: settings that differ, results",
    "rm": "remove runs; --yes does",
    "gc": "what may go: old caches, leftovers of interrupted writes",
}


def one_run(word: str) -> Run:
    """Return a run by its folder or name.

    Raises:
        DataError: there is none, or its records cannot be read.
        CheckpointError: a newer program made it.
    """
    path = named(word)
    collection = collect([path])
    for run in (*collection.runs, *collection.superseded):
        if run.path == path:
            return run
    if path not in [broken.path for broken in collection.broken]:
        raise DataError("is not a run but a folder of runs", where=str(path), hint="orca runs list shows them")
    if error := newer_schema(path / RESULT, path / STATUS):
        raise CheckpointError(str(error), where=str(path), hint="use the newer program") from error
    raise DataError(collection.broken[0].reason, where=str(path), hint="orca doctor RUN says what is damaged")


def run_record(run: Run | Broken) -> dict[str, Any]:
    """Return which run a folder holds and how far it is, for other programs."""
    record = {"run": run.path.name, "path": str(run.path), "since": since(run.path).isoformat(), "reason": run.reason}
    if isinstance(run, Broken):
        return record | {"state": "unreadable"}
    keys = ("task", "body", "source", "metric", "finetune", "seed", "protocol", "identity", "variant", "state")
    return record | {key: getattr(run, key) for key in keys}


def named_error(run: Run) -> str:
    """Return a run's error with its name; empty unless the run is completed."""
    score = run.score
    return "" if score is None else f"{score.error_name} {percent_or_number(score.value, score.percent)}"


def since(path: Path) -> datetime:
    """Return when a run began, by its folder's name, else when the folder last changed; now for one that has just gone."""
    try:
        return begun(path) or datetime.fromtimestamp(os.lstat(path).st_mtime).astimezone()
    except OSError:
        return storage.now()


def age(path: Path) -> str:
    """Return how long ago a run began, such as 5 min or 3 days."""
    return duration(max(0.0, (storage.now() - since(path)).total_seconds()))
