"""What `orca run` shows: shapes before the work, the result after it, how the jobs of a sweep ended."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.exceptions import OrcaError
from orca_cli.experiment import Summary
from orca_cli.report.answer import numbers, svg
from orca_cli.report.answer.console import Picture
from orca_cli.report.records.details import overrides
from orca_cli.runs.directory import STAGE_FOLDERS
from orca_cli.runs.outcome import Outcome
from orca_cli.runs.preprocessing import can_predict
from orca_cli.runs.settings import as_typed, in_words
from orca_cli.terminal import Result

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed


def run_result(outcome: Outcome, *, alone: bool = False, pictured: bool = True) -> Result:
    """Return how one run ended, with the content of result.json; people see that only of a run that was completed just now.

    Args:
        outcome: how the run ended.
        alone: the run is no job of a sweep: add its predictions for the test split.
        pictured: show these as a picture; the record has the numbers in any case.
    """
    is_new = outcome.state == "completed" and outcome.result
    failures = [] if outcome.failure is None else [outcome.failure.error]
    shown: list[RenderableType] = [terminal.facts(_result_rows(outcome))] if is_new else []
    record = outcome_record(outcome)
    if alone and outcome.result and outcome.path is not None:
        answer = read_answer(outcome.path)
        record["answer"] = None if answer is None else answer.record()
        if pictured and is_new and answer is not None:
            file = f"{STAGE_FOLDERS['finetune']}/{svg.FILE}"
            shown += ["", Picture(answer, f"drawn in a file: {file} in the run's folder")]
    return Result({"schema": 1, "run": record}, shown, failures, outcome.code)


def read_answer(run: Path) -> numbers.Answer | None:
    """Return a run's predictions for its picture; None where there are none, or (with a warning) none that can be read."""
    try:
        return numbers.read(run)
    except OrcaError as error:
        terminal.log.warning(f"what the run predicted cannot be shown: {error}")
        return None


def start_table(job: Composed, summary: Summary) -> RenderableType:
    """Return what a run is about to do, and warnings about its data, in a few lines; `build_table` has the rest."""
    names, parameters, splits = job.choices, summary["parameters"], summary["splits"]
    total = sum(parameters[part] for part in ("embedder", "body", "predictor"))
    data = f"{splits['train']['n']:,} training, {splits['val']['n']:,} validation samples"
    data += ", synthetic" if summary["synthetic"] else ""
    rows = {
        "task": f"{names['task']}, {summary['kind']}, input {_shape(summary['input_shape'])}; {data}",
        "model": f"{names['body']}, width {summary['width']}, {total:,} parameters, trained {parameters['trained']:,} "
        f"(finetune={names['finetune']}), {summary['tokens']} tokens",
        "steps": _steps(job, summary),
    }
    if warnings := [part for part in (summary["note"] or "").split("; ") if part.startswith("warning:")]:
        rows["data"] = "; ".join(warnings)
    return terminal.facts(rows.items())


def build_table(job: Composed, summary: Summary) -> RenderableType:
    """Return what stage 1 made: shapes, kernel, tokens, parameters per part, splits, steps."""
    names, parameters, splits = job.choices, summary["parameters"], summary["splits"]
    sizes = ", ".join(f"{part} {parameters[part]:,}" for part in ("embedder", "body", "predictor"))
    kernel = f"kernel {summary['kernel']}, {summary['tokens']} tokens ({_shape(summary['grid'])})"
    data = f"{splits['train']['n']} training, {splits['val']['n']} validation samples"
    data += ", synthetic" if summary["synthetic"] else ""
    data += f", {summary['size']} size" if summary["size"] else ""
    data += f"; {summary['note']}" if summary["note"] else ""
    kind = f"{summary['kind']}, {summary['num_outputs']} outputs"
    rows = {
        "task": f"{names['task']} ({kind}), input {_shape(summary['input_shape'])}",
        "data": data,
        "body": f"{names['body']}, width {summary['width']}, finetune={names['finetune']}",
        "embedder": f"{kernel} of at most {summary['max_tokens']}",
        "parameters": f"{sizes}; trained {parameters['trained']:,}",
        "steps": _steps(job, summary),
    }
    if expected := summary.get("expected_s"):
        each = ", ".join(f"{stage} {in_words(seconds)}" for stage, seconds in expected.items())
        rows["time"] = f"about {in_words(sum(expected.values()))} on this machine ({each})"
    if decided := summary.get("decided"):
        rows["decided"] = "; ".join(decisions(decided))
    if "output_shape" in summary:
        rows["forward"] = f"one random batch gives outputs {_shape(summary['output_shape'])}"
    return terminal.facts(rows.items())


