"""`orca runs`: list, show, compare and remove the folders of runs.

Works without torch. `list`, `show` and `diff` change nothing.
"""

import argparse
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.commands import removal
from orca_cli.commands.options import RUNS, WHERE, Record, Verb, run_argument
from orca_cli.commands.summary import decisions, read_answer, result_parts
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import CheckpointError, DataError
from orca_cli.report.answer import picture
from orca_cli.report.collect import Broken, Run, collect, mapping
from orca_cli.report.conditions import shown as fact_text
from orca_cli.report.layout import clean, settings_text
from orca_cli.report.selection import Values, where
from orca_cli.runs.claim import begun, named
from orca_cli.runs.directory import RESULT, STATUS, read_or_empty
from orca_cli.runs.records import newer_schema
from orca_cli.runs.settings import as_typed, decided, settings
from orca_cli.terminal import Result, counted, duration, percent_or_number, size_text

_LIST = """\
examples:
  orca runs list                                all runs of ./runs (or $ORCA_RUNS)
  orca runs list runs/digits                    \
the runs on one data set; several folders are allowed
  orca runs list --where state=failed,dead      \
runs in these states; all states: completed, failed, interrupted, running, dead (its process was \
killed)
  orca runs list --where metric=otdd --where train.lr=1e-4     \
runs with these settings

If a run was attempted again in a newer folder, the state of the old attempt is in brackets. Lines \
below the table show the settings of a run, or why the run is not completed or cannot be read."""
_SHOW = """\
examples:
  orca runs show runs/digits/2026-...       a run by its folder
  orca runs show 1e791e76                   a run by the end of its name

The command computes and checks nothing. `orca score RUN` computes the error again, and `orca \
doctor RUN` compares checksums."""
_DIFF = """\
examples:
  orca runs diff runs/digits/2026-... runs/digits/2026-...
  orca runs diff 1e791e76 66f1304e          two runs by the ends of their names

The command shows the settings that differ, whether you set them or the program decided them. It \
also shows the conditions that differ: the data of every split, the number of training samples, \
steps and averaged models, and the version of the program. A dash means that a run lacks the \
entry. Results are shown even if they are equal."""
# Settings that do not affect a run: descriptions of data in the files of conf/, and the rules of a
# search in older runs.
_DESCRIBING = ("task.data.", "source.data.", "tune.")
_LONGEST_NAME = 32  # largest length of a data set's name
# Runs in these states are shown with their settings, other runs in red with the reason.
_HEALTHY = ("completed", "running")
# Fields of a run that are in its record.
_FIELDS = (
    "task",
    "data",
    "body",
    "source",
    "metric",
    "finetune",
    "seed",
    "protocol",
    "identity",
    "variant",
    "state",
)
# Name of a section of `orca runs diff` -> key -> value.
_Sections = dict[str, Record]


def one_run(name: str) -> Run:
    """Return a run by its folder, its name, or the end of its name.

    Raises:
        DataError: the run does not exist, or its records cannot be read.
        CheckpointError: a newer version of the program wrote the run.
    """
    path = named(name)
    collection = collect([path])
    # An attempt that a newer folder replaces can still be shown, by its path.
    for run in (*collection.runs, *collection.superseded):
        if run.path == path:
            return run
    if path not in [broken.path for broken in collection.broken]:
        raise DataError(
            "is a folder of runs, not a run",
            where=str(path),
            hint="name one of its runs; `orca runs list` shows them",
        )
    # This program cannot read the record of a newer program, but the record is not damaged.
    error = newer_schema(path / RESULT, path / STATUS)
    if error is not None:
        hint = "use a newer version of orca"
        raise CheckpointError(str(error), where=str(path), hint=hint) from error
    raise DataError(
        collection.broken[0].reason,
        where=str(path),
        hint="`orca doctor RUN` shows which files are damaged",
    )


def _begun(run: Run | Broken) -> datetime:
    """Return the start time in a run's name, or the current time if the name has no time."""
    return begun(run.path) or storage.now()


def _record(run: Run | Broken) -> Record:
    """Return the record of a run: its name, settings and state."""
    since = _begun(run)
    age = storage.now() - since
    # The time is that of the machine that started the run, whose clock may be ahead.
    age_s = max(0.0, age.total_seconds())
    record: Record = {
        "run": run.path.name,
        "path": str(run.path),
        "since": since.isoformat(),
        "age": duration(age_s),
        "reason": run.reason,
    }
    if isinstance(run, Broken):
        return record | {"state": "unreadable"}
    for field in _FIELDS:
        record[field] = getattr(run, field)
    return record


