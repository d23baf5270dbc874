"""Stage 3: train on the task's loss, choose the weights, then read the test split once (paper 3.3).

The weights are chosen as docs/selection.md says. The paper trains embedder, body and predictor, and
tests the weights of the last epoch (A.3.7). Training and testing are two functions, so that a
search can train and validate while the test split stays closed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.data.contents import count_shared
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Error, Reporter, Samples, Score
from orca_cli.models.finetuning.modes import load_trained_state, trained_state
from orca_cli.runs.directory import CHECKPOINTS, PREDICTIONS, RunDirectory, short_curve
from orca_cli.scoring.uncertainty import interval
from orca_cli.stages import ridge_start
from orca_cli.stages.build import Built, Record, split_record, starts_as_ridge
from orca_cli.stages.joint_members import (
    JointErrors,
    commit_starts,
    ensemble,
    joint_errors,
    load_start,
    mean_lines,
)
from orca_cli.stages.member_training import Member, MemberTraining, members_of
from orca_cli.terminal import log
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score

# Maximum number of values of training targets that the constant predictor is fitted to.
_WHOLE_TARGETS = 2**26
_COLUMNS = ("epoch", "step", "train_loss", "validation_error", "validation_loss")
UNCHOSEN = "stage 3 trained on the validation samples too, so no samples are left to validate on"


@dataclass(frozen=True)
class Trained:
    """The outcome of stage 3, which `finetune` returns.

    Args:
        model: a TransferModel with the chosen weights, or an Ensemble of several, on the device.
        validation_error: error of the model on the samples that `TrainPlan.judged_on` returns; with
            folds, every sample's outputs come from the model that has not seen it. None without
            validation samples, or if the error is undefined.
        selected: record of how the weights were chosen, as in docs/selection.md.
        curve: training loss and validation after every epoch, at most 100 lines; with several
            members, means over them.
        weights_sha256: SHA-256 of the weights of the whole model.
    """

    model: nn.Module
    validation_error: float | None
    selected: Record
    curve: list[Record]
    weights_sha256: str


@dataclass(frozen=True)
class Tested:
    """The outcome of `test` for the chosen weights.

    Args:
        score, trivial: the test error, and the error of the best constant predictor that the
            training targets allow; None if undefined.
        interval: 95 % interval of the test error over test sets like this one; None if it cannot be
            computed.
        split: size and hash of the test split, and how many of its inputs were trained on as well.
        reads: number of times that the test split was opened.
        samples: the test split, for further measurements.
    """

    score: Score
    trivial: float | None
    interval: tuple[float, float] | None
    split: Record
    reads: int
    samples: Samples


@dataclass(frozen=True)
class Validated:
    """A trained model that has not seen the test split, with all that its test and result need.

    `experiment.train` makes it.

    Args:
        built, trained, engine: objects of the run.
        aligned: record that `align` returned.
        seconds: stage -> wall time of this attempt, to which `experiment.test` adds "test".
    """

    built: Built
    aligned: Record
    trained: Trained
    engine: Engine
    seconds: dict[str, float]


def finetune(built: Built, engine: Engine, run: RunDirectory, reporter: Reporter) -> Trained:
    """Train the model, whose embedder is aligned, and choose the weights.

    It resumes from the last checkpoint; the test split stays closed. Writes
    3_finetune/metrics.jsonl and checkpoints; for a single model last/ and, with validation, best/;
    for each of several models a folder member-0/ or fold-0/ and so on; with folds also
    out_of_fold.npz: outputs, targets and fold of every sample. The model of `built` is moved to the
    device and ends with the chosen weights; with several models, with the weights of the first.

    Raises:
        NonFiniteError: a loss, a gradient or a validated output is NaN or infinite; the last
            checkpoint is intact.
        MemoryExhaustedError: a batch does not fit.
        DataError: there are fewer samples, or groups of them, than folds.
        CheckpointError: checkpoints exist, but are not valid or belong to another mode.
        InterruptionError: a signal asked to stop; the state is in a checkpoint.
    """
    run.set_state("finetune")
    built.model.to(engine.device)
    train = built.plan.train
    members = members_of(built)
    # Folds may differ in size by a sample or a group, so each member has its own number of steps.
    steps = [train.epochs * train.steps_per_epoch(len(member.samples)) for member in members]
    checkpoints = run.stage("finetune") / CHECKPOINTS
    saver = checkpoint.Saver(checkpoints, owner=run.name.identity, every_s=train.checkpoint_s)
    finished, last_checkpoint = _resumed(run, members, saver)
    first_start: dict[str, Tensor] = {}
    if train.models > 1 or starts_as_ridge(built.plan, built.model):
        first_start = trained_state(built.model)
    with reporter.track("finetune", sum(steps)) as advance:
        for member in members:
            number = member.number
            if number in finished:
                advance(steps[number], "")
                continue
            if member.folder:
                load_start(built, engine, run, member=member, first_start=first_start)
            # Members share a series of checkpoints; the newest belongs to the interrupted member.
            member_checkpoint = None
            if last_checkpoint is not None and last_checkpoint.records["member"] == number:
                member_checkpoint = last_checkpoint
                reporter.say(f"finetune: resumed at step {last_checkpoint.step} of {sum(steps)}")
            training = MemberTraining(
                built=built,
                engine=engine,
                run=run,
                member=member,
                saver=saver,
                first_step=sum(steps[:number]),
                saved=member_checkpoint,
            )
            training.train(advance)
            if not member.folder:
                # A single model writes best/ and last/ instead of its own folder.
                return _alone(training, first_start)
            finished[number] = _finish(training)
    entries = [finished[member.number] for member in members]
    joint = joint_errors(built, run, members=members, entries=entries)
    if joint.is_start_better:
        # A run never ends with a higher validation error than it started with.
        commit_starts(built, engine, run, members=members, entries=entries, first=first_start)
    return _outcome_of_members(built, run, members=members, entries=entries, joint=joint)


def _resumed(
    run: RunDirectory, members: Sequence[Member], saver: checkpoint.Saver
) -> tuple[dict[int, Entry], checkpoint.Checkpoint | None]:
    """Return the finished work of earlier attempts, and make its lines the curve of the stage.

    Returns:
        number -> outputs and record of each finished member, and the checkpoint of an unfinished
        member, if any.
    """
    last_checkpoint = saver.load()
    finished = {}
    lines: list[Record] = []
    for member in members:
        if member.folder:
            member_folder = run.stage("finetune") / member.folder
            entry = checkpoint.read_finished(member_folder, owner=run.name.identity)
            if entry is not None:
                finished[member.number] = entry
                lines += entry.record["lines"]
    if last_checkpoint is not None and last_checkpoint.records["member"] in finished:
        # It belongs to the last step of a member whose folder was committed afterwards.
        last_checkpoint = None
    if last_checkpoint is not None:
        lines += last_checkpoint.records["lines"]
    # Lines of epochs that will be trained again are dropped.
    run.rewind("finetune", lines)
    return finished, last_checkpoint


def _finish(training: MemberTraining) -> Entry:
    """Commit a member's folder; return its record, and its outputs for its validation samples."""
    built = training.built
    member = training.member
    weights = training.chosen()
    tensors = {}
    if member.held_out is not None:
        # The chosen weights, which are not always the weights of the last step.
        load_trained_state(built.model, weights)
        batch_size = built.plan.train.eval_batch_size
        with signals.immediate():
            outputs, _ = predict(training.engine, built.model, member.held_out, batch_size)
        tensors["outputs"] = outputs
    entry = Entry(tensors, {"epoch": training.epoch, "lines": training.lines})
    # Weights, outputs and record in one commit: a resumed run finds all of them or none.
    folder = training.run.stage("finetune") / member.folder
    checkpoint.commit_weights(folder, weights, owner=training.run.name.identity, finished=entry)
    return entry


