"""What a run's records say besides its error: curves, distances, times, choices, baselines, where it was made.

None of it is needed for a table of errors, so what is missing or malformed is skipped and never stops a report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.runs.directory import ENVIRONMENT, RESULT
from orca_cli.runs.records import UnreadableError, read_record

if TYPE_CHECKING:  # which reads records by this module
    from orca_cli.report.records.collect import Run
from collections.abc import Sequence

from orca_cli.config import configuration
from orca_cli.config.study import BLANK, Study
from orca_cli.exceptions import OrcaError
from orca_cli.runs import studies

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
class Details:
    """One completed run.

    Args:
        distance: (epoch, metric on the training data) of stage 2.
        loss, validation: (epoch, training loss) and (epoch, validation error) of stage 3.
        before, after: the metric before and after stage 2.
        floor: mean of the metric between two halves of the source data.
        seconds: stage -> wall time.
        chosen: epoch whose weights are tested; by: the rule that chose it.
        decided: setting -> value that the run chose itself.
        baselines: simple models, the constant included.
        task, body, source: by their names in conf/; a study may call them otherwise.
    """

    distance: Points = ()
    loss: Points = ()
    validation: Points = ()
    before: float | None = None
    after: float | None = None
    floor: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    steps: int | None = None
    chosen: int | None = None
    by: str = ""
    validation_error: float | None = None
    test_reads: int | None = None
    decided: dict[str, str] = field(default_factory=dict)
    baselines: tuple[Baseline, ...] = ()
    task: str = ""
    body: str = ""
    source: str = ""


@dataclass(frozen=True)
class Environment:
    """What some runs were made with."""

    python: str
    platform: str
    processors: str
    threads: str
    device: str
    packages: tuple[tuple[str, str], ...]


def read(run: Run, *, with_curves: bool = True) -> Details:
    """Return the details of a completed run; empty where its record has gone or cannot be read.

    Curves are most of the data: those of 10,000 runs would fill the memory.
    """
    record = _record(run.path / RESULT)
    curves, distance, alignment = (_mapping(record.get(key)) for key in ("curves", "metric_value", "alignment"))
    selected = _mapping(record.get("selected"))
    align, finetune = (curves.get(stage) if with_curves else None for stage in ("align", "finetune"))
    return Details(
        distance=_points(align, "loss"),
        loss=_points(finetune, "train_loss"),
        validation=_points(finetune, "validation_error"),
        before=number(distance.get("before")),
        after=number(distance.get("after")),
        floor=number(_mapping(distance.get("floor")).get("mean")),
        seconds=seconds_of(record),
        steps=_whole(alignment.get("steps")),
        chosen=_whole(selected.get("epoch")),
        by=_text(selected.get("by")),
        validation_error=number(record.get("validation_error")),
        test_reads=_whole(record.get("test_reads")),
        decided={key: _text(_mapping(entry).get("value")) for key, entry in _entries(record.get("decided"))},
        baselines=baselines_of(record),
        **{key: _text(record.get(key)) for key in ("task", "body", "source")},
    )


def environment(run: Run) -> Environment | None:
    """Return what a run was made with; None where it is not recorded."""
    record = _record(run.path / ENVIRONMENT)
    if not record:
        return None
    packages = tuple((name, _text(version)) for name, version in _entries(record.get("packages")) if version)
    texts = {key: _text(record.get(key)) for key in ("python", "platform", "processors", "threads", "device")}
    return Environment(packages=packages, **texts)


def overrides(path: Path) -> list[str] | None:
    """Return the overrides that a run was started with; None where they are not recorded."""
    try:
        with open(path / OVERRIDES, "rb") as file:
            text = file.read(_MOST_OVERRIDES + 1).decode()
    except (OSError, UnicodeDecodeError):
        return None
    return text.splitlines() if len(text) <= _MOST_OVERRIDES else None


def seconds_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return stage -> wall time of a result's record; stages whose time is not recorded are left out."""
    recorded = {stage: number(_mapping(result.get("seconds")).get(stage)) for stage in STAGES}
    return {stage: seconds for stage, seconds in recorded.items() if seconds is not None and seconds >= 0}


