"""How long the stages of a run will take, and a budget of minutes: a few steps of each stage are timed before the run.

The weights are put back, so a run ends with the same bits whether it was timed or not. A budget of minutes is the one decision
that is not a function of settings and data. The numbers that came out are recorded, so that a resumed run goes on with them,
and typing them repeats the run anywhere.
"""

import math
import statistics
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from orca_cli import signals
from orca_cli.config.schema import Config
from orca_cli.exceptions import NonFiniteError, governed_by
from orca_cli.interfaces import Reporter
from orca_cli.stages.align import trainable
from orca_cli.stages.build import Built, has_alignment, replanned, with_train
from orca_cli.stages.optimizer_steps import OptimizerSteps
from orca_cli.stages.plan import (
    MOST_MEMBERS,
    Decided,
    Decision,
    budget_name,
    is_minutes,
    read_decisions,
)
from orca_cli.stages.problem import compare
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine

_STEPS = 4  # to time at most; the first is slower, and counts only where it is the only one
_ENOUGH_S = 4.0  # after which no further step is timed
_SLOW_S = 1.0  # a step of a few samples that takes longer stands for a whole one
_FIRST_SAMPLES = 2  # of a step; they double until one is slow
_STILL = 1e-30  # a learning rate that leaves the weights finite
_FORWARD = 4  # assumed cost of a training step over a forward pass, per sample
_USED = 0.9  # of a budget of minutes; the rest covers what is not timed
_EPOCHS, _MEMBERS = "train.epochs", "train.members"


class Costs(NamedTuple):
    """Seconds of an optimizer step of stage 3, with the whole batch, and of all of stage 2, on this machine."""

    step: float
    align: float


def measure(built: Built, engine: Engine, reporter: Reporter) -> Costs | None:
    """Time some steps of stages 2 and 3 on the run's own model and data, at its batch size.

    None where a number in these steps is NaN or infinite, which the stage itself will report. MemoryExhaustedError where a
    batch does not fit, as it would not in the run. The model is moved to the device; its weights end as they were.
    """
    built.model.to(engine.device)
    first = checkpoint.snapshot(built.model)
    costs = None
    # A stage itself will report numbers that are not finite.
    with signals.immediate(), torch.random.fork_rng(devices=[]), suppress(NonFiniteError):
        costs = Costs(_step(built, engine), _align(built, engine, reporter))
    # Other errors end the run; a failure to go back would hide them.
    built.model.load_state_dict(first)
    built.model.zero_grad()
    return costs


def expected(built: Built, costs: Costs) -> dict[str, float]:
    """Return stage -> seconds; finetune with the test, whose split is taken to be as large as training and validation."""
    train, tested = built.plan.train, len(built.task.train) + len(built.task.validation)
    evaluated = tested * costs.step / _FORWARD / train.step_size(train.count_learned(built.task))
    aligned_again = (
        0 if train.folds else (train.models - 1) * costs.align
    )  # members with embedders of their own
    training = train.models * (train.epochs * _epoch(built, costs) + evaluated)
    return {"align": costs.align, "finetune": training + aligned_again}


def _epoch(built: Built, costs: Costs) -> float:
    """Return the seconds of an epoch of one member, with the validation after it."""
    train, count = built.plan.train, built.plan.train.count_learned(built.task)
    on, judging = train.judged_on(built.task, built.learned)
    validated = 0 if judging is None else len(judging) // (train.folds if on == "folds" else 1)
    return (count + validated / _FORWARD) / train.step_size(count) * costs.step


