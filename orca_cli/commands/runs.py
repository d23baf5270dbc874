"""`orca runs`: the run folders themselves: all of them, one, or two side by side.

Works without torch; `list`, `show` and `diff` change nothing.
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
  orca runs list runs/digits                    one data set; several folders may be given
  orca runs list --where state=failed,dead      \
by state: completed, failed, interrupted, running, dead
  orca runs list --where metric=otdd --where train.lr=1e-4     \
by any setting, typed, decided or left as it is

A state in brackets is that of an attempt that a newer folder of the same run replaces. Below the \
table: what was set, or why a
run is not completed or cannot be read."""
_SHOW = """\
examples:
  orca runs show runs/digits/2026-...       a run by its folder
  orca runs show 1e791e76                   by the eight digits that its name ends with

Nothing is computed or checked: orca score RUN computes the error again, orca doctor RUN compares \
checksums."""
_DIFF = """\
examples:
  orca runs diff runs/digits/2026-... runs/digits/2026-...
  orca runs diff 1e791e76 66f1304e          by the eight digits that their names end with

Settings, typed and decided, and conditions (data of every split, samples learned, steps, members, \
program): only those that
differ; - where one run has none. Results: all."""
# Settings that no run depends on: those by which the files of conf/ describe data, and the rules of
# a search in older runs.
_DESCRIBING = ("task.data.", "source.data.", "tune.")
_LONGEST_NAME = 32  # of a data set
# States of runs that are shown with their settings; others with the reason, in red.
_HEALTHY = ("completed", "running")
# Fields of a run in its record.
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
        DataError: it does not exist, or its records cannot be read.
        CheckpointError: a newer program made it.
    """
    path = named(name)
    collection = collect([path])
    # An attempt that a newer folder replaces can be shown as well, by its path.
    for run in (*collection.runs, *collection.superseded):
        if run.path == path:
            return run
    if path not in [broken.path for broken in collection.broken]:
        raise DataError(
            "is not a run but a folder of runs", where=str(path), hint="orca runs list shows them"
        )
    # A record of a newer program cannot be read, but it is not damaged.
    error = newer_schema(path / RESULT, path / STATUS)
    if error is not None:
        raise CheckpointError(str(error), where=str(path), hint="use the newer program") from error
    raise DataError(
        collection.broken[0].reason, where=str(path), hint="orca doctor RUN says what is damaged"
    )


def _begun(run: Run | Broken) -> datetime:
    """Return when a run began, as its name says; now if its name does not."""
    return begun(run.path) or storage.now()


def _record(run: Run | Broken) -> Record:
    """Return which run a folder holds and how far it is."""
    since = _begun(run)
    age = storage.now() - since
    # The name has the time of the machine that began the run, whose clock may be ahead.
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
    """Return the runs, the newest first, and the folders that cannot be read among them."""
    collection = collect(arguments.runs or [default_folders()["runs"]])
    # Shared by all conditions, so that the settings of a run are read once.
    values = Values()
    for condition in arguments.where:
        collection = where(collection, condition, values)
    runs: list[Run | Broken] = [*collection.runs, *collection.superseded]
    if not arguments.where:
        # Only without --where: broken folders have no settings to select them by.
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
        # Below the table: settings of healthy runs, of others the reason.
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
    """Return the test error of a run; None if it has none."""
    if isinstance(run, Broken) or run.score is None:
        return None
    score = run.score
    text = f"{score.error_name} {percent_or_number(score.value, score.percent)}"
    return {"name": score.error_name, "value": score.value, "text": text}


def _row(record: Record) -> tuple[str | Text, ...]:
    """Return the cells of a run in the list of all."""
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
        # The identity is short, and enough to name the run in other commands (`claim.named`).
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
    """Return all that the run's folder says about it."""
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
        # A link is listed as a link, and never followed.
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
    """Yield names and texts of what a run is and achieved."""
    yield "folder", str(run.path)
    yield "state", f"{_state_text(run)}, begun {record['age']} ago"
    yield "task", f"{run.task}, data {clean(run.data)}, protocol {run.protocol}"
    yield (
        "model",
        f"{run.body}, source {run.source}, metric {run.metric}, finetune {run.finetune}, "
        f"seed {run.seed}",
    )
    if run.variant:
        yield "set", settings_text(run.variant.items(), " ")
    for decision in decisions(record["decided"]):
        yield "decided", decision


