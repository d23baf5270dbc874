"""The models that one run fine-tunes in stage 3, and how each trains.

A run fine-tunes one model, one model for each fold, or several models whose random draws differ.
Models that differ in their random features err on different samples. So the mean of their outputs
has a lower error than one model, and than the mean over models that differ in the order of training
alone (docs/evidence/defaults.md).
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import InitVar, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.config.ranges import LARGEST_SEED
from orca_cli.data.contents import contents, joined
from orca_cli.data.fraction import Part
from orca_cli.data.splits import folds
from orca_cli.exceptions import InterruptionError
from orca_cli.interfaces import Samples
from orca_cli.models.finetuning.modes import load_trained_state, trained_state
from orca_cli.progress import Silent
from orca_cli.runs.directory import RunDirectory
from orca_cli.stages import ridge_start
from orca_cli.stages.align import obtain_trajectory
from orca_cli.stages.build import (
    Built,
    Record,
    has_alignment,
    make_model,
    source_seed,
    split_record,
)
from orca_cli.stages.optimizer_steps import OptimizerSteps
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score, whole_loss


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member of a run: the samples that it is trained on and validated on.

    Args:
        number: number of the member, from 0.
        folder: folder of its weights, below 3_finetune; empty for the only member of a run, whose
            weights are in best/ and last/.
        seed: seed of its sample order, its dropout and the draws of its task; for folds, and for
            members after the first, also of embedder and predictor.
        samples: samples that it is trained on.
        held_out: samples that it is validated on after every epoch; None if there are none.
        rows: rows of `held_out` among the run's training samples, [m]; None if the member is not a
            fold.
    """

    number: int
    folder: str
    seed: int
    samples: Samples
    held_out: Samples | None
    rows: np.ndarray | None = None


def members_of(built: Built) -> list[Member]:
    """Return the members of a run.

    Folds are drawn like splits: every class in proportion, groups and identical inputs together.

    Raises:
        DataError: there are fewer samples than folds.
    """
    plan = built.plan
    if plan.train.folds:
        return _folds(built)
    _, held_out = plan.train.judged_on(built.task, built.learned)
    if plan.train.members == 1:
        return [
            Member(number=0, folder="", seed=plan.seed, samples=built.learned, held_out=held_out)
        ]
    return [
        Member(
            number=number,
            folder=f"member-{number}",
            seed=seeding.derive(plan.seed, "finetune", "member", number),
            samples=built.learned,
            held_out=held_out,
        )
        for number in range(plan.train.members)
    ]


def _folds(built: Built) -> list[Member]:
    """Return a member for each fold."""
    plan = built.plan
    learned = built.learned
    sample_classes = np.asarray(learned.targets()) if built.task.kind == "classes" else None
    # Copies of an input share a fold: in training, they would make the error of the fold too low.
    groups, grouping_note = joined(learned.groups(), contents(learned, built.task.input_shape))
    if grouping_note:
        log.info(f"folds: {grouping_note.replace('split', 'fold')}")
    fold_numbers = folds(
        len(learned),
        plan.train.folds,
        # The split's seed, so that runs of all seeds have the same folds.
        seed=plan.task.get("split_seed", 0),
        classes=sample_classes,
        groups=groups,
    )  # [n], number of the fold that holds each sample out
    members = []
    for number in range(plan.train.folds):
        # [m], the samples that this member holds out
        held_out_rows = np.flatnonzero(fold_numbers == number)
        member = Member(
            number=number,
            folder=f"fold-{number}",
            seed=seeding.derive(plan.seed, "finetune", "fold", number),
            samples=Part(learned, np.flatnonzero(fold_numbers != number)),
            held_out=Part(learned, held_out_rows),
            rows=held_out_rows,
        )
        members.append(member)
    return members


