"""Find run folders and read their records; writes nothing, and no damaged run stops it.

A folder that looks like a run but cannot be read is listed with the reason, so that no run is silently lost.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli.exceptions import DataError
from orca_cli.runs.directory import RESULT, STATUS
from orca_cli.runs.liveness import LIVING, is_worked_on
from orca_cli.runs.records import UnreadableError, read_record

_RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\.\d+_")
_ENDED = ("failed", "interrupted")


@dataclass(frozen=True)
class Score:
    """What a completed run achieved.

    Args:
        error_name: name of the error, as its task calls it.
        value: test error, lower is better; None if it is undefined on this test set.
        n: what the error is a mean over, such as the number of samples or classes.
        skipped: how many of them the error could not be computed for.
        percent: the error is a fraction, shown times 100.
        trivial: error of the best constant predictor on the same test set; None if undefined.
        synthetic: the data are generated.
        test_set: SHA-256 of the test split; empty if not recorded.
        chosen_on_test: the test split chose the weights, so the error is too low.
        size: the word for number and size of the samples; empty if the task has no such words.
    """

    error_name: str
    value: float | None
    n: int
    skipped: int
    percent: bool
    trivial: float | None
    synthetic: bool
    test_set: str
    chosen_on_test: bool = False
    size: str = ""


@dataclass(frozen=True)
class Run:
    """One run according to its records.

    Args:
        path: run folder.
        state: completed, failed, interrupted, running, or dead (its process ended unexpectedly).
        reason: why it is not completed; empty if it is.
        settings: hash of all settings except the seed; runs with different ones are never averaged.
        variant: overridden settings other than groups, such as {"train.epochs": "3"}.
        score: None if the run is not completed.
    """

    path: Path
    task: str
    body: str
    source: str
    metric: str
    finetune: str
    seed: int
    protocol: str
    identity: str
    state: str
    reason: str = ""
    settings: str = ""
    variant: dict[str, str] = field(default_factory=dict)
    score: Score | None = None


@dataclass(frozen=True)
class Broken:
    """A folder that looks like a run and cannot be read, with the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Collection:
    """Everything that was found.

    Args:
        runs: those that count, in the order of their folders' names.
        superseded: older attempts of an experiment that a newer folder replaces.
        broken: folders that could not be read.
    """

    runs: list[Run]
    superseded: list[Run]
    broken: list[Broken]


def collect(folders: Iterable[Path]) -> Collection:
    """Read the runs below some folders: folders of all runs, of one task, or single runs.

    Of several attempts at one experiment (same identity) the newest completed one counts, and also the newest one if it
    is not completed.

    Raises:
        DataError: a folder does not exist, or none of them contains runs.
    """
    folders = list(folders)
    runs: list[Run] = []
    broken: list[Broken] = []
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        if not os.path.isdir(folder):  # False, not an error, if a parent is not accessible
            raise DataError("no such folder of runs", where=str(folder), hint="make one with: orca run")
        for found in _find(folder, broken):
            try:
                facts = found.stat()
                if (facts.st_dev, facts.st_ino) not in seen:
                    seen.add((facts.st_dev, facts.st_ino))
                    runs.append(_read_run(found))
            except (UnreadableError, OSError) as error:
                broken.append(Broken(found, _reason(error)))
    if not runs and not broken:
        names = ", ".join(map(str, folders))
        raise DataError("contains no runs", where=names, hint="type: orca run, or: orca report FOLDER")
    return _newest(runs, broken)


def _newest(runs: list[Run], broken: list[Broken]) -> Collection:
    attempts: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.path.name, str(run.path))):
        attempts.setdefault(run.identity, []).append(run)
    kept: list[Run] = []
    superseded: list[Run] = []
    for same in attempts.values():
        completed = [run for run in same if run.state == "completed"]
        counting = {id(same[-1]), *(id(run) for run in completed[-1:])}
        kept += [run for run in same if id(run) in counting]
        superseded += [run for run in same if id(run) not in counting]
    kept.sort(key=lambda run: (run.path.name, str(run.path)))
    return Collection(kept, superseded, sorted(broken, key=lambda entry: str(entry.path)))


