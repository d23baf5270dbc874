"""Stage 3: train on the task's loss, choose the weights as docs/selection.md says, then read the test split once (paper 3.3).

Training and testing are two functions, so that a search can train and validate while the test split stays closed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.data.contents import count_shared
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter, Samples, Score
from orca_cli.models.finetuning.modes import load_trained_state, trained_state
from orca_cli.models.transfer import Ensemble, output_kind, twin
from orca_cli.runs.directory import CHECKPOINTS, PREDICTIONS, RunDirectory, short_curve
from orca_cli.stages.build import Built, split_record
from orca_cli.stages.member_training import Fitted, Member, MemberTraining, drawn_again, members_of
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score

_WHOLE_TARGETS = 2**26  # values of the training targets that the constant predictor may see at once
_COLUMNS = ("epoch", "step", "train_loss", "validation_error", "validation_loss")
_MEANS = ("train_loss", "validation_error", "validation_loss")
UNCHOSEN = "stage 3 trained on the validation samples too, so that none are left to judge by"
WEIGHTS = "model.safetensors"
OUT_OF_FOLD = "out_of_fold.npz"


@dataclass(frozen=True)
class Trained:
    """The model with the chosen weights, or several whose outputs are averaged, and its error (None where that is undefined).

    Args:
        selected: what chose them, as docs/selection.md has it.
        curve: training loss and validation after every epoch, at most 100 lines; means over several members.
        weights_sha256: of the whole model.
    """

    model: nn.Module
    validation_error: float | None
    selected: dict[str, Any]
    curve: list[dict[str, Any]]
    weights_sha256: str


@dataclass(frozen=True)
class Tested:
    """Test results of the chosen weights.

    Args:
        score, trivial: the test error, and that of the best constant predictor that the training targets allow.
        split: size and hash of the test split, and how many of its inputs were trained on as well.
        reads: how often the test split was opened.
        samples: the split, for what is measured beside the model.
    """

    score: Score
    trivial: float | None
    split: dict[str, Any]
    reads: int
    samples: Samples


@dataclass(frozen=True)
class Validated:
    """A trained model that has not seen the test split; what `align` returned; `seconds`: stage -> wall time."""

    built: Built
    aligned: dict[str, Any]
    trained: Trained
    engine: Engine
    seconds: dict[str, float]


def finetune(built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Trained:
    """Train and choose, from the last checkpoint where there is one; the embedder is aligned. The test split stays closed.

    Writes 3_finetune/metrics.jsonl, best/ and last/, or a folder for each of several members. NonFiniteError leaves the last
    checkpoint intact.
    """
    run.set_state("finetune")
    built.model.to(engine.device)
    return _Stage(built, engine, run, reporter).trained()


@dataclass
class _Stage:
    """The members of a run, fine-tuned one after the other."""

    built: Built
    engine: Engine
    run: RunDirectory
    reporter: Reporter

    def __post_init__(self) -> None:
        train, self._folder, self._owner = self.built.plan.train, self.run.stage("finetune"), self.run.name.identity
        self.members = members_of(self.built)
        self._steps = [train.epochs * train.steps_per_epoch(len(member.samples)) for member in self.members]
        self._saver = checkpoint.Saver(self._folder / CHECKPOINTS, owner=self._owner, every_s=train.checkpoint_s)

    def trained(self) -> Trained:
        """Train each member that is not finished; writes its folder, or last/ and best/ of the only one."""
        built, saved = self.built, self._saver.load()
        finished = [self._finished(member) for member in self.members]
        if saved is not None and finished[saved.records["member"]] is not None:
            saved = None  # of its last step
        lines = [line for done in finished if done is not None for line in done.record["lines"]]
        self.run.rewind("finetune", lines + ([] if saved is None else saved.records["lines"]))
        first = trained_state(built.model) if built.plan.train.folds else {}
        with self.reporter.track("finetune", sum(self._steps)) as advance:
            for number, member in enumerate(self.members):
                if finished[number] is not None:
                    advance(self._steps[number], "")
                    continue
                if number > 0 and not first:  # with an embedder of its own
                    part = self.run.part(self._folder / CHECKPOINTS / f"start-{number}")
                    load_trained_state(built.model, drawn_again(built, self.engine, part, seed=member.seed))
                elif number > 0:
                    load_trained_state(built.model, first)
                is_begun = saved is not None and saved.records["member"] == number
                fitted = self._train(number, saved if is_begun else None, advance)
                if not member.folder:
                    return self._alone(fitted)
                finished[number] = done = self._judged(member, fitted)
                self._commit(member.folder, fitted.chosen, done)
        return self._together([done for done in finished if done is not None])

    def _finished(self, member: Member) -> Entry | None:
        folder = self._folder / member.folder
        return checkpoint.read_finished(folder, owner=self._owner) if member.folder else None

    def _train(self, number: int, saved: checkpoint.Checkpoint | None, advance: Callable[[int, str], None]) -> Fitted:
        """Train a member, from its checkpoint if there is one."""
        if saved is not None:
            self.reporter.say(f"finetune: resumed at step {saved.step} of {sum(self._steps)}")
        member, first_step = self.members[number], sum(self._steps[:number])
        return MemberTraining(self.built, self.engine, self.run, member, self._saver, first_step, saved).train(advance)

    def _commit(self, name: str, weights: Mapping[str, Tensor], finished: Entry | None = None) -> None:
        checkpoint.commit_weights(self._folder / name, weights, owner=self._owner, finished=finished)

    def _alone(self, fitted: Fitted) -> Trained:
        self._commit("last", fitted.last)
        if fitted.best is not None:
            self._commit("best", fitted.best)
        load_trained_state(self.built.model, fitted.chosen)
        return self._trained(self.built.model, fitted.error, [fitted.epoch], fitted.lines)

    def _together(self, finished: list[Entry]) -> Trained:
        task, model = self.built.task, self.built.model
        weights = [checkpoint.read_weights(self._folder / member.folder / WEIGHTS) for member in self.members]
        models = [model, *(twin(model, weights[0]) for _ in weights[1:])]
        for one, state in zip(models, weights, strict=True):
            load_trained_state(one, state)
        integer = not np.issubdtype(task.train.targets().dtype, np.floating)
        ensemble = Ensemble(models, output_kind(task.kind, integer))
        curve = _mean_curve([done.record["lines"] for done in finished])
        epochs = [done.record["epoch"] for done in finished]
        return self._trained(ensemble, self._validated(ensemble, finished), epochs, curve)

    def _judged(self, member: Member, fitted: Fitted) -> Entry:
        """Return what is kept of a member, with its outputs for the fold that it has not seen."""
        tensors = {}
        if member.held_out is not None and member.rows is not None:  # its fold
            load_trained_state(self.built.model, fitted.chosen)
            tensors["outputs"] = self._predict(self.built.model, member.held_out)[0]
        return Entry(tensors, {"epoch": fitted.epoch, "lines": fitted.lines})

    def _predict(self, model: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
        with signals.immediate():
            return predict(self.engine, model, samples, self.built.plan.train.eval_batch_size)

    def _validated(self, model: Ensemble, finished: list[Entry]) -> float | None:
        """Return the error of each sample's outputs by the member that has not seen it, or of all members together."""
        samples = self.members[0].held_out
        if samples is None:
            return None
        folds = [member.rows for member in self.members if member.rows is not None]
        if not folds:
            outputs, targets = self._predict(model, samples)
        else:
            samples, order = self.built.learned, np.argsort(np.concatenate(folds))
            outputs = torch.cat([done.tensors["outputs"] for done in finished])[torch.from_numpy(order)]
            targets = torch.from_numpy(np.array(samples.targets()))
            fold = np.repeat(np.arange(len(folds)), [len(rows) for rows in folds])[order]
            arrays = {"outputs": outputs.numpy(), "targets": targets.numpy(), "fold": fold}
            self.run.write_arrays("finetune", OUT_OF_FOLD, **arrays)
        return score(self.built.error, outputs, samples, targets).value

    def _trained(
        self, model: nn.Module, error: float | None, epochs: list[int], lines: list[dict[str, Any]]
    ) -> Trained:
        """Return what was found; `epochs`: after which each member's weights were taken, 0 for those before any step."""
        train, learned = self.built.plan.train, self.built.learned
        on, judging = train.judged_on(self.built.task, learned)
        digest = None
        if judging is not None:
            digest = learned.digest() if on == "folds" else self.built.summary["splits"]["val"]["sha256"]
        selected = {
            "by": train.select,
            "rule": train.select_by if train.select == "best" else None,
            "epoch": epochs[0] if len(set(epochs)) == 1 else epochs,
            "on": on,
            "n": 0 if judging is None else len(judging),
            "sha256": digest,
            "learned": len(learned),
            "refit": train.refit,
            "folds": train.folds,
            "members": train.models,
            "reason": UNCHOSEN if judging is None else None,
        }
        weights_sha256 = checkpoint.weights_sha256(model.state_dict())
        return Trained(model, error, selected, short_curve(lines, _COLUMNS), weights_sha256)


