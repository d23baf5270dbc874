"""The expected time of a run's stages, and budgets in minutes: a few steps are timed.

The weights are restored afterwards, so a run ends with the same bits whether it was timed or not.
Only decisions for a budget in minutes are not a function of settings and data. The decided numbers
are recorded: a resumed run uses them again, and setting them explicitly repeats the run on any
machine.
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
from orca_cli.stages.problem import make_problem
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine

_STEPS = 4  # at most this number is timed; the first is slower, and counts only if it is alone
_ENOUGH_S = 4.0  # time after which no further step is timed
_SLOW_S = 1.0  # time from which a step of a few samples is scaled up to the whole step
_FIRST_SAMPLES = 2  # number of samples of the first timed step; it doubles until a step is slow
_STILL = 1e-30  # a learning rate that leaves the weights finite
_FORWARDS_OF_STEP = 4  # forward passes that a training step is assumed to cost, per sample
_USED = 0.9  # fraction of a budget in minutes; the remainder covers work that is not timed
_EPOCHS = "train.epochs"
_MEMBERS = "train.members"


class Costs(NamedTuple):
    """Seconds of an optimizer step of stage 3, with its whole batch, and of all of stage 2."""

    step: float
    align: float


def time_steps(built: Built, engine: Engine, reporter: Reporter) -> Costs | None:
    """Time some steps of stages 2 and 3 on the run's own model and data, at its batch size.

    The model is moved to the device; its weights end as they were.

    Returns:
        None if a number in these steps is NaN or infinite, which the stage itself will report.

    Raises:
        MemoryExhaustedError: a batch does not fit into memory, so the run would fail too.
    """
    built.model.to(engine.device)
    weights = checkpoint.snapshot(built.model)
    costs = None
    # A stage itself will report numbers that are not finite.
    # Dropout draws from torch's generator, whose state the run must find unchanged.
    with signals.immediate(), torch.random.fork_rng(devices=[]), suppress(NonFiniteError):
        costs = Costs(
            step=_time_step(built, engine), align=_time_alignment(built, engine, reporter)
        )
    # Not in a `finally`: other errors end the run, and a failure to restore the weights would hide
    # them.
    built.model.load_state_dict(weights)
    built.model.zero_grad()
    return costs


def expected(built: Built, costs: Costs) -> dict[str, float]:
    """Return stage -> seconds; the time of "finetune" includes the test.

    The test split is assumed to be as large as training and validation split together.
    """
    train = built.plan.train
    num_tested = len(built.task.train) + len(built.task.validation)
    step_size = train.step_size(train.count_learned(built.task))
    # Seconds of a forward pass over all samples of the test.
    test_s = num_tested * costs.step / _FORWARDS_OF_STEP / step_size
    finetune_s = train.models * (train.epochs * _epoch_seconds(built, costs) + test_s)
    # Every fold aligns its own embedder, and so does every member except the first.
    num_aligned = train.folds or train.models - 1
    finetune_s += num_aligned * costs.align
    return {"align": costs.align, "finetune": finetune_s}


def _epoch_seconds(built: Built, costs: Costs) -> float:
    """Return the seconds of an epoch of one member, with the validation after it."""
    train = built.plan.train
    num_learned = train.count_learned(built.task)
    judged_on, judging_samples = train.judged_on(built.task, built.learned)
    num_judging = 0 if judging_samples is None else len(judging_samples)
    if judged_on == "folds":
        # Each member validates on its own fold.
        num_judging //= train.folds
    # A validation sample costs a forward pass only.
    num_steps = (num_learned + num_judging / _FORWARDS_OF_STEP) / train.step_size(num_learned)
    return num_steps * costs.step


def _time_step(built: Built, engine: Engine) -> float:
    """Return the seconds of an optimizer step.

    A step that is slow with a few of its samples is not timed as a whole, but scaled up from these
    samples.
    """
    train = built.plan.train
    num_learned = len(built.learned)
    fitted_plan = train.fitted(num_learned)
    num_samples = _FIRST_SAMPLES
    while num_samples < fitted_plan.batch_size:
        most_steps = 2 if num_samples == _FIRST_SAMPLES else 1  # the first step of all warms up
        small_step = with_train(built, batch_size=num_samples, accumulation=1)
        seconds = _mean_seconds(small_step, engine, most_steps)
        if seconds > _SLOW_S:
            # Scaled by samples and by the batches of a step.
            return seconds * fitted_plan.batch_size / num_samples * fitted_plan.accumulation
        num_samples *= 2
    most_steps = min(_STEPS, max(1, num_learned // train.step_size(num_learned)))
    return _mean_seconds(built, engine, most_steps)


def _mean_seconds(built: Built, engine: Engine, most_steps: int) -> float:
    """Return the mean seconds of a few optimizer steps; the first counts only if it is alone."""
    step_seconds: list[float] = []
    built_at_rest = with_train(built, lr=_STILL)
    with closing(OptimizerSteps(built_at_rest, engine, built.learned, built.plan.seed)) as steps:
        while len(step_seconds) < most_steps and sum(step_seconds) < _ENOUGH_S:
            step_start = time.perf_counter()
            steps.take(len(step_seconds))
            step_seconds.append(time.perf_counter() - step_start)
    return statistics.fmean(step_seconds[1:] or step_seconds)


def _time_alignment(built: Built, engine: Engine, reporter: Reporter) -> float:
    """Return the seconds of all steps and measurements of stage 2.

    Raises:
        OrcaError: any that `align.obtain_trajectory` raises.
    """
    if not has_alignment(built.plan):
        return 0.0
    settings = built.plan.align
    with governed_by("align"), trainable(built.model.embedder):
        # The cost of a step does not depend on which points are drawn.
        problem, _ = make_problem(built, engine, reporter, all_examples=False)
        built.model.train()
        step_start = time.perf_counter()
        # No optimizer step follows, so the weights stay as they are.
        problem.backward(0)
        step_end = time.perf_counter()
        problem.value(problem.train)
        value_end = time.perf_counter()
    # One value before the first step, one after the last, and one at every check.
    num_values = 2 + math.ceil(settings.epochs / settings.check_every)
    return settings.epochs * (step_end - step_start) + num_values * (value_end - step_end)


def planned(
    config: Config,
    built: Built,
    engine: Engine,
    earlier: Mapping[str, Any],
    spent_s: float,
    reporter: Reporter,
) -> Built:
    """Return `built` with the expected time in its summary.

    With a budget in minutes, the plan is shortened until it fits. The summary gets expected_s
    (stage -> seconds), or nothing if no step could be timed.

    Args:
        config, built, engine, reporter: objects of the run.
        earlier: summary of stage 1 of an earlier attempt, whose decisions and expected times are
            reused; empty if there was no earlier attempt.
        spent_s: seconds that the run has taken so far, which count against the budget.
    """
    # Not timed again: the plan of a resumed run must not change with the machine's load.
    if read_decisions(earlier, built.summary["splits"]):
        return replace(built, summary=built.summary | {"expected_s": earlier.get("expected_s")})
    costs = time_steps(built, engine, reporter)
    if costs is None:
        return built
    # A number of epochs that the user set is never lowered.
    if is_minutes(config) and _EPOCHS in built.plan.decided:
        built = replanned(built, config, _fitting(built, costs, spent_s, reporter))
    expected_s = {stage: round(seconds, 2) for stage, seconds in expected(built, costs).items()}
    return replace(built, summary=built.summary | {"expected_s": expected_s})


def _fitting(built: Built, costs: Costs, spent_s: float, reporter: Reporter) -> Decided:
    """Return the numbers of epochs and, if open, of members that fit into the budget.

    The number of epochs is between 1 and the plan's number.
    """

    def seconds(**settings: int) -> float:
        return sum(expected(with_train(built, **settings), costs).values())

    plan = built.plan
    train = plan.train
    budget_setting = f"budget={budget_name(plan)}"
    # After alignments and the test, which the number of epochs does not change.
    left_s = 60 * plan.budget * _USED - spent_s - seconds(epochs=0)
    epoch_s = train.models * _epoch_seconds(built, costs)
    if left_s < epoch_s:
        reporter.say(
            f"build: {budget_setting} is too short, since one epoch takes about {epoch_s:.2g} s; "
            "the run trains one epoch anyway"
        )
    fitting_epochs = min(left_s / epoch_s, train.epochs)
    fitting_numbers = {_EPOCHS: max(1, int(fitting_epochs))}
    if _MEMBERS in plan.decided:
        fitting_numbers[_MEMBERS] = 1
        # Each fold is a member already.
        if not train.folds:
            # A further member with its own alignment and test.
            member_s = seconds(members=2) - seconds()
            # Further members are added only if all epochs of the first member fit.
            further_members = (left_s - train.epochs * epoch_s) / member_s
            fitting_numbers[_MEMBERS] += max(0, int(min(further_members, MOST_MEMBERS - 1)))
    typed_settings = " ".join(f"{key}={number}" for key, number in fitting_numbers.items())
    reason = (
        f"{budget_setting}: a step takes {costs.step:.2g} s on this machine; "
        f"to repeat this run, set {typed_settings}"
    )
    return {key: Decision(value=number, why=reason) for key, number in fitting_numbers.items()}
