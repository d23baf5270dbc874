"""The output of `orca run`: shapes before the training, and the result after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli.baselines.names import FEATURES, NAMES, PROBE, START, TRANSFER
from orca_cli.commands.options import Record
from orca_cli.data import catalogue
from orca_cli.exceptions import InterruptionError, OrcaError
from orca_cli.report.answer import Answer, picture, read
from orca_cli.report.collect import interval_text, mapping, number
from orca_cli.runs.outcome import Outcome
from orca_cli.runs.preprocessing import can_predict
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted, facts, log, percent_or_number, stdout, table

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.composed import Composed


# Candidate -> its meaning, below the table.
_MEANINGS = {
    TRANSFER: "the model of this run: embedder, body and predictor",
    START: "the transfer before its first training step; it is not tested",
    FEATURES: "ridge regression on the outputs of the embedder, without the body",
    PROBE: "ridge regression on the outputs of the body before training",
}


def run_result(outcome: Outcome, *, alone: bool, pictured: bool) -> Result:
    """Return how one run ended, with the content of result.json.

    The text for people shows that content only if the run was completed just now.

    Args:
        outcome: end of the run.
        alone: whether the run is not a job of a sweep or search. The record then has its
            predictions for the test split.
        pictured: whether the text for people also draws the predictions.
    """
    failures = []
    if outcome.failure is not None:
        error = outcome.failure.error
        # The command that stops a job prints the reason.
        if alone or not isinstance(error, InterruptionError):
            failures.append(error)
    record = outcome_record(outcome)
    shown: list[RenderableType] = []
    # Only completed and skipped runs have a result.
    if outcome.result and outcome.path is not None:
        is_new = outcome.state == "completed"
        if is_new:
            shown += result_parts(outcome.result, outcome.path)
        if alone:
            answer = read_answer(outcome.path)
            record["answer"] = None
            if answer is not None:
                record["answer"] = answer.record()
                if pictured and is_new:
                    shown += ["", *picture(answer, stdout().width)]
    return Result({"schema": 1, "run": record}, shown, failures, outcome.code)


def read_answer(run: Path) -> Answer | None:
    """Return a run's predictions for its picture.

    None if the run has no predictions or, with a warning, if they cannot be read.
    """
    try:
        return read(run)
    except OrcaError as error:
        log.warning(f"the predictions of the run cannot be shown: {error}")
        return None


def build_table(job: Composed, summary: Mapping[str, Any]) -> RenderableType:
    """Return a table of the shapes, tokens, parameters, splits and steps that stage 1 decided."""
    choices = job.choices
    parameters = summary["parameters"]
    sizes = []
    for model_part in ("embedder", "body", "predictor"):
        sizes.append(f"{model_part} {parameters[model_part]:,}")
    sizes_text = ", ".join(sizes)
    kind = f"{summary['kind']}, {summary['num_outputs']} outputs"
    splits = summary["splits"]
    samples = f"{splits['train']['n']:,} training, {splits['val']['n']:,} validation samples"
    if summary["synthetic"]:
        samples += ", synthetic"
    if summary["note"]:
        samples += f"; {summary['note']}"
    counts = summary["steps"]
    steps = f"align {counts['align']} (metric {choices['metric']}), finetune {counts['finetune']:,}"
    # The steps of all members together.
    if summary["members"] > 1:
        steps += f" in total for {summary['members']} models, whose outputs are averaged"
    input_shape = shape_text(summary["input_shape"])
    grid = shape_text(summary["grid"])
    rows = {
        "task": f"{choices['task']} ({kind}), input {input_shape}",
        "data": samples,
        "body": f"{choices['body']}, width {summary['width']}, finetune={choices['finetune']}",
        "embedder": f"kernel size {summary['kernel']}; {summary['tokens']} tokens per sample "
        f"(grid {grid}), at most {summary['max_tokens']} are allowed",
        "parameters": f"{sizes_text}; {parameters['trained']:,} of them are trained",
        "steps": steps,
    }
    decided = summary.get("decided")
    # Settings that the user has set or that have a default are not decided.
    if decided:
        rows["decided"] = "; ".join(decisions(decided))
    return facts(rows.items())


def declared_table(job: Composed) -> RenderableType:
    """Return a table of the shapes in the task's file, for data that are not on this machine."""
    choices = job.choices
    task = job.content["task"]
    entry = catalogue.described("task", choices["task"], task)
    rows = {
        "task": f"{choices['task']} ({task['kind']}), input {entry.shape or 'unknown'}, output "
        f"{entry.outputs or 'unknown'}, according to the task's file",
        "body": f"{choices['body']}, finetune={choices['finetune']}",
    }
    return facts(rows.items())


