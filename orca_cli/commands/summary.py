"""What `orca run` shows: shapes before the work, the result after it, how a sweep's jobs ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
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


# Candidates whose name does not say what they are.
_MEANINGS = {
    FEATURES: "ridge on embedder outputs",
    PROBE: "ridge on body outputs",
    START: "the transfer before its first step",
}


def run_result(outcome: Outcome, *, alone: bool, pictured: bool) -> Result:
    """Return how one run ended, with the content of result.json.

    People see that content only if the run was completed just now.

    Args:
        outcome: how it ended.
        alone: it is not a job of a sweep or search. The record then has its predictions for the
            test split.
        pictured: people see the predictions as a picture as well.
    """
    failures = []
    if outcome.failure is not None:
        error = outcome.failure.error
        # The command that stops a job says why.
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

    None if it has none or, with a warning, if they cannot be read.
    """
    try:
        return read(run)
    except OrcaError as error:
        log.warning(f"what the run predicted cannot be shown: {error}")
        return None


def build_table(job: Composed, summary: Mapping[str, Any]) -> RenderableType:
    """Return the shapes, kernel, tokens, parameters, splits and steps that stage 1 arrived at."""
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
    steps = f"align {counts['align']} ({choices['metric']}), finetune {counts['finetune']:,}"
    # The steps are those of all members together.
    if summary["members"] > 1:
        steps += f", of {summary['members']} models"
    input_shape = shape_text(summary["input_shape"])
    grid = shape_text(summary["grid"])
    rows = {
        "task": f"{choices['task']} ({kind}), input {input_shape}",
        "data": samples,
        "body": f"{choices['body']}, width {summary['width']}, finetune={choices['finetune']}",
        "embedder": f"kernel {summary['kernel']}, {summary['tokens']} tokens "
        f"({grid}) of at most {summary['max_tokens']}",
        "parameters": f"{sizes_text}; trained {parameters['trained']:,}",
        "steps": steps,
    }
    decided = summary.get("decided")
    # Settings that were typed or have a default are not decided.
    if decided:
        rows["decided"] = "; ".join(decisions(decided))
    return facts(rows.items())


def declared_table(job: Composed) -> RenderableType:
    """Return the shapes that the task's file declares, for data that are not on this machine."""
    choices = job.choices
    task = job.content["task"]
    entry = catalogue.described("task", choices["task"], task)
    rows = {
        "task": f"{choices['task']} ({task['kind']}), input {entry.shape or 'unknown'}, output "
        f"{entry.outputs or 'unknown'}, as its file declares",
        "body": f"{choices['body']}, finetune={choices['finetune']}",
    }
    return facts(rows.items())


