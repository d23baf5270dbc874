"""Find run folders and read their records, without writing anything.

A folder that looks like a run (by its records, or by a time at the start of its name) but cannot be
read is listed with the reason, so that no run is silently lost.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from orca_cli.config.composed import OWN_PATHS, data_name_of
from orca_cli.exceptions import DataError
from orca_cli.report.conditions import TEST_DATA, facts_of
from orca_cli.runs.claim import LIVING, begun, is_worked_on
from orca_cli.runs.directory import RESULT, STATUS
from orca_cli.runs.records import UnreadableError, read_record
from orca_cli.runs.settings import as_typed, canonical, decided
from orca_cli.terminal import percent_or_number

_ENDED = ("failed", "interrupted")
STATES = ("completed", *_ENDED, "running", "dead")  # dead: its process ended unexpectedly
GROUPS = ("body", "source", "metric", "finetune")  # groups of conf/ that name a method
Record = dict[str, Any]  # a JSON object
# Tasks whose data are the user's own.
_OWN_TASKS = ("arrays", "table", "images")
# A pseudo-setting, for test data that differ although no setting does, since a file was changed.
TEST_SET = "test_set"


class Baseline(NamedTuple):
    """A baseline's name and its test error, as stored."""

    name: str
    error: float


@dataclass(frozen=True)
class Score:
    """The errors of a completed run, by its result.json, as stored.

    Args:
        value: test error, lower is better; None if it is undefined on this test set.
        n: number of items that the error is a mean over, such as samples or classes.
        skipped: number of items for which the error could not be computed.
        percent: whether the error is a fraction, which is shown in per cent.
        trivial: error of the best constant predictor on this test set; None if undefined.
        size: the task's word for number and size of samples, such as small; empty if it has none.
        steps: alignment steps of the embedder that was chosen; None if not recorded.
        baselines: baselines on the same test set, lowest error first, without the constant.
        validation: validation error; None if the run has none, or it is undefined.
        validated_on: validation, folds, test or nothing; if test, the test split chose the
            weights, and the test error is too low.
        validated_by: number of validation samples; 0 if not recorded.
        weights: SHA-256 of the final weights: equal for runs that computed the same; empty if not
            recorded.
        verdict: sentence that compares the run with its baselines; empty if not recorded.
    """

    error_name: str
    value: float | None
    n: int
    skipped: int
    percent: bool
    trivial: float | None
    synthetic: bool
    size: str
    steps: int | None
    baselines: list[Baseline]
    validation: float | None
    validated_on: str
    validated_by: int
    weights: str
    verdict: str


@dataclass(frozen=True)
class Run:
    """One run according to its records.

    `collect` makes it. `selection.select_study` names it by the axes of a study (`arm`),
    `selection.choose` records the value that was chosen for its arm (`choice`).

    Args:
        data: name of its data set: the task's name, unless the data are the user's own.
        settings: hash of all settings except the seed; runs with different hashes are never
            averaged.
        variant: overridden settings other than groups, such as {"train.epochs": "3"}.
        typed: `variant` as recorded, in canonical form.
        decided: settings that the run decided itself, with the values that it decided.
        state: one of STATES.
        reason: why it is not completed; empty if it is.
        facts: facts of a completed run, by name; see conditions.py.
        arm: its name in a study; arms count as separate methods, even with equal settings.
        choice: the value chosen for its arm, marked if it is at the edge; empty if none was chosen.
    """

    path: Path
    task: str
    data: str
    body: str
    source: str
    metric: str
    finetune: str
    seed: int
    protocol: str
    identity: str
    settings: str
    variant: dict[str, str]
    typed: dict[str, str]
    decided: dict[str, str]
    state: str
    reason: str = ""
    score: Score | None = None
    facts: dict[str, str] = field(default_factory=dict)
    arm: str = ""
    choice: str = ""

    @property
    def choosing_score(self) -> Score | None:
        """Return its score if it has a validation error that may choose a setting.

        An error on the test split must never choose.
        """
        score = self.score
        if score is None or score.validation is None or score.validated_on == "test":
            return None
        return score

    @property
    def test_set(self) -> str:
        """Return the SHA-256 of its test split; empty if not recorded."""
        return self.facts.get(TEST_DATA, "")

    def order(self) -> tuple[str, str]:
        """Return a key that sorts runs from the oldest, since folders' names begin with a time."""
        return self.path.name, str(self.path)


@dataclass(frozen=True)
class Broken:
    """A folder that looks like a run and cannot be read, with the reason."""

    path: Path
    reason: str
    state: str = "broken"


@dataclass(frozen=True)
class Collection:
    """The runs that `collect` reads.

    Args:
        runs: runs that count, the oldest first.
        superseded: attempts at the same experiments that do not count, in the same order.
        broken: folders that cannot be read, by their paths.
    """

    runs: list[Run]
    superseded: list[Run]
    broken: list[Broken]

    def changed(self, change: Callable[[Run], Iterable[Run]]) -> "Collection":
        """Return the collection with `change(run)`, any number of runs, in place of each run.

        Superseded runs are changed as well.
        """
        runs = chain.from_iterable(map(change, self.runs))
        superseded = chain.from_iterable(map(change, self.superseded))
        return replace(self, runs=list(runs), superseded=list(superseded))


