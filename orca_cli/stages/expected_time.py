"""How long the stages of a run will take: a few steps of each are timed before the run, and leave no trace in it.

The times are those of this machine with what else it is doing. Every draw of a run is a function of (seed, name, step), and
the weights are put back, so a run ends with the same bits whether it was timed or not.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from orca_cli import signals
from orca_cli.config.schema import Config, Train, settled
from orca_cli.exceptions import InterruptionError, NonFiniteError, OrcaError
from orca_cli.interfaces import Reporter
from orca_cli.stages import selection
from orca_cli.stages.align import trainable
from orca_cli.stages.build import Built, has_alignment, steps_per_epoch
from orca_cli.stages.compared import Compared, compare
from orca_cli.stages.training_plan import TrainingPlan
from orca_cli.stages.trajectory import fingerprint, objective_of
from orca_cli.tasks.shared.fraction import Part
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict
from orca_cli.training.memory import governed_by
from orca_cli.training.schedule import fitted_batch

_LEAST_STEPS, _MOST_STEPS = 3, 16  # of stage 3; the first, which is slower, does not count
_SHARE = 20  # at most one step in twenty is timed, beyond `_LEAST_STEPS`
_ENOUGH_S = 4.0  # no more steps are timed after this time
_BATCHES = 2  # timed of an accumulated step, at most: all of its batches can take minutes
_SLOW_S = 2.0  # anything slower is timed once; a slow step of stage 3, with only some of its samples
_FIRST_SAMPLES = 2  # of a step; they double until one is slow
_STILL = 1e-30  # a learning rate that leaves the weights finite
_FORWARD = 4  # assumed cost of a training step over a forward pass, per sample, where the latter is not timed
_BYTES_S = 2e8  # of checkpoints written in a second
_ADAM = 4  # times the trained weights in a checkpoint: themselves, two moments, the best so far


@dataclass(frozen=True)
class Costs:
    """Seconds that the parts of a run take on this machine.

    Args:
        step: an optimizer step of stage 3, with the whole batch.
        sample: the outputs for one sample, when nothing is trained.
        align: stage 2, all of it; 0 where another run has left it in the cache.
    """

    step: float
    sample: float
    align: float

    def plain(self) -> dict[str, float]:
        """Return the costs as 1_build/summary.json holds them."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


def measure(built: Built, engine: Engine, reporter: Reporter) -> Costs | None:
    """Time some steps of stages 2 and 3 on the run's own model and data, at its batch size; None where none can be taken.

    The test split stays closed.

    Raises:
        MemoryExhaustedError: a batch does not fit, as it would not in the run.
    """
    built.model.to(engine.device)
    first = checkpoint.snapshot(built.model)
    costs = None
    with signals.immediate(), torch.random.fork_rng(devices=[]):
        try:
            step = _step(built, engine)
            sample = _sample(built, engine, step)
            costs = Costs(step, sample, _align(built, engine, reporter))
        except NonFiniteError:  # the stage itself will report it
            pass
    # Other errors end the run; a failure to go back would hide them.
    built.model.load_state_dict(first)
    built.model.zero_grad()
    return costs


def expected(built: Built, costs: Costs) -> dict[str, float]:
    """Return stage -> seconds; finetune with the test, whose split is taken to be as large as training and validation."""
    task, config = built.task, built.config
    members = selection.count_members(config)
    test_size = len(task.train) + len(task.validation)
    trained = sum(parameter.nbytes for parameter in built.model.parameters() if parameter.requires_grad)
    training = members * settled(config.train.epochs) * epoch(built, costs)
    saves = training // max(config.train.checkpoint_s, 1.0) * _ADAM + 2 * members + 1
    aligned_again = 0 if config.train.folds else (members - 1) * costs.align  # members with embedders of their own
    rest = members * test_size * costs.sample + saves * trained / _BYTES_S
    return {"align": costs.align, "finetune": training + aligned_again + rest}


def epoch(built: Built, costs: Costs) -> float:
    """Return the seconds of an epoch of one member, with the validation after it."""
    config, count = built.config, selection.count_learned(built.config, built.task)
    on, judging = selection.judged_on(config, built.task, built.learned)
    validated = 0 if judging is None else len(judging) // (config.train.folds if on == "folds" else 1)
    return count / _step_size(config, count) * costs.step + validated * costs.sample


