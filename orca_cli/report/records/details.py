"""What a run's records say beyond its error. Whatever is missing or malformed is left out.

None of it is needed for a table of errors, so nothing here stops a report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.runs.directory import ENVIRONMENT, RESULT
from orca_cli.runs.records import UnreadableError, read_record

OVERRIDES = "overrides.txt"
STAGES = ("build", "align", "finetune", "baselines")
_MOST_POINTS = 200
_MOST_NAMES = 50  # of packages, decisions, baselines
_LONGEST = 200
_MOST_OVERRIDES = 2**16  # bytes

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Baseline:
    """A simple model on a run's split: its error as stored, and the seconds it took; None if not recorded."""

    name: str
    error: float
    seconds: float | None
    about: str = ""


@dataclass(frozen=True)
class Curves:
    """Curves of one run: (epoch, metric on the training data) in stage 2, (epoch, loss) and (epoch, error) in stage 3."""

    distance: Points = ()
    loss: Points = ()
    validation: Points = ()


def curves(path: Path) -> Curves:
    """Return the curves of a run's folder; empty where its record is missing or cannot be read.

    They are read only where they are drawn, since those of 10,000 runs would fill the memory.
    """
    record = mapping(_record(path / RESULT).get("curves"))
    align, finetune = record.get("align"), record.get("finetune")
    return Curves(_points(align, "loss"), _points(finetune, "train_loss"), _points(finetune, "validation_error"))


def environment(path: Path) -> tuple[str, str, str, str] | None:
    """Return a run's environment as texts: Python, device, machine, packages; None where it is not recorded."""
    record = _record(path / ENVIRONMENT)
    if not record:
        return None
    python, platform, processors, threads, device = (
        text(record.get(key)) for key in ("python", "platform", "processors", "threads", "device")
    )
    machine = f"{platform}, {processors} processors, {threads or 'default'} threads"
    packages = (f"{name} {text(version)}" for name, version in _entries(record.get("packages")) if version)
    return f"python {python}", device or "-", machine, ", ".join(packages)


def overrides(path: Path) -> list[str] | None:
    """Return the overrides that a run was started with; None where they are not recorded."""
    try:
        with open(path / OVERRIDES, "rb") as file:
            content = file.read(_MOST_OVERRIDES + 1).decode()
    except (OSError, UnicodeDecodeError):
        return None
    return content.splitlines() if len(content) <= _MOST_OVERRIDES else None


def typed_settings(path: Path) -> dict[str, str]:
    """Return the settings typed for a run, without its seed and folder; empty where they are not recorded.

    The folder is untrusted: only settings are kept, no options of the program.
    """
    pairs = [line.partition("=") for line in overrides(path) or () if "=" in line and not line.startswith("-")]
    return {key: value for key, _, value in pairs if key not in ("seed", "paths.runs")}


def shared_data(typed: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the override `paths.data` as a list, if all runs have the same one; see `typed_settings`."""
    folders = {one.get("paths.data", "") for one in typed}
    return [f"paths.data={folders.pop()}"] if len(folders) == 1 and "" not in folders else []


def seconds_by_stage(result: Mapping[str, Any]) -> dict[str, float]:
    """Return stage -> wall time of a result's record; stages whose time is not recorded are left out."""
    recorded = {stage: number(mapping(result.get("seconds")).get(stage)) for stage in STAGES}
    return {stage: seconds for stage, seconds in recorded.items() if seconds is not None and seconds >= 0}


def baselines(result: Mapping[str, Any]) -> tuple[Baseline, ...]:
    """Return the simple models of a result's record, the constant included; those without an error are left out."""
    models = []
    for name, entry in _entries(result.get("baselines")):
        record = mapping(entry)
        if (error := number(record.get("error"))) is not None:
            models.append(Baseline(name, error, number(record.get("seconds")), text(record.get("about"))))
    return tuple(models)


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        return None
    return float(value)


def whole(value: Any) -> int | None:
    """Return a whole number, or None for anything else."""
    return value if type(value) is int and abs(value) < 2**53 else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a record, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def text(value: Any) -> str:
    """Return a value as a text that is not too long; empty for none."""
    return "" if value is None else str(value)[:_LONGEST]


def mean_curve(curves: Iterable[Points]) -> list[tuple[float, float, float, float]]:
    """Return x, mean, lowest and highest value wherever most of the curves have one, in the order of x."""
    curves_by_x = [dict(points) for points in curves if points]
    places = sorted({x for points in curves_by_x for x in points})
    means = []
    for x in places:
        values = [points[x] for points in curves_by_x if x in points]
        if 2 * len(values) > len(curves_by_x):
            means.append((x, math.fsum(values) / len(values), min(values), max(values)))
    return means


def _record(path: Path) -> dict[str, Any]:
    try:
        return read_record(path) or {}
    except (UnreadableError, OSError):
        return {}


def _entries(value: Any) -> list[tuple[str, Any]]:
    return [(text(key), entry) for key, entry in mapping(value).items()][:_MOST_NAMES]


def _points(lines: Any, name: str) -> Points:
    """Return (epoch, value) of the lines that have both."""
    points = []
    for line in lines[:_MOST_POINTS] if isinstance(lines, list) else ():
        x, y = number(mapping(line).get("epoch")), number(mapping(line).get(name))
        if x is not None and y is not None:
            points.append((x, y))
    return tuple(points)