def _steps(job: Composed, summary: Summary) -> str:
    steps, members = summary["steps"], summary["members"]
    trained = f"finetune {steps['finetune']:,}"
    if members > 1:
        trained += f": {members} models of {steps['finetune'] // members:,}, whose outputs are averaged"
    return f"align {steps['align']} ({job.choices['metric']}), {trained}"


def decisions(decided: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the settings that the program decided, in a text for each reason."""
    settings: dict[str, list[str]] = {}
    for key, one in decided.items():
        settings.setdefault(str(one.get("why") or "no reason recorded"), []).append(f"{key}={as_typed(one['value'])}")
    return [f"{' '.join(words)} ({why})" for why, words in settings.items()]


def _result_rows(outcome: Outcome) -> Iterator[tuple[str, str | Text]]:
    result = outcome.result
    error, distance = result["error"], result["metric_value"]
    if distance["before"] is not None:
        values = f"{distance['before']:.4g} before alignment, {distance['after']:.4g} after"
        if floor := distance.get("floor"):
            values += f"; fresh source points {floor['mean']:.4g} ± {floor['deviation']:.2g}"
        yield "distance", f"{values} ({result['metric']})"
    if change := result.get("training", {}).get("rate_change"):
        yield "rate", f"train.lr={change['after']:g} instead of {change['before']:g}, which {change['why']}"
    yield "test", _test(result)
    yield "validation", _validation(result)
    recorded = result.get("baselines", {}).items()
    simple = {name: one for name, one in recorded if name != "constant" and one.get("suits", True)}
    if simple:
        yield "beside", ", ".join(_baseline(name, one, error["percent"]) for name, one in simple.items())
    if comparison := result.get("comparison"):
        yield "compared", comparison["text"]
    yield "time", ", ".join(f"{stage} {value:.0f} s" for stage, value in result["seconds"].items())
    if outcome.path is not None and can_predict(outcome.path):
        yield "predict", f"orca predict {outcome.path} INPUT | orca export {outcome.path} DIR"
    if outcome.path is not None and distance["before"] is not None:
        yield "worth", f"{_worth(outcome.path, result)} && orca report"


def _worth(path: Path, result: Mapping[str, Any]) -> str:
    """Return the command that measures what alignment and pretraining gain."""
    varied = {"metric": f"{result['metric']},none", "finetune": f"{result['finetune']},scratch", "seed": "0,1,2"}
    typed = [word for word in overrides(path) or () if word.partition("=")[0] not in varied]
    return shlex.join(["orca", "run", "-m", *typed, *(f"{key}={choices}" for key, choices in varied.items())])


def _test(result: Mapping[str, Any]) -> str | Text:
    error, split = result["error"], result["splits"].get("test")
    if split is None:
        return f"none: {error['reason']}"
    skipped = f", {error['skipped']} skipped" if error["skipped"] else ""
    trivial = f"(best constant predictor: {percent_or_number(result['trivial_error'], error['percent'])})"
    return Text(error_text(result), style="bold").append(f" on {split['n']} samples{skipped} {trivial}", "not bold")


def _baseline(name: str, record: Mapping[str, Any], percent: bool) -> str:
    if record["error"] is None:
        return f"{name}: not computed"
    fitted = record["trained_on"]
    some = "" if fitted["n"] == fitted["of"] else f" (on {fitted['n']} of {fitted['of']} training samples)"
    return f"{name} {percent_or_number(record['error'], percent)}{some}"


def _validation(result: Mapping[str, Any]) -> str:
    """Return the validation error of the tested weights, and how these were chosen."""
    error, selected = result["error"], result["selected"]
    percent, on = error["percent"], selected.get("on")
    if on == "nothing":
        return f"none: {selected['reason']}; the weights are the last ones"
    text = f"{error['name']} {percent_or_number(result['validation_error'], percent)}"
    if on == "folds":
        return f"{text} of all {selected['n']} samples, by {selected['folds']} folds"
    epochs = selected["epoch"] if isinstance(selected["epoch"], list) else [selected["epoch"]]
    text += f" after epoch{'s' if len(epochs) > 1 else ''} {', '.join(map(str, epochs))}"
    return text + (f", chosen by the {selected['rule']} of {selected['n']} samples" if selected.get("rule") else "")


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


def percent_or_number(value: float | None, percent: bool) -> str:
    """Return an error in per cent with two decimals, or with four significant digits."""
    if value is None:
        return "undefined"
    return f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
