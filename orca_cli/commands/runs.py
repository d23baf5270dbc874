"""`orca runs`: the run folders themselves: all of them, one, or two side by side; without torch, and nothing is changed."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.commands import removal
from orca_cli.commands.options import RUNS, WHERE, Verb, run_argument
from orca_cli.commands.summary import decisions, read_answer, result_rows
from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import CheckpointError, DataError
from orca_cli.report.answer import picture
from orca_cli.report.collect import Broken, Run, collect, mapping
from orca_cli.report.conditions import shown as fact_text
from orca_cli.report.layout import settings_text
from orca_cli.report.selection import Values, where
from orca_cli.runs.claim import begun, named
from orca_cli.runs.directory import RESULT, STATUS, read_or_empty
from orca_cli.runs.records import newer_schema
from orca_cli.runs.settings import as_typed, decided, settings
from orca_cli.terminal import Result, counted, duration, percent_or_number, size_text

_LIST = """\
examples:
  orca runs list                                all runs of ./runs (or $ORCA_RUNS)
  orca runs list runs/digits                    one task; several folders may be given
  orca runs list --where state=failed,dead      by state: completed, failed, interrupted, running, dead
  orca runs list --where metric=otdd --where train.lr=1e-4     by any setting, typed, decided or left as it is

A state in brackets is that of an attempt that a newer folder of the same run replaces. Below the table: what was set, or why a
run is not completed or cannot be read."""
_SHOW = """\
examples:
  orca runs show runs/digits/2026-...       a run by its folder
  orca runs show 1e791e76                   by the eight digits that its name ends with

Nothing is computed or checked: orca score RUN computes the error again, orca doctor RUN compares checksums."""
_DIFF = """\
examples:
  orca runs diff runs/digits/2026-... runs/digits/2026-...
  orca runs diff 1e791e76 66f1304e          by the eight digits that their names end with

Settings, typed and decided, and conditions (data of every split, samples learned, steps, members, program): only those that
differ; - where one run has none. Results: all."""
# What no run depends on: what the files of conf/ say about data, and the rules of a search in older runs.
_DESCRIBING = ("task.data.", "source.data.", "tune.")


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
        raise DataError(
            "is not a run but a folder of runs", where=str(path), hint="orca runs list shows them"
        )
    if error := newer_schema(path / RESULT, path / STATUS):
        raise CheckpointError(str(error), where=str(path), hint="use the newer program") from error
    raise DataError(
        collection.broken[0].reason, where=str(path), hint="orca doctor RUN says what is damaged"
    )


def _record(run: Run | Broken) -> dict[str, Any]:
    """Return which run a folder holds and how far it is; it began when its name says."""
    since = begun(run.path) or storage.now()
    age = duration(max(0.0, (storage.now() - since).total_seconds()))
    record = {
        "run": run.path.name,
        "path": str(run.path),
        "since": since.isoformat(),
        "age": age,
        "reason": run.reason,
    }
    if isinstance(run, Broken):
        return record | {"state": "unreadable"}
    keys = (
        "task",
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
    return record | {key: getattr(run, key) for key in keys}


def listed(arguments: argparse.Namespace) -> Result:
    """Return the runs, the newest first, and the folders that cannot be read among them."""
    collection, values = collect(arguments.runs or [Path(default_folders()["runs"])]), Values()
    for text in arguments.where:
        collection = where(collection, text, values)
    folders: list[Run | Broken] = [*collection.runs, *collection.superseded]
    folders += [] if arguments.where else collection.broken
    records, rows, below = [], [], []
    folders.sort(key=lambda run: begun(run.path) or storage.now(), reverse=True)
    for run in folders:
        score = run.score if isinstance(run, Run) else None
        text = (
            ""
            if score is None
            else f"{score.error_name} {percent_or_number(score.value, score.percent)}"
        )
        error = (
            None
            if score is None
            else {"name": score.error_name, "value": score.value, "text": text}
        )
        size, is_replaced = storage.size(run.path), run in collection.superseded
        record = _record(run) | {"bytes": size, "error": error, "replaced": is_replaced}
        records.append(record)
        is_good = record["state"] in ("completed", "running")
        state = Text(
            f"({record['state']})" if is_replaced else record["state"],
            style="" if is_good else "red",
        )
        words = record["run"].split("_")  # date, time, body, metric, finetune, seed, identity
        short, what = (words[-1], " ".join(words[2:-1])) if len(words) > 3 else (record["run"], "")
        rows.append(
            (short, record.get("task", ""), what, state, text, record["age"], size_text(size))
        )
        if note := settings_text(record["variant"].items(), " ") if is_good else record["reason"]:
            below.append(f"{short}  {note}")
    table = terminal.table(("run", "task", "with", "state", "error", "age", "size"), rows)
    total = size_text(sum(record["bytes"] for record in records))
    return Result(
        {"schema": 1, "runs": records}, [table, *below, f"{counted(len(records), 'run')}, {total}"]
    )


def show(arguments: argparse.Namespace) -> Result:
    """Return all that the run's folder says about it."""
    run = one_run(arguments.run)
    result = read_or_empty(run.path / RESULT) if run.state == "completed" else {}
    answer, made = read_answer(run.path) if result else None, decided(run.path)
    inside = (
        file for file in sorted(run.path.rglob("*")) if file.is_symlink() or not file.is_dir()
    )
    files = {str(file.relative_to(run.path)): storage.size(file) for file in inside}
    record = _record(run)
    rows: list[tuple[str, str | Text]] = [
        ("folder", str(run.path)),
        ("state", f"{run.state}{run.reason and f': {run.reason}'}, begun {record['age']} ago"),
        ("task", f"{run.task}, protocol {run.protocol}"),
        (
            "model",
            f"{run.body}, source {run.source}, metric {run.metric}, finetune {run.finetune}, seed {run.seed}",
        ),
        *[("set", settings_text(run.variant.items(), " "))] * bool(run.variant),
        *(("decided", text) for text in decisions(made)),
        *(result_rows(result, run.path) if result else ()),
    ]
    record |= {
        "decided": made,
        "result": result,
        "answer": None if answer is None else answer.record(),
        "files": files,
    }
    shown: list[RenderableType] = [
        terminal.facts(rows),
        *(() if answer is None else ("", *picture(answer, terminal.stdout().width))),
    ]
    shown += [
        "",
        terminal.table(("file", "size"), [(name, size_text(size)) for name, size in files.items()]),
    ]
    return Result({"schema": 1, "run": record}, shown)


