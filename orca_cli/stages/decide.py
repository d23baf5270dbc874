"""Settings that are left to the program (null or "auto") and depend on the data: decided once, after the data are read.

What is typed, or set by a file of conf/, is never changed. Decisions are functions of settings and data, so a resumed run
decides the same. A run's identity is that of its settings before anything is decided.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from orca_cli import schema
from orca_cli.interfaces import TaskData
from orca_cli.schema import Config
from orca_cli.stages import budget, selection
from orca_cli.stages.decision import Decided, Decision

Rule = Callable[[Config, TaskData, int], Decided]

_OPEN = (None, "auto")  # settings that a rule may decide
# In this order: a rule sees what those before it decided; the budget comes last.
_RULES: tuple[Rule, ...] = (selection.decide,)


def decide(
    config: Config, task: TaskData, tokens: int, *, parameters: int, epochs: Decision | None = None
) -> tuple[Config, Decided]:
    """Return the settings with everything decided, and what was decided.

    Args:
        config: as composed; it is left as it is.
        task: the data, of which the test split is closed.
        tokens: T, of a sample.
        parameters: of the whole model.
        epochs: of a budget of minutes, once the time of a step is known.

    Raises:
        ConfigError: what was decided contradicts what is set.
    """
    of_budget = functools.partial(budget.decide, parameters=parameters, epochs=epochs)
    rules: tuple[Rule, ...] = (*_RULES, of_budget)
    decided: Decided = {}
    for rule in rules:
        found = rule(config, task, tokens)
        config = with_values(config, found)
        decided |= found
    schema.check(config)
    return config, decided


def with_values(config: Config, decided: Decided) -> Config:
    """Return a copy of the settings with decisions filled in.

    Raises:
        ValueError: a decision is about a setting that is not open; a typed one wins, always.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, decision in decided.items():
        if schema.lookup(config, key) not in _OPEN:
            raise ValueError(f"{key}={schema.lookup(config, key)} is set, and nothing to be decided")
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = decision.value
    changed = {name: dataclasses.replace(getattr(config, name), **values) for name, values in sections.items()}
    return dataclasses.replace(config, **changed)
