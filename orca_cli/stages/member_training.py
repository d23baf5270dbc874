"""The models that one run fine-tunes in stage 3: one, one for each fold, or several that are drawn apart; and how each trains.

Models that differ in their random features err on different samples, so that the mean of their outputs errs on fewer than one
model does, and on fewer than models that differ in the order of training alone (docs/evidence/defaults.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.config.ranges import LARGEST_SEED
from orca_cli.data.contents import joined
from orca_cli.data.fraction import Part
from orca_cli.data.samples import contents
from orca_cli.data.splits import folds
from orca_cli.exceptions import InterruptionError
from orca_cli.interfaces import Samples
from orca_cli.models.finetuning.state import load_trained_state, trained_state
from orca_cli.progress import Silent
from orca_cli.runs.directory import RunDirectory
from orca_cli.stages import ridge_start
from orca_cli.stages.align import trained
from orca_cli.stages.build import Built, has_alignment, make_model, source_seed
from orca_cli.stages.optimizer_steps import OptimizerSteps
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.averaging import RunningMean
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score, whole_loss

# Before the names of weights in a checkpoint that stand beside the best: averaged ones, and those of `OptimizerSteps.mixing`.
_AVERAGE, _MIXING = "average:", "mixing:"


@dataclass(frozen=True)
class Member:
    """One fine-tuning: what it learns from, and what it is validated on.

    Args:
        folder: where its weights are, below 3_finetune; empty for the only one of a run, whose weights are best/ and last/.
        seed: of its order, dropout and augmentation; of members beside the first, of their embedder and predictor as well.
        samples: what it trains on.
        held_out: what it is validated on after every epoch; None where nothing is left.
        rows: those of `held_out` among the run's training samples, [m]; None where it is none of them.
    """

    folder: str
    seed: int
    samples: Samples
    held_out: Samples | None
    rows: np.ndarray | None = None


def members_of(built: Built) -> list[Member]:
    """Return the members of a run.

    Raises:
        DataError: there are fewer samples than folds.
    """
    plan, train, learned = built.plan, built.plan.train, built.learned
    if train.folds:
        return [_fold(plan.seed, learned, fold, rows) for fold, rows in enumerate(_held_out(built))]
    held_out = None if train.refit else built.task.validation
    count = train.models
    if count == 1:
        return [Member("", plan.seed, learned, held_out)]
    return [
        Member(f"member-{i}", seeding.derive(plan.seed, "finetune", "member", i), learned, held_out)
        for i in range(count)
    ]


def _held_out(built: Built) -> list[np.ndarray]:
    """Return the rows of each fold: drawn as splits are, every class in proportion, groups and identical inputs together."""
    plan, samples, count = built.plan, built.learned, built.plan.train.folds
    classes = np.asarray(samples.targets()) if built.task.kind == "classes" else None
    seed = plan.task.get("split_seed", 0)
    groups, note = joined(samples.groups(), contents(samples, built.task.input_shape))
    if note:
        log.info(f"folds: {note.replace('split', 'fold')}")
    fold = folds(len(samples), count, seed=seed, classes=classes, groups=groups)
    return [np.flatnonzero(fold == i) for i in range(count)]


def _fold(run_seed: int, learned: Samples, fold: int, rows: np.ndarray) -> Member:
    others = np.setdiff1d(np.arange(len(learned)), rows)
    seed = seeding.derive(run_seed, "finetune", "fold", fold)
    return Member(f"fold-{fold}", seed, Part(learned, others), Part(learned, rows), rows)


def drawn_again(built: Built, engine: Engine, run: RunDirectory, *, seed: int) -> dict[str, Tensor]:
    """Return what stage 3 trains of a model that is drawn with another seed, aligned with the same source examples.

    Args:
        built: the run's own model and data; it stays as it is.
        engine: where to compute.
        run: where the alignment leaves what it needs to resume, apart from the run's own.
        seed: of embedder, predictor and alignment.

    Raises:
        NonFiniteError, MemoryExhaustedError: as `align.align`.
    """
    align = replace(built.plan.align, source_seed=source_seed(built.plan))
    run_seed = seed % (LARGEST_SEED + 1)  # one that a run can have, which then starts from the same weights
    plan = replace(built.plan, seed=run_seed, align=align)
    model, _ = make_model(plan, built.task)
    if has_alignment(plan):
        _, trajectory, _ = trained(replace(built, plan=plan, model=model), engine, run, Silent())
        model.embedder.load_state_dict(trajectory.weights)
    return trained_state(model)


@dataclass(frozen=True)
class Fitted:
    """What training one member gave.

    Args:
        chosen: its weights, as `train.select` says.
        last: those after the last step; averaged, where `train.average` says so.
        best: those that validated best; None where nothing validates.
        epoch: after which `chosen` were taken, 1 for the first; 0 for those before any step.
        error: of `chosen` on what validates; None where that is undefined, or nothing validates.
        lines: of its curve, one an epoch.
    """

    chosen: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    best: Mapping[str, Tensor] | None
    epoch: int
    error: float | None
    lines: list[dict[str, Any]]


@dataclass
class Progress:
    """How far a member has come: the step, the lines of the curve, the running epoch's loss, the best weights.

    `start` is what the weights before any step validate with, where these may be chosen.
    """

    step: int = 0
    start: dict[str, Any] | None = None
    lines: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    best_epoch: int = 0
    best: Mapping[str, Tensor] = field(default_factory=dict)
    average: Mapping[str, Tensor] = field(default_factory=dict)
    mixing: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_checkpoint(cls, saved: checkpoint.Checkpoint, start: int) -> Progress:
        """Return what a checkpoint holds; the member's first step was step `start` of the stage."""
        records, kept = saved.records, saved.kept
        averaged, mixing = (
            {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}
            for prefix in (_AVERAGE, _MIXING)
        )
        best = {name: value for name, value in kept.items() if not name.startswith((_AVERAGE, _MIXING))}
        loss_sum, best_epoch = records["loss_sum"], records["best_epoch"]
        begun, lines = records.get("start"), records["lines"]
        return cls(saved.step - start, begun, lines, loss_sum, best_epoch, best, averaged, mixing)

    def plain(self) -> dict[str, Any]:
        """Return the part of it that is no tensor."""
        return {name: getattr(self, name) for name in ("start", "lines", "loss_sum", "best_epoch")}


