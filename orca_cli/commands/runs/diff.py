"""`orca runs diff`: where two runs differ in settings, data, decisions and environment; their results side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.commands.options import add_run
from orca_cli.commands.runs import one_run
from orca_cli.exceptions import OrcaError
from orca_cli.report.records.collect import Run
from orca_cli.runs.directory import ENVIRONMENT, RESULT, read_or_empty
from orca_cli.runs.settings import as_typed, decided, settings
from orca_cli.terminal import Result

Values = dict[str, Any]
EXAMPLES = """\
examples:
  orca runs diff runs/digits/2026-... runs/digits/2026-...
  orca runs diff 1e791e76 66f1304e          by the eight digits that their names end with
  orca runs diff 1e791e76 66f1304e --json   for other programs

Settings, files of data, decisions and environment: only what differs; - where one run has no such entry. A file that was only
moved is the same. Results: all."""
_ENVIRONMENT = ("python", "platform", "machine", "processors", "threads", "device")
_DESCRIBING = ("task.data.", "source.data.")  # what the files of conf/ say about data, which no run depends on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Two runs side by side: settings and environment that differ, decisions, results."
    add_run(parser, "first")
    add_run(parser, "second")


def execute(arguments: argparse.Namespace) -> Result:
    """Return what differs."""
    runs = [one_run(arguments.first), one_run(arguments.second)]
    notes: dict[str, str] = {}  # section -> why nothing is known of it
    results = [_results(run) for run in runs]
    sections = {
        "settings": _different(*_settings(runs, notes)),
        "files": _different(*_files(runs, notes)),
        "decided": _different(*({key: one["value"] for key, one in decided(run.path).items()} for run in runs)),
        "results": {key: {"a": results[0].get(key), "b": results[1].get(key)} for key in results[0] | results[1]},
        "environment": _different(*(_environment(run) for run in runs)),
    }
    is_same = runs[0].identity == runs[1].identity
    if not is_same and not notes and not sections["settings"] and not sections["files"]:
        notes[""] = "what makes them two experiments is not in their records, such as the weights in a body's folder"
    places = {
        letter: {"run": run.path.name, "path": str(run.path), "state": run.state}
        for letter, run in zip("ab", runs, strict=True)
    }
    record = {"schema": 1, "same_experiment": is_same, **places, **sections, "notes": list(notes.values())}
    shown: list[RenderableType] = [f"{letter}  {place['path']}" for letter, place in places.items()]
    shown += ["the same experiment" if is_same else "two experiments", *notes.values()]
    for name in (name for name in sections if name not in notes):
        rows = [(key, *(_text(values, side) for side in "ab")) for key, values in sections[name].items()]
        shown += ["", terminal.table((name, "a", "b"), rows) if rows else f"{name}: the same"]
    return Result(record, shown)


def _settings(runs: Sequence[Run], notes: dict[str, str]) -> list[Values]:
    try:
        composed = [settings(run.path) for run in runs]
    except OrcaError as error:
        notes["settings"] = f"the settings cannot be compared: {error}"
        return [{}, {}]
    return [{key: value for key, value in one.items() if not key.startswith(_DESCRIBING)} for one in composed]


def _files(runs: Sequence[Run], notes: dict[str, str]) -> list[Values]:
    """Return for each of two runs: path -> digest of the files and folders whose content the other has not read."""
    digests = []
    for run in runs:
        files = read_or_empty(run.path / ENVIRONMENT).get("files")
        if not isinstance(files, dict):
            notes["files"] = f"the files cannot be compared: {run.path / ENVIRONMENT} does not name them"
            return [{}, {}]
        digests.append({path: str(digest) for path, digest in files.items()})
    pairs = zip(digests, reversed(digests), strict=True)
    return [
        {path: _short(digest) for path, digest in one.items() if digest not in other.values()} for one, other in pairs
    ]


def _short(digest: str) -> str:
    kind, _, digits = digest.partition(":")
    return f"{kind}:{digits[:12]}" if kind in ("sha256", "folder") else digest


def _different(a: Values, b: Values) -> Values:
    """Return key -> {a: value, b: value} where these differ; a side that lacks the key is left out."""
    differences = {}
    for key in a | b:
        if key not in a or key not in b or a[key] != b[key]:
            differences[key] = {side: values[key] for side, values in (("a", a), ("b", b)) if key in values}
    return differences


def _results(run: Run) -> Values:
    """Return the numbers of a run's result, by name."""
    numbers: Values = {"state": run.state if not run.reason else f"{run.state}: {run.reason}"}
    score = run.score
    if score is None:
        return numbers
    result = read_or_empty(run.path / RESULT)
    numbers |= {score.error_name: score.value, "validation": result.get("validation_error")}
    numbers |= {"best constant": score.trivial} | dict(score.baselines)
    numbers |= {"alignment steps": score.steps, "test split": score.test_set[:12] or None}
    for key in ("selected", "seconds"):
        inner = result.get(key)
        for name in ("epoch", "on", "learned") if key == "selected" else (inner if isinstance(inner, dict) else ()):
            value = inner.get(name) if isinstance(inner, dict) else None
            numbers[f"{key} {name}"] = value if isinstance(value, (str, int, float)) else None
    digest = result.get("weights_sha256")
    numbers["weights"] = digest[:12] if isinstance(digest, str) else None
    return numbers


def _environment(run: Run) -> Values:
    record = read_or_empty(run.path / ENVIRONMENT)
    packages = record.get("packages")
    facts = {key: record.get(key) for key in _ENVIRONMENT}
    return facts | (dict(packages) if isinstance(packages, dict) else {})


def _text(values: Values, side: str) -> str:
    value = values.get(side)
    if side not in values:
        return "-"
    return f"{value:.5g}" if isinstance(value, float) else as_typed(value)