def diff(arguments: argparse.Namespace) -> Result:
    """Return where the settings, the data and the programs of two runs differ, and their results side by side."""
    runs = {"a": one_run(arguments.first), "b": one_run(arguments.second)}
    sections: dict[str, dict[str, dict[str, Any]]] = {}  # key -> values by side
    for side, run in runs.items():
        for name, values in _sections(run).items():
            section = sections.setdefault(name, {})
            for key, value in values.items():
                section.setdefault(key, {})[side] = value
    for name in ("settings", "conditions"):
        pairs = sections[name].items()
        sections[name] = {
            key: pair for key, pair in pairs if len(pair) < 2 or pair["a"] != pair["b"]
        }
    is_same = runs["a"].identity == runs["b"].identity
    places = {
        side: {"run": run.path.name, "path": str(run.path), "state": run.state}
        for side, run in runs.items()
    }
    shown: list[RenderableType] = [f"{side}  {run.path}" for side, run in runs.items()]
    shown.append("the same experiment" if is_same else "two experiments")
    if not is_same and not sections["settings"]:
        shown.append("no setting differs: the data files or the weights of the body do")
    for name, section in sections.items():
        rows = []
        for key, pair in section.items():
            both = (pair.get(side, "-") for side in "ab")
            rows.append(
                (
                    key,
                    *(
                        f"{value:.5g}" if isinstance(value, float) else as_typed(value)
                        for value in both
                    ),
                )
            )
        shown += ["", terminal.table((name, "a", "b"), rows) if rows else f"{name}: the same"]
    return Result({"schema": 1, "same_experiment": is_same, **places, **sections}, shown)


def _sections(run: Run) -> dict[str, dict[str, Any]]:
    """Return a run's settings, with what was decided where they leave something open, its conditions, and its results."""
    composed = {
        key: value for key, value in settings(run.path).items() if not key.startswith(_DESCRIBING)
    }
    composed |= {key: one["value"] for key, one in decided(run.path).items()}
    numbers: dict[str, Any] = {"state": f"{run.state}: {run.reason}" if run.reason else run.state}
    if (score := run.score) is not None:
        numbers |= {
            score.error_name: score.value,
            "validation": score.validation,
            "best constant": score.trivial,
        }
        numbers |= {**dict(score.baselines), "alignment steps": score.steps}
    conditions: dict[str, Any] = {name: fact_text(fact) for name, fact in run.facts.items()}
    program = mapping(read_or_empty(run.path / RESULT).get("program"))
    conditions |= {f"program's {key}": program[key] for key in program if key != "sha256"}
    return {"settings": composed, "conditions": conditions, "results": numbers}


_BOTH = run_argument("first"), run_argument("second")
VERBS = {
    "list": Verb(
        "all runs, the newest first: state, error, age, size", _LIST, (RUNS, WHERE), listed
    ),
    "show": Verb(
        "one run: result, decided settings, baselines, picture, files",
        _SHOW,
        (run_argument("run"),),
        show,
    ),
    "diff": Verb(
        "two runs side by side: settings, data and program that differ, results", _DIFF, _BOTH, diff
    ),
    **removal.VERBS,
}
