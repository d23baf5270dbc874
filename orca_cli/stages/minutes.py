"""A budget of minutes: as many epochs as the time allows, by the time that a step takes on this machine.

This is the one decision that is not a function of settings and data. The number that came out is recorded, so that a resumed
run goes on with it, and `train.epochs=` repeats the run anywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orca_cli.interfaces import Reporter
from orca_cli.schema import Config, settled
from orca_cli.stages import budget, selection
from orca_cli.stages.build import Built, redecided
from orca_cli.stages.decision import Decision
from orca_cli.stages.expected_time import Costs, epoch, expected, measure
from orca_cli.training.engine import Engine

_USED = 0.9  # of the time; the rest is for what is not timed
_KEY = "train.epochs"


def planned(
    config: Config, built: Built, engine: Engine, earlier: Mapping[str, Any], spent_s: float, reporter: Reporter
) -> Built:
    """Return what was built with the time that it will take and, for a budget of minutes, the epochs that this gives.

    Args:
        config: as composed.
        built: with everything else decided.
        engine: the device.
        earlier: the summary that an earlier attempt of this run wrote; empty for none. Its times and epochs are kept.
        spent_s: seconds that the run has taken so far.
        reporter: messages.

    Raises:
        MemoryExhaustedError: a batch does not fit.
    """
    known = earlier.get("costs")
    costs = Costs(**known) if isinstance(known, dict) else measure(built, engine, reporter)
    if budget.is_minutes(config) and _KEY in built.decided:
        decision = _recorded(earlier) or _fitting(config, built, costs, spent_s, reporter)
        built = redecided(config, built, decision)
    if costs is None:
        return built
    seconds = {stage: round(value, 2) for stage, value in expected(built, costs).items()}
    return dataclasses.replace(built, summary=built.summary | {"costs": costs.plain(), "expected_s": seconds})


def _recorded(earlier: Mapping[str, Any]) -> Decision | None:
    decision = earlier.get("decided", {}).get(_KEY)
    return None if decision is None else Decision(decision["value"], decision["why"])


def _fitting(config: Config, built: Built, costs: Costs | None, spent_s: float, reporter: Reporter) -> Decision:
    """Return the epochs that fit into the time, at least one, and no more than the longest other budget has."""
    minutes = f"{config.budget:g} min"
    if costs is None:
        return Decision(built.decided[_KEY].value, f"budget={minutes}: no step could be timed, so as for budget=normal")
    members = selection.count_members(built.config)
    one = members * epoch(built, costs)
    rest = (
        sum(expected(built, costs).values()) - settled(built.config.train.epochs) * one
    )  # of the time that is not training
    left = 60 * config.budget * _USED - spent_s - rest
    if left < one:
        reporter.say(
            f"build: budget={minutes} is too short: one epoch takes about {one:.2g} s; it is trained nonetheless"
        )
    most = budget.most_epochs(
        built.config,
        selection.count_learned(built.config, built.task),
        built.model.embedder.layout.tokens,
        sum(parameter.numel() for parameter in built.model.parameters()),
    )
    epochs = max(1, min(int(left / one), most))
    why = f"budget={minutes}: a step takes {costs.step:.2g} s on this machine; repeat this run with {_KEY}={epochs}"
    return Decision(
        epochs,
        why if epochs < most else f"budget={minutes} is enough for twice the steps of normal, and no more are taken",
    )
