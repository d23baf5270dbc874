"""How a run trains in stage 3, by its budget, the number of samples, their length and the size of the model.

`_TABLE` and `_LEVELS` hold all numbers; docs/evidence/defaults.md says how they were chosen. They apply to protocol=clean;
the other protocols set the paper's numbers in their own files.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from orca_cli.config import schema
from orca_cli.config.schema import Config, Train
from orca_cli.interfaces import TaskData
from orca_cli.stages import selection
from orca_cli.stages.decision import Decided, Decision
from orca_cli.training.schedule import fitted_batch


@dataclass(frozen=True)
class Size:
    """How much there is to learn, from what.

    Args:
        samples: that stage 3 trains on.
        tokens: of a sample.
        parameters: of the whole model.
    """

    samples: int
    tokens: int
    parameters: int

    def fits(self, most: Size) -> bool:
        """Return whether every count is at most that of `most`."""
        return all(count <= limit for count, limit in zip(vars(self).values(), vars(most).values(), strict=True))

    def __str__(self) -> str:
        return f"{self.samples:,} samples of {self.tokens:,} tokens, {self.parameters / 1e6:.3g} M parameters"


@dataclass(frozen=True)
class Row:
    """Settings of stage 3 up to a given size, at budget=normal.

    Args:
        most: the size.
        steps: optimizer steps ...
        passes: ... or this many passes over the samples, whichever is longer ...
        most_steps: ... but at most this many steps, unless a single pass takes more.
        warmup: share of the steps.
    """

    most: Size
    steps: int
    passes: int
    most_steps: int
    batch_size: int
    lr: float
    outer_rate: float = 10.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True)
class Level:
    """A budget: how many times the steps of `normal`, and how many members are averaged."""

    share: float
    members: int = 1


_ANY = 10**15
_TABLE = (  # the first row that fits is taken
    Row(Size(500, _ANY, 50_000_000), steps=400, passes=0, most_steps=400, batch_size=16, lr=2e-4),
    Row(Size(5000, _ANY, 50_000_000), steps=400, passes=8, most_steps=800, batch_size=16, lr=2e-4),
    Row(Size(_ANY, _ANY, 50_000_000), steps=2000, passes=10, most_steps=5000, batch_size=32, lr=2e-4),
    Row(Size(500, _ANY, _ANY), steps=400, passes=0, most_steps=400, batch_size=16, lr=5e-5),
    Row(Size(5000, _ANY, _ANY), steps=400, passes=8, most_steps=800, batch_size=16, lr=5e-5),
    Row(Size(_ANY, _ANY, _ANY), steps=2000, passes=10, most_steps=5000, batch_size=32, lr=5e-5),
)
MOST_MEMBERS = 5  # that a budget of minutes takes, as `thorough` does
_LEVELS = {"quick": Level(0.25), "normal": Level(1.0, members=2), "thorough": Level(1.0, members=MOST_MEMBERS)}
_SEVERAL = Size(5000, 128, 50_000_000)  # the largest of which `normal` averages members
_STARTED = Level(0.25)  # `normal` of a model that starts with its body's own features and a predictor for them
_OF_MINUTES = Level(1.0)  # until the time of a step is known; see stages/minutes.py


def decide(config: Config, task: TaskData, tokens: int, *, parameters: int, is_started: bool = False) -> Decided:
    """Return the settings of stage 3 that were left open.

    Args:
        config: with what the rules before have decided.
        task: the data.
        tokens: T, of a sample.
        parameters: of the whole model.
        is_started: whether the embedder starts as the body's own layer, and the predictor as a ridge.
    """
    size = Size(selection.count_learned(config, task), tokens, parameters)
    row = next(row for row in _TABLE if size.fits(row.most))
    why = f"budget={_named(config)}: {size}"
    decided: Decided = {}
    train = config.train
    level = _STARTED if is_started and config.budget == "normal" else _level(config)

    def settle(name: str, value: Any) -> Any:
        if (typed := getattr(train, name)) is None:
            decided[f"train.{name}"] = Decision(value, why)
            return value
        return typed

    batch_size = settle("batch_size", min(row.batch_size, size.samples))
    length = settle("epochs", _epochs(row, level, dataclasses.replace(train, batch_size=batch_size), size.samples))
    settle("members", _members(config, level, size))
    settle("outer_rate", row.outer_rate if train.lr is None else 1.0)
    settle("lr", row.lr)
    settle("warmup_epochs", round(row.warmup * min(length, train.decay_epochs or length), 6))
    settle("weight_decay", row.weight_decay)
    settle("clip", row.clip)
    return decided


def unused(config: Config, decided: Decided) -> str:
    """Return a note where a budget was typed that decides nothing about the length of training; else empty."""
    if config.budget == schema.Config().budget or "train.epochs" in decided:
        return ""
    return f"budget={_named(config)} does not change the number of steps: train.epochs={config.train.epochs} is set"


def is_minutes(config: Config) -> bool:
    """Return whether the budget is a time."""
    return not isinstance(config.budget, str)


def whole_epochs(config: Config, size: Size) -> int:
    """Return the epochs of a member that is trained as long as `normal` does; `config` is decided."""
    row = next(row for row in _TABLE if size.fits(row.most))
    return _epochs(row, _OF_MINUTES, config.train, size.samples)


def _named(config: Config) -> str:
    return f"{config.budget:g} min" if is_minutes(config) else str(config.budget)


def _level(config: Config) -> Level:
    return _OF_MINUTES if is_minutes(config) else _LEVELS[config.budget]


def _members(config: Config, level: Level, size: Size) -> int:
    """Return how many members are averaged; at budget=normal, a given train.epochs means one model."""
    one_is_enough = config.budget == "normal" and (config.train.epochs is not None or not size.fits(_SEVERAL))
    return 1 if config.train.folds or one_is_enough else level.members


def _epochs(row: Row, level: Level, train: Train, samples: int) -> int:
    """Return the passes over the samples that come nearest to the steps, at least one."""
    fitted = fitted_batch(train, samples)
    per_epoch = -(-samples // (schema.settled(fitted.batch_size) * fitted.accumulation))
    steps = level.share * min(row.most_steps, max(row.steps, row.passes * per_epoch))
    return max(1, round(steps / per_epoch))