def _step(built: Built, engine: Engine) -> float:
    """Return the seconds of an optimizer step; one that is slow with a few of its samples is timed with these alone."""

    def mean(built: Built, most: int) -> float:
        seconds: list[float] = []
        with closing(
            OptimizerSteps(with_train(built, lr=_STILL), engine, built.learned, built.plan.seed)
        ) as steps:
            while len(seconds) < most and sum(seconds) < _ENOUGH_S:
                start = time.perf_counter()
                steps.take(len(seconds))
                seconds.append(time.perf_counter() - start)
        return statistics.fmean(seconds[1:] or seconds)

    count, some = len(built.learned), _FIRST_SAMPLES
    fitted = built.plan.train.fitted(count)
    while some < fitted.batch_size:
        takes = 2 if some == _FIRST_SAMPLES else 1  # the first step of all warms up
        seconds = mean(with_train(built, batch_size=some, accumulation=1), takes)
        if seconds > _SLOW_S:
            return seconds * fitted.batch_size / some * fitted.accumulation
        some *= 2
    return mean(built, min(_STEPS, max(1, count // built.plan.train.step_size(count))))


def _align(built: Built, engine: Engine, reporter: Reporter) -> float:
    """Return the seconds of all steps and measurements of stage 2; raises as `align.trained`."""
    if not has_alignment(built.plan):
        return 0.0
    settings = built.plan.align
    with governed_by("align"), trainable(built.model.embedder):
        problem, _ = compare(built, engine, reporter, whole=False)
        built.model.train()
        start = time.perf_counter()
        problem.backward(0)
        middle = time.perf_counter()
        problem.value(problem.train)
        values = (2 + math.ceil(settings.epochs / settings.check_every)) * (
            time.perf_counter() - middle
        )
        return settings.epochs * (middle - start) + values


def planned(
    config: Config,
    built: Built,
    engine: Engine,
    earlier: Mapping[str, Any],
    spent_s: float,
    reporter: Reporter,
) -> Built:
    """Return what was built with the time that it will take and, for a budget of minutes, what fits into them.

    The summary gets expected_s: stage -> seconds, or nothing where no step could be timed.

    Args:
        config, built, engine, reporter: of the run.
        earlier: the summary of stage 1 of an earlier attempt, whose decisions and expected times stand; empty for none.
        spent_s: seconds that the run has taken so far, which count against the budget.
    """
    if read_decisions(earlier, built.summary["splits"]):
        return replace(built, summary=built.summary | {"expected_s": earlier.get("expected_s")})
    costs = measure(built, engine, reporter)
    if costs is None:
        return built
    if is_minutes(config) and _EPOCHS in built.plan.decided:
        built = replanned(built, config, _fitting(built, costs, spent_s, reporter))
    seconds = {stage: round(value, 2) for stage, value in expected(built, costs).items()}
    return replace(built, summary=built.summary | {"expected_s": seconds})


def _fitting(built: Built, costs: Costs, spent_s: float, reporter: Reporter) -> Decided:
    """Return the epochs that fit into the time, from one to those of the plan, and the members that do, where they are open."""

    def seconds(**train: int) -> float:
        return sum(expected(with_train(built, **train), costs).values())

    plan, budget = built.plan, f"budget={budget_name(built.plan)}"
    whole, decided = plan.train.epochs, plan.decided
    one = plan.train.models * _epoch(built, costs)
    left = 60 * plan.budget * _USED - spent_s - seconds(epochs=0)
    if left < one:
        reporter.say(
            f"build: {budget} is too short: one epoch takes about {one:.2g} s, and one is trained anyway"
        )
    epochs, members = max(1, int(min(left / one, whole))), 1
    if _MEMBERS in decided and not plan.train.folds:
        members += max(
            0, int(min((left - whole * one) / (seconds(members=2) - seconds()), MOST_MEMBERS - 1))
        )
    numbers = {
        key: value for key, value in ((_EPOCHS, epochs), (_MEMBERS, members)) if key in decided
    }
    repeat = " ".join(f"{key}={value}" for key, value in numbers.items())
    why = (
        f"{budget}: a step takes {costs.step:.2g} s on this machine; repeat this run with {repeat}"
    )
    return {key: Decision(value, why) for key, value in numbers.items()}
