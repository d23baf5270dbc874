"""Find run folders and read their records, without writing anything.

A folder that looks like a run (by its records, or by a time at the start of its name) but cannot be read is listed with the
reason, so that no run is silently lost.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orca_cli.exceptions import DataError
from orca_cli.report.conditions import TEST_DATA, facts_of
from orca_cli.runs.claim import LIVING, begun, is_worked_on
from orca_cli.runs.directory import RESULT, STATUS
from orca_cli.runs.records import UnreadableError, read_record
from orca_cli.runs.settings import as_typed, canonical, decided
from orca_cli.terminal import percent_or_number

_ENDED = ("failed", "interrupted")
STATES = ("completed", *_ENDED, "running", "dead")  # dead: its process ended unexpectedly
GROUPS = ("body", "source", "metric", "finetune")  # of conf/ that name a method, besides the task
TEST_SET = "test_set"  # a pseudo-setting: test data differ though no setting does, since a file was changed


@dataclass(frozen=True)
class Score:
    """What a completed run achieved, by its result.json; errors are stored ones, fractions where `percent`."""

    error_name: str
    value: float | None  # test error, lower is better; None if it is undefined on this test set
    n: int  # what the error is a mean over, such as the number of samples or classes
    skipped: int  # items that the error could not be computed for
    percent: bool  # the error is a fraction, shown times 100
    trivial: (
        float | None
    )  # error of the best constant predictor on this test set; None if undefined
    synthetic: bool
    size: str  # the task's word for number and size of samples, such as small; empty if it has none
    steps: int | None  # alignment steps of the embedder that was chosen; None if not recorded
    baselines: list[
        tuple[str, float]
    ]  # simple models on the same test set, best first, without the constant
    validation: float | None  # validation error; None if nothing validates, or it is undefined
    validated_on: (
        str  # validation, folds, test or nothing; test chooses weights whose error is too low
    )
    validated_by: int  # samples; 0 if not recorded
    weights: str  # SHA-256 of the final weights: equal for runs that computed the same; empty if not recorded


@dataclass(frozen=True)
class Run:
    """One run according to its records.

    `collect` makes it. `selection.select_study` names it by the axes of a study (`arm`), `selection.choose` says at which value
    its arm is judged (`choice`).
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
    state: str  # one of STATES
    reason: str = ""  # why it is not completed; empty if it is
    settings: str = (
        ""  # hash of all settings except the seed; runs with different ones are never averaged
    )
    variant: dict[str, str] = field(
        default_factory=dict
    )  # overridden settings besides groups, {"train.epochs": "3"}
    decided: dict[str, str] = field(default_factory=dict)  # where its settings left it open
    typed: dict[str, str] = field(default_factory=dict)  # `variant` as recorded, in canonical form
    score: Score | None = None
    facts: dict[str, str] = field(default_factory=dict)  # of a completed run; see conditions.py
    arm: str = ""  # its name in a study; arms count as separate methods, even with equal settings
    choice: str = ""  # the value chosen for its arm, marked if it is at the edge (selection.py); empty for none

    @property
    def chooses_by(self) -> Score | None:
        """Return its score where a validation error may choose by it, as one on the test split never may."""
        score = self.score
        is_valid = score and score.validation is not None and score.validated_on != "test"
        return score if is_valid else None

    @property
    def test_set(self) -> str:
        """Return the SHA-256 of its test split; empty if not recorded."""
        return self.facts.get(TEST_DATA, "")