def drawn_again(
    built: Built, engine: Engine, run: RunDirectory, member: Member
) -> dict[str, Tensor]:
    """Return the weights of a model drawn by a member's seed and aligned with the same source.

    The model of a fold is aligned with the fold's own training samples: with all samples, it would
    have seen the labels of the samples that validate it. `built` is not changed.

    Args:
        built, engine: objects of the run.
        run: a separate run folder, in which the alignment saves what it needs to resume.
        member: member whose model is returned.

    Returns:
        the weights, as from `trained_state`.

    Raises:
        OrcaError: any that `align.obtain_trajectory` raises.
    """
    # Fixed here: a null `align.source_seed` would follow the new seed to other source points.
    align_settings = replace(built.plan.align, source_seed=source_seed(built.plan))
    # A seed that is valid for a run, which then starts from the same weights.
    plan = replace(built.plan, seed=member.seed % (LARGEST_SEED + 1), align=align_settings)
    task = built.task
    summary = built.summary
    if member.rows is not None and member.held_out is not None:
        task = replace(task, train=member.samples, validation=member.held_out)
        splits = {"train": split_record(task.train), "val": split_record(task.validation)}
        # The name of an alignment in the cache contains the digests of its data.
        summary = summary | {"splits": splits}
    # To the bit the same model as in a run with this seed (decision 0021).
    model, _ = make_model(plan, task)
    if has_alignment(plan):
        # Aligned silently: the run shows its own alignment.
        redrawn = replace(built, plan=plan, model=model, task=task, summary=summary)
        _, trajectory = obtain_trajectory(redrawn, engine, run, Silent())
        model.embedder.load_state_dict(trajectory.tensors)
    return trained_state(model)