def baselines_of(result: Mapping[str, Any]) -> tuple[Baseline, ...]:
    """Return the simple models of a result's record; those without an error are left out."""
    baselines = []
    for name, entry in _entries(result.get("baselines")):
        record = _mapping(entry)
        if (error := number(record.get("error"))) is not None:
            baselines.append(Baseline(name, error, number(record.get("seconds")), _text(record.get("about"))))
    return tuple(baselines)


def number(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        return None
    return float(value)


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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _entries(value: Any) -> list[tuple[str, Any]]:
    return [(_text(key), entry) for key, entry in _mapping(value).items()][:_MOST_NAMES]


def _text(value: Any) -> str:
    return "" if value is None else str(value)[:_LONGEST]


def _whole(value: Any) -> int | None:
    return value if type(value) is int and abs(value) < 2**53 else None


def _points(lines: Any, name: str) -> Points:
    """Return (epoch, value) of the lines that have both."""
    points = []
    for line in lines[:_MOST_POINTS] if isinstance(lines, list) else ():
        x, y = number(_mapping(line).get("epoch")), number(_mapping(line).get(name))
        if x is not None and y is not None:
            points.append((x, y))
    return tuple(points)


_DATA = "paths.data"


@dataclass(frozen=True)
class Origin:
    """Where the runs of a report come from: what a command that adds runs to them has to state.

    Args:
        study: the study that they belong to; empty for none.
        axes: what the study calls them by: its axes, and the settings that were typed besides.
        whole: for axes whose choices are known, their names.
        blanks: settings that have to be typed with the study.
        left_out: combinations of choices that the study does not make, axis -> names.
        folder: of the runs, if it is not the usual one; empty if it is.
    """

    study: str = ""
    axes: tuple[str, ...] = ()
    whole: Mapping[str, frozenset[str]] = field(default_factory=dict)
    blanks: tuple[str, ...] = ()
    folder: str = ""
    left_out: tuple[Mapping[str, tuple[str, ...]], ...] = ()

    def makes(self, labels: Mapping[str, str]) -> bool:
        """Return whether the study makes runs of some choices, axis -> name."""
        return not any(all(labels.get(axis) in names for axis, names in one.items()) for one in self.left_out)

    def besides(self, typed: Sequence[Mapping[str, str]]) -> list[str]:
        """Return what a command of the study has to say besides its axes: blanks, and the folder of data that all share.

        Args:
            typed: of runs that the new ones are to be like; see `typed_of`.
        """
        words = []
        for key in self.blanks:
            values = dict.fromkeys(one[key] for one in typed if key in one)
            words += [f"{key}={','.join(values)}"] if values else []
        return words + shared_data(typed)


def typed_of(path: Path) -> dict[str, str]:
    """Return key -> value of what was typed for a run, besides its seed and folder; empty where its folder does not say.

    The folder is untrusted: options of the program are left out, only settings are kept.
    """
    pairs = [line.partition("=") for line in overrides(path) or () if "=" in line and not line.startswith("-")]
    return {key: value for key, _, value in pairs if key not in ("seed", "paths.runs")}


def shared_data(typed: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the override of the folder of data, where all runs have it and the same."""
    folders = {one.get(_DATA, "") for one in typed}
    return [f"{_DATA}={folders.pop()}"] if len(folders) == 1 and "" not in folders else []


def origin_of(folders: Sequence[Path], study: str | None, usual: Path) -> Origin:
    """Return the origin of the runs in some folders.

    Args:
        folders: of runs.
        study: whose runs are meant.
        usual: where runs are by default.
    """
    folder = str(folders[0]) if len(folders) == 1 and folders[0].resolve() != usual.resolve() else ""
    if study is None:
        return Origin(folder=folder)
    members = [one for folder in folders if study in studies.names(folder) for one in studies.read(folder, study)]
    axes = tuple(dict.fromkeys(axis for member in members for axis in member.labels))
    try:
        read = Study.read(study, configuration.choices("study")[study])
    except (OrcaError, KeyError):  # a study of the user's own, in a folder that is not known here
        return Origin(study, axes, folder=folder)
    texts = [text for choices in read.axes.values() for choice_texts in choices.values() for text in choice_texts]
    blanks = dict.fromkeys(text.partition("=")[0] for text in (*read.common, *texts) if text.endswith(f"={BLANK}"))
    whole = {axis: frozenset(choices) for axis, choices in read.axes.items()}
    return Origin(study, axes, whole, tuple(blanks), folder, read.left_out)
