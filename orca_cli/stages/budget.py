"""How much a run trains, by the budget, the number of samples, their length and the size of the body."""

from __future__ import annotations

from orca_cli.interfaces import TaskData
from orca_cli.schema import Config
from orca_cli.stages.decision import Decided, Decision

_EPOCHS = 60  # of the paper


def decide(config: Config, task: TaskData, tokens: int) -> Decided:
    """Return the settings of stage 3 that were left open."""
    decided: Decided = {}
    if config.train.epochs is None:
        decided["train.epochs"] = Decision(_EPOCHS, f"as in the paper; {len(task.train)} training samples")
    return decided
