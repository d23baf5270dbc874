"""Which embedder of stage 2 is used: the first epochs of stage 3 from each candidate, judged on the validation split.

The candidate of 0 steps is among them, so that alignment cannot make a run worse than none would, beyond the noise of the
probe. Only training and validation data are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from orca_cli import signals
from orca_cli.exceptions import NonFiniteError
from orca_cli.interfaces import Reporter
from orca_cli.runs.directory import RunDirectory
from orca_cli.schema import Config, settled
from orca_cli.stages.build import Built, steps_per_epoch
from orca_cli.stages.training_plan import TrainingPlan
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score


def choose(
    config: Config,
    built: Built,
    engine: Engine,
    candidates: Mapping[int, Mapping[str, Tensor]],
    run: RunDirectory,
    reporter: Reporter,
) -> tuple[int, dict[str, float | None]]:
    """Return the number of alignment steps whose embedder validates best, and what was tried.

    The model is left with its own first weights; the caller loads the chosen embedder. Each result is stored at
    once, so that a resumed run does not repeat it.

    Args:
        config: the run's settings.
        built: task, loss, error, model.
        engine: the device.
        candidates: steps -> the embedder's weights then.
        run: stores the results.
        reporter: progress.

    Returns:
        steps, and steps (as text) -> validation error, None where a number was not finite or the error undefined.
    """
    tried: dict[str, float | None] = run.read_probes()
    start = checkpoint.snapshot(built.model)
    with reporter.track("align: probe", len(candidates)) as advance:
        advance(sum(str(step) in tried for step in candidates))
        for step, weights in candidates.items():
            if str(step) in tried:
                continue
            built.model.load_state_dict(start)
            built.model.embedder.load_state_dict(weights)
            with signals.immediate():
                tried[str(step)] = _probe(config, built, engine, run)
            run.write_probes(tried)
            advance()
    built.model.load_state_dict(start)
    best = min(candidates, key=lambda step: (_rank(tried[str(step)]), step))
    return best, {str(step): tried[str(step)] for step in candidates}


def _rank(error: float | None) -> float:
    return math.inf if error is None else error


def _probe(config: Config, built: Built, engine: Engine, run: RunDirectory) -> float | None:
    """Take the first `align.probe_epochs` epochs of stage 3 on the training split as it is; returns the lowest validation error
    of an epoch.
    """
    epochs = min(config.align.probe_epochs, settled(config.train.epochs))
    per_epoch = steps_per_epoch(config, len(built.task.train))
    errors = []
    try:
        with TrainingPlan(config, built, engine, steps=epochs * per_epoch) as plan:
            for step in range(epochs * per_epoch):
                signals.check()
                plan.take(step)
                if (step + 1) % per_epoch == 0:
                    if config.train.validate_on == "test":
                        run.count_test_read()
                    outputs, targets = predict(engine, built.model, built.task.validation, config.train.eval_batch_size)
                    errors.append(score(built.error, outputs, built.task.validation, targets).value)
    except NonFiniteError:
        return None
    known = [error for error in errors if error is not None]
    return min(known) if known else None
