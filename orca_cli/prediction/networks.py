"""Load the networks of a finished run or of an export.

If a run trained only a part of the body, the body's checkpoint is needed as well, from the place
where the run had it or from another folder. An export contains all that is needed. Nothing is
downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from orca_cli import storage
from orca_cli.baselines.names import TRANSFER
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
from orca_cli.models.assembly import build_model, load_body
from orca_cli.models.bodies.base import Body
from orca_cli.models.checkpoints import architecture_only, check_modest
from orca_cli.models.finetuning.modes import added_state, load_trained_state
from orca_cli.models.transfer import Ensemble, TransferModel, twin
from orca_cli.prediction.record import NETWORK, WEIGHTS, ModelRecord, own_file
from orca_cli.report.collect import mapping
from orca_cli.runs.directory import STAGE_FOLDERS, START_FILE
from orca_cli.runs.preprocessing import BODY_CONFIG
from orca_cli.training.checkpoint import weights_sha256

if TYPE_CHECKING:
    from torch import Tensor

    from orca_cli.prediction.loading import Loaded

_GET_AGAIN = "get the folder again, from a source that you trust"
# Upper bound of numbers in a body's own embedding layer, which predictions do not use.
_MAX_EMBEDDINGS = 2**30
# Upper bound of layers of a body whose weights are not read.
_MAX_LAYERS = 1000


def combined(loaded: Loaded) -> TransferModel | Ensemble:
    """Return the only network, or a model that averages the outputs of several."""
    if len(loaded.members) > 1:
        return Ensemble(loaded.members, loaded.preprocessing.targets.kind).eval()
    return loaded.members[0]


def members_of_export(loaded: Loaded) -> tuple[TransferModel, ...]:
    """Return an export's networks, on the CPU and in evaluation mode.

    Raises as `loading.open_model`.
    """
    return tuple(_from_file(loaded, name) for name in loaded.record.weight_files)


def start(loaded: Loaded, folder: Path, inputs: str, body_checkpoint: str | None) -> TransferModel:
    """Return the network before any training, whose features a baseline takes.

    Args:
        loaded: the run or export, still without members.
        folder: folder of the baseline in the run, or the export itself.
        inputs: "embedder", if only the embedder needs weights, or "body".
        body_checkpoint: as in `loading.open_model`; the embedder alone does not need it.

    Raises as `loading.open_model`.
    """
    is_export = folder == loaded.folder
    if is_export and inputs == "body":
        return _from_file(loaded, NETWORK)
    tensors = storage.read_tensors(own_file(folder, NETWORK if is_export else START_FILE))
    body_folder = folder / BODY_CONFIG.parent if is_export else _body_folder(loaded.folder)
    if inputs == "embedder" and body_folder is not None:
        return _embedder_only(loaded, tensors, body_folder)
    model = _with_checkpoint(loaded, body_checkpoint)
    expected = added_state(model) if inputs == "body" else {}
    expected |= _of_embedder(model.state_dict())
    _check_forms(expected, tensors, folder)
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def _from_file(loaded: Loaded, file_name: str) -> TransferModel:
    """Return the network of an export from the file that contains all its weights."""
    body_folder = loaded.folder / BODY_CONFIG.parent
    # Before any model is made: a few bytes of config.json could ask for days of work.
    layer_count = check_modest(body_folder)
    tensors = storage.read_tensors(own_file(loaded.folder, file_name))
    # Every layer has at least one weight. Modules take memory even on the meta device, so their
    # number is bounded before names and shapes can be compared.
    if layer_count > len(tensors):
        message = f"asks for {layer_count} layers, but the folder has only {len(tensors)} weights"
        raise UnsafeError(message, where=str(loaded.folder / BODY_CONFIG), hint=_GET_AGAIN)
    return _from_all_weights(loaded, tensors, body_folder)


def _body_folder(run: Path) -> Path | None:
    """Return the folder of a run that has the body's config.json; None if it kept none."""
    build = run / STAGE_FOLDERS["build"]
    if not (build / BODY_CONFIG).exists():
        return None
    own_file(build, str(BODY_CONFIG))
    storage.verify_folder(run, only=[f"{build.name}/{BODY_CONFIG}"])
    return build / BODY_CONFIG.parent