def _alone(training: MemberTraining, first_start: dict[str, Tensor]) -> Trained:
    """Return the outcome of a run with a single model; write last/ and best/.

    `first_start` has the weights that it started from, except the weights of a fitted predictor.
    """
    built = training.built
    stage_folder = training.run.stage("finetune")
    owner = training.run.name.identity
    checkpoint.commit_weights(stage_folder / "last", trained_state(built.model), owner=owner)
    chosen = training.chosen()
    error = training.error
    epoch = training.epoch
    errors = JointErrors(error=error, start_error=training.start_error)
    # With few validation samples the loss chooses, and may prefer an epoch with a higher error.
    if built.plan.train.select == "best" and errors.is_start_better:
        load_trained_state(built.model, first_start)
        ridge_start.start(built, training.engine, training.member.samples, training.member.seed)
        chosen = trained_state(built.model)
        training.best = chosen
        error = training.start_error
        epoch = 0
    # Empty without validation samples.
    if training.best:
        checkpoint.commit_weights(stage_folder / "best", training.best, owner=owner)
    # Only now: until last/ was written, the model had to keep the weights of the last step.
    load_trained_state(built.model, chosen)
    return _outcome(
        built,
        built.model,
        error=error,
        start_error=training.start_error,
        epochs=[epoch],
        lines=training.lines,
    )