def _mean_curve(curves: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean of several members' curves, epoch by epoch; None where one has no value."""
    mean_lines = []
    for lines in zip(*curves, strict=True):
        values = {name: [line[name] for line in lines] for name in _MEANS}
        means = {name: None if None in numbers else sum(numbers) / len(numbers) for name, numbers in values.items()}
        mean_lines.append(lines[0] | means)
    return mean_lines


def test(built: Built, trained: Trained, engine: Engine, run: RunDirectory) -> Tested:
    """Open the test split, once, and measure the trained model and the best constant predictor on it.

    Writes 3_finetune/predictions.npz. DataError where the split is missing, damaged or empty.
    """
    reads = run.count_test_read()
    with signals.immediate():
        samples = built.task.open_test()
        if len(samples) == 0:
            raise DataError("the test split is empty", where="task", hint="give more data or other split sizes")
        overlap = count_shared(built.learned, samples, built.task.input_shape, built.plan.seed)
        outputs, targets = predict(engine, trained.model, samples, built.plan.train.eval_batch_size)
        measured = score(built.error, outputs, samples, targets)
    if overlap["shared"]:
        some = "" if overlap["complete"] else " that were compared"
        what = f"the inputs of {overlap['shared']} of {overlap['of']} samples{some} are in the training set as well"
        log.warning(f"test: {what}; the test error is likely optimistic")
    constant = best_constant(built)
    trivial = score(built.error, constant.expand(len(targets), *constant.shape), samples, targets).value
    arrays = {"outputs": outputs.numpy(), "targets": targets.numpy()}
    if (groups := samples.groups()) is not None:  # errors per record cannot be computed again without these
        arrays["groups"] = np.asarray(groups)
    run.write_arrays("finetune", PREDICTIONS, **arrays)
    return Tested(measured, trivial, split_record(samples) | {"also_in_train": overlap}, reads, samples)


def best_constant(built: Built) -> Tensor:
    """Return the output [K] or [K, *E] of the best constant predictor that what was trained on allows."""
    samples = built.learned
    targets = samples.targets()
    most = max(1, _WHOLE_TARGETS // max(1, targets[0].size))
    if len(targets) > most:  # all would not fit into memory with room to work in
        rows = seeding.numpy_generator(built.plan.seed, "finetune", "constant").permutation(len(targets))[:most]
        targets = targets[np.sort(rows)]
    return torch.from_numpy(built.error.constant(np.array(targets), built.task.num_outputs))


def result_of(validated: Validated, tested: Tested | None) -> dict[str, Any]:
    """Return the result record of a completed run; `tested` is None where the test split stays closed."""
    built, aligned, trained = validated.built, validated.aligned, validated.trained
    measured, reason = Score(None, 0), "the test split stayed closed (test=false)"
    if tested is not None:
        measured, reason = tested.score, f"undefined on all {tested.score.skipped} that it averages over"
    seconds = dict(validated.seconds)
    seconds["finetune"] += seconds.pop("test", 0.0)
    return {
        "synthetic": built.task.synthetic,
        "size": built.task.size,
        "error": {
            "name": built.error.name,
            "value": measured.value,
            "reason": reason if measured.value is None else None,
            "n": measured.n,
            "skipped": measured.skipped,
            "percent": built.error.percent,
            "others": dict(measured.others),
        },
        "validation_error": trained.validation_error,
        "trivial_error": None if tested is None else tested.trivial,
        "selected": trained.selected,
        "decided": built.summary["decided"],
        "training": {
            "warmup_epochs": built.summary["warmup_epochs"],
            "precision": validated.engine.precision,
            "processes": validated.engine.processes,
            "gradient_checkpointing": built.plan.train.gradient_checkpointing,
        },
        "test_reads": 0 if tested is None else tested.reads,
        "splits": built.summary["splits"] | ({} if tested is None else {"test": tested.split}),
        "metric_value": {"before": aligned.get("before"), "after": aligned.get("after")},
        "alignment": {"steps": aligned.get("steps", 0), "collapse": aligned.get("collapse", {})},
        "curves": {"align": aligned.get("curve", []), "finetune": trained.curve},
        "expected_s": built.summary.get("expected_s"),
        "seconds": {stage: round(value, 2) for stage, value in seconds.items()},
        "trajectory_s": aligned.get("seconds", 0.0),
        "parameters": built.summary["parameters"],
        "weights_sha256": trained.weights_sha256,
        "keep_weights": built.plan.keep_weights,
    }
