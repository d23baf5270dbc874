"""Stage 3: train on the task's loss, choose the weights as docs/selection.md says, then read the test split once (paper 3.3).

Training and testing are two functions, so that a search can train and validate while the test split stays closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.config.schema import Config, settled
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter, Samples, Score
from orca_cli.models.ensemble import Ensemble, output_kind, twin
from orca_cli.runs.directory import CHECKPOINTS, RunDirectory
from orca_cli.stages import selection
from orca_cli.stages.build import Built, split_record, steps_per_epoch
from orca_cli.stages.following import open_to_all
from orca_cli.stages.member_training import Fitted, MemberTraining
from orca_cli.stages.members import Member, drawn_again, members_of
from orca_cli.stages.rate_watch import RateChange
from orca_cli.tasks.shared.samples import count_shared
from orca_cli.terminal import log
from orca_cli.tracking.json_lines import short_curve
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score
from orca_cli.training.schedule import shortened_warmup

_WHOLE_TARGETS = 2**26  # values of the training targets that the constant predictor may see at once
_COLUMNS = ("epoch", "step", "train_loss", "validation_error", "validation_loss")
_MEANS = ("train_loss", "validation_error", "validation_loss")
WEIGHTS = "model.safetensors"
OUT_OF_FOLD = "out_of_fold.npz"


@dataclass(frozen=True)
class Trained:
    """What training found.

    Args:
        model: with the chosen weights: the built one, or several whose outputs are averaged.
        validation_error: of the chosen weights; None where it is undefined, or nothing validates.
        selected: what chose them, see `selection.record`.
        curve: training loss and validation after every epoch, at most 100 lines; means over several members.
        rate: how the learning rate was changed, see `RateChange`; None where it stayed as set.
        weights_sha256: of the whole model with the chosen weights.
    """

    model: nn.Module
    validation_error: float | None
    selected: dict[str, Any]
    curve: list[dict[str, Any]]
    rate: RateChange | None
    weights_sha256: str


@dataclass(frozen=True)
class Tested:
    """Test results of the chosen weights.

    Args:
        score: test error.
        trivial: test error of the best constant predictor that the training targets allow.
        split: size and hash of the test split, and how many of its inputs were trained on as well.
        reads: how often the test split was opened.
        samples: the split, for what is measured beside the model.
    """

    score: Score
    trivial: float | None
    split: dict[str, Any]
    reads: int
    samples: Samples


def finetune(config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Trained:
    """Train and choose; resumes from the last checkpoint where there is one. The test split stays closed.

    Args:
        config, built, engine, run, reporter: of the run; the model's embedder is aligned.

    Writes 3_finetune/metrics.jsonl, and best/ and last/, or a folder for each of several members.

    Raises:
        NonFiniteError: a loss or gradient is NaN or infinite; the last checkpoint is intact.
        DataError: there are fewer samples than folds.
    """
    run.set_state("finetune")
    built.model.to(engine.device)
    if note := shortened_warmup(config.train):
        reporter.say(f"finetune: {note}")
    stage = _Stage(config, built, engine, run, reporter)
    return stage.one() if len(stage.members) == 1 else stage.several()


class _Stage:
    """The members of a run, fine-tuned one after the other."""

    def __init__(self, config: Config, built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> None:
        self._config, self._built, self._engine, self._run, self._reporter = config, built, engine, run, reporter
        self._owner = run.name.identity
        self.members = members_of(config, built)
        epochs = settled(config.train.epochs)
        self._steps = [epochs * steps_per_epoch(config, len(member.samples)) for member in self.members]
        self._saver = checkpoint.Saver(
            run.stage("finetune") / CHECKPOINTS, owner=self._owner, every_s=config.train.checkpoint_s
        )

    def one(self) -> Trained:
        """Train the only member; writes last/ and, where there is validation, best/."""
        built, saved = self._built, self._saver.load()
        self._run.rewind("finetune", [] if saved is None else saved.records["lines"])
        with self._reporter.track("finetune", self._steps[0]) as advance:
            fitted = self._training(0, saved, [], None).train(advance)
        folders = {"last": fitted.last} if fitted.best is None else {"last": fitted.last, "best": fitted.best}
        for name, weights in folders.items():
            checkpoint.commit_weights(self._run.stage("finetune") / name, weights, owner=self._owner)
        built.finetune.load_trainable_state(built.model, fitted.chosen)
        return self._trained(built.model, fitted.error, [fitted.epoch], fitted.lines, fitted.change)

    def several(self) -> Trained:
        """Train each member that is not finished; writes its folder."""
        built, saved = self._built, self._saver.load()
        folders = [self._run.stage("finetune") / member.folder for member in self.members]
        finished = [checkpoint.read_finished(folder, owner=self._owner) for folder in folders]
        if saved is not None and finished[saved.records["member"]] is not None:
            saved = None  # of its last step
        lines = [line for done in finished if done is not None for line in done.record["lines"]]
        self._run.rewind("finetune", lines + ([] if saved is None else saved.records["lines"]))
        first = built.finetune.trainable_state(built.model)
        with self._reporter.track("finetune", sum(self._steps)) as advance:
            for number, folder in enumerate(folders):
                if finished[number] is not None:
                    advance(self._steps[number], "")
                    continue
                start = first if number == 0 or self._config.train.folds else self._drawn_again(number)
                built.finetune.load_trainable_state(built.model, start)
                is_saved = saved is not None and saved.records["member"] == number
                done_before = [done for done in finished[:number] if done is not None]
                before = [line for done in done_before for line in done.record["lines"]]
                fitted = self._training(number, saved if is_saved else None, before, _change(done_before)).train(
                    advance
                )
                finished[number] = done = self._judged(self.members[number], fitted)
                checkpoint.commit_weights(folder, fitted.chosen, owner=self._owner, finished=done)
        whole = [done for done in finished if done is not None]
        model = self._ensemble([checkpoint.read_weights(folder / WEIGHTS) for folder in folders])
        curve = _mean_curve([done.record["lines"] for done in whole])
        epochs = [done.record["epoch"] for done in whole]
        return self._trained(model, self._validated(model, whole), epochs, curve, _change(whole))

    def _drawn_again(self, number: int) -> dict[str, Tensor]:
        """Return the weights that a member with an embedder of its own starts from."""
        run = self._run.part(self._run.stage("finetune") / CHECKPOINTS / f"start-{number}")
        return drawn_again(self._built, self._engine, run, seed=self.members[number].seed)

    def _training(
        self,
        number: int,
        saved: checkpoint.Checkpoint | None,
        before: list[dict[str, Any]],
        change: RateChange | None,
    ) -> MemberTraining:
        place = number, sum(self._steps[:number])
        if saved is not None:
            self._reporter.say(f"finetune: resumed at step {saved.step} of {sum(self._steps)}")
        return MemberTraining(
            self._config,
            self._built,
            self._engine,
            self._run,
            self.members[number],
            self._saver,
            place,
            saved,
            before,
            change,
        )

    def _judged(self, member: Member, fitted: Fitted) -> checkpoint.Finished:
        """Return what is kept of a member, with its outputs for the fold that it has not seen."""
        change = None if fitted.change is None else fitted.change.plain()
        record = {"epoch": fitted.epoch, "learned": len(member.samples), "lines": fitted.lines, "rate": change}
        if member.rows is None or member.held_out is None:
            return checkpoint.Finished(record, {})
        built = self._built
        built.finetune.load_trainable_state(built.model, fitted.chosen)
        with signals.immediate():
            outputs, _ = predict(self._engine, built.model, member.held_out, self._config.train.eval_batch_size)
        return checkpoint.Finished(record, {"outputs": outputs})

    def _ensemble(self, weights: list[Mapping[str, Tensor]]) -> Ensemble:
        built = self._built
        models = [built.model, *(twin(built.model, weights[0]) for _ in weights[1:])]
        for model, state in zip(models, weights, strict=True):
            built.finetune.load_trainable_state(model, state)
        integer = not np.issubdtype(built.task.train.targets().dtype, np.floating)
        return Ensemble(models, output_kind(built.task.kind, integer))

    def _validated(self, model: Ensemble, finished: list[checkpoint.Finished]) -> float | None:
        """Return the error of each sample's outputs by the member that has not seen it, or of all members together."""
        built, samples = self._built, self.members[0].held_out
        if samples is None:
            return None
        if self.members[0].rows is None:
            with signals.immediate():
                outputs, targets = predict(self._engine, model, samples, self._config.train.eval_batch_size)
            return score(built.error, outputs, samples, targets).value
        rows = np.concatenate([member.rows for member in self.members if member.rows is not None])
        order = np.argsort(rows)
        outputs = torch.cat([done.tensors["outputs"] for done in finished])[torch.from_numpy(order)]
        targets = torch.from_numpy(np.array(built.learned.targets()))
        fold = np.repeat(np.arange(len(finished)), [len(done.tensors["outputs"]) for done in finished])[order]
        arrays = {"outputs": outputs.numpy(), "targets": targets.numpy(), "fold": fold}
        self._run.write_arrays("finetune", OUT_OF_FOLD, **arrays)
        return score(built.error, outputs, built.learned, targets).value

    def _trained(
        self,
        model: nn.Module,
        error: float | None,
        epochs: list[int],
        lines: list[dict[str, Any]],
        rate: RateChange | None,
    ) -> Trained:
        built = self._built
        splits = built.summary["splits"]
        return Trained(
            model=model,
            validation_error=error,
            selected=selection.record(self._config, built.task, built.learned, splits, epochs),
            curve=short_curve(lines, _COLUMNS),
            rate=rate,
            weights_sha256=checkpoint.weights_sha256(model.state_dict()),
        )


