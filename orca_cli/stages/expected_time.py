"""How long the stages of a run will take, and a budget of minutes: a few steps of each stage are timed before the run.

The times are those of this machine with what else it is doing. Every draw of a run is a function of (seed, name, step), and
the weights are put back, so a run ends with the same bits whether it was timed or not. A budget of minutes is the one decision
that is not a function of settings and data. The numbers that came out are recorded, so that a resumed run goes on with them,
and typing them repeats the run anywhere.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from orca_cli import signals
from orca_cli.config.schema import Config
from orca_cli.data.fraction import Part
from orca_cli.exceptions import InterruptionError, NonFiniteError, OrcaError
from orca_cli.interfaces import Reporter
from orca_cli.stages.align import CACHE, fingerprint, objective_for, trainable
from orca_cli.stages.build import Built, cache_folder, has_alignment, replanned, with_train
from orca_cli.stages.compared import Compared, compare
from orca_cli.stages.optimizer_steps import OptimizerSteps
from orca_cli.stages.plan import MOST_MEMBERS, Decided, Decision, TrainPlan, budget_name, is_minutes, read_decisions
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict
from orca_cli.training.memory import governed_by

_LEAST_STEPS, _MOST_STEPS = 3, 16  # of stage 3; the first, which is slower, does not count
_SHARE = 20  # at most one step in twenty is timed, beyond `_LEAST_STEPS`
_ENOUGH_S = 4.0  # no more steps are timed after this time
_BATCHES = 2  # timed of an accumulated step, at most: all of its batches can take minutes
_SLOW_S = 1.0  # anything slower is timed once; a slow step of stage 3, with only some of its samples
_FIRST_SAMPLES = 2  # of a step; they double until one is slow
_STILL = 1e-30  # a learning rate that leaves the weights finite
_FORWARD = 4  # assumed cost of a training step over a forward pass, per sample, where the latter is not timed
_BYTES_S = 2e8  # of checkpoints written in a second
_USED = 0.9  # of a budget of minutes; the rest is for what is not timed
_EPOCHS, _MEMBERS = "train.epochs", "train.members"
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
    task, train = built.task, built.plan.train
    members = train.models
    test_size = len(task.train) + len(task.validation)
    trained = sum(parameter.nbytes for parameter in built.model.parameters() if parameter.requires_grad)
    training = members * train.epochs * epoch(built, costs)
    saves = training // max(train.checkpoint_s, 1.0) * _ADAM + 2 * members + 1
    aligned_again = 0 if train.folds else (members - 1) * costs.align  # members with embedders of their own
    rest = members * test_size * costs.sample + saves * trained / _BYTES_S
    return {"align": costs.align, "finetune": training + aligned_again + rest}


def epoch(built: Built, costs: Costs) -> float:
    """Return the seconds of an epoch of one member, with the validation after it."""
    train, count = built.plan.train, built.plan.train.count_learned(built.task)
    on, judging = train.judged_on(built.task, built.learned)
    validated = 0 if judging is None else len(judging) // (train.folds if on == "folds" else 1)
    return count / _step_size(train, count) * costs.step + validated * costs.sample


def _step_size(train: TrainPlan, count: int) -> int:
    """Return how many samples an optimizer step sees."""
    fitted = train.fitted(count)
    return fitted.batch_size * fitted.accumulation


def _step(built: Built, engine: Engine) -> float:
    """Return the seconds of an optimizer step; of many batches, and of many samples that take long, only some are timed."""
    train, count = built.plan.train, len(built.learned)
    fitted = train.fitted(count)
    size, timed = fitted.batch_size, min(fitted.accumulation, _BATCHES)
    some = _FIRST_SAMPLES
    while some < size:
        step = _steps(built, engine, dataclasses.replace(fitted, batch_size=some, accumulation=1), 1)[0]
        if step > _SLOW_S:
            return step * size / some * fitted.accumulation
        some *= 2
    whole, total = count // _step_size(train, count), train.epochs * train.steps_per_epoch(count)
    most = max(1, min(_MOST_STEPS, whole, total, max(_LEAST_STEPS, total // _SHARE)))
    seconds = _steps(built, engine, dataclasses.replace(fitted, accumulation=timed), most)
    # The mean: on a busy machine some are interrupted, as in the run.
    return statistics.fmean(seconds[1:] or seconds) * fitted.accumulation / timed


def _steps(built: Built, engine: Engine, train: TrainPlan, most: int) -> list[float]:
    """Return the seconds of each of up to `most` steps with these settings; they leave the weights as they are."""
    still = with_train(built, **vars(train) | {"lr": _STILL})
    seconds: list[float] = []
    with OptimizerSteps(still, engine, steps=most, samples=built.learned) as plan:
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
    train, samples = built.plan.train, built.task.validation
    size = min(len(samples), train.eval_batch_size, 2 * train.batch_size)
    guess = step / _FORWARD / _step_size(train, len(built.learned))
    # The test split is opened when a run validates on it, and not before.
    if train.validate_on == "test" or guess * size > _SLOW_S:
        return guess
    few = Part(samples, np.arange(size))
    start = time.perf_counter()
    predict(engine, built.model, few, train.eval_batch_size)
    return (time.perf_counter() - start) / size


def _align(built: Built, engine: Engine, reporter: Reporter) -> float:
    """Return the seconds of stage 2; 0 if it fails, since stage 2 itself will report the error."""
    if not has_alignment(built.plan):
        return 0.0
    try:
        with governed_by("align", ""), trainable(built.model.embedder):
            compared = compare(built, engine, reporter)
            return _trajectory(built, engine, compared)
    except InterruptionError:
        raise
    except OrcaError:
        return 0.0


def _trajectory(built: Built, engine: Engine, compared: Compared) -> float:
    """Return the seconds of all steps and measurements of stage 2; 0 where another run has left them in the cache."""
    settings, objective = built.plan.align, objective_for(built, compared, engine)
    key = fingerprint(built, compared, objective, engine.device)
    if (cache_folder(built.plan) / CACHE / key).exists():
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


def planned(
    config: Config, built: Built, engine: Engine, earlier: Mapping[str, Any], spent_s: float, reporter: Reporter
) -> Built:
    """Return what was built with the time that it will take and, for a budget of minutes, what fits into them.

    Args:
        config: as composed.
        built: with everything else decided.
        engine: the device.
        earlier: the summary that an earlier attempt of this run wrote; empty for none. Its times are kept.
        spent_s: seconds that the run has taken so far.
        reporter: messages.

    Raises:
        MemoryExhaustedError: a batch does not fit.
    """
    recorded = read_decisions(earlier, built.summary["splits"])
    is_measured = recorded and earlier.get("costs")
    costs = Costs(**earlier["costs"]) if is_measured else measure(built, engine, reporter)
    if is_minutes(config) and _EPOCHS in built.plan.decided and _EPOCHS not in recorded:
        built = replanned(built, config, _fitting(built, costs, spent_s, reporter))
    if costs is None:
        return built
    seconds = {stage: round(value, 2) for stage, value in expected(built, costs).items()}
    return dataclasses.replace(built, summary=built.summary | {"costs": costs.plain(), "expected_s": seconds})


def _fitting(built: Built, costs: Costs | None, spent_s: float, reporter: Reporter) -> Decided:
    """Return the epochs that fit into the time, from one to those of the plan, and the members that do, where they are open."""
    plan, budget = built.plan, f"budget={budget_name(built.plan)}"
    whole, decided = plan.train.epochs, plan.decided
    if costs is None:
        why = f"{budget}: no step could be timed, so as for budget=normal with one member"
        return {_EPOCHS: Decision(whole, why)}
    one = plan.train.models * epoch(built, costs)
    left = 60 * plan.budget * _USED - spent_s - _seconds(built, costs, epochs=0)
    if left < one:
        reporter.say(f"build: {budget} is too short: one epoch takes about {one:.2g} s; it is trained nonetheless")
    epochs, members, most = max(1, int(min(left / one, whole))), 1, 1
    repeat = f"{_EPOCHS}={epochs}"
    if _MEMBERS in decided and not plan.train.folds:
        more = _seconds(built, costs, members=2) - _seconds(built, costs)
        most = MOST_MEMBERS
        members = 1 + max(0, int(min((left - whole * one) / more, most - 1)))
        repeat += f" {_MEMBERS}={members}"
    why = f"{budget}: a step takes {costs.step:.2g} s on this machine; repeat this run with {repeat}"
    if (epochs, members) == (whole, most):
        why = f"{budget} is more than is used: no budget trains longer"
    return {key: Decision(value, why) for key, value in ((_EPOCHS, epochs), (_MEMBERS, members)) if key in decided}


def _seconds(built: Built, costs: Costs, **train: Any) -> float:
    """Return the expected seconds of stages 2 and 3 with other settings of `train`."""
    return sum(expected(with_train(built, **train), costs).values())
