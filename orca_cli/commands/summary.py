"""What `orca run` shows: shapes before the work, the result after it, how the jobs of a sweep ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.exceptions import OrcaError
from orca_cli.report.answer import Answer, picture, read
from orca_cli.runs.outcome import Outcome
from orca_cli.runs.preprocessing import can_predict
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted, percent_or_number

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed


def run_result(outcome: Outcome, *, alone: bool, pictured: bool) -> Result:
    """Return how one run ended, with the content of result.json; people see that only of a run that was completed just now.

    A run that is `alone`, no job of a sweep, has its predictions for the test split; `pictured`, as a picture as well.
    """
    is_new = outcome.state == "completed" and outcome.result
    failures = [] if outcome.failure is None else [outcome.failure.error]
    shown: list[RenderableType] = [terminal.facts(_result_rows(outcome))] if is_new else []
    record = outcome_record(outcome)
    if alone and outcome.result and outcome.path is not None:
        answer = read_answer(outcome.path)
        record["answer"] = None if answer is None else answer.record()
        if pictured and is_new and answer is not None:
            shown += ["", *picture(answer, terminal.stdout().width)]
    return Result({"schema": 1, "run": record}, shown, failures, outcome.code)


def read_answer(run: Path) -> Answer | None:
    """Return a run's predictions for its picture; None where there are none, or (with a warning) none that can be read."""
    try:
        return read(run)
    except OrcaError as error:
        terminal.log.warning(f"what the run predicted cannot be shown: {error}")
        return None


def build_table(job: Composed, summary: Mapping[str, Any]) -> RenderableType:
    """Return what stage 1 made: shapes, kernel, tokens, parameters per part, splits, steps."""
    names, parameters, splits = job.choices, summary["parameters"], summary["splits"]
    steps, members = summary["steps"], summary["members"]
    sizes = ", ".join(f"{part} {parameters[part]:,}" for part in ("embedder", "body", "predictor"))
    data = f"{splits['train']['n']:,} training, {splits['val']['n']:,} validation samples"
    data += ", synthetic" if summary["synthetic"] else ""
    data += f"; {summary['note']}" if summary["note"] else ""
    tokens = f"kernel {summary['kernel']}, {summary['tokens']} tokens ({shape_text(summary['grid'])})"
    trained = f"finetune {steps['finetune']:,}" + (f", of {members} models" if members > 1 else "")
    kind = f"{summary['kind']}, {summary['num_outputs']} outputs"
    rows = {
        "task": f"{names['task']} ({kind}), input {shape_text(summary['input_shape'])}",
        "data": data,
        "body": f"{names['body']}, width {summary['width']}, finetune={names['finetune']}",
        "embedder": f"{tokens} of at most {summary['max_tokens']}",
        "parameters": f"{sizes}; trained {parameters['trained']:,}",
        "steps": f"align {steps['align']} ({names['metric']}), {trained}",
    }
    if decided := summary.get("decided"):
        rows["decided"] = "; ".join(decisions(decided))
    return terminal.facts(rows.items())


def decisions(decided: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the settings that the program decided, in a text for each reason."""
    settings: dict[str, list[str]] = {}
    for key, one in decided.items():
        settings.setdefault(str(one.get("why") or "no reason recorded"), []).append(f"{key}={as_typed(one['value'])}")
    return [f"{' '.join(words)} ({why})" for why, words in settings.items()]


def _result_rows(outcome: Outcome) -> Iterator[tuple[str, str | Text]]:
    result = outcome.result
    error, distance, selected = result["error"], result["metric_value"], result["selected"]
    percent = error["percent"]
    if distance["before"] is not None:
        values = f"{distance['before']:.4g} before alignment, {distance['after']:.4g} after"
        yield "distance", f"{values} ({result['metric']})"
    if split := result["splits"].get("test"):
        skipped = f", {error['skipped']} skipped" if error["skipped"] else ""
        trivial = f"(best constant predictor: {percent_or_number(result['trivial_error'], percent)})"
        text = f" on {counted(split['n'], 'sample')}{skipped} {trivial}"
        yield "test", Text(error_text(result), style="bold").append(text, "not bold")
    else:
        yield "test", f"none: {error['reason']}"
    validation = f"{error['name']} {percent_or_number(result['validation_error'], percent)}"
    if selected.get("on") == "nothing":
        yield "validation", f"none: {selected['reason']}; the weights are the last ones"
    elif selected.get("on") == "folds":
        yield "validation", f"{validation} of all {selected['n']} samples, by {selected['folds']} folds"
    else:
        yield "validation", f"{validation} after epoch {as_typed(selected['epoch'])}"
    baselines = {name: one for name, one in result.get("baselines", {}).items() if one.get("suits", True)}
    if beside := [_baseline(name, one, percent) for name, one in baselines.items() if name != "constant"]:
        yield "beside", ", ".join(beside)
    if comparison := result.get("comparison"):
        yield "compared", comparison["text"]
    yield "time", ", ".join(f"{stage} {value:.0f} s" for stage, value in result["seconds"].items())
    if outcome.path is not None and can_predict(outcome.path):
        yield "predict", f"orca predict {outcome.path} INPUT | orca export {outcome.path} DIR"


def _baseline(name: str, one: Mapping[str, Any], percent: bool) -> str:
    if one["error"] is None:
        return f"{name}: not computed"
    fitted = one["trained_on"]
    some = "" if fitted["n"] == fitted["of"] else f" (on {fitted['n']} of {fitted['of']} training samples)"
    return f"{name} {percent_or_number(one['error'], percent)}{some}"


def error_text(result: Mapping[str, Any]) -> str:
    """Return the test error of a result record, with its name; empty if it has none."""
    error = result.get("error")
    return f"{error['name']} {percent_or_number(error['value'], error['percent'])}" if error else ""


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """Return how a run ended, for other programs."""
    failure = outcome.failure
    return {
        "state": outcome.state,
        "code": outcome.code,
        "path": None if outcome.path is None else str(outcome.path),
        "result": dict(outcome.result),
        "failure": None if failure is None else failure.record(),
    }


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as it is shown, such as 3 x 32 x 32."""
    return " x ".join(map(str, shape))