def _change(finished: list[checkpoint.Finished]) -> RateChange | None:
    """Return how a member changed the rate, which those after it take as it is; None where none did."""
    rate = next((done.record["rate"] for done in finished if done.record["rate"]), None)
    return None if rate is None else RateChange(**rate)


def _mean_curve(curves: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean of several members' curves, epoch by epoch; None where one has no value."""
    mean_lines = []
    for lines in zip(*curves, strict=True):
        line = dict(lines[0])
        for name in _MEANS:
            values = [member_line[name] for member_line in lines]
            line[name] = None if None in values else sum(values) / len(values)
        mean_lines.append(line)
    return mean_lines


def test(config: Config, built: Built, trained: Trained, engine: Engine, run: RunDirectory) -> Tested:
    """Open the test split, once, and measure the trained model and the best constant predictor on it.

    Writes 3_finetune/predictions.npz.

    Raises:
        DataError: the test split is missing, damaged or empty.
    """
    reads = run.count_test_read()
    with signals.immediate():
        samples = built.task.open_test()
        if len(samples) == 0:
            raise DataError("the test split is empty", where="task", hint="give more data or other split sizes")
        open_to_all(engine, samples)
        overlap = count_shared(built.learned, samples, built.task.input_shape, config.seed)
        outputs, targets = predict(engine, trained.model, samples, config.train.eval_batch_size)
        measured = score(built.error, outputs, samples, targets)
    if overlap.shared:
        log.warning(
            f"test: the inputs of {overlap} are in the training set as well; the test error is likely optimistic"
        )
    constant = best_constant(built)
    trivial = score(built.error, constant.expand(len(targets), *constant.shape), samples, targets).value
    arrays = {"outputs": outputs.numpy(), "targets": targets.numpy()}
    if (groups := samples.groups()) is not None:  # errors per record cannot be computed again without these
        arrays["groups"] = np.asarray(groups)
    run.write_arrays("finetune", "predictions.npz", **arrays)
    split = split_record(samples) | {"also_in_train": vars(overlap)}
    return Tested(measured, trivial, split, reads, samples)


def best_constant(built: Built) -> Tensor:
    """Return the output [K] or [K, *E] of the best constant predictor that what was trained on allows."""
    return built.error.constant(_some_targets(built.learned, built.config.seed), built.task.num_outputs)


def _some_targets(samples: Samples, seed: int) -> Tensor:
    """Return the training targets, or a seeded part of them where all would not fit into memory with room to work in."""
    targets = samples.targets()
    most = max(1, _WHOLE_TARGETS // max(1, targets[0].size))
    if len(targets) > most:
        rows = seeding.numpy_generator(seed, "finetune", "constant").permutation(len(targets))[:most]
        targets = targets[np.sort(rows)]
    return torch.from_numpy(np.array(targets))