def members_of_run(loaded: Loaded, body_checkpoint: str | None) -> tuple[TransferModel, ...]:
    """Return a run's networks as they were tested, on the CPU and in evaluation mode.

    Args:
        loaded: the run, still without members.
        body_checkpoint: as in `loading.open_model`.

    Raises as `loading.open_model`.
    """
    finetune = loaded.folder / STAGE_FOLDERS["finetune"]
    body_folder = _body_folder(loaded.folder)
    # The tested weights are those of `best` or of `last`: the record has their SHA-256.
    for checkpoints in _possible_checkpoints(loaded.record, finetune):
        members = _members_of_run(loaded, checkpoints, body_folder, body_checkpoint)
        trained = replace(loaded, members=tuple(member.eval() for member in members))
        if weights_sha256(combined(trained).state_dict()) == loaded.record.weights_sha256:
            return trained.members
    message = "the weights differ from those with which the run was tested"
    raise ChecksumError(message, where=str(finetune), hint=_GET_AGAIN)


def _possible_checkpoints(record: ModelRecord, finetune: Path) -> Iterator[Iterable[Path]]:
    """Yield checkpoints, one for each member, that may contain the weights of the tested model."""
    if record.members == 1:
        # A run without validation has no `best`.
        for checkpoint_name in ("best", "last"):
            if os.path.lexists(finetune / checkpoint_name):
                yield (finetune / checkpoint_name,)
        return
    selected = mapping(record.result.get("selected"))
    # Folders of stage 3: fold-0, fold-1, ... or member-0, member-1, ...
    prefix = "fold" if selected.get("folds") else "member"
    # A generator: an untrusted record may claim more members than names fit into memory.
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
        checkpoints: folders of the checkpoints.
        body_folder: folder of the body's config.json, from which models with all their weights are
            made; None if the run kept none.
        body_checkpoint: as in `open_model`.
    """
    members: list[TransferModel] = []
    for checkpoint in checkpoints:
        # Checked before either file is opened, since a link could lead out of the folder.
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
        # The run trained these weights; the other weights are those of the body's checkpoint.
        with _blaming_record(loaded.folder):
            load_trained_state(member, tensors)
        members.append(member)
    return members


def _unless_partial(
    loaded: Loaded, tensors: Mapping[str, Tensor], body_folder: Path
) -> TransferModel | None:
    """Return the model with these weights; None if they are only a part of its weights."""
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
    """Return a model with all its weights, from the config.json in a folder.

    Memory is used only after names, shapes and types were found to agree: a record cannot make the
    model use more memory than its weights.

    Raises:
        CheckpointError: names, shapes or types do not agree.
        UnsafeError: the body's own embedding layer, which is not among the weights, is too large.
    """
    model, body_node = _architecture(loaded, body_folder)
    _check_forms(model.state_dict(), tensors, loaded.folder)
    # A clone is aligned in memory. Tensors start anywhere in the file, and products of unaligned
    # matrices may differ in the last bits.
    aligned = {tensor_name: tensor.clone() for tensor_name, tensor in tensors.items()}
    with _blaming_record(loaded.folder):
        # Assigned rather than copied: parameters on the meta device have no memory to copy into.
        model.load_state_dict(aligned, strict=True, assign=True)
        _compute_buffers(model.body, body_node, loaded.folder)
    return model.eval()


def _embedder_only(
    loaded: Loaded, tensors: Mapping[str, Tensor], body_folder: Path
) -> TransferModel:
    """Return a network of which only the embedder has weights; raises as `_from_all_weights`.

    Args:
        loaded: the run or export.
        tensors: the embedder's tensors by their names in the whole model, perhaps among others.
        body_folder: folder of the body's config.json.
    """
    # Without weights of the body, only this limit bounds the number of its layers.
    if check_modest(body_folder) > _MAX_LAYERS:
        message = f"asks for more layers than the limit of {_MAX_LAYERS}"
        raise UnsafeError(message, where=str(loaded.folder / BODY_CONFIG), hint=_GET_AGAIN)
    model, _ = _architecture(loaded, body_folder)
    weights = _of_embedder(tensors)
    _check_forms(_of_embedder(model.state_dict()), weights, loaded.folder)
    with _blaming_record(loaded.folder):
        model.load_state_dict(weights, strict=False, assign=True)
    return model.eval()


def _of_embedder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of those tensors of a model that belong to its embedder."""
    # A copy is aligned in memory; see `_from_all_weights`.
    return {name: tensors[name].clone() for name in tensors if name.startswith("embedder.")}