def _find(folder: Path, broken: list[Broken], depth: int = 2) -> Iterator[Path]:
    """Yield run folders at most two levels down; unreadable folders are added to `broken`."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name: entry for entry in entries}
    except OSError as error:
        broken.append(Broken(folder, _reason(error)))
        return
    if STATUS in names or RESULT in names or _RUN_NAME.match(folder.name):
        yield folder
        return
    if depth == 0:
        return
    for name in sorted(names):
        path = folder / name
        try:
            if not name.startswith(".") and names[name].is_dir():
                yield from _find(path, broken, depth - 1)
        except OSError as error:
            broken.append(Broken(path, _reason(error)))


def _read_run(path: Path) -> Run:
    result = read_record(path / RESULT)
    if result is not None:
        return _completed(path, result)
    status = read_record(path / STATUS)
    if status is None:
        raise UnreadableError(f"no {STATUS}: never started, or not a run")
    state = _text(status, "state", STATUS)
    if state == "completed":
        raise UnreadableError(f"{STATUS} says completed, but there is no {RESULT}")
    if state not in (*LIVING, *_ENDED):
        raise UnreadableError(f"{STATUS}: unknown state '{state}'")
    if is_worked_on(path, status):
        return _run(path, status, STATUS, state="running", reason=f"in stage {status.get('stage') or 'build'}")
    if state in _ENDED:
        return _run(path, status, STATUS, state=state, reason=_failure(status))
    if read_record(path / RESULT) is not None or read_record(path / STATUS) != status:
        return _read_run(path)  # it moved on after its record was read and before its lock was
    return _run(path, status, STATUS, state="dead", reason=f"its process ended unexpectedly in state {state}")


def _completed(path: Path, result: dict[str, Any]) -> Run:
    if result.get("state") != "completed":
        raise UnreadableError(f"{RESULT}: state is {result.get('state')!r}, not 'completed'")
    error = result.get("error")
    if not isinstance(error, dict):
        raise UnreadableError(f"{RESULT}: error is missing")
    selected = result.get("selected")
    splits = result.get("splits")
    test = splits.get("test") if isinstance(splits, dict) else None
    score = Score(
        error_name=_text(error, "name", RESULT),
        value=_number(error, "value"),
        n=_integer(error, "n", RESULT),
        skipped=_integer(error, "skipped", RESULT) if error.get("skipped") is not None else 0,
        percent=error.get("percent") is True,
        trivial=_number(result, "trivial_error"),
        synthetic=result.get("synthetic") is True,
        test_set=str(test.get("sha256", "")) if isinstance(test, dict) else "",
        chosen_on_test=isinstance(selected, dict) and selected.get("on") == "test",
        size=str(result.get("size") or ""),
    )
    return _run(path, result, RESULT, state="completed", score=score)


def _run(path: Path, record: dict[str, Any], name: str, **known: Any) -> Run:
    variant = record.get("variant")
    variant = {str(key): str(value) for key, value in variant.items()} if isinstance(variant, dict) else {}
    keys = ("task", "body", "source", "metric", "finetune", "protocol", "identity")
    known |= {key: _text(record, key, name) for key in keys}
    settings = str(record.get("settings") or "")
    return Run(path, seed=_integer(record, "seed", name), settings=settings, variant=variant, **known)


def _failure(status: dict[str, Any]) -> str:
    error = status.get("error")
    if isinstance(error, dict):
        return f"{error.get('kind') or 'error'}: {error.get('message') or 'no message'}"
    return "no reason recorded"


def _text(record: dict[str, Any], key: str, name: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise UnreadableError(f"{name}: {key} is {'missing' if value is None else 'not a text'}")
    return value


def _integer(record: dict[str, Any], key: str, name: str) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UnreadableError(f"{name}: {key} is {'missing' if value is None else 'not a whole number'}")
    return value


def _number(record: dict[str, Any], key: str) -> float | None:
    if key not in record:
        raise UnreadableError(f"{RESULT}: {key} is missing")
    value = record[key]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnreadableError(f"{RESULT}: {key} is not a number")
    number = math.nan if abs(value) > 1e300 else float(value)
    if not math.isfinite(number):
        raise UnreadableError(f"{RESULT}: {key} is not finite")
    return number


def _reason(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