def collect(folders: Sequence[Path]) -> Collection:
    """Read the runs below some folders: folders of all runs, of one data set, or single runs.

    Of several attempts at one experiment (same identity) the newest completed one counts, and also
    the newest one if it is not completed. Hidden folders are skipped; a run that is reached twice,
    such as by a link, is read once.

    Raises:
        DataError: a folder does not exist, or none of them contains runs.
    """
    runs = []
    broken: list[Broken] = []
    visited: set[tuple[int, int]] = set()  # device and inode
    for folder in folders:
        if not os.path.isdir(folder):  # False, not an error, if a parent is not accessible
            raise DataError(
                "does not exist", where=str(folder), hint="start a run first: `orca run`"
            )
        for run_folder in _run_folders(folder, broken):
            try:
                # A folder may be reached by several names, such as links.
                status = run_folder.stat()
                inode = (status.st_dev, status.st_ino)
                if inode not in visited:
                    visited.add(inode)
                    runs.append(_read_run(run_folder))
            # RecursionError: a valid record has a value that is nested too deeply to be written as
            # text.
            except (UnreadableError, OSError, RecursionError) as error:
                broken.append(Broken(path=run_folder, reason=str(error)))
    if not runs and not broken:
        raise DataError(
            "contains no runs",
            where=", ".join(map(str, folders)),
            hint="start a run with `orca run`, or name another folder: `orca report FOLDER`",
        )
    # Sorted from the oldest to the newest: below, and in cells of a table, the last run counts.
    runs.sort(key=Run.order)
    # Identity -> the newest run: later runs replace earlier ones.
    newest = {run.identity: run.path for run in runs}
    completed = {run.identity: run.path for run in runs if run.state == "completed"}
    # A newer attempt that failed is shown in addition to the completed run, so that it is noticed.
    counting = {*newest.values(), *completed.values()}
    return Collection(
        runs=[run for run in runs if run.path in counting],
        superseded=[run for run in runs if run.path not in counting],
        broken=sorted(broken, key=lambda entry: str(entry.path)),
    )


def _run_folders(folder: Path, broken: list[Broken], depth: int = 2) -> Iterator[Path]:
    """Yield run folders at most `depth` levels down; unreadable folders are added to `broken`."""
    try:
        names = sorted(os.listdir(folder))
    except (NotADirectoryError, FileNotFoundError):  # a file, or a link to nothing
        return
    except OSError as error:
        broken.append(Broken(path=folder, reason=str(error)))
        return
    if STATUS in names or RESULT in names or begun(folder):
        # A run's folder contains no other run, so it is not searched.
        yield folder
    elif depth:
        for name in names:
            # The folder of all runs has a folder for each data set, which has the runs: two levels.
            # Hidden folders contain other records.
            if not name.startswith("."):
                yield from _run_folders(folder / name, broken, depth - 1)


def _read_run(path: Path) -> Run:
    """Return a run from its records, which are read again if it proceeds in the meantime."""
    # A run without a result is not completed; its status says how far it got.
    result = read_record(path / RESULT)
    if result is not None:
        state = result.get("state")
        if state != "completed":
            raise UnreadableError(f"{RESULT}: state is {state!r}, not 'completed'")
        score = _score(result)
        decisions = mapping(result.get("decided"))
        facts = facts_of(result)
        return _run(path, result, RESULT, decisions, state="completed", score=score, facts=facts)
    status = read_record(path / STATUS)
    if status is None:
        raise UnreadableError(f"has no {STATUS}: the run was never started, or this is not a run")
    state, reason = _progress(path, status)
    if state == "dead":
        # The run may have proceeded after its status was read and before its lock was checked.
        has_ended = read_record(path / RESULT) is not None
        if has_ended or read_record(path / STATUS) != status:
            return _read_run(path)
    # Without a result, the decisions are in the summary of the build stage.
    return _run(path, status, STATUS, decided(path), state=state, reason=reason)


def _run(
    path: Path, record: Record, file_name: str, decisions: Mapping[str, Any], **progress: Any
) -> Run:
    """Return a run from one of its records and from its decisions.

    `progress`: fields that only one of the records has.
    """
    variant = {}
    typed = {}
    for key, text in mapping(record.get("variant")).items():
        variant[str(key)] = str(text)
        typed[str(key)] = canonical(str(text))
    decided_values = {}
    # A decision is a record of a value and its reason.
    for key, decision in decisions.items():
        if "value" in mapping(decision):
            decided_values[str(key)] = as_typed(decision["value"])
    names = ("task", *GROUPS, "protocol", "identity")
    task = _text(record, "task")
    data = _text(record, "data") or _older_data_name(task, variant)
    return Run(
        path=path,
        data=data,
        **{name: _required(record, name, file_name, str) for name in names},
        seed=_required(record, "seed", file_name, int),
        settings=_text(record, "settings"),
        variant=variant,
        typed=typed,
        decided=decided_values,
        **progress,
    )


