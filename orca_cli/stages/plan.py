"""The plan of a run: its settings once the data are known, with everything decided.

Rules decide the settings that are left open (null or auto). The number of validation samples
decides how the weights are chosen (docs/selection.md). Budget, number of samples and size of the
model decide how and how long to train (docs/evidence/defaults.md). The paper searches for learning
rate, weight decay and batch size instead (A.3.3: `orca tune`). A resumed run takes the decisions
that it recorded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from orca_cli.config.schema import Config, Train
from orca_cli.data.contents import contents, joined
from orca_cli.data.fraction import Joined
from orca_cli.interfaces import Samples, TaskData

# With at least this number, validation samples evaluate a run and choose its epoch. The error on
# fewer samples is mostly noise, so cross-validation over all samples replaces it.
BEST_FROM = 100
_FOLDS = 5
# With at least this number, the error chooses the epoch; with fewer, the loss, which changes with
# every sample.
ERROR_FROM = 300
_OPEN = (None, "auto")
RECIPE = (
    "embedder",
    "finetune",
)  # groups that `recipe.with_recipe` decides if they are open


class Decision(NamedTuple):
    """The value decided for an open setting, JSON-able, and why: the rule, and the facts for it."""

    value: Any
    why: str


Decided = Mapping[str, Decision]  # by dotted key


def read_decisions(record: Mapping[str, Any], splits: Mapping[str, Any]) -> Decided:
    """Return the decisions in a run's summary of stage 1 or its result.

    Empty if its data were not these `splits`.
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

    `select_by` stays "auto" if `select` is "last", which does not use it.
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
        """Return the number of epochs before the learning rate is 0."""
        return min(self.epochs, self.decay_epochs or self.epochs)

    @property
    def warmup_length(self) -> float:
        """Return the length of the warm-up in epochs.

        It is `warmup_epochs`, but at most the fraction `warmup_limit` of the epochs before the rate
        is 0.
        """
        if self.warmup_limit is None:
            return self.warmup_epochs
        return min(self.warmup_epochs, self.warmup_limit * self.falling_epochs)

    def fitted(self, num_samples: int) -> Self:
        """Return the plan with at most this number of samples in an optimizer step.

        It is the plan itself if its steps are no larger. Otherwise batches get smaller; a step gets
        fewer batches only if it would have more batches than there are samples.
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
        """Return the number of samples in an optimizer step, given the number of all samples."""
        fitted_plan = self.fitted(num_samples)
        return fitted_plan.batch_size * fitted_plan.accumulation

    def steps_per_epoch(self, num_samples: int) -> int:
        """Return the number of optimizer steps of one pass over a number of samples."""
        return -(-num_samples // self.step_size(num_samples))

    def learned(self, task: TaskData) -> Samples:
        """Return the samples that stage 3 trains on: training, or training and validation."""
        if self.refit:
            return Joined([task.train, task.validation])
        return task.train

    def count_learned(self, task: TaskData) -> int:
        """Return how many samples a model of stage 3 trains on; with folds, the largest number."""
        num_learned = len(self.learned(task))
        if self.folds:
            # The smallest fold leaves the most samples to train on.
            num_learned -= num_learned // self.folds
        return num_learned

    def judged_on(self, task: TaskData, learned: Samples) -> tuple[str, Samples | None]:
        """Return the name of the samples that validate the run's weights, and the samples.

        Args:
            task: task of the run.
            learned: the samples that stage 3 trains on; folds together validate on all of them.

        Returns:
            "validation", "test", "folds" or "nothing", and the samples; None with "nothing".
        """
        if self.folds:
            # Checked before `refit`: folds hold out validation samples too, if these are trained
            # on.
            return "folds", learned
        if self.refit:
            return "nothing", None
        return self.validate_on, task.validation


@dataclass(kw_only=True)
class Plan(Config):
    """The settings of a run, with the settings of stage 3 decided.

    Args:
        decided: decisions about settings that were open, with their reasons.
    """

    train: TrainPlan
    decided: Decided


# Numbers of training samples up to which a data set is small or middle-sized, which decides the
# length of stage 3 and the batch size. They apply to protocol=clean: the other protocols set the
# paper's numbers in their own files.
_SMALL_SET = 500
_MIDDLE_SET = 5000
_SHORT = 128  # number of tokens of a sample up to which members of a small model cost little
_SMALL = 50_000_000  # number of parameters up to which a model learns at the higher rate
# Rates and numbers of steps and members were chosen by test errors on small data sets; other data
# sets have to confirm them (docs/evidence/defaults.md).
_SMALL_RATE = 2e-4
_LARGE_RATE = 5e-5
_OUTER_RATE = 10.0
_WEIGHT_DECAY = 0.01
_CLIP = 1.0
_WARMUP = 0.1  # fraction of the steps
_QUICK = 0.25  # fraction of the steps with budget=normal
_FOLDED = 0.5  # fraction of the steps, for each fold
MOST_MEMBERS = 5  # number with budget=thorough, and upper bound with a budget in minutes


def is_minutes(settings: Config) -> bool:
    """Return whether the budget is a time in minutes."""
    return not isinstance(settings.budget, str)


def budget_name(settings: Config) -> str:
    """Return the budget in readable form."""
    if is_minutes(settings):
        return f"{settings.budget:g} min"
    return str(settings.budget)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts that the rules read, and that no rule changes.

    Args:
        config, task: composed settings, and the task's data.
        tokens: number of tokens of a sample.
        parameters: number of parameters of the whole model.
        starts_as_ridge: whether the predictor starts as a ridge regression.
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
        """Return whether the model is small."""
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
        """Return `fewer` if there are fewer validation samples than the bound, else `enough`."""
        num_validation = len(self.task.validation)
        if num_validation < bound:
            return Decision(fewer, f"{num_validation} validation samples, fewer than {bound}")
        return Decision(enough, f"{num_validation} validation samples; {bound} or more are enough")


def decide(facts: Facts, recorded: Decided) -> Plan:
    """Return the plan of a run: a function of facts and recorded decisions.

    Settings that are not open stay as they are.

    Args:
        facts: settings, data and model.
        recorded: decisions of an earlier attempt, or decisions from a measured time, which take
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
        # A resumed run keeps its own value, even if a rule has changed since.
        decided[dotted_key] = recorded.get(dotted_key, decision)
        # Rules further down read this setting.
        train = replace(train, **{name: decided[dotted_key].value})
    return Plan(**vars(config) | {"train": train, "decided": decided})