@dataclass(frozen=True)
class Broken:
    """A folder that looks like a run and cannot be read, with the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Collection:
    """What `collect` finds.

    Args:
        runs: those that count, in the order of their folders' names, which begin with a time: the oldest first.
        superseded: attempts at the same experiments that do not count, in the same order.
        broken: folders that cannot be read, by their paths.
    """

    runs: list[Run]
    superseded: list[Run]
    broken: list[Broken]

    def changed(self, change: Callable[[Run], Iterable[Run]]) -> "Collection":
        """Return the collection with `change(run)`, any number of runs, in place of each run, superseded ones included."""
        runs, superseded = (
            [new for run in group for new in change(run)] for group in (self.runs, self.superseded)
        )
        return replace(self, runs=runs, superseded=superseded)


def collect(folders: Sequence[Path]) -> Collection:
    """Read the runs below some folders: folders of all runs, of one task, or single runs.

    Of several attempts at one experiment (same identity) the newest completed one counts, and also the newest one if it
    is not completed. Hidden folders are passed over; a run that is reached twice, such as by a link, is read once.

    Raises:
        DataError: a folder does not exist, or none of them contains runs.
    """
    runs: list[Run] = []
    broken: list[Broken] = []
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        if not os.path.isdir(folder):  # False, not an error, if a parent is not accessible
            raise DataError(
                "no such folder of runs", where=str(folder), hint="make one with: orca run"
            )
        for run_folder in _find(folder, broken):
            try:
                facts = run_folder.stat()
                if (facts.st_dev, facts.st_ino) not in seen:
                    seen.add((facts.st_dev, facts.st_ino))
                    runs.append(_read_run(run_folder))
            except (UnreadableError, OSError, RecursionError) as error:
                broken.append(Broken(run_folder, str(error)))
    if not runs and not broken:
        names = ", ".join(map(str, folders))
        raise DataError(
            "contains no runs", where=names, hint="type: orca run, or: orca report FOLDER"
        )
    runs = sorted(runs, key=lambda run: (run.path.name, str(run.path)))
    newest = {run.identity: run.path for run in runs}
    completed = {run.identity: run.path for run in runs if run.state == "completed"}
    counting = {*newest.values(), *completed.values()}
    kept, superseded = (
        [run for run in runs if (run.path in counting) == counts] for counts in (True, False)
    )
    return Collection(kept, superseded, sorted(broken, key=lambda entry: str(entry.path)))


def _find(folder: Path, broken: list[Broken], depth: int = 2) -> Iterator[Path]:
    """Yield run folders at most some levels down; unreadable folders are added to `broken`."""
    try:
        names = sorted(os.listdir(folder))
    except (NotADirectoryError, FileNotFoundError):  # a file, or a link to nothing
        return
    except OSError as error:
        broken.append(Broken(folder, str(error)))
        return
    if STATUS in names or RESULT in names or begun(folder):
        yield folder
    elif depth:
        for name in names:
            if not name.startswith("."):
                yield from _find(folder / name, broken, depth - 1)


def _read_run(path: Path) -> Run:
    record, name = read_record(path / RESULT), RESULT
    if record is not None:
        if record.get("state") != "completed":
            raise UnreadableError(f"{RESULT}: state is {record.get('state')!r}, not 'completed'")
        state, reason, score = "completed", "", _score(record)
    else:
        record, name, score = read_record(path / STATUS), STATUS, None
        if record is None:
            raise UnreadableError(f"no {STATUS}: never started, or not a run")
        state, reason = _progress(path, record)
        if state == "dead" and (
            read_record(path / RESULT) is not None or read_record(path / STATUS) != record
        ):
            return _read_run(path)  # it moved on after its record was read and before its lock was
    decisions = mapping(record.get("decided")) if name == RESULT else decided(path)
    variant = {str(key): str(text) for key, text in mapping(record.get("variant")).items()}
    return Run(
        path,
        **{
            key: _required(record, key, name, str)
            for key in ("task", *GROUPS, "protocol", "identity")
        },
        seed=_required(record, "seed", name, int),
        state=state,
        reason=reason,
        settings=str(record.get("settings") or ""),
        variant=variant,
        typed={key: canonical(text) for key, text in variant.items()},
        decided={
            str(key): as_typed(one["value"])
            for key, one in decisions.items()
            if "value" in mapping(one)
        },
        score=score,
        facts=facts_of(record) if score else {},
    )


def _progress(path: Path, status: dict[str, Any]) -> tuple[str, str]:
    """Return the state of a run that has no result, and why it has none."""
    state = _required(status, "state", STATUS, str)
    if state not in (*LIVING, *_ENDED):
        raise UnreadableError(f"{STATUS}: state is '{state}', but there is no {RESULT}")
    if is_worked_on(path, status):
        return "running", f"in stage {status.get('stage') or 'build'}"
    if state not in _ENDED:
        return "dead", f"its process ended unexpectedly in state {state}"
    error = status.get("error")
    if not isinstance(error, dict):
        return state, "no reason recorded"
    return state, f"{error.get('kind') or 'error'}: {error.get('message') or 'no message'}"


def _score(result: dict[str, Any]) -> Score:
    error = result.get("error")
    if not isinstance(error, dict):
        raise UnreadableError(f"{RESULT}: error is missing")
    selected, splits = mapping(result.get("selected")), mapping(result.get("splits"))
    samples = selected.get("n", mapping(splits.get("val")).get("n"))
    steps = mapping(result.get("alignment")).get("steps")
    return Score(
        error_name=_required(error, "name", RESULT, str),
        value=_number(error, "value"),
        n=_required(error, "n", RESULT, int),
        skipped=error["skipped"] if type(error.get("skipped")) is int else 0,
        percent=error.get("percent") is True,
        trivial=_number(result, "trivial_error"),
        synthetic=result.get("synthetic") is True,
        size=str(result.get("size") or ""),
        steps=steps if type(steps) is int else None,
        baselines=baselines(result),
        validation=number(result.get("validation_error")),
        validated_on=str(selected.get("on") or ""),
        validated_by=samples if type(samples) is int else 0,
        weights=str(result.get("weights_sha256") or ""),
    )


def baselines(result: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return name and error of the simple models in a result.json, lowest first; not the constant, nor undefined errors."""
    models = mapping(result.get("baselines")).items()
    errors = [
        (str(name), number(mapping(one).get("error"))) for name, one in models if name != "constant"
    ]
    return sorted(
        ((name, error) for name, error in errors if error is not None), key=lambda model: model[1]
    )


def _required(record: dict[str, Any], key: str, name: str, kind: type) -> Any:
    value = record.get(key)
    if type(value) is not kind or value == "":  # a bool is not a whole number
        words = "a text" if kind is str else "a whole number"
        raise UnreadableError(f"{name}: {key} is {'missing' if value is None else f'not {words}'}")
    return value


def _number(record: dict[str, Any], key: str) -> float | None:
    value = number(record.get(key))
    if value is None and record.get(key, "") is not None:
        raise UnreadableError(
            f"{RESULT}: {key} is {'not a finite number' if key in record else 'missing'}"
        )
    return value


def interval_text(error: Mapping[str, Any]) -> str:
    """Return the 95 % interval of an error, as result.json has it, such as "3.91 % to 8.77 %"; empty where it has none."""
    ends = error.get("interval")
    if not isinstance(ends, list | tuple):
        return ""
    return " to ".join(percent_or_number(number(end), error.get("percent") is True) for end in ends)


def number(value: Any) -> float | None:
    """Return a number of at most 1e300 in size as a float; None for anything else, such as a bool or NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e300:
        return None
    return float(value)


def mapping(value: Any) -> dict[str, Any]:
    """Return a record, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}