def _state_text(run: Run) -> str:
    if not run.reason:
        return run.state
    return f"{run.state}: {run.reason}"


def diff(arguments: argparse.Namespace) -> Result:
    """Return where two runs differ in settings, data and programs, and their results."""
    runs = {"a": one_run(arguments.first), "b": one_run(arguments.second)}
    sections = _compared(runs)
    is_same = runs["a"].identity == runs["b"].identity
    record: Record = {"schema": 1, "same_experiment": is_same}
    shown: list[RenderableType] = []
    for side, run in runs.items():
        record[side] = {"run": run.path.name, "path": str(run.path), "state": run.state}
        shown.append(f"{side}  {run.path}")
    shown.append("the same experiment" if is_same else "two experiments")
    # The identity also covers the content of data files and weights.
    if not is_same and not sections["settings"]:
        shown.append("no setting differs: the data files or the weights of the body do")
    for section_name, section in sections.items():
        shown.append("")
        if not section:
            shown.append(f"{section_name}: the same")
            continue
        rows = []
        for key, pair in section.items():
            rows.append((key, _cell(pair.get("a", "-")), _cell(pair.get("b", "-"))))
        shown.append(terminal.table((section_name, "a", "b"), rows))
    return Result(record | sections, shown)


def _compared(runs: dict[str, Run]) -> _Sections:
    """Return section -> key -> side -> value: in settings and conditions only what differs."""
    # Side (a or b) -> section -> key -> value.
    sections_by_side = {side: _sections(run) for side, run in runs.items()}
    compared: _Sections = {}
    for section_name in sections_by_side["a"]:
        # A pair lacks the side of a run that lacks the key.
        pairs: Record = {}
        for side, sections in sections_by_side.items():
            for key, value in sections[section_name].items():
                pairs.setdefault(key, {})[side] = value
        # Results are shown even where they are equal.
        if section_name != "results":
            pairs = {key: pair for key, pair in pairs.items() if _differs(pair)}
        compared[section_name] = pairs
    return compared


def _differs(pair: Record) -> bool:
    # A key that only one run has is a difference as well.
    return len(pair) < 2 or pair["a"] != pair["b"]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return as_typed(value)


def _sections(run: Run) -> _Sections:
    """Return a run's settings, typed and decided, its conditions, and its results."""
    run_settings = {}
    for key, setting in settings(run.path).items():
        if not key.startswith(_DESCRIBING):
            run_settings[key] = setting
    # What a run decided replaces the open settings that were composed.
    for key, decision in decided(run.path).items():
        run_settings[key] = decision["value"]
    conditions: Record = {name: fact_text(fact) for name, fact in run.facts.items()}
    result = read_or_empty(run.path / RESULT)
    for fact_name, fact in mapping(result.get("program")).items():
        # The digest is among the facts already.
        if fact_name != "sha256":
            conditions[f"program's {fact_name}"] = fact
    return {"settings": run_settings, "conditions": conditions, "results": _results(run)}


def _results(run: Run) -> Record:
    """Return state, errors and alignment steps of a run by name."""
    results: Record = {"state": _state_text(run)}
    score = run.score
    if score is None:
        return results
    # Errors are fractions, even those that other commands show in per cent.
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
        about="all runs, the newest first: state, error, age, size",
        examples=_LIST,
        arguments=(RUNS, WHERE),
        execute=listed,
    ),
    "show": Verb(
        about="one run: result, decided settings, baselines, picture, files",
        examples=_SHOW,
        arguments=(run_argument("run"),),
        execute=show,
    ),
    "diff": Verb(
        about="two runs side by side: settings, data and program that differ, results",
        examples=_DIFF,
        arguments=(run_argument("first"), run_argument("second")),
        execute=diff,
    ),
    **removal.VERBS,
}
