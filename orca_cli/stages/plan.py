"""The plan of a run: its settings once the data are known, in which nothing is open any more.

What settings leave open (null or auto) is decided by rules: what chooses the weights by the number of validation samples
(docs/selection.md), how long and how to train by budget, samples and size of the model (docs/evidence/defaults.md). What is
typed, or set by a file of conf/, is never changed; nor is a run's identity, which is that of its settings. A resumed run takes
the decisions that it recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orca_cli.config.schema import Align, Config, Paths, Predictor, Train
from orca_cli.data.fraction import Joined
from orca_cli.interfaces import Samples, TaskData

# Numbers of validation samples. A choice among epochs by the error of a few is noise, and they are lost for training.
BEST_FROM = 100  # from which on they choose the epoch; fewer choose nothing
ERROR_FROM = 300  # from which on they choose by the error; fewer by the loss, which moves with every sample
_OPEN = (None, "auto")


@dataclass(frozen=True)
class Decision:
    """A setting that was left to the program.

    Args:
        value: what it is set to, JSON-able.
        why: the rule, and what it was applied to, such as "budget=normal, 200 training samples".
    """

    value: Any
    why: str


Decided = Mapping[str, Decision]  # by dotted key


def read_decisions(record: Mapping[str, Any], splits: Mapping[str, Any]) -> Decided:
    """Return the decisions in a run's summary of stage 1 or its result; none where it had other data.

    Args:
        record: of an earlier attempt; empty for none.
        splits: name -> size and hash of the data, as `build.split_record`.
    """
    recorded = record.get("splits", {})
    if any(recorded.get(name) != split for name, split in splits.items()):
        return {}
    return {key: Decision(one["value"], one["why"]) for key, one in record.get("decided", {}).items()}


@dataclass(frozen=True)
class TrainPlan:
    """The settings of stage 3, as in `schema.Train`; `select_by` is "auto" where `select` is "last", which reads none."""

    epochs: int
    batch_size: int
    accumulation: int
    class_weights: str | list[float] | None
    positive_weight: str | list[float] | None
    optimizer: str
    lr: float
    outer_rate: float
    weight_decay: float
    momentum: float
    warmup_epochs: float
    warmup_limit: float | None
    decay_epochs: float | None
    clip: float
    eval_batch_size: int
    select: str
    select_by: str
    refit: bool
    folds: int
    members: int
    average: float | None
    validate_on: str
    checkpoint_s: float
    gradient_checkpointing: bool
    compile: bool

    @property
    def models(self) -> int:
        """Return how many models stage 3 fine-tunes."""
        return self.folds or self.members

    @property
    def warmup_length(self) -> float:
        """Return the length of the warm-up in epochs: as set, or `warmup_limit` of the epochs before the rate is 0.

        A longer one would end training before the rate is at its peak, or leave no time after it.
        """
        if self.warmup_limit is None:
            return self.warmup_epochs
        return min(self.warmup_epochs, self.warmup_limit * min(self.epochs, self.decay_epochs or self.epochs))

    def fitted(self, samples: int) -> TrainPlan:
        """Return the plan with optimizer steps that ask for no more samples than there are."""
        batch_size, accumulation = fitted_batch(self.batch_size, self.accumulation, samples)
        return dataclasses.replace(self, batch_size=batch_size, accumulation=accumulation)

    def steps_per_epoch(self, samples: int) -> int:
        """Return the optimizer steps of one pass over a number of samples."""
        return _steps_per_epoch(self.batch_size, self.accumulation, samples)

    def learned(self, task: TaskData) -> Samples:
        """Return the samples that stage 3 trains on: training, or training and validation."""
        return Joined([task.train, task.validation]) if self.refit else task.train

    def count_learned(self, task: TaskData) -> int:
        """Return how many samples each fine-tuning of stage 3 trains on; the most of several."""
        return _count_learned(task, self.refit, self.folds)

    def judged_on(self, task: TaskData, learned: Samples) -> tuple[str, Samples | None]:
        """Return what validates the run's weights (validation, test, folds or nothing) and its samples.

        Args:
            task: the data.
            learned: what stage 3 trains on.
        """
        if self.folds:
            return "folds", learned
        return ("nothing", None) if self.refit else (self.validate_on, task.validation)

    def smaller_batch(self, samples: int) -> str:
        """Return a note on a batch that is smaller than set; empty where it is as set."""
        fitted = self.fitted(samples)
        if fitted == self:
            return ""
        names = ("batch_size",) if fitted.accumulation == self.accumulation == 1 else ("batch_size", "accumulation")
        requested, taken = (", ".join(f"train.{name}={getattr(one, name)}" for name in names) for one in (self, fitted))
        return f"{taken} instead of {requested}: there are {samples} training samples"

    def shortened_warmup(self) -> str:
        """Return a note on a warm-up that is shorter than set; empty where it is as set."""
        if self.warmup_length == self.warmup_epochs:
            return ""
        return (
            f"warm-up shortened from {self.warmup_epochs:g} to {self.warmup_length:g} of {self.epochs} epochs "
            f"(train.warmup_limit={self.warmup_limit:g})"
        )


@dataclass(frozen=True)
class Plan:
    """The settings of a run, as in `schema.Config`, with those of stage 3 decided.

    Args:
        decided: what was open, and why it is as it is.
    """

    task: dict[str, Any]
    body: dict[str, Any]
    source: dict[str, Any]
    metric: dict[str, Any]
    embedder: dict[str, Any]
    finetune: dict[str, Any]
    augment: dict[str, Any]
    predictor: Predictor
    align: Align
    train: TrainPlan
    paths: Paths
    seed: int
    device: str
    protocol: str
    budget: Any
    keep_weights: bool
    decided: Decided

    @classmethod
    def from_settings(cls, config: Config, decided: Decided) -> Plan:
        """Return the plan of settings and decisions.

        Raises:
            ValueError: a decision is about a setting that is not open, or one is left open.
        """
        train, names = dict(vars(config.train)), {field.name for field in dataclasses.fields(cls)}
        for key, decision in decided.items():
            name = key.removeprefix("train.")
            if train[name] not in _OPEN:
                raise ValueError(f"{key}={train[name]} is set, and nothing to be decided")
            train[name] = decision.value
        needed = ("epochs", "batch_size", "lr", "outer_rate", "weight_decay", "warmup_epochs", "clip", "members")
        if missing := [name for name in (*needed, "select", "refit") if train[name] in _OPEN]:
            raise ValueError(f"nothing decides train.{missing[0]}")
        plain = {name: value for name, value in vars(config).items() if name in names}
        return cls(**plain | {"train": TrainPlan(**train), "decided": decided})

    def with_train(self, **changes: Any) -> Plan:
        """Return the plan with other settings of stage 3."""
        return dataclasses.replace(self, train=dataclasses.replace(self.train, **changes))


Settings = Config | Plan


def fitted_batch(batch_size: int, accumulation: int, samples: int) -> tuple[int, int]:
    """Return batch size and batches of an optimizer step: as given, or smaller where it asks for more than all samples.

    Batches per step stay as they are, where there are samples enough for them.
    """
    if batch_size * accumulation <= samples:
        return batch_size, accumulation
    if accumulation > samples:
        accumulation = max(1, samples // batch_size)
    return min(batch_size, samples // accumulation), accumulation


def _steps_per_epoch(batch_size: int, accumulation: int, samples: int) -> int:
    size, batches = fitted_batch(batch_size, accumulation, samples)
    return -(-samples // (size * batches))


def _count_learned(task: TaskData, refit: bool, folds: int) -> int:
    count = len(task.train) + (len(task.validation) if refit else 0)
    return count - count // folds if folds else count


@dataclass(frozen=True)
class Length:
    """How long stage 3 trains at budget=normal, by the number of samples.

    Args:
        samples: applies up to this many.
        steps: optimizer steps ...
        passes: ... or this many passes over the samples, whichever is longer ...
        most_steps: ... but at most this many steps, unless a single pass takes more.
        batch_size: of a step.
    """

    samples: int
    steps: int
    passes: int
    most_steps: int
    batch_size: int

    def epochs(self, share: float, per_epoch: int) -> int:
        """Return the passes over the samples that come nearest to a share of the steps, at least one."""
        steps = share * min(self.most_steps, max(self.steps, self.passes * per_epoch))
        return max(1, round(steps / per_epoch))


# They apply to protocol=clean; the other protocols set the paper's numbers in their own files.
_LENGTHS = (  # the first that fits is taken
    Length(500, steps=400, passes=0, most_steps=400, batch_size=16),
    Length(5000, steps=400, passes=8, most_steps=800, batch_size=16),
    Length(10**15, steps=2000, passes=10, most_steps=5000, batch_size=32),
)
_SMALL = 50_000_000  # parameters of the largest model that learns at the first of these rates
_RATES = (2e-4, 5e-5)
_OUTER_RATE, _WEIGHT_DECAY, _CLIP = 10.0, 0.01, 1.0
_WARMUP = 0.1  # of the steps
MOST_MEMBERS = 5  # that a budget of minutes takes, as `thorough` does
# budget -> how many times the steps of `normal`, and how many members are averaged.
_LEVELS = {"quick": (0.25, 1), "normal": (1.0, 2), "thorough": (1.0, MOST_MEMBERS)}
_SEVERAL_SAMPLES, _SEVERAL_TOKENS = 5000, 128  # the most of which `normal` averages members of a small model
_STARTED = (0.25, 1)  # `normal` of a model that starts with its body's own features and a predictor for them
_LONGEST = (1.0, 1)  # the longest, until the time of a step is known; see stages/expected_time.py


def is_minutes(settings: Settings) -> bool:
    """Return whether the budget is a time."""
    return not isinstance(settings.budget, str)


def budget_name(settings: Settings) -> str:
    """Return the budget as people read it."""
    return f"{settings.budget:g} min" if is_minutes(settings) else str(settings.budget)


def unused_budget(plan: Plan) -> str:
    """Return a note where a budget was typed that decides nothing about the length of training; else empty."""
    if plan.budget == Config().budget or "train.epochs" in plan.decided:
        return ""
    return f"budget={budget_name(plan)} does not change the number of steps: train.epochs={plan.train.epochs} is set"


def decide(
    config: Config,
    task: TaskData,
    tokens: int,
    *,
    parameters: int,
    is_started: bool = False,
    recorded: Decided | None = None,
) -> Plan:
    """Return the plan of a run: a function of settings, data and model, but for what is recorded.

    Args:
        config: as composed.
        task: the data, of which the test split is closed.
        tokens: T, of a sample.
        parameters: of the whole model.
        is_started: whether the embedder starts as the body's own layer, and the predictor as a ridge.
        recorded: decisions that stand, of an earlier attempt or by a time that was measured.
    """
    train, decided = config.train, dict[str, Decision]()

    def settle(name: str, value: Any, why: str) -> Any:
        if (typed := getattr(train, name)) not in _OPEN:
            return typed
        decision = decided[f"train.{name}"] = (recorded or {}).get(f"train.{name}", Decision(value, why))
        return decision.value

    count = len(task.validation)
    select = settle("select", *_select(train, count))
    if select == "best":
        by, few = ("loss", "fewer") if count < ERROR_FROM else ("error", "not fewer")
        settle("select_by", by, f"{count} validation samples, {few} than {ERROR_FROM}")
    refit = settle("refit", *_refit(config, select, task))
    # How long to train depends on what is trained on.
    samples, is_small = _count_learned(task, refit, train.folds), parameters <= _SMALL
    length = next(one for one in _LENGTHS if samples <= one.samples)
    size = f"{samples:,} samples of {tokens:,} tokens, {parameters / 1e6:.3g} M parameters"
    why = f"budget={budget_name(config)}: {size}"
    share, members = _LONGEST if is_minutes(config) else _LEVELS[config.budget]
    if config.budget == "normal":
        share, members = _STARTED if is_started else (share, members)
        is_cheap = is_small and samples <= _SEVERAL_SAMPLES and tokens <= _SEVERAL_TOKENS
        members = members if is_cheap and train.epochs is None else 1
    batch_size = settle("batch_size", min(length.batch_size, samples), why)
    per_epoch = _steps_per_epoch(batch_size, train.accumulation, samples)
    epochs = settle("epochs", length.epochs(share, per_epoch), why)
    settle("members", 1 if train.folds else members, why)
    settle("outer_rate", _OUTER_RATE if train.lr is None else 1.0, why)
    settle("lr", _RATES[0] if is_small else _RATES[1], why)
    settle("warmup_epochs", round(_WARMUP * min(epochs, train.decay_epochs or epochs), 6), why)
    settle("weight_decay", _WEIGHT_DECAY, why)
    settle("clip", _CLIP, why)
    return Plan.from_settings(config, decided)


def _select(train: Train, count: int) -> tuple[str, str]:
    if train.folds:
        return "last", f"train.folds={train.folds} judges by all samples, and none are left to choose by"
    if train.refit is True:
        return "last", "train.refit=true leaves no samples to choose by"
    if count < BEST_FROM:
        return "last", f"{count} validation samples, fewer than {BEST_FROM}"
    return "best", f"{count} validation samples, not fewer than {BEST_FROM}"


def _refit(config: Config, select: str, task: TaskData) -> tuple[bool, str]:
    if select == "best":
        return False, "validation chooses"
    if not task.validation_drawn:
        return False, "validation was not drawn from the training data"
    if config.train.validate_on == "test":
        return False, "train.validate_on=test"
    if config.task.get("train_fraction") is not None:
        return False, "task.train_fraction says how much is trained on"
    return True, "nothing is chosen by validation, which was drawn from the training data"
