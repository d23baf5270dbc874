"""Stage 3: train on the task's loss, choose the weights on the validation split, and read the test split once (paper 3.3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from orca_cli import seeding, signals, storage
from orca_cli.exceptions import DataError, InterruptionError
from orca_cli.interfaces import Reporter, Samples, Score
from orca_cli.runs.directory import RunDirectory
from orca_cli.schema import Config
from orca_cli.stages.build import Built, split_record
from orca_cli.stages.training_plan import Course
from orca_cli.tasks.shared.overlap import count_shared
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.freeze import select_trained
from orca_cli.training.loop import predict, score

_WHOLE_TARGETS = 2**26  # values of the training targets that the constant predictor may see at once


@dataclass
class Tested:
    """What stage 3 tells.

    Args:
        score: test error of the chosen weights.
        validation_error: validation error of the chosen weights.
        trivial: test error of the best constant predictor that the training targets allow.
        curve: validation error after every epoch.
        chosen_epoch: 1 for the first.
        test_split: size and hash of the test split, and how many of its inputs are in the training split as well.
        weights_sha256: of the chosen weights.
        test_reads: how often the test split was opened.
    """

    score: Score
    validation_error: float | None
    trivial: float | None
    curve: list[float | None]
    chosen_epoch: int
    test_split: dict[str, Any]
    weights_sha256: str
    test_reads: int


@dataclass
class _Progress:
    """What training has come to: the step, the records per epoch, the sums of the running epoch, the best weights."""

    step: int = 0
    records: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return {"lines": self.records, "loss_sum": self.loss_sum, "best_epoch": self.best_epoch}


def finetune(config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Tested:
    """Train, choose and test; resumes from the last checkpoint where there is one.

    Writes 3_finetune/metrics.jsonl, best/, last/ and predictions.npz.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; the last checkpoint is intact.
    """
    run.set_state("finetune")
    select_trained(built.model, config.finetune.train)
    progress, last = _train(config, built, engine, run, reporter)
    folder = run.stage("finetune")
    best = progress.best or last
    chosen = best if config.train.select == "best" else last
    for name, weights in (("last", last), ("best", best)):
        with storage.commit_folder(folder / name, owner=run.name.identity) as temporary:
            save_file(weights, temporary / "model.safetensors")
    return _test(config, built, engine, run, chosen, progress)


def _train(
    config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter
) -> tuple[_Progress, dict[str, Tensor]]:
    """Take all optimizer steps; returns the progress with the best weights, and the last weights."""
    folder, settings = run.stage("finetune"), config.train
    built.model.to(engine.device)
    course = Course(config, built, engine)
    per_epoch, total = course.per_epoch, settings.epochs * course.per_epoch
    progress = _resume(run, built, engine, course.optimizer, reporter, total)
    storage.rewrite_json_lines(folder / "metrics.jsonl", progress.records)

    def save() -> None:
        weights, state = checkpoint.snapshot(built.model), checkpoint.optimizer_tensors(course.optimizer)
        records, scaler = progress.plain(), engine.scaler_state()
        saved = checkpoint.Checkpoint(progress.step, weights, state, progress.best, records, scaler)
        checkpoint.save(folder / "checkpoints", saved, owner=run.name.identity)
        run.set_state("finetune", step=progress.step)

    last_save, saved, shown = storage.monotonic(), progress.step, 0
    with reporter.track("finetune", total) as advance:
        while True:
            if progress.step == per_epoch * (len(progress.records) + 1):
                if settings.validate_on == "test":
                    _count_test_read(run)
                try:
                    _end_epoch(config, built, engine, progress, course.rate(progress.step - 1))
                except InterruptionError:  # the epoch's last step is not taken again, its validation is
                    if progress.step != saved:
                        save()
                    raise
                storage.append_json_line(folder / "metrics.jsonl", progress.records[-1])
            advance(progress.step - shown, _note(built, progress))
            shown = progress.step
            has_to = signals.pending() is not None or progress.step == total  # what comes then may be interrupted
            if progress.step != saved and (has_to or storage.monotonic() - last_save >= settings.checkpoint_s):
                save()
                last_save, saved = storage.monotonic(), progress.step
            signals.check()
            if progress.step == total:
                break
            loss, samples = course.take(progress.step)
            progress.loss_sum += loss * samples
            progress.step += 1
    return progress, checkpoint.snapshot(built.model)


def _resume(
    run: RunDirectory, built: Built, engine: Engine, optimizer: torch.optim.Optimizer, reporter: Reporter, total: int
) -> _Progress:
    saved = checkpoint.load_latest(run.stage("finetune") / "checkpoints", owner=run.name.identity)
    if saved is None:
        return _Progress()
    built.model.load_state_dict(saved.weights)
    checkpoint.restore_optimizer(optimizer, saved.optimizer)
    engine.restore_scaler(saved.scaler)
    reporter.say(f"finetune: resumed at step {saved.step} of {total}")
    records = saved.records
    return _Progress(saved.step, records["lines"], records["loss_sum"], records["best_epoch"], saved.best)


def _end_epoch(config: Config, built: Built, engine: Engine, progress: _Progress, lr: float) -> None:
    """Measure the validation error, keep the weights if they are the best so far, and start a new record."""
    with signals.immediate():
        validation = _score(built, engine, built.task.validation, config).value
    epoch = len(progress.records) + 1
    earlier = [record["validation_error"] for record in progress.records if record["validation_error"] is not None]
    # A validation error that is undefined (one class only, say) cannot choose; then the latest weights count as best.
    if validation is None or not earlier or validation < min(earlier):
        progress.best_epoch = epoch
        progress.best = checkpoint.snapshot(built.model)
    progress.records.append(
        {
            "epoch": epoch,
            "step": progress.step,
            "lr": lr,
            "train_loss": progress.loss_sum / len(built.task.train),
            "validation_error": validation,
        }
    )
    progress.loss_sum = 0.0


def _score(built: Built, engine: Engine, samples: Samples, config: Config) -> Score:
    outputs, targets = predict(engine, built.model, samples, config.train.eval_batch_size)
    return score(built.error, outputs, samples, targets)


def _test(
    config: Config, built: Built, engine: Engine, run: RunDirectory, weights: dict[str, Tensor], progress: _Progress
) -> Tested:
    """Open the test split, once, and measure the chosen weights and the best constant predictor on it."""
    built.model.load_state_dict(weights)
    reads = _count_test_read(run)
    with signals.immediate():
        samples = _opened_test(built)
        overlap = count_shared(built.task.train, samples, built.task.input_shape, config.seed)
        outputs, targets = predict(engine, built.model, samples, config.train.eval_batch_size)
        measured = score(built.error, outputs, samples, targets)
    if overlap.shared:
        log.warning(
            f"test: the inputs of {overlap} are in the training set as well; the test error says too little about new data"
        )
    constant = built.error.constant(_some_targets(built.task.train, config.seed), built.task.num_outputs)
    trivial = score(built.error, constant.expand(len(targets), *constant.shape), samples, targets).value
    storage.write_with(
        run.stage("finetune") / "predictions.npz",
        lambda path: _save_arrays(path, outputs.numpy(), targets.numpy()),
    )
    epoch = progress.best_epoch if config.train.select == "best" else config.train.epochs
    return Tested(
        score=measured,
        validation_error=progress.records[epoch - 1]["validation_error"],
        trivial=trivial,
        curve=[record["validation_error"] for record in progress.records],
        chosen_epoch=epoch,
        test_split=split_record(samples) | {"also_in_train": vars(overlap)},
        weights_sha256=checkpoint.weights_sha256(weights),
        test_reads=reads,
    )


def _opened_test(built: Built) -> Samples:
    samples = built.task.open_test()
    if len(samples) == 0:
        raise DataError("the test split is empty", where="task", hint="give more data or other split sizes")
    return samples


def _some_targets(samples: Samples, seed: int) -> Tensor:
    """Return the training targets, or a seeded part of them where all would not fit into memory with room to work in."""
    targets = samples.targets()
    most = max(1, _WHOLE_TARGETS // max(1, targets[0].size))
    if len(targets) > most:
        rows = seeding.numpy_generator(seed, "finetune", "constant").permutation(len(targets))[:most]
        targets = targets[np.sort(rows)]
    return torch.from_numpy(np.array(targets))


def _count_test_read(run: RunDirectory) -> int:
    """Write down, before it happens, that the test split is opened; a run that was killed while testing opens it twice."""
    path = run.stage("finetune") / "test_reads.jsonl"
    storage.append_json_line(path, {"time": storage.now().isoformat()})
    return len(storage.read_json_lines(path))


def _save_arrays(path: Path, outputs: np.ndarray, targets: np.ndarray) -> None:
    with open(path, "wb") as file:  # a file object: numpy would add .npz to the temporary name
        np.savez(file, outputs=outputs, targets=targets)


def _note(built: Built, progress: _Progress) -> str:
    if not progress.records or progress.records[-1]["validation_error"] is None:
        return ""
    return f"validation {built.error.name} {progress.records[-1]['validation_error']:.4f}"
