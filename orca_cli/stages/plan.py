"""The plan of a run: its settings once the data are known, in which nothing is open any more.

What settings leave open (null or auto) is decided by rules: what chooses the weights by the number of validation samples
(docs/selection.md), how long and how to train by budget, samples and size of the model (docs/evidence/defaults.md). The paper
searches for rate, decay and batch size instead (A.3.3: `orca tune`). A resumed run takes the decisions that it recorded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from orca_cli.config.schema import Config, Train
from orca_cli.data.fraction import Joined
from orca_cli.interfaces import Samples, TaskData

# Numbers of validation samples. A choice among epochs by the error of a few is noise, and they are lost for training.
BEST_FROM = 100  # from which on they choose the epoch; fewer choose nothing
ERROR_FROM = (
    300  # from which on they choose by the error; fewer by the loss, which moves with every sample
)
_OPEN = (None, "auto")


class Decision(NamedTuple):
    """What an open setting is set to, JSON-able, and why: the rule, and what it was applied to."""

    value: Any
    why: str


Decided = Mapping[str, Decision]  # by dotted key


def read_decisions(record: Mapping[str, Any], splits: Mapping[str, Any]) -> Decided:
    """Return the decisions in a run's summary of stage 1 or its result; none where its data were not these `splits`."""
    recorded = record.get("splits", {})
    if any(recorded.get(name) != split for name, split in splits.items()):
        return {}
    return {
        key: Decision(one["value"], one["why"]) for key, one in record.get("decided", {}).items()
    }


