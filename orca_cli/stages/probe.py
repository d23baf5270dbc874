"""Which embedder of stage 2 goes on: the first epochs of stage 3 from each candidate, judged on the validation split.

The candidate of 0 steps is among them, so that alignment cannot make a run worse than none would, beyond the noise of the
probe. Only training and validation data are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from orca_cli import signals, storage
from orca_cli.exceptions import ChecksumError, NonFiniteError
from orca_cli.interfaces import Reporter
from orca_cli.schema import Config
from orca_cli.stages.build import Built
from orca_cli.stages.training_plan import Course
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.freeze import select_trained
from orca_cli.training.loop import predict, score

CANDIDATE = "embedder.safetensors"
_VERDICTS = "probe.json"


def choose(
    config: Config,
    built: Built,
    engine: Engine,
    candidates: Mapping[int, Path],
    folder: Path,
    reporter: Reporter,
) -> tuple[int, dict[str, float | None]]:
    """Return the number of alignment steps whose embedder validates best, and what was tried.

    The model is left with its own first weights; the caller loads the chosen embedder. Verdicts are written to
    probe.json as they are made, so a resumed run does not repeat them.

    Args:
        config: the run's settings.
        built: task, loss, error, model.
        engine: the device.
        candidates: steps -> folder with the embedder after so many steps.
        folder: 2_align.
        reporter: progress.

    Returns:
        steps, and steps (as text) -> validation error, None where a number was not finite or the error undefined.
    """
    tried = _tried(folder / _VERDICTS)
    start = checkpoint.snapshot(built.model)
    with reporter.track("align: probe", len(candidates)) as advance:
        advance(sum(step in tried for step in candidates))
        for step, path in candidates.items():
            if step in tried:
                continue
            built.model.load_state_dict(start)
            built.model.embedder.load_state_dict(storage.read_tensors(path / CANDIDATE))
            with signals.immediate():
                tried[step] = _probe(config, built, engine)
            verdicts = {str(step): error for step, error in tried.items()}
            storage.write_checked_json(folder / _VERDICTS, {"schema": 1, "errors": verdicts})
            advance()
    built.model.load_state_dict(start)
    best = min(candidates, key=lambda step: (_rank(tried[step]), step))
    return best, {str(step): tried[step] for step in candidates}


def _tried(path: Path) -> dict[int, float | None]:
    """Return the verdicts of an earlier attempt; none where they are damaged, for they can be made again."""
    if not path.exists():
        return {}
    try:
        return {int(step): error for step, error in storage.read_checked_json(path)["errors"].items()}
    except ChecksumError as error:
        log.warning(f"align: the probes are made again: {error}")
        return {}


def _rank(error: float | None) -> float:
    return math.inf if error is None else error


def _probe(config: Config, built: Built, engine: Engine) -> float | None:
    """Take the first `align.probe_epochs` epochs of stage 3 as it would; returns the lowest validation error of an epoch."""
    select_trained(built.model, config.finetune.train)
    course = Course(config, built, engine)
    errors = []
    try:
        for epoch in range(min(config.align.probe_epochs, config.train.epochs)):
            for step in range(epoch * course.per_epoch, (epoch + 1) * course.per_epoch):
                signals.check()
                course.take(step)
            outputs, targets = predict(engine, built.model, built.task.validation, config.train.eval_batch_size)
            errors.append(score(built.error, outputs, built.task.validation, targets).value)
    except NonFiniteError:
        return None
    known = [error for error in errors if error is not None]
    return min(known) if known else None