def _older_data_name(task: str, variant: Mapping[str, str]) -> str:
    """Return the name of the data set of a run that has not recorded it."""
    if task not in _OWN_TASKS:
        return task
    typed = [variant.get(f"task.{key}", "").strip("'\"") for key in OWN_PATHS]
    return data_name_of(filter(None, typed), task)


def _progress(path: Path, status: Record) -> tuple[str, str]:
    """Return the state of a run that has no result, and why it has none."""
    state = _required(status, "state", STATUS, str)
    # Such as "completed", which only a result proves.
    if state not in (*LIVING, *_ENDED):
        raise UnreadableError(f"{STATUS}: state is '{state}', but there is no {RESULT}")
    if is_worked_on(path, status):
        return "running", f"in stage {status.get('stage') or 'build'}"
    if state not in _ENDED:
        return "dead", f"the run's process ended unexpectedly in state {state}"
    error = status.get("error")
    if not isinstance(error, dict):
        return state, "no reason recorded"
    kind = error.get("kind") or "error"
    message = error.get("message") or "no message"
    return state, f"{kind}: {message}"


def _score(result: Record) -> Score:
    error = result.get("error")
    if not isinstance(error, dict):
        raise UnreadableError(f"{RESULT}: error is missing")
    selected = mapping(result.get("selected"))
    alignment = mapping(result.get("alignment"))
    splits = mapping(result.get("splits"))
    validation_split = mapping(splits.get("val"))
    # If a record does not say how many samples chose, the size of the validation split counts.
    n_validated = selected.get("n", validation_split.get("n"))
    return Score(
        error_name=_required(error, "name", RESULT, str),
        value=_number(error, "value"),
        n=_required(error, "n", RESULT, int),
        skipped=_whole(error.get("skipped")) or 0,
        # Only true counts: a damaged record may contain the text "false", which Python treats as
        # true.
        percent=error.get("percent") is True,
        trivial=_number(result, "trivial_error"),
        synthetic=result.get("synthetic") is True,
        size=_text(result, "size"),
        steps=_whole(alignment.get("steps")),
        baselines=baselines(result),
        validation=number(result.get("validation_error")),
        validated_on=_text(selected, "on"),
        validated_by=_whole(n_validated) or 0,
        weights=_text(result, "weights_sha256"),
        verdict=_text(mapping(result.get("comparison")), "text"),
    )


def baselines(result: Mapping[str, Any]) -> list[Baseline]:
    """Return the baselines of a result.json, lowest error first.

    The constant and baselines without an error are left out.
    """
    models = []
    for name, model in mapping(result.get("baselines")).items():
        error = number(mapping(model).get("error"))
        if name != "constant" and error is not None:
            models.append(Baseline(name=str(name), error=error))
    return sorted(models, key=lambda model: model.error)


def _text(record: Record, field: str) -> str:
    """Return a text of a record; empty if the record lacks it."""
    return str(record.get(field) or "")


def _required(record: Record, field: str, file_name: str, kind: type) -> Any:
    """Return a text or an integer of a record; UnreadableError if it has none.

    `kind` is str or int.
    """
    field_value = record.get(field)
    if field_value is None:
        raise UnreadableError(f"{file_name}: {field} is missing")
    if type(field_value) is not kind or field_value == "":  # a bool is not an integer
        expected = "a text" if kind is str else "an integer"
        raise UnreadableError(f"{file_name}: {field} must be {expected}")
    return field_value


def _number(record: Record, field: str) -> float | None:
    """Return a number of result.json, None if undefined; UnreadableError for anything else."""
    if field not in record:
        raise UnreadableError(f"{RESULT}: {field} is missing")
    recorded = number(record[field])
    if recorded is None and record[field] is not None:
        raise UnreadableError(f"{RESULT}: {field} is not a finite number")
    return recorded


def _whole(value: Any) -> int | None:
    """Return an integer; None for anything else, such as a bool."""
    return value if type(value) is int else None


def interval_text(error: Mapping[str, Any]) -> str:
    """Return the 95 % interval of an error of result.json, such as "3.91 % to 8.77 %".

    Empty if the error has no interval.
    """
    ends = error.get("interval")
    if not isinstance(ends, list | tuple):
        return ""
    is_percent = error.get("percent") is True
    return " to ".join(percent_or_number(number(end), is_percent) for end in ends)


def number(value: Any) -> float | None:
    """Return a number of at most 1e300 in size as a float; None for anything else, such as NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Before the conversion, since `float` raises OverflowError for a huge integer.
    if not abs(value) <= 1e300:  # also rejects NaN
        return None
    return float(value)


def mapping(value: Any) -> Record:
    """Return a record, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}
