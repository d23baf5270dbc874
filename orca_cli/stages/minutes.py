"""A budget of minutes: as many epochs as the time allows, then as many members, by the time that a step takes on this machine.

This is the one decision that is not a function of settings and data. The numbers that came out are recorded, so that a resumed
run goes on with them, and typing them repeats the run anywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orca_cli.config.schema import Config
from orca_cli.interfaces import Reporter
from orca_cli.stages import budget, selection
from orca_cli.stages.build import Built, redecided
from orca_cli.stages.decision import Decided, Decision
from orca_cli.stages.expected_time import Costs, epoch, expected, measure
from orca_cli.training.engine import Engine

_USED = 0.9  # of the time; the rest is for what is not timed
_EPOCHS, _MEMBERS = "train.epochs", "train.members"


def planned(
    config: Config, built: Built, engine: Engine, earlier: Mapping[str, Any], spent_s: float, reporter: Reporter
) -> Built:
    """Return what was built with the time that it will take and, for a budget of minutes, what fits into them.

    Args:
        config: as composed.
        built: with everything else decided.
        engine: the device.
        earlier: the summary that an earlier attempt of this run wrote; empty for none. Its times and what fitted are kept.
        spent_s: seconds that the run has taken so far.
        reporter: messages.

    Raises:
        MemoryExhaustedError: a batch does not fit.
    """
    earlier_costs = earlier.get("costs")
    costs = Costs(**earlier_costs) if isinstance(earlier_costs, dict) else measure(built, engine, reporter)
    if budget.is_minutes(config) and _EPOCHS in built.decided:
        timed = _recorded(earlier) or _fitting(config, built, costs, spent_s, reporter)
        built = redecided(config, built, timed)
    if costs is None:
        return built
    seconds = {stage: round(value, 2) for stage, value in expected(built, costs).items()}
    return dataclasses.replace(built, summary=built.summary | {"costs": costs.plain(), "expected_s": seconds})


def _recorded(earlier: Mapping[str, Any]) -> Decided:
    decisions = earlier.get("decided", {})
    return {
        key: Decision(decisions[key]["value"], decisions[key]["why"]) for key in (_EPOCHS, _MEMBERS) if key in decisions
    }


def _fitting(config: Config, built: Built, costs: Costs | None, spent_s: float, reporter: Reporter) -> Decided:
    """Return the epochs that fit into the time, from one to those of `normal`, and the members that do, where they are open."""
    minutes = f"{config.budget:g} min"
    if costs is None:
        why = f"budget={minutes}: no step could be timed, so as for budget=normal with one member"
        return {_EPOCHS: Decision(built.decided[_EPOCHS].value, why)}
    parameters = sum(parameter.numel() for parameter in built.model.parameters())
    learned = selection.count_learned(built.config, built.task)
    whole = budget.whole_epochs(built.config, budget.Size(learned, built.model.embedder.layout.tokens, parameters))
    one = selection.count_members(built.config) * epoch(built, costs)
    left = 60 * config.budget * _USED - spent_s - _seconds(built, costs, epochs=0)
    if left < one:
        reporter.say(
            f"build: budget={minutes} is too short: one epoch takes about {one:.2g} s; it is trained nonetheless"
        )
    epochs, members, most = max(1, int(min(left / one, whole))), 1, 1
    repeat = f"{_EPOCHS}={epochs}"
    if _MEMBERS in built.decided and not config.train.folds:
        more = _seconds(built, costs, epochs=whole, members=2) - _seconds(built, costs, epochs=whole)
        most = budget.MOST_MEMBERS
        members = 1 + max(0, int(min((left - whole * one) / more, most - 1)))
        repeat += f" {_MEMBERS}={members}"
    why = f"budget={minutes}: a step takes {costs.step:.2g} s on this machine; repeat this run with {repeat}"
    if (epochs, members) == (whole, most):
        why = f"budget={minutes} is more than is used: no budget trains longer"
    return {
        key: Decision(value, why) for key, value in ((_EPOCHS, epochs), (_MEMBERS, members)) if key in built.decided
    }


def _seconds(built: Built, costs: Costs, **train: Any) -> float:
    """Return the expected seconds of stages 2 and 3 with other settings of `train`."""
    config = dataclasses.replace(built.config, train=dataclasses.replace(built.config.train, **train))
    return sum(expected(dataclasses.replace(built, config=config), costs).values())
