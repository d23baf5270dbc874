"""What a run found, as result.json has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orca_cli.config import parts
from orca_cli.stages.align import Aligned
from orca_cli.stages.build import Built
from orca_cli.stages.finetune import Tested, Trained
from orca_cli.training.engine import Engine


@dataclass(frozen=True)
class Validated:
    """A trained model that has not seen the test split.

    Args:
        built: task, loss, error and the model with the chosen weights.
        aligned: what stage 2 found.
        trained: what stage 3 found.
        engine: the device.
        seconds: stage -> wall time.
    """

    built: Built
    aligned: Aligned
    trained: Trained
    engine: Engine
    seconds: dict[str, float]


def result_of(validated: Validated, tested: Tested | None) -> dict[str, Any]:
    """Return the result record of a completed run; `tested` is None where the test split stays closed."""
    built, aligned, trained = validated.built, validated.aligned, validated.trained
    config = built.config
    seconds = dict(validated.seconds)
    seconds["finetune"] += seconds.pop("test", 0.0)
    return {
        "synthetic": built.task.synthetic,
        "size": built.task.size,
        "error": error_of(built, tested),
        "validation_error": trained.validation_error,
        "trivial_error": None if tested is None else tested.trivial,
        "selected": trained.selected,
        "decided": built.summary["decided"],
        "augment": config.augment if config.augment.get(parts.TARGET) is not None else None,
        "training": {
            "warmup_epochs": built.summary["warmup_epochs"],
            "precision": validated.engine.precision,
            "processes": validated.engine.cuts.processes,
            "micro_batches": validated.engine.cuts.splits,
            "gradient_checkpointing": config.train.gradient_checkpointing,
            "compile": config.train.compile,
            "rate_change": None if trained.rate is None else trained.rate.plain(),
        },
        "test_reads": 0 if tested is None else tested.reads,
        "splits": built.summary["splits"] | ({} if tested is None else {"test": tested.split}),
        "metric_value": {"before": aligned.before, "after": aligned.after, "floor": aligned.floor or None},
        "alignment": {
            "method": config.align.method,
            "steps": aligned.steps,
            "collapse": aligned.collapse,
        },
        "curves": {"align": aligned.curve, "finetune": trained.curve},
        "expected_s": built.summary.get("expected_s"),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "trajectory_s": aligned.seconds,
        "parameters": built.summary["parameters"],
        "weights_sha256": trained.weights_sha256,
        "keep_weights": config.keep_weights,
    }


def error_of(built: Built, tested: Tested | None) -> dict[str, Any]:
    """Return the test error as result.json has it."""
    error, score = built.error, None if tested is None else tested.score
    reason = "the test split stayed closed (test=false)"
    if score is not None:
        reason = "" if score.value is not None else f"undefined on all {score.skipped} that it averages over"
    return {
        "name": error.name,
        "value": None if score is None else score.value,
        "reason": reason or None,
        "n": 0 if score is None else score.n,
        "skipped": 0 if score is None else score.skipped,
        "percent": error.percent,
        "others": {} if score is None else dict(score.others),
    }