def listed(arguments: argparse.Namespace) -> Result:
    """Return the runs, newest first, including folders that cannot be read."""
    collection = collect(arguments.runs or [default_folders()["runs"]])
    # Shared by all conditions, so that the settings of a run are read once.
    values = Values()
    for condition in arguments.where:
        collection = where(collection, condition, values)
    runs: list[Run | Broken] = [*collection.runs, *collection.superseded]
    if not arguments.where:
        # Only without --where, since broken folders have no settings that could be compared.
        runs += collection.broken
    runs.sort(key=_begun, reverse=True)
    records = []
    rows = []
    notes = []
    for run in runs:
        record = _record(run)
        record["bytes"] = storage.size(run.path)
        record["error"] = _error_record(run)
        record["replaced"] = run in collection.superseded
        records.append(record)
        cells = _row(record)
        rows.append(cells)
        # Below the table: the settings of healthy runs, and the reasons of the others.
        note = run.reason
        if record["state"] in _HEALTHY:
            note = settings_text(record["variant"].items(), " ")
        if note:
            notes.append(f"{cells[0]}  {note}")
    table = terminal.table(("run", "data", "with", "state", "error", "age", "size"), rows)
    total_bytes = sum(record["bytes"] for record in records)
    conclusion = f"{counted(len(records), 'run')}, {size_text(total_bytes)}"
    return Result({"schema": 1, "runs": records}, [table, *notes, conclusion])


def _error_record(run: Run | Broken) -> Record | None:
    """Return the test error of a run; None if the run has no error."""
    if isinstance(run, Broken) or run.score is None:
        return None
    score = run.score
    text = f"{score.error_name} {percent_or_number(score.value, score.percent)}"
    return {"name": score.error_name, "value": score.value, "text": text}


def _row(record: Record) -> tuple[str | Text, ...]:
    """Return the cells of a run's row in the list of all runs."""
    state = record["state"]
    style = "" if state in _HEALTHY else "red"
    if record["replaced"]:
        # A newer folder of the same run replaces this attempt.
        state = f"({state})"
    error_text = ""
    if record["error"] is not None:
        error_text = record["error"]["text"]
    name = record["run"]
    # A run's name has date, time, body, metric, finetune, seed and identity.
    name_fields = name.split("_")
    body_to_seed = " ".join(name_fields[2:-1])
    if len(name_fields) > 3:
        # The identity is short, and other commands accept it as a name (`claim.named`).
        name = name_fields[-1]
    return (
        name,
        clean(record.get("data", ""), longest=_LONGEST_NAME),
        body_to_seed,
        Text(state, style=style),
        error_text,
        record["age"],
        size_text(record["bytes"]),
    )


def show(arguments: argparse.Namespace) -> Result:
    """Return all information in a run's folder."""
    run = one_run(arguments.run)
    result: Record = {}
    answer = None
    if run.state == "completed":
        result = read_or_empty(run.path / RESULT)
    if result:
        answer = read_answer(run.path)
    record = _record(run)
    record["decided"] = decided(run.path)
    record["result"] = result
    record["answer"] = None
    bytes_by_file = {}
    for path in sorted(run.path.rglob("*")):
        # A link is listed as a link, and is never followed.
        if path.is_symlink() or not path.is_dir():
            bytes_by_file[str(path.relative_to(run.path))] = storage.size(path)
    record["files"] = bytes_by_file
    shown: list[RenderableType] = [terminal.facts(_facts(run, record))]
    if result:
        shown += result_parts(result, run.path)
    if answer is not None:
        record["answer"] = answer.record()
        shown += ["", *picture(answer, terminal.stdout().width)]
    rows = [(name, size_text(n_bytes)) for name, n_bytes in bytes_by_file.items()]
    shown += ["", terminal.table(("file", "size"), rows)]
    return Result({"schema": 1, "run": record}, shown)


def _facts(run: Run, record: Record) -> Iterator[tuple[str, str | Text]]:
    """Yield names and texts of the facts about a run."""
    yield "folder", str(run.path)
    yield "state", f"{_state_text(run)}; started {record['age']} ago"
    yield "task", f"{run.task}, data set {clean(run.data)}, protocol {run.protocol}"
    yield (
        "model",
        f"{run.body}, source {run.source}, metric {run.metric}, finetune {run.finetune}, "
        f"seed {run.seed}",
    )
    if run.variant:
        yield "settings", settings_text(run.variant.items(), " ")
    for decision in decisions(record["decided"]):
        yield "decided", decision