def _folds(facts: Facts, train: TrainPlan) -> Decision:
    typed = facts.typed
    # Each of these settings decides how the weights are chosen, or how many models there are.
    if typed.select != "auto" or typed.refit is True or (typed.members or 1) > 1:
        return Decision(0, "train.select, train.refit or train.members is set explicitly")
    num_validation = len(facts.task.validation)
    if typed.validate_on == "test" or num_validation >= BEST_FROM:
        return Decision(
            0,
            f"{num_validation} validation samples; folds are not used for {BEST_FROM} or more "
            "validation samples, or with train.validate_on=test",
        )
    num_units = _count_units(facts.task)
    if num_units < _FOLDS:
        return Decision(0, f"{num_units} samples or groups, too few for {_FOLDS} folds")
    return Decision(_FOLDS, f"{num_validation} validation samples, fewer than {BEST_FROM}")


def _count_units(task: TaskData) -> int:
    """Return how many training samples, or groups of them, folds may set apart."""
    groups, _ = joined(task.train.groups(), contents(task.train, task.input_shape))
    return len(task.train) if groups is None else len(np.unique(groups))


def _select(facts: Facts, train: TrainPlan) -> Decision:
    if train.folds:
        return Decision(
            "last",
            f"train.folds={train.folds} leaves no samples on which weights could be chosen",
        )
    if facts.typed.refit is True:
        return Decision("last", "train.refit=true leaves no samples for choosing weights")
    return facts.by_validation(BEST_FROM, fewer="last", enough="best")