def _outcome_of_members(
    built: Built,
    run: RunDirectory,
    *,
    members: Sequence[Member],
    entries: Sequence[Entry],
    joint: JointErrors,
) -> Trained:
    """Return several members as one model, with the weights in their folders."""
    error = joint.error
    epochs = [entry.record["epoch"] for entry in entries]
    if joint.is_start_better:
        error = joint.start_error
        epochs = [0 for _ in entries]
    return _outcome(
        built,
        ensemble(built, run, members),
        error=error,
        start_error=joint.start_error,
        epochs=epochs,
        lines=mean_lines(entries),
    )


def _outcome(
    built: Built,
    model: nn.Module,
    *,
    error: float | None,
    start_error: float | None,
    epochs: list[int],
    lines: list[Record],
) -> Trained:
    """Return the outcome of stage 3.

    Args:
        built: output of stage 1.
        model: model with the chosen weights.
        error, start_error: validation error of the model, and of its start if that was fitted.
        epochs: epoch after which each member's weights were taken, 0 for its start.
        lines: lines of its curve.
    """
    train = built.plan.train
    judged_on, judging_samples = train.judged_on(built.task, built.learned)
    num_judging = 0
    reason: str | None = UNCHOSEN
    # `orca predict --best` compares errors on the same samples only, which it knows by this hash.
    judging_digest = None
    if judging_samples is not None:
        num_judging = len(judging_samples)
        reason = None
        judging_digest = built.summary["splits"]["val"]["sha256"]
    # Folds together validate on all samples that are trained on.
    if judged_on == "folds":
        judging_digest = built.learned.digest()
    # Members that took their weights after the same epoch share one number.
    epoch = epochs[0] if len(set(epochs)) == 1 else epochs
    # docs/selection.md explains the keys.
    selected = {
        "by": train.select,
        "rule": train.select_by if train.select == "best" else None,
        "epoch": epoch,
        "start": {"validation_error": start_error},
        "on": judged_on,
        "n": num_judging,
        "sha256": judging_digest,
        "learned": len(built.learned),
        "refit": train.refit,
        "folds": train.folds,
        "members": train.models,
        "reason": reason,
    }
    return Trained(
        model=model,
        validation_error=error,
        selected=selected,
        curve=short_curve(lines, _COLUMNS),
        weights_sha256=checkpoint.weights_sha256(model.state_dict()),
    )


def test(built: Built, trained: Trained, engine: Engine, run: RunDirectory) -> Tested:
    """Open the test split, once, and measure the trained model and the best constant predictor.

    The read is counted in 3_finetune/test_reads.jsonl before it happens. Writes
    3_finetune/predictions.npz: outputs [n, K] or [n, K, *E] in the task's units, targets, and
    groups [n] if samples have them. Logs a warning if test inputs were trained on.

    Raises:
        DataError: the split is missing, damaged or empty.
        NonFiniteError: an output is NaN or infinite, so the error would be too.
        MemoryExhaustedError: a batch does not fit.
    """
    num_reads = run.count_test_read()  # before the read: an interrupted one counts as well
    with signals.immediate():
        samples = built.task.open_test()
        if len(samples) == 0:
            raise DataError(
                "the test split is empty", where="task", hint="give more data or other split sizes"
            )
        overlap = count_shared(built.learned, samples, built.task.input_shape, built.plan.seed)
        outputs, targets = predict(engine, trained.model, samples, built.plan.train.eval_batch_size)
        test_score = score(built.error, outputs, samples, targets)
        groups = samples.groups()
        error_interval = interval(
            built.error, test_score, outputs.numpy(), targets.numpy(), groups=groups
        )
    if overlap["shared"]:
        compared = "" if overlap["complete"] else " that were compared"
        log.warning(
            f"test: the inputs of {overlap['shared']} of {overlap['of']} test samples{compared} "
            "also occur in the training set; the test error is likely too low"
        )
    constant_output = best_constant(built)
    # A view, so that equal outputs of all samples take no memory.
    constant_output = constant_output.expand(len(targets), *constant_output.shape)
    trivial_error = score(built.error, constant_output, samples, targets).value
    prediction_arrays = {"outputs": outputs.numpy(), "targets": targets.numpy()}
    if groups is not None:  # errors per record cannot be computed again without these
        prediction_arrays["groups"] = np.asarray(groups)
    run.write_arrays("finetune", PREDICTIONS, **prediction_arrays)
    return Tested(
        score=test_score,
        trivial=trivial_error,
        interval=error_interval,
        split=split_record(samples) | {"also_in_train": overlap},
        reads=num_reads,
        samples=samples,
    )


