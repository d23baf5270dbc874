"""The plan of a run: its settings once the data are known, in which nothing is open any more.

What settings leave open (null or auto) is decided by rules: what chooses the weights by the number
of validation samples (docs/selection.md), how long and how to train by budget, samples and size of
the model (docs/evidence/defaults.md). The paper searches for rate, decay and batch size instead
(A.3.3: `orca tune`). A resumed run takes the decisions that it recorded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from orca_cli.config.schema import Config, Train
from orca_cli.data.contents import contents, joined
from orca_cli.data.fraction import Joined
from orca_cli.interfaces import Samples, TaskData

# From this number on, validation samples judge a run and choose its epoch. The error of fewer is
# mostly noise, so folds of all samples judge in their place.
BEST_FROM = 100
_FOLDS = 5
# From this number on they choose by the error; fewer by the loss, which moves with every sample.
ERROR_FROM = 300
_OPEN = (None, "auto")
RECIPE = (
    "embedder",
    "finetune",
)  # groups whose choice `recipe.with_recipe` decides where it is open


class Decision(NamedTuple):
    """What an open setting is set to, JSON-able, and why: the rule, and what it was applied to."""

    value: Any
    why: str


Decided = Mapping[str, Decision]  # by dotted key


def read_decisions(record: Mapping[str, Any], splits: Mapping[str, Any]) -> Decided:
    """Return the decisions in a run's summary of stage 1 or its result.

    There are none where its data were not these `splits`.
    """
    recorded_splits = record.get("splits", {})
    # Rules read numbers of samples, so their decisions hold for these data alone.
    for name, split in splits.items():
        if recorded_splits.get(name) != split:
            return {}
    recorded = record.get("decided", {})
    return {key: Decision(**decision) for key, decision in recorded.items()}


@dataclass(kw_only=True)
class TrainPlan(Train):
    """The settings of stage 3, decided by `decide`.

    `select_by` is "auto" where `select` is "last", which does not read it.
    """

    epochs: int
    batch_size: int
    lr: float
    outer_rate: float
    weight_decay: float
    warmup_epochs: float
    clip: float
    folds: int
    members: int
    refit: bool

    @property
    def models(self) -> int:
        """Return how many models stage 3 fine-tunes."""
        return self.folds or self.members

    @property
    def falling_epochs(self) -> float:
        """Return the epochs that the run takes before its rate is 0."""
        return min(self.epochs, self.decay_epochs or self.epochs)

    @property
    def warmup_length(self) -> float:
        """Return the length of the warm-up in epochs.

        It is as set, or `warmup_limit` of the epochs before the rate is 0.
        """
        if self.warmup_limit is None:
            return self.warmup_epochs
        return min(self.warmup_epochs, self.warmup_limit * self.falling_epochs)

    def fitted(self, num_samples: int) -> Self:
        """Return the plan with optimizer steps of no more samples than this number.

        It is the plan itself where its steps are no larger. Otherwise their batches get smaller; a
        step gets fewer batches only where it would have more of them than there are samples.
        """
        if self.batch_size * self.accumulation <= num_samples:
            return self
        accumulation = self.accumulation
        if accumulation > num_samples:
            # As many whole batches as the samples fill.
            accumulation = max(1, num_samples // self.batch_size)
        batch_size = min(self.batch_size, num_samples // accumulation)
        return replace(self, batch_size=batch_size, accumulation=accumulation)

    def step_size(self, num_samples: int) -> int:
        """Return how many samples an optimizer step sees, of this number in all."""
        fitted_plan = self.fitted(num_samples)
        return fitted_plan.batch_size * fitted_plan.accumulation

    def steps_per_epoch(self, num_samples: int) -> int:
        """Return the optimizer steps of one pass over a number of samples."""
        return -(-num_samples // self.step_size(num_samples))

    def learned(self, task: TaskData) -> Samples:
        """Return the samples that stage 3 trains on: training, or training and validation."""
        if self.refit:
            return Joined([task.train, task.validation])
        return task.train

    def count_learned(self, task: TaskData) -> int:
        """Return how many samples a fine-tuning of stage 3 trains on; of several, the largest."""
        num_learned = len(self.learned(task))
        if self.folds:
            # The smallest fold leaves the most samples to train on.
            num_learned -= num_learned // self.folds
        return num_learned

    def judged_on(self, task: TaskData, learned: Samples) -> tuple[str, Samples | None]:
        """Return where the run's weights are validated, and on which samples.

        Args:
            task: that of the run.
            learned: the samples that stage 3 trains on; folds together validate on all of them.

        Returns:
            "validation", "test", "folds" or "nothing", and the samples; None for nothing.
        """
        if self.folds:
            # Before `refit`: folds hold out validation samples too, where those are trained on.
            return "folds", learned
        if self.refit:
            return "nothing", None
        return self.validate_on, task.validation


@dataclass(kw_only=True)
class Plan(Config):
    """The settings of a run, with those of stage 3 decided.

    Args:
        decided: what was open, and why it is as it is.
    """

    train: TrainPlan
    decided: Decided


# Sets of samples by their size, which decides the length of stage 3 and the batch size. These are
# for protocol=clean: the other protocols set the paper's numbers in their own files.
_SMALL_SET = 500
_MIDDLE_SET = 5000
_SHORT = 128  # tokens of a sample, up to which members of a small model cost little
_SMALL = 50_000_000  # parameters of the largest model that learns at the higher rate
# Rates and numbers of steps and members were chosen by test errors on small sets; other sets have
# to confirm them (docs/evidence/defaults.md).
_SMALL_RATE = 2e-4
_LARGE_RATE = 5e-5
_OUTER_RATE = 10.0
_WEIGHT_DECAY = 0.01
_CLIP = 1.0
_WARMUP = 0.1  # of the steps
_QUICK = 0.25  # of the steps at budget=normal
_FOLDED = 0.5  # of the steps, for each fold
MOST_MEMBERS = 5  # that a budget of minutes takes, as `thorough` does


def is_minutes(settings: Config) -> bool:
    """Return whether the budget is a time."""
    return not isinstance(settings.budget, str)


def budget_name(settings: Config) -> str:
    """Return the budget as people read it."""
    if is_minutes(settings):
        return f"{settings.budget:g} min"
    return str(settings.budget)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules read and none of them changes.

    Args:
        config, task: as composed and read.
        tokens: of a sample.
        parameters: of the whole model.
        starts_as_ridge: whether the predictor starts as a ridge.
        starts_with_features: whether in addition the embedder starts as the body's own layer.
    """

    config: Config
    task: TaskData
    tokens: int
    parameters: int
    starts_as_ridge: bool
    starts_with_features: bool

    @property
    def typed(self) -> Train:
        """Return the settings of stage 3 as they were before any rule."""
        return self.config.train

    @property
    def is_small(self) -> bool:
        """Return whether the model is a small one."""
        return self.parameters <= _SMALL

    def by_budget(self, train: TrainPlan, value: Any) -> Decision:
        """Return a decision that follows from the budget and the sizes of data and model."""
        num_samples = train.count_learned(self.task)
        reason = (
            f"budget={budget_name(self.config)}: {num_samples:,} samples of "
            f"{self.tokens:,} tokens, {self.parameters / 1e6:.3g} M parameters"
        )
        return Decision(value=value, why=reason)

    def by_validation(self, bound: int, *, fewer: str, enough: str) -> Decision:
        """Return one of two values by whether there are as many validation samples as a bound."""
        num_validation = len(self.task.validation)
        if num_validation < bound:
            return Decision(fewer, f"{num_validation} validation samples, fewer than {bound}")
        return Decision(enough, f"{num_validation} validation samples, not fewer than {bound}")


