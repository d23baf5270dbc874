"""Stage 3: train on the task's loss, choose the weights as docs/selection.md says, then read the test split once (paper 3.3).

The paper trains embedder, body and predictor, and tests the weights of the last epoch (A.3.7). Training and testing are two
functions, so that a search can train and validate while the test split stays closed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals, storage
from orca_cli.data.contents import count_shared
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter, Samples, Score
from orca_cli.models.finetuning.modes import load_trained_state, trained_state
from orca_cli.models.transfer import Ensemble, twin
from orca_cli.runs.directory import CHECKPOINTS, PREDICTIONS, RunDirectory, short_curve
from orca_cli.scoring.uncertainty import interval
from orca_cli.stages.build import Built, split_record
from orca_cli.stages.member_training import Member, MemberTraining, drawn_again, members_of
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
    """What `finetune` returns.

    Args:
        model: a TransferModel with the chosen weights, or an Ensemble of several, on the device.
        validation_error: of the model, on what `TrainPlan.judged_on` names; with folds, of every sample's outputs by the model
            that has not seen it. None where nothing validates, or the error is undefined.
        selected: what chose the weights, as docs/selection.md has it.
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
    """What `test` measures of the chosen weights.

    Args:
        score, trivial: the test error, and that of the best constant predictor that the training targets allow; None where
            undefined.
        interval: 95 % interval of the test error over test sets like this one; None where it cannot be computed.
        split: size and hash of the test split, and how many of its inputs were trained on as well.
        reads: how often the test split was opened.
        samples: the split, for what is measured beside the model.
    """

    score: Score
    trivial: float | None
    interval: tuple[float, float] | None
    split: dict[str, Any]
    reads: int
    samples: Samples


@dataclass(frozen=True)
class Validated:
    """A trained model that has not seen the test split, with all that its test and result need; `experiment.train` makes it.

    `aligned` is what `align` returned; `seconds`: stage -> wall time of this attempt, to which `experiment.test` adds "test".
    """

    built: Built
    aligned: dict[str, Any]
    trained: Trained
    engine: Engine
    seconds: dict[str, float]


