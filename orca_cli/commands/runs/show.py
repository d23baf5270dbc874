"""`orca runs show`: one run: what it is, its result, what it decided, its baselines, its picture, its files."""

import argparse
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.commands.data import size_text
from orca_cli.commands.options import add_run
from orca_cli.commands.runs import age, named_error, one_run, run_record
from orca_cli.commands.summary import decisions, read_answer
from orca_cli.report.answer import picture
from orca_cli.report.collect import Run
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.settings import decided
from orca_cli.terminal import Result, percent_or_number

EXAMPLES = """\
examples:
  orca runs show runs/digits/2026-...       a run by its folder
  orca runs show 1e791e76                   by the eight digits that its name ends with

Nothing is computed or checked: orca score RUN computes the error again, orca doctor RUN compares checksums."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    add_run(parser, "run")


def execute(arguments: argparse.Namespace) -> Result:
    """Return all that the run's folder says about it."""
    run = one_run(arguments.run)
    result = read_or_empty(run.path / RESULT) if run.state == "completed" else {}
    answer = read_answer(run.path) if result else None
    inside = (file for file in sorted(run.path.rglob("*")) if file.is_symlink() or not file.is_dir())
    files = {str(file.relative_to(run.path)): storage.size(file) for file in inside}
    made = decided(run.path)
    record = run_record(run) | {
        "decided": made,
        "result": result,
        "answer": None if answer is None else answer.record(),
        "files": files,
    }
    shown: list[RenderableType] = [terminal.facts(_rows(run, result, made))]
    if answer is not None:
        shown += ["", *picture(answer, terminal.stdout().width)]
    shown += ["", terminal.table(("file", "size"), [(name, size_text(size)) for name, size in files.items()])]
    return Result({"schema": 1, "run": record}, shown)


def _rows(run: Run, result: dict[str, Any], made: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str | Text]]:
    yield "folder", str(run.path)
    yield "state", f"{run.state}{run.reason and f': {run.reason}'}, begun {age(run.path)} ago"
    yield "task", f"{run.task}, protocol {run.protocol}"
    yield "model", f"{run.body}, source {run.source}, metric {run.metric}, finetune {run.finetune}, seed {run.seed}"
    if run.variant:
        yield "set", " ".join(f"{key}={value}" for key, value in run.variant.items())
    yield from (("decided", text) for text in decisions(made))
    if (score := run.score) is None:
        return
    trivial = percent_or_number(score.trivial, score.percent)
    skipped = f", {score.skipped} skipped" if score.skipped else ""
    test = Text(named_error(run), style="bold")
    yield "test", test.append(f" on {score.n}{skipped} (best constant predictor: {trivial})", "not bold")
    if score.baselines:
        each = (f"{name} {percent_or_number(value, score.percent)}" for name, value in score.baselines)
        yield "baselines", ", ".join(each)
    if isinstance(comparison := result.get("comparison"), dict) and comparison.get("text"):
        yield "compared", str(comparison["text"])