def decide(facts: Facts, recorded: Decided) -> Plan:
    """Return the plan of a run: a function of facts and recorded decisions.

    Settings that are not open stay as they are.

    Args:
        facts: settings, data and model.
        recorded: decisions of an earlier attempt, or by a time that was measured, which take
            precedence over the rules.
    """
    config = facts.config
    # The recipe is decided before the model is made, and so before this plan.
    decided = {name: recorded[name] for name in RECIPE if name in recorded}
    # Its open settings are None or "auto" until their rule has had its turn.
    train = TrainPlan(**vars(config.train))
    for name, rule in _RULES.items():
        if getattr(train, name) not in _OPEN:
            continue
        dotted_key = f"train.{name}"
        decision = rule(facts, train)
        if decision is None:
            continue
        # A resumed run keeps its own value, even where a rule has changed since.
        decided[dotted_key] = recorded.get(dotted_key, decision)
        # Rules further down read this setting.
        train = replace(train, **{name: decided[dotted_key].value})
    return Plan(**vars(config) | {"train": train, "decided": decided})


def _folds(facts: Facts, train: TrainPlan) -> Decision:
    typed = facts.typed
    # Each of these says how the weights are chosen, or how many models there are.
    if typed.select != "auto" or typed.refit != "auto" or typed.members is not None:
        return Decision(0, "train.select, train.refit or train.members is typed")
    num_validation = len(facts.task.validation)
    if typed.validate_on == "test" or num_validation >= BEST_FROM:
        return Decision(0, f"{num_validation} samples validate, not fewer than {BEST_FROM}")
    num_units = _count_units(facts.task)
    if num_units < _FOLDS:
        return Decision(0, f"{num_units} samples or groups, fewer than {_FOLDS} folds")
    return Decision(_FOLDS, f"{num_validation} validation samples, fewer than {BEST_FROM}")


def _count_units(task: TaskData) -> int:
    """Return how many training samples, or groups of them, folds may set apart."""
    groups, _ = joined(task.train.groups(), contents(task.train, task.input_shape))
    return len(task.train) if groups is None else len(np.unique(groups))


