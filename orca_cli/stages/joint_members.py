"""The members of a run as one model, whose start competes with its trained weights.

A member is a fold's model, or one of several whose random draws differ (`member_training`). Nothing
here trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orca_cli import storage
from orca_cli.models.finetuning.modes import load_trained_state, trained_state
from orca_cli.models.transfer import Ensemble, averaged, twin
from orca_cli.runs.directory import CHECKPOINTS, RunDirectory
from orca_cli.stages import ridge_start
from orca_cli.stages.build import Built, Record
from orca_cli.stages.member_training import Member, drawn_again, start_file
from orca_cli.stages.task_loss import is_real_valued
from orca_cli.training import checkpoint
from orca_cli.training.cache import Entry
from orca_cli.training.engine import Engine
from orca_cli.training.loop import score

_MEANS = ("train_loss", "validation_error", "validation_loss")
WEIGHTS = "model.safetensors"
OUT_OF_FOLD = "out_of_fold.npz"


@dataclass(frozen=True)
class JointErrors:
    """The validation errors of all members as one model, after training and before any step.

    Both are None without validation samples, or if the error is undefined. The error of the start
    is also None if the predictor did not start fitted.
    """

    error: float | None
    start_error: float | None

    @property
    def is_start_better(self) -> bool:
        """Return whether the members should keep the weights that they started with.

        They should if training has not lowered the error: then nothing supports its changes.
        """
        if self.start_error is None:
            return False
        return self.error is None or self.start_error <= self.error


def joint_errors(
    built: Built, run: RunDirectory, *, members: Sequence[Member], entries: Sequence[Entry]
) -> JointErrors:
    """Validate several members as one model; with folds, write out_of_fold.npz.

    With folds, the error is computed from each sample's outputs by the fold that has not seen it;
    without folds, from the members' joint outputs.
    """
    has_folds = bool(built.plan.train.folds)
    judging_samples = built.learned if has_folds else members[0].held_out
    if judging_samples is None:
        return JointErrors(error=None, start_error=None)
    targets = torch.from_numpy(np.array(judging_samples.targets()))
    trained_outputs = _joint(built, members, [entry.tensors["outputs"] for entry in entries])
    error = score(built.error, trained_outputs, judging_samples, targets).value
    start_error = None
    outputs = trained_outputs
    start_files = [run.stage("finetune") / start_file(member.number) for member in members]
    if all(path.exists() for path in start_files):
        start_outputs = _joint(built, members, [_saved_outputs(path) for path in start_files])
        start_error = score(built.error, start_outputs, judging_samples, targets).value
    errors = JointErrors(error=error, start_error=start_error)
    if errors.is_start_better:
        outputs = start_outputs
    if has_folds:
        run.write_arrays(
            "finetune",
            OUT_OF_FOLD,
            outputs=outputs.numpy(),
            targets=targets.numpy(),
            fold=_fold_numbers(members),
        )
    return errors


def _joint(built: Built, members: Sequence[Member], outputs: Sequence[Tensor]) -> Tensor:
    """Return the outputs of all members as one model, in the order of the samples."""
    if not built.plan.train.folds:
        return averaged(outputs, _output_kind(built))
    sample_order = np.argsort(_fold_rows(members))
    return torch.cat(list(outputs))[torch.from_numpy(sample_order)]


def _fold_rows(members: Sequence[Member]) -> np.ndarray:
    """Return the samples that folds hold out, [n], one fold after the other."""
    return np.concatenate([member.rows for member in members if member.rows is not None])


def _fold_numbers(members: Sequence[Member]) -> np.ndarray:
    """Return the fold that holds out each sample, [n]."""
    fold_sizes = [len(member.rows) for member in members if member.rows is not None]
    sample_order = np.argsort(_fold_rows(members))
    return np.repeat(np.arange(len(fold_sizes)), fold_sizes)[sample_order]


def _saved_outputs(path: Path) -> Tensor:
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["outputs"])


def load_start(
    built: Built,
    engine: Engine,
    run: RunDirectory,
    *,
    member: Member,
    first_start: dict[str, Tensor],
) -> None:
    """Give the model the weights that a member starts from, except for a fitted predictor.

    `first_start` has the weights with the run's own aligned embedder, from which the first member
    starts.
    """
    weights = first_start
    if member.number > 0 or member.rows is not None:
        start_run = run.part(run.stage("finetune") / CHECKPOINTS / f"start-{member.number}")
        weights = drawn_again(built, engine, start_run, member)
    load_trained_state(built.model, weights)


def commit_starts(
    built: Built,
    engine: Engine,
    run: RunDirectory,
    *,
    members: Sequence[Member],
    entries: Sequence[Entry],
    first: dict[str, Tensor],
) -> None:
    """Replace the weights of all members by their weights before any step.

    The outputs in the folders still come from the trained weights, so that a resumed run makes the
    same decision.
    """
    for member, entry in zip(members, entries, strict=True):
        load_start(built, engine, run, member=member, first_start=first)
        ridge_start.start(built, engine, member.samples, member.seed)
        folder = run.stage("finetune") / member.folder
        weights = trained_state(built.model)
        checkpoint.commit_weights(folder, weights, owner=run.name.identity, finished=entry)


def ensemble(built: Built, run: RunDirectory, members: Sequence[Member]) -> Ensemble:
    """Return the members' models, which share all tensors that no member trains."""
    folder = run.stage("finetune")
    member_states = [storage.read_tensors(folder / member.folder / WEIGHTS) for member in members]
    # Twins share the tensors that no member trains.
    models = [built.model]
    for _ in member_states[1:]:
        models.append(twin(built.model, member_states[0]))
    for model, member_state in zip(models, member_states, strict=True):
        load_trained_state(model, member_state)
    return Ensemble(models, _output_kind(built))


def _output_kind(built: Built) -> str:
    """Return how members' outputs are averaged, as `Ensemble` names it."""
    if built.task.kind != "dense":
        return built.task.kind
    # Maps of numbers are averaged as they are, maps of classes as probabilities.
    return "maps" if is_real_valued(built.task.train.targets()) else "class_maps"


def mean_lines(entries: Sequence[Entry]) -> list[Record]:
    """Return the curve of several members: each line of the first, with means over all."""
    mean_curve = []
    for epoch_lines in zip(*(entry.record["lines"] for entry in entries), strict=True):
        mean_line = dict(epoch_lines[0])
        for name in _MEANS:
            # A mean over only some of the members would not be comparable with other lines.
            numbers = [member_line[name] for member_line in epoch_lines]
            mean_line[name] = None if None in numbers else sum(numbers) / len(numbers)
        mean_curve.append(mean_line)
    return mean_curve