def decisions(decided: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a text for each reason, with the settings that the program decided for it."""
    settings_by_reason: dict[str, list[str]] = {}
    for key, decision in decided.items():
        reason = str(decision.get("why") or "no reason recorded")
        settings = settings_by_reason.setdefault(reason, [])
        settings.append(f"{key}={as_typed(decision['value'])}")
    texts = []
    for reason, settings in settings_by_reason.items():
        settings_text = " ".join(settings)
        texts.append(f"{settings_text} ({reason})")
    return texts


def result_parts(result: Mapping[str, Any], run: Path) -> Iterator[RenderableType]:
    """Yield the result of a completed run: facts, its leaderboard, and the command to predict.

    Older and damaged records lack some of these.
    """
    candidates = result.get("candidates")
    has_table = isinstance(candidates, list) and len(candidates) > 1
    yield facts(_result_rows(result, has_table=has_table))
    if has_table:
        headers = ("model", "validation", "test (95 % interval)", "seconds")
        yield from ("", table(headers, _candidate_rows(result)), "")
    yield facts(_conclusion(result, run, has_table=has_table))


def _result_rows(result: Mapping[str, Any], *, has_table: bool) -> Iterator[tuple[str, str | Text]]:
    """Yield the facts of a result that the table of its candidates, if any, does not show."""
    distance = mapping(result.get("metric_value"))
    # None without alignment.
    before = number(distance.get("before"))
    if before is not None:
        after = number(distance.get("after")) or 0
        metric = result.get("metric")
        yield (
            "distance",
            f"between task data and source data ({metric}): {before:.4g} before alignment, "
            f"{after:.4g} after alignment",
        )
    yield "test", _test_text(result, has_interval=not has_table)
    validation = _validation_text(result)
    if validation is not None and not (has_table and _is_comparable(result)):
        yield "validation", validation
    comparison = mapping(result.get("comparison"))
    comparison_text = comparison.get("text")
    if comparison_text:
        yield "compared", str(comparison_text)
    times = []
    # Stage -> seconds: build, align, finetune, test, baselines.
    for stage, seconds in mapping(result.get("seconds")).items():
        time_s = number(seconds)
        if time_s is not None:
            times.append(f"{stage} {time_s:.0f} s")
    yield "time", ", ".join(times)


def _candidate_rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of the leaderboard, with a dash where there is no number."""
    for candidate in map(mapping, result["candidates"]):
        cells = [str(candidate.get("name"))]
        for key in ("validation_error", "error"):
            is_known = candidate.get(key) is not None
            cells.append(_shown_error(result, candidate[key]) if is_known else "-")
        interval_ends = {"interval": candidate.get("interval")}
        interval = interval_text(mapping(result.get("error")) | interval_ends)
        if interval:
            cells[-1] += f" ({interval})"
        time_s = number(candidate.get("seconds"))
        cells.append("-" if time_s is None else f"{time_s:,.1f}")
        yield cells


def _conclusion(
    result: Mapping[str, Any], run: Path, *, has_table: bool
) -> Iterator[tuple[str, str]]:
    """Yield the meanings of the candidates, their order, and the command to predict.

    The command uses the leader.
    """
    # Some tasks do not keep their preprocessing, and some runs do not keep their weights.
    is_kept = can_predict(run)
    command = f"orca predict {run} INPUT"
    leader = str(result.get("leader"))
    if has_table:
        yield from _candidate_notes(result)
        yield "order", _order_text(result)
        if not is_kept:
            leader = str(mapping(result["candidates"][0]).get("name"))
    if leader in NAMES:
        text = f"{NAMES[leader]}, not the transfer"
        if not _is_comparable(result):
            text += (
                "; the transfer has no validation error on the samples of the baselines, so it "
                "cannot be the leader"
            )
        yield "leader", text
        command = f"orca predict {run} --model {leader} INPUT"
    elif has_table and leader == TRANSFER:
        yield "leader", "the transfer"
    if is_kept:
        yield "predict", command
    elif has_table:
        yield "predict", "not possible: this run kept no model that can predict new data"


def _order_text(result: Mapping[str, Any]) -> str:
    """Return by which error the leaderboard is sorted, and on which samples it is measured."""
    judged = mapping(result.get("judged"))
    n_samples = judged.get("n")
    if judged.get("on") == "validation":
        return f"sorted by the error on {n_samples} validation samples, lowest first"
    return (
        f"sorted by the error out of fold, lowest first: each of the {n_samples} samples is "
        f"predicted by a model that was fitted without this sample ({judged.get('folds')} folds)"
    )


def _candidate_notes(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names of candidates, and their meaning or the samples that they were fitted to."""
    baselines = mapping(result.get("baselines"))
    for candidate in map(mapping, result["candidates"]):
        name = str(candidate.get("name"))
        if name in _MEANINGS:
            yield name, _MEANINGS[name]
        trained_on = mapping(mapping(baselines.get(name)).get("trained_on"))
        n_used = trained_on.get("n")
        n_samples = trained_on.get("of")
        # A baseline may have been fitted to a part of the training samples.
        if n_used != n_samples:
            yield name, f"fitted to {n_used} of {n_samples} training samples"


def _is_comparable(result: Mapping[str, Any]) -> bool:
    """Return whether transfer and baselines have errors on the same samples."""
    return mapping(result.get("judged")).get("sha256") is not None


def _shown_error(result: Mapping[str, Any], value: Any) -> str:
    """Return an error of a result record as text, in per cent if the run's error is."""
    error = mapping(result.get("error"))
    # A damaged record may contain anything in place of a truth value.
    return percent_or_number(number(value), error.get("percent") is True)


def _test_text(result: Mapping[str, Any], *, has_interval: bool) -> str | Text:
    """Return the error on the test split, its number of samples and, on request, its interval."""
    error = mapping(result.get("error"))
    splits = mapping(result.get("splits"))
    test_split = mapping(splits.get("test"))
    # With test=false the test split is not read.
    if not test_split:
        return f"none: {error.get('reason')}"
    details = ""
    interval = interval_text(error)
    if has_interval and interval:
        details += f" (95 % interval {interval})"
    n_samples = test_split.get("n", 0)
    details += f" on {counted(n_samples, 'sample')}"
    # Samples for which the error is undefined.
    if error.get("skipped"):
        details += f", {error['skipped']} skipped"
    trivial_error = _shown_error(result, result.get("trivial_error"))
    details += f" (best constant predictor: {trivial_error})"
    return Text(error_text(result), style="bold").append(details, "not bold")


def _validation_text(result: Mapping[str, Any]) -> str | None:
    """Return the validation error and the samples behind it; None if they are not recorded."""
    selected = mapping(result.get("selected"))
    # The weights are chosen by the error of each epoch on validation data, by folds, or not at all.
    selected_on = selected.get("on")
    if selected_on is None:
        return None
    if selected_on == "nothing":
        return f"none: {selected.get('reason')}; the run kept the weights of its last step"
    validation_error = _shown_error(result, result.get("validation_error"))
    epoch = as_typed(selected.get("epoch"))
    return f"{validation_error} on {selected.get('n')} samples ({selected_on}), epoch {epoch}"


def error_text(result: Mapping[str, Any]) -> str:
    """Return the test error of a result record, with its name; empty if it has no error."""
    error = mapping(result.get("error"))
    if not error:
        return ""
    shown_error = _shown_error(result, error.get("value"))
    return f"{error.get('name')} {shown_error}"


def outcome_record(outcome: Outcome) -> Record:
    """Return how a run ended, as a record for other programs."""
    failure = outcome.failure
    return {
        "state": outcome.state,
        "code": outcome.code,
        "path": None if outcome.path is None else str(outcome.path),
        "result": dict(outcome.result),
        "failure": None if failure is None else failure.record(),
    }


def shape_text(shape: Iterable[int]) -> str:
    """Return a shape as text, such as 3 x 32 x 32."""
    return " x ".join(map(str, shape))
