"""A finished run, or an export of one, as a model with its preprocessing.

Where a run trained only a part of the body, the body's checkpoint is needed as well, from where the
run had it or from another folder. An export holds all that is needed. Nothing is fetched.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from orca_cli import storage
from orca_cli.config import parts
from orca_cli.exceptions import (
    CheckpointError,
    ChecksumError,
    ConfigError,
    DataError,
    NetworkError,
    OrcaError,
    UnsafeError,
    process_error,
)
from orca_cli.interfaces import Preprocessing
from orca_cli.models.assembly import build_model, load_body
from orca_cli.models.bodies.base import Body
from orca_cli.models.checkpoints import architecture_only, check_modest
from orca_cli.models.finetuning.modes import load_trained_state
from orca_cli.models.transfer import Ensemble, TransferModel, twin
from orca_cli.prediction.record import (
    WEIGHTS,
    ModelRecord,
    is_export,
    own_file,
    read_export,
    read_run,
)
from orca_cli.report.collect import Run, collect, mapping
from orca_cli.runs.directory import RESULT, STAGE_FOLDERS, keeps_weights, read_or_empty
from orca_cli.runs.preprocessing import BODY_CONFIG, can_predict, load_preprocessing
from orca_cli.terminal import percent_or_number
from orca_cli.training.checkpoint import weights_sha256

if TYPE_CHECKING:
    from torch import Tensor

_GET_AGAIN = "get the folder again"
_MAKE_COMPARABLE = "run them with train.folds=5 (or train.refit=false), or give one by its folder"
# Numbers in a body's own embedding layer, which predictions do not use.
_MAX_EMBEDDINGS = 2**30


@dataclass(frozen=True)
class Loaded:
    """A model, its record and its preprocessing; `open_model` makes it."""

    record: ModelRecord
    preprocessing: Preprocessing
    # The run or export.
    folder: Path
    # On the CPU, in evaluation mode; their outputs are averaged.
    members: tuple[TransferModel, ...] = ()

    @cached_property
    def model(self) -> TransferModel | Ensemble:
        """Return the only member, or a model that averages the outputs of several."""
        if len(self.members) > 1:
            return Ensemble(self.members, self.preprocessing.targets.kind).eval()
        return self.members[0]


def open_model(folder: Path, body_checkpoint: str | None = None) -> Loaded:
    """Return the model of a run folder or an exported folder.

    Args:
        folder: the run or export.
        body_checkpoint: folder or hub id of the body's checkpoint, where it is needed and has
            moved.

    Raises:
        DataError: the folder is neither a run nor an export, the run is not completed, or its task
            keeps no preprocessing.
        ChecksumError: a file is missing or damaged.
        CheckpointError: a newer program wrote it, or its weights do not fit the model that it
            describes.
        UnsafeError: it holds links, names code that a model does not consist of, or asks for far
            more than its weights.
        ConfigError: a setting in its record is out of range, or the body's checkpoint is needed
            and its folder does not exist.
        NetworkError, UnavailableError: the body's checkpoint is needed, and neither this machine
            nor a package has it.
        StorageError: a file cannot be read.
    """
    if not is_export(folder):
        return _open_run(folder, body_checkpoint)
    loaded = Loaded(
        record=read_export(folder), preprocessing=load_preprocessing(folder), folder=folder
    )
    body_folder = folder / BODY_CONFIG.parent
    # Before any model is made: a few bytes of config.json could ask for days of work.
    layer_count = check_modest(body_folder)
    members = []
    for file_name in loaded.record.weight_files:
        tensors = storage.read_tensors(folder / file_name)
        # Every layer has at least one weight. Modules take memory even on the meta device, so their
        # number is bounded before names and shapes can be compared.
        if layer_count > len(tensors):
            message = f"asks for {layer_count} layers, and there are {len(tensors)} weights"
            raise UnsafeError(message, where=str(folder / BODY_CONFIG), hint=_GET_AGAIN)
        members.append(_from_all_weights(loaded, tensors, body_folder))
    return replace(loaded, members=tuple(members))


def _open_run(folder: Path, body_checkpoint: str | None) -> Loaded:
    record = read_run(folder)
    if not keeps_weights(folder):
        message = (
            "the run kept no weights (keep_weights=false, or a trial of a search), so it cannot "
            "predict"
        )
        hint = "run it again with --force keep_weights=true"
        raise DataError(message, where=str(folder), hint=hint)
    build = folder / STAGE_FOLDERS["build"]
    finetune = folder / STAGE_FOLDERS["finetune"]
    loaded = Loaded(record=record, preprocessing=load_preprocessing(build), folder=folder)
    body_folder = None
    if (build / BODY_CONFIG).exists():
        own_file(build, str(BODY_CONFIG))
        storage.verify_folder(folder, only=[f"{build.name}/{BODY_CONFIG}"])
        body_folder = build / BODY_CONFIG.parent
    # The tested weights are those of `best` or of `last`: the record has their SHA-256.
    for checkpoints in _possible_checkpoints(record, finetune):
        members = _members_of_run(loaded, checkpoints, body_folder, body_checkpoint)
        trained = replace(loaded, members=tuple(member.eval() for member in members))
        if weights_sha256(trained.model.state_dict()) == record.weights_sha256:
            return trained
    message = "the weights are not those that the run was tested with"
    raise ChecksumError(message, where=str(finetune))


def _possible_checkpoints(record: ModelRecord, finetune: Path) -> Iterator[Iterable[Path]]:
    """Yield the checkpoints, one a member, that may hold the weights of the tested model."""
    if record.members == 1:
        # A run without validation has no `best`.
        for checkpoint_name in ("best", "last"):
            if os.path.lexists(finetune / checkpoint_name):
                yield (finetune / checkpoint_name,)
        return
    selected = mapping(record.result.get("selected"))
    # Folders of stage 3: fold-0, fold-1, ... or member-0, member-1, ...
    prefix = "fold" if selected.get("folds") else "member"
    # One by one: a stranger's record may speak of more members than memory could name.
    yield (finetune / f"{prefix}-{number}" for number in range(record.members))


def _members_of_run(
    loaded: Loaded,
    checkpoints: Iterable[Path],
    body_folder: Path | None,
    body_checkpoint: str | None,
) -> list[TransferModel]:
    """Return a run's models, each with the weights of a checkpoint of stage 3.

    Args:
        loaded: the run, still without members.
        checkpoints: their folders.
        body_folder: has the body's config.json, by which models with all their weights are made;
            None where the run kept none.
        body_checkpoint: as that of `open_model`.
    """
    members: list[TransferModel] = []
    for checkpoint in checkpoints:
        # Before either is opened: a link could lead out of the folder.
        for file_name in (storage.MANIFEST, WEIGHTS):
            path_in_run = (checkpoint / file_name).relative_to(loaded.folder)
            own_file(loaded.folder, str(path_in_run))
        storage.verify_folder(checkpoint)
        tensors = storage.read_tensors(checkpoint / WEIGHTS)
        if body_folder is not None:
            member = _unless_partial(loaded, tensors, body_folder)
            if member is not None:
                members.append(member)
                continue
            # The run trained a part of the body only, so its other checkpoints are partial too.
            body_folder = None
        if members:
            # The body's checkpoint is read once, for the first member.
            member = twin(members[0], tensors)
        else:
            member = _with_checkpoint(loaded, body_checkpoint)
        # The run trained these weights; the others are those of the body's checkpoint.
        with _blaming_record(loaded.folder):
            load_trained_state(member, tensors)
        members.append(member)
    return members


def _unless_partial(
    loaded: Loaded, tensors: Mapping[str, Tensor], body_folder: Path
) -> TransferModel | None:
    """Return the model of these weights; None where they are only a part of its weights."""
    # Fewer weights than layers cannot be all of them.
    if check_modest(body_folder) > len(tensors):
        return None
    # Weights that are only a part of the model lack names that it has.
    with suppress(CheckpointError):
        return _from_all_weights(loaded, tensors, body_folder)
    return None


def _from_all_weights(
    loaded: Loaded, tensors: Mapping[str, Tensor], body_folder: Path
) -> TransferModel:
    """Return a model with all its weights, by the config.json in a folder.

    Memory is used only once names, shapes and types agree: a record cannot make the model take more
    than its weights do.

    Raises:
        CheckpointError: they do not agree.
        UnsafeError: the body's own embedding layer, which is not among them, is too large.
    """
    body_node = {**loaded.record.body, "checkpoint": str(body_folder), "weights": "pretrained"}
    # On the meta device tensors have shapes and types, but no memory.
    with _blaming_record(body_folder), architecture_only(), torch.device("meta"):
        model = _assembled(loaded, load_body(body_node, loaded.record.seed))
    expected_tensors = model.state_dict()
    for tensor_name in sorted(expected_tensors.keys() | tensors.keys()):
        form_in_weights = _form_of(tensors.get(tensor_name))
        form_in_model = _form_of(expected_tensors.get(tensor_name))
        if form_in_weights != form_in_model:
            message = (
                f"'{tensor_name}' is {form_in_weights} in the weights, the model's is "
                f"{form_in_model}"
            )
            raise CheckpointError(message, where=str(loaded.folder), hint=_GET_AGAIN)
    # A clone is aligned in memory. Tensors start anywhere in the file, and products of unaligned
    # matrices may differ in the last bits.
    aligned = {tensor_name: tensor.clone() for tensor_name, tensor in tensors.items()}
    with _blaming_record(loaded.folder):
        # Assigned rather than copied: parameters on the meta device have no memory to copy into.
        model.load_state_dict(aligned, strict=True, assign=True)
        _compute_buffers(model.body, body_node, loaded.folder)
    return model.eval()


def _form_of(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    dtype_name = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype_name} {tuple(tensor.shape)}"


def _compute_buffers(body: Body, body_node: Mapping[str, Any], folder: Path) -> None:
    """Give a body the buffers that follow from its settings and are not stored with the weights."""
    # Buffers that the state dict leaves out are still on the meta device.
    missing_names = [dotted_name for dotted_name, buffer in body.named_buffers() if buffer.is_meta]
    if not missing_names:
        return
    embeddings = getattr(body, "embeddings", None)
    if embeddings is not None:
        embedding_numbers = sum(parameter.numel() for parameter in embeddings.parameters())
        # Nothing has compared this layer yet: it is not among the weights, and the body that
        # computes the buffers holds it in memory.
        if embedding_numbers > _MAX_EMBEDDINGS:
            raise UnsafeError("the body's embedding layer is too large", where=str(folder))
    with architecture_only("cpu"):
        # Of this second body only the buffers are kept, so any seed will do.
        second_body = load_body(body_node, 0)
        computed_buffers = dict(second_body.named_buffers())
    for dotted_name in missing_names:
        module_name, _, buffer_name = dotted_name.rpartition(".")
        body.get_submodule(module_name)._buffers[buffer_name] = computed_buffers[dotted_name]


def _with_checkpoint(loaded: Loaded, body_checkpoint: str | None) -> TransferModel:
    """Return a model with the weights of the body's checkpoint, before the run's are loaded."""
    from huggingface_hub import constants

    body_node = dict(loaded.record.body)
    if body_checkpoint:
        body_node["checkpoint"] = body_checkpoint
    checkpoint_name = str(body_node.get("checkpoint", ""))
    hint = "give the checkpoint's folder with --checkpoint; an exported folder needs none"
    # Resolving an interpolation could show a secret of the environment.
    if "${" in checkpoint_name:
        message = f"names its body's checkpoint as {checkpoint_name}"
        raise DataError(message, where=str(loaded.folder), hint=hint)
    # Keep the hub's library from fetching anything.
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with _blaming_record(loaded.folder):
            body = load_body(body_node, loaded.record.seed)
    except (ConfigError, DataError, NetworkError) as error:
        message = f"the run trained a part of its body only and needs its checkpoint: {error.what}"
        # The same class, and so the same exit code, with a hint that names the option.
        raise type(error)(message, where=error.where, hint=hint) from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline
    # The name alone proves nothing: a hub id moves, and a folder can be overwritten.
    if body.checkpoint_digest != loaded.record.checkpoint_sha256:
        message = "has changed since the run: other weights would give other predictions"
        raise ChecksumError(message, where=f"body.checkpoint={checkpoint_name}", hint=hint)
    with _blaming_record(loaded.folder):
        return _assembled(loaded, body)


def _assembled(loaded: Loaded, body: Body) -> TransferModel:
    record = loaded.record
    model = build_model(
        body=body,
        kind=record.kind,
        input_shape=tuple(record.input_shape),
        num_outputs=record.num_outputs,
        embedder=parts.build(record.embedder, "embedder"),
        pooling=record.pooling,
        target_scale=loaded.preprocessing.targets.scale,
        seed=record.seed,
    )
    # Before any weights are loaded: LoRA and prompts add parameters of their own.
    parts.build(record.finetune, "finetune").apply(model)
    return model


@contextmanager
def _blaming_record(path: Path) -> Iterator[None]:
    """Turn errors of libraries into a DataError: the record in `path` does not describe a model."""
    try:
        yield
    except (OrcaError, MemoryError):
        raise
    except Exception as error:
        # On the CPU, PyTorch raises RuntimeError when memory runs out. The record is not to blame.
        if "allocate memory" in str(error) or process_error(error):
            raise
        # Errors of libraries have many lines, ours have one.
        in_one_line = " ".join(str(error).split())
        message = f"does not describe a model: {type(error).__name__}: {in_one_line[:200]}"
        raise DataError(message, where=str(path), hint=_GET_AGAIN) from error


class _Criterion(NamedTuple):
    """How a run was validated; only runs with the same criterion can be compared."""

    # SHA-256 of the samples.
    samples: str
    error: str
    is_percent: bool


def best_run(folder: Path) -> tuple[Path, str]:
    """Return the completed run with the lowest validation error, and why it is the best.

    Of runs with equal errors it is the oldest. Where no run was validated, it is the only run. Runs
    that cannot predict, runs whose weights were chosen on the test split, and other runs without a
    validation error are left out.

    Args:
        folder: of all runs, or of one data set.

    Raises:
        DataError: it holds no such run, or runs of several data sets, or they were validated on
            different samples or by different errors.
    """
    runs = [run for run in collect([folder]).runs if can_predict(run.path)]
    data_sets = sorted({run.data for run in runs})
    # A run without a validation error would leave its data set to the runs of another.
    if len(data_sets) > 1:
        raise DataError(
            f"holds runs of {len(data_sets)} data sets: {', '.join(data_sets)}",
            where=str(folder),
            hint="give one of its runs, or a folder of runs on one data set",
        )
    validated, unvalidated = _candidates(runs)
    if not validated and len(unvalidated) == 1:
        return unvalidated[0], f"{unvalidated[0]}: the only run"
    # The best run by each criterion.
    best_runs: dict[_Criterion, Path] = {}
    for criterion, errors in validated.items():
        # `collect` lists the oldest run first, and `min` takes the first of equal errors.
        best_runs[criterion] = min(errors, key=errors.__getitem__)
    if len(best_runs) > 1:
        message = (
            f"the runs were validated on {len(best_runs)} different sets of data or errors, which "
            "cannot be compared"
        )
        run_names = ", ".join(run.name for run in best_runs.values())
        hint = f"give one of the best of each: {run_names}"
        raise DataError(message, where=str(folder), hint=hint)
    if not best_runs and unvalidated:
        message = (
            f"all {len(unvalidated)} runs trained on their validation samples: no validation error "
            "compares them"
        )
        raise DataError(message, where=str(folder), hint=_MAKE_COMPARABLE)
    if not best_runs:
        message = (
            "holds no completed run on data of your own, chosen by a validation split, with its "
            "weights"
        )
        hint = (
            "orca report shows the runs; those of benchmarks keep no preprocessing, and predict no "
            "new data"
        )
        raise DataError(message, where=str(folder), hint=hint)
    criterion, best = next(iter(best_runs.items()))
    errors = validated[criterion]
    lowest = percent_or_number(errors[best], criterion.is_percent)
    reason = f"{best}: {criterion.error} {lowest} on validation, the lowest of {len(errors)} runs"
    if unvalidated:
        left_out = f"{len(unvalidated)} that trained on their validation samples are left out"
        reason += f"; {left_out}: {_MAKE_COMPARABLE}"
    return best, reason


def _candidates(
    runs: Sequence[Run],
) -> tuple[dict[_Criterion, dict[Path, float]], list[Path]]:
    """Return the runs that may be compared by their validation errors.

    Returns:
        The validation errors of runs by criterion and run, and the runs that were not validated.
    """
    validated: dict[_Criterion, dict[Path, float]] = defaultdict(dict)
    unvalidated: list[Path] = []
    for run in runs:
        score = run.score
        # A run that was chosen on the test split has no error that could choose it fairly.
        if score is None or score.validated_on == "test":
            continue
        if score.validated_on == "nothing":
            unvalidated.append(run.path)
        elif score.validation is not None:
            result = read_or_empty(run.path / RESULT)
            selected = mapping(result.get("selected"))
            samples = selected.get("sha256")
            # Records without a digest of their own name the validation split.
            if not samples:
                splits = mapping(result.get("splits"))
                samples = splits.get("val")
            criterion = _Criterion(
                samples=str(samples), error=score.error_name, is_percent=score.percent
            )
            validated[criterion][run.path] = score.validation
    return validated, unvalidated
