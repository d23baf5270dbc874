"""`orca runs diff`: where the settings of two runs differ, and their results side by side."""

import argparse
from typing import Any

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.commands.options import add_run
from orca_cli.commands.runs import one_run
from orca_cli.report.collect import Run
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.settings import as_typed, decided, settings
from orca_cli.terminal import Result

EXAMPLES = """\
examples:
  orca runs diff runs/digits/2026-... runs/digits/2026-...
  orca runs diff 1e791e76 66f1304e          by the eight digits that their names end with

Settings, typed and decided: only those that differ; - where one run has none. Results: all."""
# What no run depends on: what the files of conf/ say about data, and the rules of a search in older runs.
_DESCRIBING = ("task.data.", "source.data.", "tune.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_run(parser, "first")
    add_run(parser, "second")


def execute(arguments: argparse.Namespace) -> Result:
    """Return what differs."""
    runs = {"a": one_run(arguments.first), "b": one_run(arguments.second)}
    both = _side_by_side({side: _settings(run) for side, run in runs.items()})
    sections = {
        "settings": {key: pair for key, pair in both.items() if len(pair) < 2 or pair["a"] != pair["b"]},
        "results": _side_by_side({side: _results(run) for side, run in runs.items()}),
    }
    is_same = runs["a"].identity == runs["b"].identity
    places = {side: {"run": run.path.name, "path": str(run.path), "state": run.state} for side, run in runs.items()}
    shown: list[RenderableType] = [f"{side}  {run.path}" for side, run in runs.items()]
    shown.append("the same experiment" if is_same else "two experiments")
    if not is_same and not sections["settings"]:
        shown.append("no setting differs: the data files or the weights do")
    for name, section in sections.items():
        rows = [(key, *(_text(values.get(side, "-")) for side in "ab")) for key, values in section.items()]
        shown += ["", terminal.table((name, "a", "b"), rows) if rows else f"{name}: the same"]
    return Result({"schema": 1, "same_experiment": is_same, **places, **sections}, shown)


def _settings(run: Run) -> dict[str, Any]:
    """Return a run's settings, with what was decided where they leave something open."""
    composed = {key: value for key, value in settings(run.path).items() if not key.startswith(_DESCRIBING)}
    return composed | {key: one["value"] for key, one in decided(run.path).items()}


def _results(run: Run) -> dict[str, Any]:
    """Return the numbers of a run's result, by name."""
    numbers: dict[str, Any] = {"state": f"{run.state}: {run.reason}" if run.reason else run.state}
    score = run.score
    if score is not None:
        result = read_or_empty(run.path / RESULT)
        numbers |= {score.error_name: score.value, "validation": result.get("validation_error")}
        numbers |= {"best constant": score.trivial, **dict(score.baselines), "alignment steps": score.steps}
    return numbers


def _side_by_side(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return key -> {a: value, b: value}; a side that lacks the key is left out."""
    return {key: {side: one[key] for side, one in values.items() if key in one} for key in values["a"] | values["b"]}


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else as_typed(value)
