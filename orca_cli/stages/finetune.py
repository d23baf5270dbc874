"""Stage 3: train on the task's loss and choose the weights on the validation split; then read the test split once (paper 3.3).

Training and testing are two functions, so that a search can train and validate while the test split stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.exceptions import DataError, InterruptionError
from orca_cli.interfaces import Reporter, Samples, Score
from orca_cli.runs.curves import short_curve
from orca_cli.runs.directory import CHECKPOINTS, RunDirectory
from orca_cli.schema import Config
from orca_cli.stages.build import Built, split_record
from orca_cli.stages.training_plan import TrainingPlan
from orca_cli.tasks.shared.overlap import count_shared
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score
from orca_cli.training.schedule import shortened_warmup

_WHOLE_TARGETS = 2**26  # values of the training targets that the constant predictor may see at once
_COLUMNS = ("epoch", "step", "train_loss", "validation_error")


@dataclass(frozen=True)
class Trained:
    """What training found; the model holds the chosen weights.

    Args:
        validation_error: of the chosen weights; None where it is undefined.
        epoch: after which they were taken, 1 for the first.
        curve: training loss and validation error after every epoch, at most 100 lines.
        weights_sha256: of the whole model with the chosen weights.
    """

    validation_error: float | None
    epoch: int
    curve: list[dict[str, Any]]
    weights_sha256: str


@dataclass(frozen=True)
class Tested:
    """Test results of the chosen weights.

    Args:
        score: test error.
        trivial: test error of the best constant predictor that the training targets allow.
        split: size and hash of the test split, and how many of its inputs are in the training split as well.
        reads: how often the test split was opened.
        samples: the split, for what is measured beside the model.
        outputs, targets: of the model, on all of it.
        constant: outputs of the best constant predictor.
    """

    score: Score
    trivial: float | None
    split: dict[str, Any]
    reads: int
    samples: Samples
    outputs: Tensor
    targets: Tensor
    constant: Tensor


@dataclass
class _Progress:
    """How far training has come: the step, the lines of the curve, the running epoch's loss, the best weights."""

    step: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    best_epoch: int = 0
    best: Mapping[str, Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {"lines": self.lines, "loss_sum": self.loss_sum, "best_epoch": self.best_epoch}


def finetune(config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Trained:
    """Train and choose; resumes from the last checkpoint where there is one. The test split stays closed.

    Writes 3_finetune/metrics.jsonl, best/ and last/.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; the last checkpoint is intact.
    """
    run.set_state("finetune")
    built.model.to(engine.device)
    progress = _Training(config, built, engine, run, reporter).train()
    last = built.finetune.trainable_state(built.model)
    best = progress.best or last
    for name, weights in (("last", last), ("best", best)):
        checkpoint.commit_weights(run.stage("finetune") / name, weights, owner=run.name.identity)
    is_best = config.train.select == "best"
    built.finetune.load_trainable_state(built.model, best if is_best else last)
    epoch = progress.best_epoch if is_best else config.train.epochs
    return Trained(
        validation_error=progress.lines[epoch - 1]["validation_error"],
        epoch=epoch,
        curve=short_curve(progress.lines, _COLUMNS),
        weights_sha256=checkpoint.weights_sha256(built.model.state_dict()),
    )


class _Training:
    """The optimizer steps of stage 3 with their checkpoints."""

    def __init__(self, config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> None:
        self._config, self._built, self._engine, self._run, self._reporter = config, built, engine, run, reporter
        self._plan = TrainingPlan(config, built, engine)
        if note := shortened_warmup(config.train):
            reporter.say(f"finetune: {note}")
        self._total = config.train.epochs * self._plan.per_epoch
        self._saver = checkpoint.Saver(
            run.stage("finetune") / CHECKPOINTS, owner=run.name.identity, every_s=config.train.checkpoint_s
        )
        self._progress = self._resumed()
        run.rewind("finetune", self._progress.lines)

    def _resumed(self) -> _Progress:
        saved = self._saver.load()
        if saved is None:
            return _Progress()
        self._built.finetune.load_trainable_state(self._built.model, saved.weights)
        checkpoint.restore_optimizer(self._plan.optimizer, saved.optimizer)
        self._engine.restore_scaler(saved.scaler)
        self._reporter.say(f"finetune: resumed at step {saved.step} of {self._total}")
        records = saved.records
        return _Progress(saved.step, records["lines"], records["loss_sum"], records["best_epoch"], saved.kept)

    def train(self) -> _Progress:
        """Take all remaining steps."""
        progress, shown = self._progress, 0
        with self._plan, self._reporter.track("finetune", self._total) as advance:
            while True:
                if progress.step == self._plan.per_epoch * (len(progress.lines) + 1):
                    self._end_epoch()
                advance(progress.step - shown, self._note())
                shown, is_last = progress.step, progress.step == self._total
                # What follows the last step may be interrupted.
                if signals.pending() is not None or is_last or self._saver.is_due(progress.step):
                    self._save()
                signals.check()
                if is_last:
                    return progress
                loss, samples = self._plan.take(progress.step)
                progress.loss_sum += loss * samples
                progress.step += 1

    def _save(self) -> None:
        progress = self._progress
        saved = checkpoint.Checkpoint(
            progress.step,
            self._built.finetune.trainable_state(self._built.model),
            checkpoint.optimizer_tensors(self._plan.optimizer),
            dict(progress.best),
            progress.plain(),
            self._engine.scaler_state(),
        )
        if progress.step and self._saver.save(saved):
            self._run.set_state("finetune", step=progress.step)

    def _end_epoch(self) -> None:
        """Measure the validation error, keep the weights if they are the best so far, and record the epoch."""
        if self._config.train.validate_on == "test":
            self._run.count_test_read()
        progress, built = self._progress, self._built
        try:
            with signals.immediate():
                samples = built.task.validation
                outputs, targets = predict(self._engine, built.model, samples, self._config.train.eval_batch_size)
                validation = score(built.error, outputs, samples, targets).value
        except InterruptionError:  # the epoch's last step is not taken again, its validation is
            self._save()
            raise
        earlier = [line["validation_error"] for line in progress.lines if line["validation_error"] is not None]
        epoch = len(progress.lines) + 1
        # An undefined validation error (one class only, say) cannot choose; then the latest weights count as best.
        if validation is None or not earlier or validation < min(earlier):
            progress.best_epoch = epoch
            progress.best = built.finetune.trainable_state(built.model)
        progress.lines.append(
            {
                "epoch": epoch,
                "step": progress.step,
                "lr": self._plan.rate(progress.step - 1),
                "train_loss": progress.loss_sum / len(built.task.train),
                "validation_error": validation,
            }
        )
        progress.loss_sum = 0.0
        self._run.record("finetune", progress.lines[-1])

    def _note(self) -> str:
        lines = self._progress.lines
        if not lines or lines[-1]["validation_error"] is None:
            return ""
        return f"validation {self._built.error.name} {lines[-1]['validation_error']:.4f}"


def test(config: Config, built: Built, engine: Engine, run: RunDirectory) -> Tested:
    """Open the test split, once, and measure the model as it is and the best constant predictor on it.

    Writes 3_finetune/predictions.npz.

    Raises:
        DataError: the test split is missing, damaged or empty.
    """
    reads = run.count_test_read()
    with signals.immediate():
        samples = built.task.open_test()
        if len(samples) == 0:
            raise DataError("the test split is empty", where="task", hint="give more data or other split sizes")
        overlap = count_shared(built.task.train, samples, built.task.input_shape, config.seed)
        outputs, targets = predict(engine, built.model, samples, config.train.eval_batch_size)
        measured = score(built.error, outputs, samples, targets)
    if overlap.shared:
        log.warning(
            f"test: the inputs of {overlap} are in the training set as well; the test error is likely optimistic"
        )
    constant = built.error.constant(_some_targets(built.task.train, config.seed), built.task.num_outputs)
    constant = constant.expand(len(targets), *constant.shape)
    trivial = score(built.error, constant, samples, targets).value
    run.write_arrays("finetune", "predictions.npz", outputs=outputs.numpy(), targets=targets.numpy())
    split = split_record(samples) | {"also_in_train": vars(overlap)}
    return Tested(measured, trivial, split, reads, samples, outputs, targets, constant)


def _some_targets(samples: Samples, seed: int) -> Tensor:
    """Return the training targets, or a seeded part of them where all would not fit into memory with room to work in."""
    targets = samples.targets()
    most = max(1, _WHOLE_TARGETS // max(1, targets[0].size))
    if len(targets) > most:
        rows = seeding.numpy_generator(seed, "finetune", "constant").permutation(len(targets))[:most]
        targets = targets[np.sort(rows)]
    return torch.from_numpy(np.array(targets))