def _step_size(config: Config, count: int) -> int:
    """Return how many samples an optimizer step sees."""
    fitted = fitted_batch(config.train, count)
    return settled(fitted.batch_size) * fitted.accumulation


def _step(built: Built, engine: Engine) -> float:
    """Return the seconds of an optimizer step; of many batches, and of many samples that take long, only some are timed."""
    fitted = fitted_batch(built.config.train, len(built.learned))
    size, timed = settled(fitted.batch_size), min(fitted.accumulation, _BATCHES)
    some = _FIRST_SAMPLES
    while some < size:
        step = _steps(built, engine, dataclasses.replace(fitted, batch_size=some, accumulation=1), 1)[0]
        if step > _SLOW_S:
            return step * size / some * fitted.accumulation
        some *= 2
    whole = len(built.learned) // _step_size(built.config, len(built.learned))
    total = settled(built.config.train.epochs) * steps_per_epoch(built.config, len(built.learned))
    most = max(1, min(_MOST_STEPS, whole, total, max(_LEAST_STEPS, total // _SHARE)))
    seconds = _steps(built, engine, dataclasses.replace(fitted, accumulation=timed), most)
    # The mean: on a busy machine some are interrupted, as in the run.
    return statistics.fmean(seconds[1:] or seconds) * fitted.accumulation / timed


def _steps(built: Built, engine: Engine, train: Train, most: int) -> list[float]:
    """Return the seconds of each of up to `most` steps with these settings; they leave the weights as they are."""
    still = dataclasses.replace(built.config, train=dataclasses.replace(train, lr=_STILL))
    seconds: list[float] = []
    with TrainingPlan(still, built, engine, steps=most, samples=built.learned) as plan:
        while len(seconds) < most and not _is_enough(seconds):
            start = time.perf_counter()
            plan.take(len(seconds))
            seconds.append(time.perf_counter() - start)
    return seconds


def _is_enough(seconds: list[float]) -> bool:
    is_slow = len(seconds) > 0 and seconds[-1] > _SLOW_S
    return is_slow or (len(seconds) >= _LEAST_STEPS and sum(seconds) > _ENOUGH_S)


def _sample(built: Built, engine: Engine, step: float) -> float:
    """Return the seconds for the outputs of a sample."""
    config = built.config
    size = min(len(built.task.validation), config.train.eval_batch_size, 2 * settled(config.train.batch_size))
    guess = step / _FORWARD / _step_size(config, len(built.learned))
    # The test split is opened when a run validates on it, and not before.
    if config.train.validate_on == "test" or guess * size > _SLOW_S:
        return guess
    few = Part(built.task.validation, np.arange(size))
    start = time.perf_counter()
    predict(engine, built.model, few, config.train.eval_batch_size)
    return (time.perf_counter() - start) / size


def _align(built: Built, engine: Engine, reporter: Reporter) -> float:
    """Return the seconds of stage 2; 0 if it fails, since stage 2 itself will report the error."""
    config = built.config
    if not has_alignment(config):
        return 0.0
    try:
        with governed_by("align", ""), trainable(built.model.embedder):
            compared = compare(config, built, engine, reporter)
            return _trajectory(config, built, engine, compared)
    except InterruptionError:
        raise
    except OrcaError:
        return 0.0


def _trajectory(config: Config, built: Built, engine: Engine, compared: Compared) -> float:
    settings, objective = config.align, objective_of(config, built, compared, engine)
    assert config.paths.cache is not None
    key = fingerprint(config, built, compared, objective, engine.device)
    if (Path(config.paths.cache) / "alignments" / key).exists():
        return 0.0
    built.model.train()
    step = value = 0.0
    for number in range(2):  # the first is slower
        start = time.perf_counter()
        objective.backward(number)
        middle = time.perf_counter()
        compared.value(built.model, engine)
        step, value = middle - start, time.perf_counter() - middle
        if step + value > _SLOW_S:
            break
    values = 2 + math.ceil(settings.epochs / settings.check_every)
    return settings.epochs * step + values * value
