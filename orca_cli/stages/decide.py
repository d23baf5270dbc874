"""Settings that are left to the program (null or "auto") and depend on the data: decided once, after the data are read.

What is typed, or set by a file of conf/, is never changed. Decisions are functions of settings and data, so a resumed run
decides the same. A run's identity is that of its settings before anything is decided.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from orca_cli import schema
from orca_cli.interfaces import TaskData
from orca_cli.schema import Config
from orca_cli.stages import budget, selection
from orca_cli.stages.decision import Decided

_OPEN = (None, "auto")  # settings that may be decided


def decide(config: Config, task: TaskData, tokens: int, *, parameters: int) -> tuple[Config, Decided]:
    """Return the settings with everything decided, and what was decided.

    Args:
        config: as composed; it is left as it is.
        task: the data, of which the test split is closed.
        tokens: T, of a sample.
        parameters: of the whole model.
    """
    decided = selection.decide(config, task)
    config = with_values(config, decided)
    # How long to train depends on what is trained on.
    of_budget = budget.decide(config, task, tokens, parameters=parameters)
    return with_values(config, of_budget), decided | of_budget


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