def _select(facts: Facts, train: TrainPlan) -> Decision:
    if train.folds:
        return Decision(
            "last",
            f"train.folds={train.folds} judges by all samples, and none are left to choose by",
        )
    if facts.typed.refit is True:
        return Decision("last", "train.refit=true leaves no samples to choose by")
    return facts.by_validation(BEST_FROM, fewer="last", enough="best")


def _select_by(facts: Facts, train: TrainPlan) -> Decision | None:
    # Left open, since nothing reads it.
    if train.select != "best":
        return None
    return facts.by_validation(ERROR_FROM, fewer="loss", enough="error")


def _refit(facts: Facts, train: TrainPlan) -> Decision:
    if train.select == "best":
        return Decision(False, "validation chooses")
    # Samples that the user set apart stay apart.
    if not facts.task.validation_drawn:
        return Decision(False, "validation was not drawn from the training data")
    # The validation samples are the test split here, which nothing may train on.
    if facts.typed.validate_on == "test":
        return Decision(False, "train.validate_on=test")
    if facts.config.task.get("train_fraction") is not None:
        return Decision(False, "task.train_fraction says how much is trained on")
    return Decision(True, "nothing is chosen by validation, which was drawn from the training data")


def _batch_size(facts: Facts, train: TrainPlan) -> Decision:
    num_samples = train.count_learned(facts.task)
    batch_size = 16 if num_samples <= _MIDDLE_SET else 32
    return facts.by_budget(train, min(batch_size, num_samples))


def _epochs(facts: Facts, train: TrainPlan) -> Decision:
    """Decide the number of passes over the samples.

    For a budget of minutes it is that of `normal`, until the time of a step is known
    (stages/expected_time.py).
    """
    num_samples = train.count_learned(facts.task)
    steps_per_epoch = train.steps_per_epoch(num_samples)
    # Bounds are in steps, since a pass over a small set takes only a few.
    if num_samples <= _SMALL_SET:
        total_steps = 400.0
    elif num_samples <= _MIDDLE_SET:
        total_steps = min(800, max(400, 8 * steps_per_epoch))
    else:
        total_steps = min(5000, max(2000, 10 * steps_per_epoch))
    budget = facts.config.budget
    # From the body's features and a ridge on them, training gains little (docs/evidence/start.md).
    is_short = facts.starts_with_features or (train.folds > 0 and facts.starts_as_ridge)
    if budget == "quick" or (budget == "normal" and is_short):
        total_steps *= _QUICK
    elif train.folds:
        # The steps of five folds add up.
        total_steps *= _FOLDED
    # One whole pass at least, whatever the bound on steps (docs/budget.md).
    return facts.by_budget(train, max(1, round(total_steps / steps_per_epoch)))


def _members(facts: Facts, train: TrainPlan) -> Decision:
    budget = facts.config.budget
    num_samples = train.count_learned(facts.task)
    # The gain of a second member was not measured on larger sets and bodies (decision 0021).
    is_cheap = facts.is_small and num_samples <= _MIDDLE_SET and facts.tokens <= _SHORT
    # Members differ in their random filters, which a body's own layer and plain patches lack.
    is_bank = facts.starts_as_ridge and not facts.starts_with_features
    # A length that was typed is that of one model.
    has_open_length = facts.typed.epochs is None
    if train.folds:
        num_members = 1  # each fold is a model already
    elif budget == "thorough":
        num_members = MOST_MEMBERS
    elif budget == "normal" and is_cheap and has_open_length and is_bank:
        num_members = 2
    else:
        num_members = 1
    return facts.by_budget(train, num_members)


def _lr(facts: Facts, train: TrainPlan) -> Decision:
    return facts.by_budget(train, _SMALL_RATE if facts.is_small else _LARGE_RATE)


def _outer_rate(facts: Facts, train: TrainPlan) -> Decision:
    # A rate that the user typed holds for all parameters.
    return facts.by_budget(train, _OUTER_RATE if facts.typed.lr is None else 1.0)


def _warmup_epochs(facts: Facts, train: TrainPlan) -> Decision:
    return facts.by_budget(train, round(_WARMUP * train.falling_epochs, 6))


_Rule = Callable[[Facts, TrainPlan], Decision | None]

# Setting of stage 3 -> the rule that decides it where it is open, from the facts and from the plan
# so far; it returns None to leave the setting open. Rules apply in this order: how long to train
# depends on what is trained on, and that on what chooses the weights.
_RULES: Mapping[str, _Rule] = {
    "folds": _folds,
    "select": _select,
    "select_by": _select_by,
    "refit": _refit,
    "batch_size": _batch_size,
    "epochs": _epochs,
    "members": _members,
    "outer_rate": _outer_rate,
    "lr": _lr,
    "warmup_epochs": _warmup_epochs,
    "weight_decay": lambda facts, train: facts.by_budget(train, _WEIGHT_DECAY),
    "clip": lambda facts, train: facts.by_budget(train, _CLIP),
}