def finetune(built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Trained:
    """Train and choose, from the last checkpoint where there is one; the embedder is aligned. The test split stays closed.

    Writes 3_finetune/metrics.jsonl and checkpoints; of one model last/ and, where something validates, best/; of several a
    folder for each, member-0/ or fold-0/ and so on; with folds also out_of_fold.npz: outputs, targets and fold of every sample.
    The model of `built` is moved to the device and ends with the chosen weights, of several models with those of the first.

    Raises:
        NonFiniteError: a loss, a gradient or a validated output is NaN or infinite; the last checkpoint is intact.
        MemoryExhaustedError: a batch does not fit.
        DataError: there are fewer samples, or groups of them, than folds.
        CheckpointError: there are checkpoints, but none is valid, or they are of another mode.
        InterruptionError: a signal asked to stop; the state is in a checkpoint.
    """
    run.set_state("finetune")
    built.model.to(engine.device)
    train, folder, owner, members = (
        built.plan.train,
        run.stage("finetune"),
        run.name.identity,
        members_of(built),
    )
    steps = [train.epochs * train.steps_per_epoch(len(member.samples)) for member in members]
    saver = checkpoint.Saver(folder / CHECKPOINTS, owner=owner, every_s=train.checkpoint_s)
    saved, finished = saver.load(), dict[int, Entry]()
    for number, member in enumerate(members):
        if (
            member.folder
            and (done := checkpoint.read_finished(folder / member.folder, owner=owner)) is not None
        ):
            finished[number] = done
    if saved is not None and saved.records["member"] in finished:
        saved = None  # of its last step
    lines = [line for done in finished.values() for line in done.record["lines"]]
    run.rewind("finetune", lines + ([] if saved is None else saved.records["lines"]))
    first = trained_state(built.model) if train.folds else {}
    with reporter.track("finetune", sum(steps)) as advance:
        for number, member in enumerate(members):
            if number in finished:
                advance(steps[number], "")
                continue
            if (
                number > 0
            ):  # each fold from the same start, other members with an embedder of their own
                part = run.part(folder / CHECKPOINTS / f"start-{number}")
                load_trained_state(
                    built.model, first or drawn_again(built, engine, part, seed=member.seed)
                )
            begun = saved if saved is not None and saved.records["member"] == number else None
            if begun is not None:
                reporter.say(f"finetune: resumed at step {begun.step} of {sum(steps)}")
            training = MemberTraining(built, engine, run, member, saver, sum(steps[:number]), begun)
            training.train(advance)
            if not member.folder:
                return _alone(built, run, training)
            chosen, tensors = training.chosen(), {}
            if (
                member.rows is not None and member.held_out is not None
            ):  # its fold, which it has not seen
                load_trained_state(built.model, chosen)
                tensors["outputs"] = _predict(built, engine, built.model, member.held_out)[0]
            finished[number] = done = Entry(
                tensors, {"epoch": training.epoch, "lines": training.lines}
            )
            checkpoint.commit_weights(folder / member.folder, chosen, owner=owner, finished=done)
    return _together(
        built, engine, run, members, [finished[number] for number in range(len(members))]
    )


def _predict(
    built: Built, engine: Engine, model: nn.Module, samples: Samples
) -> tuple[Tensor, Tensor]:
    with signals.immediate():
        return predict(engine, model, samples, built.plan.train.eval_batch_size)


def _alone(built: Built, run: RunDirectory, training: MemberTraining) -> Trained:
    """Return the only member; writes last/ and best/."""
    for name, weights in {"last": trained_state(built.model), "best": training.best}.items():
        if weights:
            checkpoint.commit_weights(
                run.stage("finetune") / name, weights, owner=run.name.identity
            )
    load_trained_state(built.model, training.chosen())
    return _trained(built, built.model, training.error, [training.epoch], training.lines)


def _together(
    built: Built, engine: Engine, run: RunDirectory, members: list[Member], finished: list[Entry]
) -> Trained:
    """Return several members as one, with the error of each sample's outputs by the fold that has not seen it, or of all."""
    weights = [
        storage.read_tensors(run.stage("finetune") / member.folder / WEIGHTS) for member in members
    ]
    models = [built.model, *(twin(built.model, weights[0]) for _ in weights[1:])]
    for one, state in zip(models, weights, strict=True):
        load_trained_state(one, state)
    dense = "maps" if np.issubdtype(built.task.train.targets().dtype, np.floating) else "class_maps"
    model = Ensemble(models, dense if built.task.kind == "dense" else built.task.kind)
    samples, error = members[0].held_out, None
    folds = [member.rows for member in members if member.rows is not None]
    if folds:
        samples, order = built.learned, np.argsort(np.concatenate(folds))
        outputs = torch.cat([done.tensors["outputs"] for done in finished])[torch.from_numpy(order)]
        targets = torch.from_numpy(np.array(samples.targets()))
        fold = np.repeat(np.arange(len(folds)), [len(rows) for rows in folds])[order]
        run.write_arrays(
            "finetune", OUT_OF_FOLD, outputs=outputs.numpy(), targets=targets.numpy(), fold=fold
        )
    elif samples is not None:
        outputs, targets = _predict(built, engine, model, samples)
    if samples is not None:
        error = score(built.error, outputs, samples, targets).value
    curve = []
    for lines in zip(*(done.record["lines"] for done in finished), strict=True):
        values = {name: [line[name] for line in lines] for name in _MEANS}
        means = {
            name: None if None in numbers else sum(numbers) / len(numbers)
            for name, numbers in values.items()
        }
        curve.append(lines[0] | means)
    return _trained(built, model, error, [done.record["epoch"] for done in finished], curve)


def _trained(
    built: Built,
    model: nn.Module,
    error: float | None,
    epochs: list[int],
    lines: list[dict[str, Any]],
) -> Trained:
    """Return what was found; `epochs`: after which each member's weights were taken, 0 for those before any step."""
    train, learned = built.plan.train, built.learned
    on, judging = train.judged_on(built.task, learned)
    digest = None
    if judging is not None:
        digest = learned.digest() if on == "folds" else built.summary["splits"]["val"]["sha256"]
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


def test(built: Built, trained: Trained, engine: Engine, run: RunDirectory) -> Tested:
    """Open the test split, once, and measure the trained model and the best constant predictor on it.

    The read is counted in 3_finetune/test_reads.jsonl before it happens. Writes 3_finetune/predictions.npz: outputs [n, K] or
    [n, K, *E] in the task's units, targets, and groups [n] where samples have any. Logs a warning where inputs were trained on.

    Raises:
        DataError: the split is missing, damaged or empty.
        NonFiniteError: an output is NaN or infinite, and the error would be.
        MemoryExhaustedError: a batch does not fit.
    """
    reads = run.count_test_read()
    with signals.immediate():
        samples = built.task.open_test()
        if len(samples) == 0:
            raise DataError(
                "the test split is empty", where="task", hint="give more data or other split sizes"
            )
        overlap = count_shared(built.learned, samples, built.task.input_shape, built.plan.seed)
        outputs, targets = predict(engine, trained.model, samples, built.plan.train.eval_batch_size)
        measured = score(built.error, outputs, samples, targets)
        groups = samples.groups()
        within = interval(built.error, measured, outputs.numpy(), targets.numpy(), groups)
    if overlap["shared"]:
        some = "" if overlap["complete"] else " that were compared"
        what = f"the inputs of {overlap['shared']} of {overlap['of']} samples{some} are in the training set as well"
        log.warning(f"test: {what}; the test error is likely optimistic")
    constant = best_constant(built)
    trivial = score(
        built.error, constant.expand(len(targets), *constant.shape), samples, targets
    ).value
    arrays = {"outputs": outputs.numpy(), "targets": targets.numpy()}
    if groups is not None:  # errors per record cannot be computed again without these
        arrays["groups"] = np.asarray(groups)
    run.write_arrays("finetune", PREDICTIONS, **arrays)
    return Tested(
        score=measured,
        trivial=trivial,
        interval=within,
        split=split_record(samples) | {"also_in_train": overlap},
        reads=reads,
        samples=samples,
    )


def best_constant(built: Built) -> Tensor:
    """Return the output [K] or [K, *E] of the best constant predictor that what was trained on allows.

    Of targets with more than 2^26 values in all, a part is drawn by the run's seed.
    """
    targets = built.learned.targets()
    most = max(1, _WHOLE_TARGETS // max(1, targets[0].size))
    if len(targets) > most:  # all would not fit into memory with room to work in
        rows = seeding.numpy_generator(built.plan.seed, "finetune", "constant").permutation(
            len(targets)
        )[:most]
        targets = targets[np.sort(rows)]
    return torch.from_numpy(built.error.constant(np.array(targets), built.task.num_outputs))


def result_of(validated: Validated, tested: Tested | None) -> dict[str, Any]:
    """Return the result record of a completed run, JSON-able; `tested` is None where the test split stays closed.

    Errors are fractions or in the task's units, times in seconds, that of the test counted with finetune's.
    """
    built, aligned, trained = validated.built, validated.aligned, validated.trained
    measured, reason = Score(None, 0), "the test split stayed closed (test=false)"
    if tested is not None:
        measured, reason = (
            tested.score,
            f"undefined on all {tested.score.skipped} that it averages over",
        )
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
            "interval": None if tested is None else tested.interval,
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
