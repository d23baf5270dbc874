"""The recipe of a run on own data: its embedder and its finetune mode.

If they are left open (`auto`), the form and the number of the samples decide both;
docs/evidence/recipes.md has the measurements.
"""

from dataclasses import replace
from typing import Any

from orca_cli.config import configuration, parts
from orca_cli.config.schema import Config
from orca_cli.data.own_data import has_single_rows
from orca_cli.interfaces import TaskData
from orca_cli.stages.plan import Decided, Decision

# Upper bound on the steps of a sequence, and lower bound on the training samples, for `overlap`:
# with a token for every step and many samples, all weights can learn what the steps mean.
SHORT = 64
MANY = 500
_BANK = "multiscale"
_AUTO_KEYS = ("init", "max_tokens", "resolution")


def with_recipe(config: Config, task: TaskData, recorded: Decided) -> tuple[Config, Decided]:
    """Return the settings with embedder and finetune mode decided, and the decisions.

    Explicitly set parts stay. A finetune mode that is open follows the embedder. A resumed run
    takes the decisions that it `recorded`.
    """
    decided: dict[str, Decision] = {}
    embedder = config.embedder
    if embedder.get(parts.TARGET) is None:
        decided["embedder"] = recorded.get("embedder", _embedder(config, task))
        name = decided["embedder"].value
        embedder = _part("embedder", name) | _typed(embedder)
        # The columns of a table mean the same in every row.
        if name == _BANK and has_single_rows(config.task, task.input_shape):
            embedder["values"] = True
    finetune = config.finetune
    if finetune.get(parts.TARGET) is None:
        has_bank = embedder[parts.TARGET] == _part("embedder", _BANK)[parts.TARGET]
        mode = "layernorm" if has_bank else "full"
        decided["finetune"] = Decision(mode, f"default for the embedder {_name_of(embedder)}")
        finetune = _part("finetune", mode)
    return replace(config, embedder=embedder, finetune=finetune), decided


def _embedder(config: Config, task: TaskData) -> Decision:
    if task.kind == "dense":
        return Decision("patch", "the outputs are dense: one for every position")
    is_sequence = len(task.input_shape) == 2
    if not is_sequence or has_single_rows(config.task, task.input_shape):
        return Decision(_BANK, "the samples are table rows, images or volumes, not sequences")
    steps = task.input_shape[1]
    count = len(task.train)
    reason = (
        f"there are {count:,} training sequences of {steps:,} steps; the default embedder is "
        f"`overlap` for at least {MANY} sequences of at most {SHORT} steps, else `multiscale`"
    )
    if steps <= SHORT and count >= MANY:
        return Decision("overlap", reason)
    return Decision(_BANK, reason)


def _part(group: str, name: str) -> dict[str, Any]:
    """Return the configuration of one of the program's own parts."""
    return configuration.content(configuration.choices(group)[name])


def _typed(node: dict[str, Any]) -> dict[str, Any]:
    """Return those settings of an open embedder that every embedder has."""
    return {key: node[key] for key in _AUTO_KEYS if node.get(key) is not None}


def _name_of(embedder: dict[str, Any]) -> str:
    return str(embedder[parts.TARGET]).rpartition(".")[2]