@dataclass(kw_only=True)
class MemberTraining:
    """The training of one member; the model of `built` has its current weights.

    The constructor gives the model the checkpoint's weights or, without a checkpoint, gives the
    predictor its start (`ridge_start`).

    Args:
        built: output of stage 1; its model has the weights that the member starts from.
        engine, run: objects of the run.
        member: member to train.
        saver: checkpoints of the stage, one series for all members.
        first_step: number of steps in the stage before the member's own first step.
        saved: checkpoint to resume from; None to start from the beginning.

    Attributes:
        best: weights with the best validation so far; empty without validation samples.
        lines: lines of its curve, one for each epoch.
    """

    built: Built
    engine: Engine
    run: RunDirectory
    member: Member
    saver: checkpoint.Saver
    first_step: int
    saved: InitVar[checkpoint.Checkpoint | None]

    def __post_init__(self, saved: checkpoint.Checkpoint | None) -> None:
        built = self.built
        member = self.member
        self._train = built.plan.train
        # A checkpoint has the fitted weights in it.
        self._is_start_fitted = saved is None and ridge_start.start(
            built, self.engine, member.samples, member.seed
        )
        self._steps = OptimizerSteps(built, self.engine, member.samples, member.seed)
        self._step = 0
        self._outputs = torch.empty(0)
        self.best: dict[str, Tensor] = {}
        # The content of a checkpoint in addition to tensors; "start": validation of the weights
        # before any step, if they may be chosen.
        self._records: Record = {
            "start": None,
            "lines": [],
            "loss_sum": 0.0,
            "best_epoch": 0,
            "member": member.number,
        }
        if saved is not None:
            # Checkpoints count the steps of the stage, over all members.
            self._step = saved.step - self.first_step
            self.best = saved.kept
            self._records |= saved.records
            load_trained_state(built.model, saved.weights)
            checkpoint.restore_optimizer(self._steps.optimizer, saved.optimizer)
            self.engine.restore_scaler(saved.scaler)
        self.lines: list[Record] = self._records["lines"]

    def train(self, advance: Callable[[int, str], None]) -> None:
        """Take all remaining steps.

        Every epoch is validated and recorded in metrics.jsonl. Checkpoints are written every
        `train.checkpoint_s` seconds, after the last step, and before an InterruptionError.

        Args:
            advance: function that is called after each step with the number of steps since the last
                call, and a note.

        Raises:
            OrcaError: any that `OptimizerSteps.take` and `predict` raise.
        """
        shown_steps = 0
        with closing(self._steps):
            # A fitted start may be better than every epoch, so it competes as epoch 0.
            if self._is_start_fitted and self.member.held_out is not None:
                self._records["start"] = self._validated()
                self.best = trained_state(self.built.model)
                # Kept, because all starts together may be better than all trained members together.
                self.run.write_arrays(
                    "finetune", start_file(self.member.number), outputs=self._outputs.numpy()
                )
            while True:
                # Checked before the step: a checkpoint may lie between an epoch's last step and its
                # validation.
                epoch_end = self._steps.per_epoch * (len(self.lines) + 1)
                if self._step == epoch_end:
                    self._end_epoch()
                progress_note = ""
                error = self.lines[-1]["validation_error"] if self.lines else None
                if error is not None:
                    progress_note = f"validation {self.built.error.name} {error:.4f}"
                advance(self._step - shown_steps, progress_note)
                shown_steps = self._step
                is_last = self._step == self._steps.total
                is_due = self.saver.is_due(self.first_step + self._step)
                # The work after the last step may be interrupted.
                if is_last or is_due or signals.pending() is not None:
                    self._save()
                signals.check()
                if is_last:
                    return
                step_loss, step_rows = self._steps.take(self._step)
                # Weighted by samples, since the last step of an epoch may see fewer.
                self._records["loss_sum"] += step_loss * len(step_rows)
                self._step += 1

    @property
    def epoch(self) -> int:
        """Return the epoch after which the chosen weights were taken, 1 for the first.

        It is 0 for the weights before any step.
        """
        if self._train.select == "best":
            return self._records["best_epoch"]
        return self._train.epochs

    @property
    def error(self) -> float | None:
        """Return the validation error of the chosen weights.

        It is None if it is undefined, or without validation samples.
        """
        chosen_line = self.lines[self.epoch - 1] if self.epoch else self._records["start"]
        return chosen_line["validation_error"]

    @property
    def start_error(self) -> float | None:
        """Return the validation error before any step; None unless the start was fitted."""
        start = self._records["start"]
        return None if start is None else start["validation_error"]

    def chosen(self) -> dict[str, Tensor]:
        """Return the weights that `train.select` chooses, as from `trained_state`.

        Call it after all steps, when the model has the weights of the last step.
        """
        if self._train.select == "best":
            return self.best
        return trained_state(self.built.model)

    def _save(self) -> None:
        # After the last step, no optimizer is needed, whose state is twice the size of the weights.
        is_last = self._step == self._steps.total
        new_checkpoint = checkpoint.Checkpoint(
            step=self.first_step + self._step,
            weights=trained_state(self.built.model),
            optimizer={} if is_last else checkpoint.optimizer_tensors(self._steps.optimizer),
            kept=self.best,
            records=self._records,
            scaler=self.engine.scaler_state(),
        )
        if self._step and self.saver.save(new_checkpoint):
            self.run.set_state("finetune", step=new_checkpoint.step)

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best so far, and record the epoch."""
        records = self._records
        member = self.member
        line: Record = {}
        if member.folder:
            line["member"] = member.number
        line |= {
            "epoch": len(self.lines) + 1,
            "step": self._step,
            "lr": self._steps.rate(self._step - 1),
            "train_loss": records["loss_sum"] / len(member.samples),
            **self._validated(),
        }
        earlier_lines = list(self.lines)
        if records["start"] is not None:
            earlier_lines.append(records["start"])
        # With few samples the loss chooses, since it changes with every sample (docs/selection.md).
        rule = "validation_loss" if self._train.select_by == "loss" else "validation_error"
        # Kept with select=last too: a single model writes both best/ and last/.
        if member.held_out is not None and is_better(line, earlier_lines, rule):
            records["best_epoch"] = line["epoch"]
            self.best = trained_state(self.built.model)
        self.lines.append(line)
        records["loss_sum"] = 0.0
        self.run.record("finetune", line)

    def _validated(self) -> dict[str, float | None]:
        """Return error and loss on the validation samples.

        On an interruption, save a checkpoint first so that no step is repeated.
        """
        held_out = self.member.held_out
        if held_out is None:
            return {"validation_error": None, "validation_loss": None}
        # Every epoch opens the test split here, and the result counts how often.
        if self._train.validate_on == "test":
            self.run.count_test_read()
        built = self.built
        batch_size = self._train.eval_batch_size
        try:
            with signals.immediate():
                outputs, targets = predict(self.engine, built.model, held_out, batch_size)
                loss = whole_loss(
                    self.engine,
                    built.loss,
                    outputs,
                    targets,
                    batch_size=batch_size,
                    unit=self._steps.unit,
                )
                error = score(built.error, outputs, held_out, targets).value
                self._outputs = outputs
        except InterruptionError:
            self._save()
            raise
        return {"validation_error": error, "validation_loss": loss}


def start_file(number: int) -> str:
    """Return the name of the file of a member's validation outputs before any step."""
    return f"start-{number}.npz"


def is_better(line: Record, earlier: list[Record], rule: str) -> bool:
    """Return whether an epoch's value of `rule` is at most that of every earlier epoch.

    Among equal values the latest wins. An undefined value (for example, with only one class) is
    never better than a defined value; among undefined values the latest wins.
    """
    earlier_values = [epoch[rule] for epoch in earlier if epoch[rule] is not None]
    if line[rule] is None:
        return not earlier_values
    return all(line[rule] <= earlier_value for earlier_value in earlier_values)