def _architecture(loaded: Loaded, body_folder: Path) -> tuple[TransferModel, dict[str, Any]]:
    """Return a network without memory for its weights, and the configuration node of its body."""
    body_node = {**loaded.record.body, "checkpoint": str(body_folder), "weights": "pretrained"}
    # On the meta device tensors have shapes and types, but no memory.
    with _blaming_record(body_folder), architecture_only(), torch.device("meta"):
        return _assembled(loaded, load_body(body_node, loaded.record.seed)), body_node


def _check_forms(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    """Raise CheckpointError if names, types or shapes of weights differ from those expected."""
    for tensor_name in sorted(expected.keys() | tensors.keys()):
        form_in_weights = _form_of(tensors.get(tensor_name))
        form_in_model = _form_of(expected.get(tensor_name))
        if form_in_weights != form_in_model:
            message = (
                f"'{tensor_name}' is {form_in_weights} in the weights, but {form_in_model} in the "
                "model"
            )
            raise CheckpointError(message, where=str(folder), hint=_GET_AGAIN)


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
        # The size of this layer has not been checked yet: it is not among the weights, and the body
        # that computes the buffers has it in memory.
        if embedding_numbers > _MAX_EMBEDDINGS:
            raise UnsafeError("the body's embedding layer is too large", where=str(folder))
    with architecture_only("cpu"):
        # Only the buffers of this second body are used, so any seed will do.
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
    hint = (
        "name the body's checkpoint by --checkpoint FOLDER; a folder that `orca export` wrote "
        "needs no checkpoint"
    )
    # Resolving an interpolation could show a secret of the environment.
    if "${" in checkpoint_name:
        message = (
            f"names its body's checkpoint as {checkpoint_name}; variables in this name are not read"
        )
        raise DataError(message, where=str(loaded.folder), hint=hint)
    # Keep the hub's library from fetching anything.
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        with _blaming_record(loaded.folder):
            mode = parts.build(loaded.record.finetune, "finetune")
            body = load_body(body_node, loaded.record.seed, pretrained=mode.pretrained)
    except (ConfigError, DataError, NetworkError) as error:
        reason = "the run saved only the trained part of its body and needs the body's checkpoint"
        if loaded.record.candidate != TRANSFER:
            reason = "the model uses features of the body, so it needs the body's checkpoint"
        message = f"{reason}: {error.what}"
        # The same class, and so the same exit code, with a hint that names the option.
        raise type(error)(message, where=error.where, hint=hint) from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline
    # An equal name is not enough: the files of a hub id can change, and a folder be overwritten.
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
    # Before any weights are loaded: LoRA and prompts add parameters to the model.
    parts.build(record.finetune, "finetune").apply(model)
    return model


@contextmanager
def _blaming_record(path: Path) -> Iterator[None]:
    """Turn errors of libraries into a DataError: the record at `path` does not describe a model."""
    try:
        yield
    except (OrcaError, MemoryError):
        raise
    except Exception as error:
        # On the CPU, PyTorch raises RuntimeError when memory runs out. The record is not to blame.
        if "allocate memory" in str(error) or process_error(error):
            raise
        # An error of a library may have many lines, but ours have one line.
        in_one_line = " ".join(str(error).split())
        message = f"does not describe a model: {type(error).__name__}: {in_one_line[:200]}"
        raise DataError(message, where=str(path), hint=_GET_AGAIN) from error