def decisions(decided: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the settings that the program decided, in a text for each reason."""
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
    """Yield what a completed run achieved: facts, its leaderboard, and how to predict.

    Older and damaged records lack some of it.
    """
    recorded = result.get("candidates")
    candidates = []
    if isinstance(recorded, list) and len(recorded) > 1:
        candidates = [mapping(candidate) for candidate in recorded]
    yield facts(_result_rows(result, candidates))
    if candidates:
        headers = ("model", "validation", "test (95 % interval)", "seconds")
        yield table(headers, _candidate_rows(result, candidates))
    yield facts(_conclusion(result, candidates, run))


def _result_rows(
    result: Mapping[str, Any], candidates: Sequence[Record]
) -> Iterator[tuple[str, str | Text]]:
    """Yield the facts of a result that the table of its candidates, if any, does not show."""
    distance = mapping(result.get("metric_value"))
    # None without alignment.
    before = number(distance.get("before"))
    if before is not None:
        after = number(distance.get("after")) or 0
        metric = result.get("metric")
        yield "distance", f"{before:.4g} before alignment, {after:.4g} after ({metric})"
    yield "test", _test_text(result, has_interval=not candidates)
    validation = _validation_text(result)
    if validation is not None and not _is_judged(candidates):
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


def _candidate_rows(
    result: Mapping[str, Any], candidates: Sequence[Record]
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the leaderboard; a dash where there is no number."""
    for candidate in candidates:
        cells = {}
        for key in ("validation_error", "error"):
            cells[key] = "-"
            if candidate.get(key) is not None:
                cells[key] = _shown_error(result, candidate[key])
        interval = interval_text(mapping(result.get("error")) | candidate)
        if interval:
            cells["error"] += f" ({interval})"
        time_s = number(candidate.get("seconds"))
        seconds = "-" if time_s is None else f"{time_s:,.1f}"
        yield str(candidate.get("name")), cells["validation_error"], cells["error"], seconds


def _conclusion(
    result: Mapping[str, Any], candidates: Sequence[Record], run: Path
) -> Iterator[tuple[str, str]]:
    """Yield what judged the candidates, and which to predict with by which command."""
    if candidates:
        yield "judged", "; ".join(_judge_texts(result, candidates))
    command = ""
    # Not every task keeps its preprocessing, nor every run its weights.
    if can_predict(run):
        command = f"orca predict {run} INPUT"
    if not candidates or candidates[0].get("validation_error") is None:
        if command:
            yield "predict", command
        return
    leader = result.get("leader")
    best = candidates[0].get("name")
    if leader is None:
        yield "leader", f"{best}; no model is kept"
        return
    text = NAMES.get(str(leader), "the transfer")
    if leader != TRANSFER:
        command = f"orca predict {run} --model {leader} INPUT"
        text += ", not the transfer"
        if not _is_judged(candidates):
            text += ", which was not judged"
    if best != leader:
        text += f" ({best} validates better and is not kept)"
    yield "leader", f"{text}: {command}" if command else text


def _judge_texts(result: Mapping[str, Any], candidates: Sequence[Record]) -> Iterator[str]:
    """Yield what says which candidate is best, and what a reader has to know of them."""
    judged = mapping(result.get("judged"))
    n_samples = judged.get("n", 0)
    if judged.get("on") == "validation":
        yield f"on {n_samples} validation samples"
    else:
        yield f"out of fold on {n_samples} samples, {judged.get('folds')} folds"
    selected = mapping(result.get("selected"))
    if selected.get("on") == "validation" and _is_judged(candidates):
        yield f"transfer: weights after epoch {as_typed(selected.get('epoch'))}"
    baselines = mapping(result.get("baselines"))
    for candidate in candidates:
        name = str(candidate.get("name"))
        if name in _MEANINGS:
            yield f"{name}: {_MEANINGS[name]}"
        baseline = mapping(baselines.get(name))
        trained_on = mapping(baseline.get("trained_on"))
        # A baseline may have been fitted on a part of the training samples.
        if trained_on.get("n") != trained_on.get("of"):
            yield f"{name}: on {trained_on.get('n')} of {trained_on.get('of')} training samples"
        if baseline.get("reason"):
            yield f"{name}: {baseline['reason']}"


def _is_judged(candidates: Sequence[Record]) -> bool:
    """Return whether the same samples judged the transfer as the simple models."""
    for candidate in candidates:
        if candidate.get("name") == TRANSFER:
            return candidate.get("validation_error") is not None
    return False


def _shown_error(result: Mapping[str, Any], value: Any) -> str:
    """Return an error of a result record as it is shown, in per cent if its errors are."""
    error = mapping(result.get("error"))
    # A damaged record may hold anything in place of a truth value.
    return percent_or_number(number(value), error.get("percent") is True)


def _test_text(result: Mapping[str, Any], *, has_interval: bool) -> str | Text:
    """Return the error on the test split, with its number of samples and perhaps its interval."""
    error = mapping(result.get("error"))
    splits = mapping(result.get("splits"))
    test_split = mapping(splits.get("test"))
    # With test=false the test split stays closed.
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
    """Return the validation error and what it was measured on; None if that is not recorded."""
    selected = mapping(result.get("selected"))
    # The weights are chosen by the error of an epoch on validation data, or else by folds or not at
    # all.
    selected_on = selected.get("on")
    if selected_on is None:
        return None
    if selected_on == "nothing":
        return f"none: {selected.get('reason')}; the weights are the last ones"
    error = mapping(result.get("error"))
    validation_error = _shown_error(result, result.get("validation_error"))
    validation = f"{error.get('name')} {validation_error}"
    if selected_on == "folds":
        folds = selected.get("folds")
        return f"{validation} of all {selected.get('n')} samples, by {folds} folds"
    return f"{validation} after epoch {as_typed(selected.get('epoch'))}"


def error_text(result: Mapping[str, Any]) -> str:
    """Return the test error of a result record, with its name; empty if it has none."""
    error = mapping(result.get("error"))
    if not error:
        return ""
    shown_error = _shown_error(result, error.get("value"))
    return f"{error.get('name')} {shown_error}"


def outcome_record(outcome: Outcome) -> Record:
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
