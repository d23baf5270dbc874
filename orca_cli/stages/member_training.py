"""The optimizer steps of one member of stage 3, with their checkpoints, and the choice among its epochs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from orca_cli import signals
from orca_cli.config.practices import PRACTICES
from orca_cli.config.schema import Config, settled
from orca_cli.exceptions import InterruptionError, NonFiniteError
from orca_cli.runs.directory import RunDirectory
from orca_cli.stages import ridge_start
from orca_cli.stages.build import Built, steps_per_epoch
from orca_cli.stages.members import Member
from orca_cli.stages.rate_watch import BestConstant, RateChange, RateWatch
from orca_cli.stages.training_plan import TrainingPlan, loss_unit
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.averaging import RunningMean
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score, whole_loss
from orca_cli.training.schedule import warmup_length

# Before the names of weights in a checkpoint that stand beside the best: averaged ones, and those of `TrainingPlan.mixing`.
_AVERAGE, _MIXING = "average:", "mixing:"


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
        change: of its rate; None where that stayed as set.
    """

    chosen: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    best: Mapping[str, Tensor] | None
    epoch: int
    error: float | None
    lines: list[dict[str, Any]]
    change: RateChange | None = None


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


class MemberTraining:
    """The training of one member; the model holds its current weights.

    Args:
        config, built, engine, run: of the run; all that is trained of the model is as it is before the first step.
        member: what to train on, and what validates.
        saver: the checkpoints of the stage.
        place: number of the member in the run, and the steps of the stage before its first one.
        saved: the checkpoint to resume from; None starts.
        before: lines of the curves of the members before.
        change: of the rate, in a member before.
    """

    def __init__(
        self,
        config: Config,
        built: Built,
        engine: Engine,
        run: RunDirectory,
        member: Member,
        saver: checkpoint.Saver,
        place: tuple[int, int] = (0, 0),
        saved: checkpoint.Checkpoint | None = None,
        before: Sequence[Mapping[str, Any]] = (),
        change: RateChange | None = None,
    ) -> None:
        self._config, self._built, self._engine, self._run = config, built, engine, run
        self._member, self._saver = member, saver
        self._number, self._start = place
        self._before = before
        samples = member.samples
        self._is_start_fitted = ridge_start.is_wanted(config, built.model) and ridge_start.start(
            built, engine, samples, member.seed
        )
        self._first = built.finetune.trainable_state(built.model) if config.train.adapt_rate else {}
        self.total = settled(config.train.epochs) * steps_per_epoch(config, len(member.samples))
        self._watch = self._watched(change)
        if saved is not None:
            self._watch.restore(saved.records["rate"])
        self._begin()
        if saved is not None:
            self._progress = Progress.from_checkpoint(saved, self._start)
            built.finetune.load_trainable_state(built.model, saved.weights)
            checkpoint.restore_optimizer(self._plan.optimizer, saved.optimizer)
            engine.restore_scaler(saved.scaler)
            engine.restore_splits(saved.records.get("splits", 1))
            self._mean.restore(self._progress.average)
            if self._plan.mixing is not None:
                self._plan.mixing.load_state_dict(self._progress.mixing)

    def _watched(self, change: RateChange | None) -> RateWatch:
        config, built = self._config, self._built
        constant = None
        is_mean = config.train.accumulation == 1 or not PRACTICES[config.protocol].sums_batches
        if config.train.adapt_rate and change is None and is_mean:
            unit = loss_unit(config, built)
            best = BestConstant(built.loss, self._member.samples, built.task.num_outputs, self._member.seed, unit)
            constant = best.loss if math.isfinite(best.loss()) else None
        per_epoch = steps_per_epoch(config, len(self._member.samples))
        return RateWatch(
            settled(config.train.lr),
            total=self.total,
            warmup=warmup_length(config.train) * per_epoch,
            per_epoch=per_epoch,
            constant=constant,
            # A loss on mixtures says little of the rate.
            enabled=config.train.adapt_rate and config.align.method != "pare",
            changed=change,
        )

    def _begin(self) -> None:
        """Prepare the first step, at the rate that the watch says."""
        config, built = self._config, self._built
        at_rate = dataclasses.replace(config, train=dataclasses.replace(config.train, lr=self._watch.lr))
        self._plan = TrainingPlan(at_rate, built, self._engine, samples=self._member.samples, seed=self._member.seed)
        names = built.finetune.trainable_state(built.model) if config.train.average else ()
        self._mean = RunningMean(built.model, names, last_steps(self.total, config.train.average))
        self._progress = Progress()

    def train(self, advance: Callable[[int, str], None]) -> Fitted:
        """Take all remaining steps, or all of them again where the rate has to change.

        Args:
            advance: called after every step with the steps since the last call, and a note.
        """
        while True:
            with self._plan:
                fitted = self._take_steps(advance)
            if fitted is not None:
                return fitted
            advance(-self._progress.step, "")
            self._begin_again()

    def _take_steps(self, advance: Callable[[int, str], None]) -> Fitted | None:
        """Take all remaining steps; returns None as soon as the rate has to change."""
        progress, shown = self._progress, 0
        if self._is_start_fitted and progress.step == 0 and self._member.held_out is not None:
            validation = self._interruptibly_validated()
            progress.start = {"validation_error": validation[0], "validation_loss": validation[1]}
            progress.best = self._built.finetune.trainable_state(self._built.model)
        while True:
            if progress.step == self._plan.per_epoch * (len(progress.lines) + 1):
                self._end_epoch()
            advance(progress.step - shown, self._note())
            shown, is_last = progress.step, progress.step == self.total
            # What follows the last step may be interrupted.
            if signals.pending() is not None or is_last or self._saver.is_due(self._start + progress.step):
                self._save()
            signals.check()
            if is_last:
                return self._fitted()
            try:
                loss, rows = self._plan.take(progress.step)
            except NonFiniteError:
                if self._watch.overflowed():
                    return None
                raise
            if self._watch.saw(loss, rows):
                return None
            progress.loss_sum += loss * len(rows)
            progress.step += 1
            self._mean.add(progress.step)

    def _begin_again(self) -> None:
        """Go back to the first weights, as if the new rate had been set; checkpoints would resume what was given up."""
        log.warning(f"finetune: {self._watch.change} (train.adapt_rate=false leaves it as it is)")
        self._built.finetune.load_trainable_state(self._built.model, self._first)
        self._saver.discard()
        self._run.rewind("finetune", self._before)
        self._begin()

    def _fitted(self) -> Fitted:
        progress, built = self._progress, self._built
        with self._mean.in_place():
            last = built.finetune.trainable_state(built.model)
        if self._member.held_out is None:
            return Fitted(
                last, last, None, settled(self._config.train.epochs), None, progress.lines, self._watch.change
            )
        is_best = self._config.train.select == "best"
        epoch = progress.best_epoch if is_best else settled(self._config.train.epochs)
        chosen = progress.best if is_best else last
        line = progress.lines[epoch - 1] if epoch else progress.start
        assert line is not None
        return Fitted(chosen, last, progress.best, epoch, line["validation_error"], progress.lines, self._watch.change)

    def _save(self) -> None:
        progress = self._progress
        averaged = {_AVERAGE + name: value for name, value in self._mean.state().items()}
        mixing = {} if self._plan.mixing is None else checkpoint.snapshot(self._plan.mixing)
        # After the last step, what follows needs no optimizer, whose state is twice the size of the weights.
        optimizer = checkpoint.optimizer_tensors(self._plan.optimizer) if progress.step < self.total else {}
        saved = checkpoint.Checkpoint(
            self._start + progress.step,
            self._built.finetune.trainable_state(self._built.model),
            optimizer,
            dict(progress.best) | averaged | {_MIXING + name: value for name, value in mixing.items()},
            progress.plain()
            | {"member": self._number, "rate": self._watch.plain(), "splits": self._engine.cuts.splits},
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
            "lr": self._plan.rate(progress.step - 1),
            "train_loss": progress.loss_sum / len(self._member.samples),
            "validation_error": validation[0],
            "validation_loss": validation[1],
        }
        if self._member.folder:
            line = {"member": self._number} | line
        earlier = progress.lines if progress.start is None else [progress.start, *progress.lines]
        if self._member.held_out is not None and is_better(line, earlier, self._rule):
            progress.best_epoch = line["epoch"]
            with self._mean.in_place():
                progress.best = built.finetune.trainable_state(built.model)
        progress.lines.append(line)
        progress.loss_sum = 0.0
        self._run.record("finetune", line)

    def _interruptibly_validated(self) -> tuple[float | None, float | None]:
        """Return error and loss; on an interruption, save a checkpoint first so that no step is repeated."""
        if self._config.train.validate_on == "test":
            self._run.count_test_read()
        try:
            with signals.immediate(), self._mean.in_place():
                return self._validation()
        except InterruptionError:
            self._save()
            raise

    @property
    def _rule(self) -> str:
        return "validation_loss" if self._config.train.select_by == "loss" else "validation_error"

    def _validation(self) -> tuple[float | None, float | None]:
        """Return error and loss of the weights on what validates."""
        built, samples, size = self._built, self._member.held_out, self._config.train.eval_batch_size
        assert samples is not None
        outputs, targets = predict(self._engine, built.model, samples, size)
        loss = whole_loss(self._engine, built.loss, outputs, targets, size, self._plan.unit)
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
