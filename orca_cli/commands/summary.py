"""What `orca run` prints: shapes before the work, the result after it, a sweep's outcome, a dry run's plan."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from orca_cli import experiment, terminal
from orca_cli.exceptions import OrcaError
from orca_cli.terminal import print_result

_CURVE_POINTS = 6


@dataclass(frozen=True)
class Ended:
    """How one job ended, for a table: state, exit code, run, and a sentence."""

    state: str
    code: int
    run: str = ""
    note: str = ""


def run_job(job: Any, *, force: bool = False, allow_inexact: bool = False, traceback_wanted: bool = False) -> Ended:
    """Run one composed job and print what it made and how it ended."""

    def built(summary: dict[str, Any]) -> None:
        with terminal.lost_output_allowed():
            print_build(job, summary)

    outcome = experiment.run(job, force=force, allow_inexact=allow_inexact, on_build=built)
    name = "" if outcome.path is None else outcome.path.name
    if outcome.failure is not None:
        print_failure(outcome.failure.error, traceback_wanted, cause=outcome.failure.cause)
        return Ended(outcome.state, outcome.code, name, str(outcome.failure.error))
    if outcome.state == "completed":
        with terminal.lost_output_allowed():
            print_result_of(outcome)
    return Ended(outcome.state, outcome.code, name, error_text(outcome.result))


def print_failure(failure: OrcaError, traceback_wanted: bool, cause: BaseException | None = None) -> None:
    """Print a failure in one line; before it, where wanted, the traceback of what it came from."""
    if traceback_wanted:
        terminal.print_error("".join(traceback.format_exception(cause or failure)))
    terminal.print_error(f"orca: error: {failure}")


def print_build(job: Any, summary: dict[str, Any]) -> None:
    """Print what stage 1 made: shapes, kernel, tokens, parameters per part, splits, steps."""
    names, parameters, splits = job.choices, summary["parameters"], summary["splits"]
    shape = " x ".join(map(str, summary["input_shape"]))
    grid = " x ".join(map(str, summary["grid"]))
    rows = {
        "task": f"{names['task']} ({summary['kind']}, {summary['num_outputs']} outputs), input {shape}",
        "data": f"{splits['train']['n']} training, {splits['val']['n']} validation samples"
        + (", synthetic" if summary["synthetic"] else "")
        + (f", {summary['size']} size" if summary["size"] else "")
        + (f"; {summary['note']}" if summary["note"] else ""),
        "body": f"{names['body']}, width {summary['width']}, finetune={names['finetune']}",
        "embedder": f"kernel {summary['kernel']}, {summary['tokens']} tokens ({grid}) of at most {summary['max_tokens']}",
        "parameters": ", ".join(f"{part} {parameters[part]:,}" for part in ("embedder", "body", "predictor"))
        + f"; trained {parameters['trained']:,}",
        "steps": f"align {summary['steps']['align']} ({names['metric']}), finetune {summary['steps']['finetune']}",
    }
    if "output_shape" in summary:
        rows["forward"] = f"one random batch gives outputs {' x '.join(map(str, summary['output_shape']))}"
    print_result(_facts(rows))


def print_result_of(outcome: experiment.Outcome) -> None:
    """Print how a run ended: distance, validation curve, test error, where everything lies, what to type next."""
    result = outcome.result
    curve = [line["validation_error"] for line in result["curves"]["finetune"]]
    chosen = result["selected"]["epoch"]
    error, distance = result["error"], result["metric_value"]
    percent = error["percent"]
    rows = {}
    if distance["before"] is not None:
        rows["distance"] = (
            f"{distance['before']:.4g} before alignment, {distance['after']:.4g} after ({result['metric']})"
        )
    rows["validation"] = f"{error['name']}, by epoch: {_short_curve(curve, percent)}; chosen: epoch {chosen}"
    skipped = f", {error['skipped']} skipped" if error["skipped"] else ""
    rows["test"] = (
        f"[bold]{error['name']} {number(error['value'], percent)}[/bold] on {result['splits']['test']['n']} samples{skipped}"
        f" (best constant predictor: {number(result['trivial_error'], percent)})"
    )
    seconds = result["seconds"]
    rows["time"] = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    rows["folder"] = escape(str(outcome.path))
    rows["next"] = "orca report | orca run seed=1 | orca run -m metric=otdd,none seed=0,1,2 | orca list"
    print_result(_facts(rows))


def print_sweep(labels: list[str], settings: list[str], outcomes: list[Any]) -> None:
    """Print how every job of a sweep ended, and the sums.

    Args:
        labels: of the jobs, such as [1/6].
        settings: what tells each job from the others.
        outcomes: how each ended, in the same order.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("job", no_wrap=True)
    table.add_column("settings", overflow="fold")
    table.add_column("ended", no_wrap=True)
    table.add_column("", overflow="fold")
    for label, setting, outcome in zip(labels, settings, outcomes, strict=True):
        code = f" ({outcome.code})" if outcome.code > 0 else ""
        cells = (label, setting, f"{outcome.state}{code}", outcome.note)
        table.add_row(*map(escape, cells), style=None if outcome.code == 0 else "red")
    counts = Counter(outcome.state for outcome in outcomes)
    words = [f"{counts[state]} {word}" for state, word in _STATES.items() if counts[state]]
    print_result(table, f"sweep of {len(outcomes)} runs: {', '.join(words)}. Next: orca report")


_STATES = {
    "completed": "completed",
    "skipped": "already completed (not run again)",
    "failed": "failed",
    "interrupted": "interrupted",
    "not started": "not started",
}


def print_plan(jobs: list[tuple[Any, str]], summary: dict[str, Any]) -> None:
    """Print what a command without --dry-run would do, and the files that a run leaves."""
    table = Table(box=None, pad_edge=False)
    for column in ("would", "task", "body", "metric", "finetune", "seed"):
        table.add_column(column)
    words = {"new": "run", "resume": "resume", "completed": "skip (completed)", "running": "wait (it is running)"}
    for name, state in jobs:
        cells = (name.task, name.body, name.metric, name.finetune, str(name.seed))
        table.add_row(words[state], *(escape(cell) for cell in cells))
    align = ["2_align/{metrics.jsonl,embedder.safetensors,summary.json}"] if summary["steps"]["align"] else []
    files = [
        "config.yaml overrides.txt env.json status.json result.json run.log",
        "1_build/summary.json",
        *align,
        "3_finetune/{metrics.jsonl,best/,last/,predictions.npz}",
    ]
    print_result(table, "files of a run: " + ", ".join(files))


def error_text(result: Mapping[str, Any]) -> str:
    """Return the test error of a result record, with its name; empty where it has none."""
    error = result.get("error")
    return f"{error['name']} {number(error['value'], error['percent'])}" if error else ""


def number(value: float | None, percent: bool) -> str:
    """Return an error as tables show it: per cent with two digits, or four significant digits."""
    if value is None:
        return "undefined"
    return f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def _short_curve(curve: list[float | None], percent: bool) -> str:
    """Return at most six points of a curve, evenly spread, the first and the last among them."""
    count = min(_CURVE_POINTS, len(curve))
    places = sorted({round(i * (len(curve) - 1) / max(count - 1, 1)) for i in range(count)})
    return " > ".join(f"{number(curve[place], percent)} ({place + 1})" for place in places)


def _facts(rows: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, text)
    return table