def _state_text(run: Run) -> str:
    if not run.reason:
        return run.state
    return f"{run.state}: {run.reason}"


def diff(arguments: argparse.Namespace) -> Result:
    """Return the differences of two runs in settings, data and programs, and their results."""
    runs = {"a": one_run(arguments.first), "b": one_run(arguments.second)}
    sections = _compared(runs)
    is_same = runs["a"].identity == runs["b"].identity
    record: Record = {"schema": 1, "same_experiment": is_same}
    shown: list[RenderableType] = []
    for side, run in runs.items():
        record[side] = {"run": run.path.name, "path": str(run.path), "state": run.state}
        shown.append(f"{side}  {run.path}")
    shown.append(
        "a and b are two attempts at the same run" if is_same else "a and b are different runs"
    )
    # The identity also depends on the content of data files and weights.
    if not is_same and not sections["settings"]:
        shown.append("no setting differs, but the data files or the weights of the body differ")
    for section_name, section in sections.items():
        shown.append("")
        if not section:
            shown.append(f"{section_name}: no difference")
            continue
        rows = []
        for key, pair in section.items():
            rows.append((key, _cell(pair.get("a", "-")), _cell(pair.get("b", "-"))))
        shown.append(terminal.table((section_name, "a", "b"), rows))
    return Result(record | sections, shown)


def _compared(runs: dict[str, Run]) -> _Sections:
    """Return section -> key -> side -> value; settings and conditions have only differing keys."""
    # Side (a or b) -> section -> key -> value.
    sections_by_side = {side: _sections(run) for side, run in runs.items()}
    compared: _Sections = {}
    for section_name in sections_by_side["a"]:
        # A run that lacks a key has no side in the key's pair.
        pairs: Record = {}
        for side, sections in sections_by_side.items():
            for key, value in sections[section_name].items():
                pairs.setdefault(key, {})[side] = value
        # Results are shown even if they are equal.
        if section_name != "results":
            pairs = {key: pair for key, pair in pairs.items() if _differs(pair)}
        compared[section_name] = pairs
    return compared


def _differs(pair: Record) -> bool:
    # A key that only one of the runs has is a difference as well.
    return len(pair) < 2 or pair["a"] != pair["b"]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return as_typed(value)


def _sections(run: Run) -> _Sections:
    """Return a run's settings, those that were decided included, its conditions and results."""
    run_settings = {}
    for key, setting in settings(run.path).items():
        if not key.startswith(_DESCRIBING):
            run_settings[key] = setting
    # The decisions of a run replace the settings that were left open.
    for key, decision in decided(run.path).items():
        run_settings[key] = decision["value"]
    conditions: Record = {name: fact_text(fact) for name, fact in run.facts.items()}
    result = read_or_empty(run.path / RESULT)
    for fact_name, fact in mapping(result.get("program")).items():
        # The digest is already among the facts.
        if fact_name != "sha256":
            conditions[f"program's {fact_name}"] = fact
    return {"settings": run_settings, "conditions": conditions, "results": _results(run)}


def _results(run: Run) -> Record:
    """Return the state, errors and alignment steps of a run, by name."""
    results: Record = {"state": _state_text(run)}
    score = run.score
    if score is None:
        return results
    # Errors are fractions here, even if other commands show them in per cent.
    return {
        **results,
        score.error_name: score.value,
        "validation": score.validation,
        "best constant": score.trivial,
        **dict(score.baselines),
        "alignment steps": score.steps,
    }


VERBS = {
    "list": Verb(
        about="list all runs, newest first: state, error, age, size",
        examples=_LIST,
        arguments=(RUNS, WHERE),
        execute=listed,
    ),
    "show": Verb(
        about="show a run: result, settings that the program decided, baselines, predictions, "
        "files",
        examples=_SHOW,
        arguments=(run_argument("run"),),
        execute=show,
    ),
    "diff": Verb(
        about="compare two runs: settings, data, program and results",
        examples=_DIFF,
        arguments=(run_argument("first"), run_argument("second")),
        execute=diff,
    ),
    **removal.VERBS,
}