@dataclass(kw_only=True)
class TrainPlan(Train):
    """The settings of stage 3, decided by `decide`; `select_by` is "auto" where `select` is "last", which reads none."""

    epochs: int
    batch_size: int
    lr: float
    outer_rate: float
    weight_decay: float
    warmup_epochs: float
    clip: float
    members: int
    refit: bool

    @property
    def models(self) -> int:
        """Return how many models stage 3 fine-tunes."""
        return self.folds or self.members

    @property
    def warmup_length(self) -> float:
        """Return the length of the warm-up in epochs: as set, or `warmup_limit` of the epochs before the rate is 0."""
        longest = math.inf if self.warmup_limit is None else self.warmup_limit
        return min(self.warmup_epochs, longest * min(self.epochs, self.decay_epochs or self.epochs))

    def fitted(self, samples: int) -> Self:
        """Return the plan whose optimizer steps ask for no more than this number of samples; the plan itself if it does.

        Batches get smaller, and only where a step has more batches than there are samples it has fewer.
        """
        batch_size, accumulation = self.batch_size, self.accumulation
        if batch_size * accumulation <= samples:
            return self
        if accumulation > samples:
            accumulation = max(1, samples // batch_size)
        return replace(
            self, batch_size=min(batch_size, samples // accumulation), accumulation=accumulation
        )

    def step_size(self, samples: int) -> int:
        """Return how many of a number of samples an optimizer step sees."""
        fitted = self.fitted(samples)
        return fitted.batch_size * fitted.accumulation

    def steps_per_epoch(self, samples: int) -> int:
        """Return the optimizer steps of one pass over a number of samples."""
        return -(-samples // self.step_size(samples))

    def learned(self, task: TaskData) -> Samples:
        """Return the samples that stage 3 trains on: training, or training and validation."""
        return Joined([task.train, task.validation]) if self.refit else task.train

    def count_learned(self, task: TaskData) -> int:
        """Return how many samples each fine-tuning of stage 3 trains on; the most of several."""
        count = len(task.train) + (len(task.validation) if self.refit else 0)
        return count - count // self.folds if self.folds else count

    def judged_on(self, task: TaskData, learned: Samples) -> tuple[str, Samples | None]:
        """Return what validates the run's weights (validation, test, folds or nothing) and its samples; None for nothing.

        Folds together validate on all of `learned`, the samples that stage 3 trains on.
        """
        if self.folds:
            return "folds", learned
        return ("nothing", None) if self.refit else (self.validate_on, task.validation)


@dataclass(kw_only=True)
class Plan(Config):
    """The settings of a run, with those of stage 3 decided. `decided`: what was open, and why it is as it is."""

    train: TrainPlan
    decided: Decided


# Length of stage 3 and batch size at budget=normal, by the number of samples that they apply up to; the first that fits is
# taken. A length is `least` steps, or those of `passes` over the samples if these are more; at most `most`, but always one
# pass. They are for protocol=clean: the other protocols set the paper's numbers in their own files.
_LENGTHS = {
    500: {"least": 400, "passes": 0, "most": 400, "batch_size": 16},
    5000: {"least": 400, "passes": 8, "most": 800, "batch_size": 16},
    10**15: {"least": 2000, "passes": 10, "most": 5000, "batch_size": 32},
}
_SMALL = 50_000_000  # parameters of the largest model that learns at the first of these rates
_RATES = (2e-4, 5e-5)
_OUTER_RATE, _WEIGHT_DECAY, _CLIP = 10.0, 0.01, 1.0
_WARMUP = 0.1  # of the steps
MOST_MEMBERS = 5  # that a budget of minutes takes, as `thorough` does
# budget -> how many times the steps of `normal`, and how many members are averaged.
# started: `normal` of a model that starts with its body's own features and a predictor for them.
_LEVELS = {
    "quick": (0.25, 1),
    "normal": (1.0, 2),
    "thorough": (1.0, MOST_MEMBERS),
    "started": (0.25, 1),
}
_SEVERAL_SAMPLES, _SEVERAL_TOKENS = (
    5000,
    128,
)  # the most of which `normal` averages members of a small model
_LONGEST = (1.0, 1)  # the longest, until the time of a step is known; see stages/expected_time.py


def is_minutes(settings: Config) -> bool:
    """Return whether the budget is a time."""
    return not isinstance(settings.budget, str)


def budget_name(settings: Config) -> str:
    """Return the budget as people read it."""
    return f"{settings.budget:g} min" if is_minutes(settings) else str(settings.budget)


def decide(
    config: Config,
    task: TaskData,
    tokens: int,
    *,
    parameters: int,
    is_started: bool = False,
    recorded: Decided | None = None,
) -> Plan:
    """Return the plan of a run: a function of settings, data and model, but for what is recorded. Given settings stay.

    Args:
        config, task: as composed and read.
        tokens, parameters: of a sample, and of the whole model.
        is_started: whether the embedder starts as the body's own layer, and the predictor as a ridge.
        recorded: decisions that stand, of an earlier attempt or by a time that was measured.
    """
    train, decided = (
        TrainPlan(**vars(config.train)),
        dict[str, Decision](),
    )  # what is open is set below

    def settle(name: str, value: Any, why: str) -> None:
        nonlocal train
        if getattr(train, name) in _OPEN:
            decided[f"train.{name}"] = (recorded or {}).get(f"train.{name}", Decision(value, why))
            train = replace(train, **{name: decided[f"train.{name}"].value})

    def choose(name: str, few: str, many: str, least: int) -> None:
        count = len(task.validation)
        value, how = (few, "fewer") if count < least else (many, "not fewer")
        settle(name, value, f"{count} validation samples, {how} than {least}")

    if train.folds:
        settle(
            "select",
            "last",
            f"train.folds={train.folds} judges by all samples, and none are left to choose by",
        )
    if train.refit is True:
        settle("select", "last", "train.refit=true leaves no samples to choose by")
    choose("select", "last", "best", BEST_FROM)
    if train.select == "best":
        choose("select_by", "loss", "error", ERROR_FROM)
    settle("refit", *_refit(config, train.select, task))
    # How long to train depends on what is trained on.
    samples, is_small = train.count_learned(task), parameters <= _SMALL
    length = next(length for most, length in _LENGTHS.items() if samples <= most)
    size = f"{samples:,} samples of {tokens:,} tokens, {parameters / 1e6:.3g} M parameters"
    why, level = f"budget={budget_name(config)}: {size}", str(config.budget)
    share, members = _LEVELS.get("started" if is_started and level == "normal" else level, _LONGEST)
    is_cheap = is_small and samples <= _SEVERAL_SAMPLES and tokens <= _SEVERAL_TOKENS
    if level == "normal" and not (is_cheap and train.epochs is None):
        members = 1
    settle("batch_size", min(length["batch_size"], samples), why)
    per_epoch = train.steps_per_epoch(samples)
    steps = share * min(length["most"], max(length["least"], length["passes"] * per_epoch))
    settle("epochs", max(1, round(steps / per_epoch)), why)
    settle("members", 1 if train.folds else members, why)
    settle("outer_rate", _OUTER_RATE if train.lr is None else 1.0, why)
    settle("lr", _RATES[0] if is_small else _RATES[1], why)
    settle(
        "warmup_epochs",
        round(_WARMUP * min(train.epochs, train.decay_epochs or train.epochs), 6),
        why,
    )
    settle("weight_decay", _WEIGHT_DECAY, why)
    settle("clip", _CLIP, why)
    return Plan(**vars(config) | {"train": train, "decided": decided})


def _refit(config: Config, select: str, task: TaskData) -> tuple[bool, str]:
    against = {
        "validation chooses": select == "best",
        "validation was not drawn from the training data": not task.validation_drawn,
        "train.validate_on=test": config.train.validate_on == "test",
        "task.train_fraction says how much is trained on": config.task.get("train_fraction")
        is not None,
    }
    reason = next((reason for reason, holds in against.items() if holds), "")
    return (
        not reason,
        reason or "nothing is chosen by validation, which was drawn from the training data",
    )