def _select_by(facts: Facts, train: TrainPlan) -> Decision | None:
    # Left open, since nothing uses it.
    if train.select != "best":
        return None
    return facts.by_validation(ERROR_FROM, fewer="loss", enough="error")


def _refit(facts: Facts, train: TrainPlan) -> Decision:
    if train.select == "best":
        return Decision(False, "the validation samples are needed to choose the weights")
    # Samples that the user set apart stay apart.
    if not facts.task.validation_drawn:
        return Decision(False, "the validation samples were not drawn from the training data")
    # The validation samples are the test split here, on which no run may train.
    if facts.typed.validate_on == "test":
        return Decision(False, "train.validate_on=test: no run may train on test samples")
    if facts.config.task.get("train_fraction") is not None:
        return Decision(False, "task.train_fraction fixes the number of training samples")
    return Decision(True, "nothing is chosen on validation samples, so the run trains on them too")


def _batch_size(facts: Facts, train: TrainPlan) -> Decision:
    num_samples = train.count_learned(facts.task)
    batch_size = 16 if num_samples <= _MIDDLE_SET else 32
    return facts.by_budget(train, min(batch_size, num_samples))


def _epochs(facts: Facts, train: TrainPlan) -> Decision:
    """Decide the number of passes over the samples.

    For a budget in minutes it is the same as with budget=normal, until the time of a step is known
    (stages/expected_time.py).
    """
    num_samples = train.count_learned(facts.task)
    steps_per_epoch = train.steps_per_epoch(num_samples)
    # Bounds are in steps, since a pass over a small data set takes only a few steps.
    if num_samples <= _SMALL_SET:
        total_steps = 400.0
    elif num_samples <= _MIDDLE_SET:
        total_steps = min(800, max(400, 8 * steps_per_epoch))
    else:
        total_steps = min(5000, max(2000, 10 * steps_per_epoch))
    budget = facts.config.budget
    # If a model starts as a ridge on features, training gains little (docs/evidence/start.md).
    is_short = facts.starts_with_features or (train.folds > 0 and facts.starts_as_ridge)
    if budget == "quick" or (budget == "normal" and is_short):
        total_steps *= _QUICK
    elif train.folds:
        # The steps of five folds add up.
        total_steps *= _FOLDED
    # At least one whole pass, whatever the bound on steps (docs/budget.md).
    return facts.by_budget(train, max(1, round(total_steps / steps_per_epoch)))


def _members(facts: Facts, train: TrainPlan) -> Decision:
    budget = facts.config.budget
    num_samples = train.count_learned(facts.task)
    # The gain of a second member was not measured on larger data sets and bodies (decision 0021).
    is_cheap = facts.is_small and num_samples <= _MIDDLE_SET and facts.tokens <= _SHORT
    # Members differ in their random filters, which a body's own layer and plain patches lack.
    is_bank = facts.starts_as_ridge and not facts.starts_with_features
    # A number of epochs that the user set applies to one model.
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
    # A rate that the user set applies to all parameters.
    return facts.by_budget(train, _OUTER_RATE if facts.typed.lr is None else 1.0)


def _warmup_epochs(facts: Facts, train: TrainPlan) -> Decision:
    return facts.by_budget(train, round(_WARMUP * train.falling_epochs, 6))


_Rule = Callable[[Facts, TrainPlan], Decision | None]

# Setting of stage 3 -> the rule that decides it if it is open, from the facts and from the plan so
# far; a rule returns None to leave the setting open. Rules apply in this order: the length of
# training depends on the training samples, and these depend on how the weights are chosen.
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