def best_constant(built: Built) -> Tensor:
    """Return the output [K] or [K, *E] of the best constant predictor for the trained samples.

    If targets have more than 2^26 values in total, a part of them is drawn with the run's seed.
    """
    targets = built.learned.targets()
    target_size = max(1, targets[0].size)
    most_targets = max(1, _WHOLE_TARGETS // target_size)
    if len(targets) > most_targets:  # all of them could fill the memory
        generator = seeding.numpy_generator(built.plan.seed, "finetune", "constant")
        targets = targets[np.sort(generator.permutation(len(targets))[:most_targets])]
    return torch.from_numpy(built.error.constant(np.array(targets), built.task.num_outputs))


def result_of(validated: Validated, tested: Tested | None) -> Record:
    """Return the result record of a completed run, JSON-able.

    Errors are fractions or in the task's units, times in seconds.

    Args:
        validated: the trained model.
        tested: test results; None if the test split stays closed.
    """
    built = validated.built
    aligned = validated.aligned
    trained = validated.trained
    summary = built.summary
    split_records = dict(summary["splits"])
    trivial_error = None
    test_reads = 0
    if tested is not None:
        # Stage 1 left the test split closed, so its size and hash come from the test.
        split_records["test"] = tested.split
        trivial_error = tested.trivial
        test_reads = tested.reads
    training_record = {
        "warmup_epochs": summary["warmup_epochs"],
        "precision": validated.engine.precision,
        "processes": validated.engine.processes,
        "gradient_checkpointing": built.plan.train.gradient_checkpointing,
    }
    return {
        "synthetic": built.task.synthetic,
        "size": built.task.size,
        "error": _error_record(built.error, tested),
        "validation_error": trained.validation_error,
        "trivial_error": trivial_error,
        "selected": trained.selected,
        "decided": summary["decided"],
        "training": training_record,
        "test_reads": test_reads,
        "splits": split_records,
        "metric_value": {"before": aligned.get("before"), "after": aligned.get("after")},
        "alignment": {"steps": aligned.get("steps", 0), "collapse": aligned.get("collapse", {})},
        "curves": {"align": aligned.get("curve", []), "finetune": trained.curve},
        "expected_s": summary.get("expected_s"),
        "seconds": {stage: round(value, 2) for stage, value in validated.seconds.items()},
        "trajectory_s": aligned.get("seconds", 0.0),
        "parameters": summary["parameters"],
        "weights_sha256": trained.weights_sha256,
        "keep_weights": built.plan.keep_weights,
    }


def _error_record(error: Error, tested: Tested | None) -> Record:
    """Return the test error for result.json, with the reason if there is no value."""
    # The record has the same keys if the test split stayed closed.
    measured = Score(value=None, n=0)
    reason: str | None = "the test split was not read, since test=false"
    if tested is not None:
        measured = tested.score
        reason = None
        if measured.value is None:
            reason = (
                f"the error averages {measured.skipped} samples or classes, and is undefined for "
                "all of them"
            )
    return {
        "name": error.name,
        "value": measured.value,
        "reason": reason,
        "n": measured.n,
        "skipped": measured.skipped,
        "percent": error.percent,
        "interval": None if tested is None else tested.interval,
        "others": dict(measured.others),
    }
