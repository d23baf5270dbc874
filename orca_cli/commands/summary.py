"""What `orca run` shows: shapes before the work, the result after it, how the jobs of a sweep ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli.exceptions import InterruptionError, OrcaError
from orca_cli.report.answer import Answer, picture, read
from orca_cli.report.collect import interval_text, mapping, number
from orca_cli.runs.outcome import Outcome
from orca_cli.runs.preprocessing import can_predict
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted, facts, log, percent_or_number, stdout

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed


def run_result(outcome: Outcome, *, alone: bool, pictured: bool) -> Result:
    """Return how one run ended, with the content of result.json; people see that only of a run that was completed just now.

    A run that is `alone`, no job of a sweep or search, has its predictions for the test split; `pictured`, as a picture too.
    """
    is_new = outcome.state == "completed" and outcome.result
    failures = [] if outcome.failure is None else [outcome.failure.error]
    if not alone:  # a job is stopped by the command that started it, which says why
        failures = [error for error in failures if not isinstance(error, InterruptionError)]
    record, shown = outcome_record(outcome), list[RenderableType]()
    if is_new and outcome.path is not None:
        shown.append(facts(result_rows(outcome.result, outcome.path)))
    if alone and outcome.result and outcome.path is not None:
        answer = read_answer(outcome.path)
        record["answer"] = None if answer is None else answer.record()
        if pictured and is_new and answer is not None:
            shown += ["", *picture(answer, stdout().width)]
    return Result({"schema": 1, "run": record}, shown, failures, outcome.code)


def read_answer(run: Path) -> Answer | None:
    """Return a run's predictions for its picture; None where there are none, or (with a warning) none that can be read."""
    try:
        return read(run)
    except OrcaError as error:
        log.warning(f"what the run predicted cannot be shown: {error}")
        return None


def build_table(job: Composed, summary: Mapping[str, Any]) -> RenderableType:
    """Return what stage 1 made: shapes, kernel, tokens, parameters per part, splits, steps."""
    names, parameters, splits = job.choices, summary["parameters"], summary["splits"]
    steps, members = summary["steps"], summary["members"]
    sizes = ", ".join(f"{part} {parameters[part]:,}" for part in ("embedder", "body", "predictor"))
    data = f"{splits['train']['n']:,} training, {splits['val']['n']:,} validation samples"
    data += ", synthetic" if summary["synthetic"] else ""
    data += f"; {summary['note']}" if summary["note"] else ""
    tokens = (
        f"kernel {summary['kernel']}, {summary['tokens']} tokens ({shape_text(summary['grid'])})"
    )
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
    return facts(rows.items())


def decisions(decided: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the settings that the program decided, in a text for each reason."""
    settings: dict[str, list[str]] = {}
    for key, one in decided.items():
        settings.setdefault(str(one.get("why") or "no reason recorded"), []).append(
            f"{key}={as_typed(one['value'])}"
        )
    return [f"{' '.join(words)} ({why})" for why, words in settings.items()]


def result_rows(result: Mapping[str, Any], run: Path) -> Iterator[tuple[str, str | Text]]:
    """Yield what a completed run achieved, as names and texts; older and damaged records lack some of it."""
    error, distance, selected = (
        mapping(result.get(key)) for key in ("error", "metric_value", "selected")
    )

    def shown(value: Any) -> str:
        return percent_or_number(number(value), error.get("percent") is True)

    if (before := number(distance.get("before"))) is not None:
        after = number(distance.get("after"))
        yield (
            "distance",
            f"{before:.4g} before alignment, {after or 0:.4g} after ({result.get('metric')})",
        )
    if split := mapping(mapping(result.get("splits")).get("test")):
        skipped = f", {error['skipped']} skipped" if error.get("skipped") else ""
        trivial = f"(best constant predictor: {shown(result.get('trivial_error'))})"
        within = interval_text(error)
        text = f" (95 % interval {within})" if within else ""
        text += f" on {counted(split.get('n', 0), 'sample')}{skipped} {trivial}"
        yield "test", Text(error_text(result), style="bold").append(text, "not bold")
    else:
        yield "test", f"none: {error.get('reason')}"
    on, validation = (
        selected.get("on"),
        f"{error.get('name')} {shown(result.get('validation_error'))}",
    )
    if on == "nothing":
        yield "validation", f"none: {selected.get('reason')}; the weights are the last ones"
    elif on == "folds":
        yield (
            "validation",
            f"{validation} of all {selected.get('n')} samples, by {selected.get('folds')} folds",
        )
    elif on is not None:
        yield "validation", f"{validation} after epoch {as_typed(selected.get('epoch'))}"
    beside = []
    for name, one in mapping(result.get("baselines")).items():
        fitted, value = mapping(mapping(one).get("trained_on")), mapping(one).get("error")
        n, whole = fitted.get("n"), fitted.get("of")
        some = "" if n == whole else f" (on {n} of {whole} training samples)"
        beside += [f"{name}: not computed" if value is None else f"{name} {shown(value)}{some}"] * (
            name != "constant"
        )
    if beside:
        yield "beside", ", ".join(beside)
    if comparison := mapping(result.get("comparison")).get("text"):
        yield "compared", str(comparison)
    seconds = {stage: number(value) for stage, value in mapping(result.get("seconds")).items()}
    yield (
        "time",
        ", ".join(
            f"{stage} {value:.0f} s" for stage, value in seconds.items() if value is not None
        ),
    )
    if can_predict(run):
        yield "predict", f"orca predict {run} INPUT | orca export {run} DIR"


def error_text(result: Mapping[str, Any]) -> str:
    """Return the test error of a result record, with its name; empty if it has none."""
    error = mapping(result.get("error"))
    value = percent_or_number(number(error.get("value")), error.get("percent") is True)
    return f"{error.get('name')} {value}" if error else ""


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