@dataclass(frozen=True)
class Place:
    """Where a member stands in its run.

    Args:
        number: of the member, 0 for the first.
        first_step: steps of the stage before its own first one.
    """

    number: int
    first_step: int


class MemberTraining:
    """The training of one member; the model holds its current weights.

    Args:
        built, engine, run: of the run; all that is trained of the model is as it is before the first step.
        member: what to train on, and what validates.
        saver: the checkpoints of the stage.
        place: where the member stands in the run.
        saved: the checkpoint to resume from; None starts.
    """

    def __init__(
        self,
        built: Built,
        engine: Engine,
        run: RunDirectory,
        member: Member,
        saver: checkpoint.Saver,
        place: Place,
        saved: checkpoint.Checkpoint | None,
    ) -> None:
        plan = built.plan
        self._plan, self._built, self._engine, self._run = plan, built, engine, run
        self._member, self._saver, self._place = member, saver, place
        self._is_start_fitted = ridge_start.is_wanted(plan, built.model) and ridge_start.start(
            built, engine, member.samples, member.seed
        )
        self.total = plan.train.epochs * plan.train.steps_per_epoch(len(member.samples))
        self._steps = OptimizerSteps(built, engine, samples=member.samples, seed=member.seed)
        names = trained_state(built.model) if plan.train.average else ()
        self._mean = RunningMean(built.model, names, last_steps(self.total, plan.train.average))
        self._progress = Progress()
        if saved is not None:
            self._progress = Progress.from_checkpoint(saved, self._place.first_step)
            load_trained_state(built.model, saved.weights)
            checkpoint.restore_optimizer(self._steps.optimizer, saved.optimizer)
            engine.restore_scaler(saved.scaler)
            engine.restore_splits(saved.records.get("splits", 1))
            self._mean.restore(self._progress.average)
            if self._steps.mixing is not None:
                self._steps.mixing.load_state_dict(self._progress.mixing)

    def train(self, advance: Callable[[int, str], None]) -> Fitted:
        """Take all remaining steps.

        Args:
            advance: called after every step with the steps since the last call, and a note.
        """
        progress, shown = self._progress, 0
        with self._steps:
            if self._is_start_fitted and progress.step == 0 and self._member.held_out is not None:
                validation = self._interruptibly_validated()
                progress.start = {"validation_error": validation[0], "validation_loss": validation[1]}
                progress.best = trained_state(self._built.model)
            while True:
                if progress.step == self._steps.per_epoch * (len(progress.lines) + 1):
                    self._end_epoch()
                advance(progress.step - shown, self._note())
                shown, is_last = progress.step, progress.step == self.total
                # What follows the last step may be interrupted.
                is_due = self._saver.is_due(self._place.first_step + progress.step)
                if signals.pending() is not None or is_last or is_due:
                    self._save()
                signals.check()
                if is_last:
                    return self._fitted()
                loss, rows = self._steps.take(progress.step)
                progress.loss_sum += loss * len(rows)
                progress.step += 1
                self._mean.add(progress.step)

    def _fitted(self) -> Fitted:
        progress, built = self._progress, self._built
        with self._mean.in_place():
            last = trained_state(built.model)
        if self._member.held_out is None:
            return Fitted(last, last, None, self._plan.train.epochs, None, progress.lines)
        is_best = self._plan.train.select == "best"
        epoch = progress.best_epoch if is_best else self._plan.train.epochs
        chosen = progress.best if is_best else last
        line = progress.lines[epoch - 1] if epoch else progress.start
        assert line is not None
        return Fitted(chosen, last, progress.best, epoch, line["validation_error"], progress.lines)

    def _save(self) -> None:
        progress = self._progress
        averaged = {_AVERAGE + name: value for name, value in self._mean.state().items()}
        mixing = {} if self._steps.mixing is None else checkpoint.snapshot(self._steps.mixing)
        # After the last step, what follows needs no optimizer, whose state is twice the size of the weights.
        optimizer = checkpoint.optimizer_tensors(self._steps.optimizer) if progress.step < self.total else {}
        saved = checkpoint.Checkpoint(
            self._place.first_step + progress.step,
            trained_state(self._built.model),
            optimizer,
            dict(progress.best) | averaged | {_MIXING + name: value for name, value in mixing.items()},
            progress.plain() | {"member": self._place.number, "splits": self._engine.cuts.splits},
            self._engine.scaler_state(),
        )
        if progress.step and self._saver.save(saved):
            self._run.set_state("finetune", step=saved.step)

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, and record the epoch."""
        progress, built = self._progress, self._built
        validation: tuple[float | None, float | None] = (None, None)
        if self._member.held_out is not None:
            validation = self._interruptibly_validated()
        line: dict[str, Any] = {
            "epoch": len(progress.lines) + 1,
            "step": progress.step,
            "lr": self._steps.rate(progress.step - 1),
            "train_loss": progress.loss_sum / len(self._member.samples),
            "validation_error": validation[0],
            "validation_loss": validation[1],
        }
        if self._member.folder:
            line = {"member": self._place.number} | line
        earlier = progress.lines if progress.start is None else [progress.start, *progress.lines]
        if self._member.held_out is not None and is_better(line, earlier, self._rule):
            progress.best_epoch = line["epoch"]
            with self._mean.in_place():
                progress.best = trained_state(built.model)
        progress.lines.append(line)
        progress.loss_sum = 0.0
        self._run.record("finetune", line)

    def _interruptibly_validated(self) -> tuple[float | None, float | None]:
        """Return error and loss; on an interruption, save a checkpoint first so that no step is repeated."""
        if self._plan.train.validate_on == "test":
            self._run.count_test_read()
        try:
            with signals.immediate(), self._mean.in_place():
                return self._validation()
        except InterruptionError:
            self._save()
            raise

    @property
    def _rule(self) -> str:
        return "validation_loss" if self._plan.train.select_by == "loss" else "validation_error"

    def _validation(self) -> tuple[float | None, float | None]:
        """Return error and loss of the weights on what validates."""
        built, samples, size = self._built, self._member.held_out, self._plan.train.eval_batch_size
        assert samples is not None
        outputs, targets = predict(self._engine, built.model, samples, size)
        loss = whole_loss(self._engine, built.loss, outputs, targets, size, self._steps.unit)
        return score(built.error, outputs, samples, targets).value, loss

    def _note(self) -> str:
        lines = self._progress.lines
        if not lines or lines[-1]["validation_error"] is None:
            return ""
        return f"validation {self._built.error.name} {lines[-1]['validation_error']:.4f}"


def last_steps(total: int, share: float | None) -> range:
    """Return the last part of the steps 1..total, at least one of them; none where the share is None."""
    count = max(1, round(total * share)) if share else 0
    return range(total - count + 1, total + 1)


def is_better(line: Mapping[str, Any], earlier: list[dict[str, Any]], rule: str) -> bool:
    """Return whether an epoch validates at least as well as all before it: of equal ones the later has trained longer.

    An undefined validation (only one class, say) is never better than a defined one; among undefined ones the latest wins.

    Args:
        line: of the epoch.
        earlier: lines of the epochs before.
        rule: validation_error or validation_loss.
    """
    defined = [one[rule] for one in earlier if one[rule] is not None]
    return not defined if line[rule] is None else all(line[rule] <= value for value in defined)
