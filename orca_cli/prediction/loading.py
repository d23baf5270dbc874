"""A finished run, or an export of one, as a model with its preprocessing.

Of a run folder that trained a part of the body only, the body's checkpoint is read as well, from where the run had it or
from another folder. An export holds all it needs. Nothing is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from orca_cli.interfaces import Finetune, Preprocessing
from orca_cli.models.assembly import build_model, load_body
from orca_cli.models.bodies.base import Body
from orca_cli.models.checkpoints import architecture_only, check_modest
from orca_cli.models.finetuning.modes import load_trained_state
from orca_cli.models.transfer import Ensemble, TransferModel, twin
from orca_cli.prediction.record import WEIGHTS, ModelRecord, is_export, own_file, read_export, read_run
from orca_cli.runs.directory import STAGE_FOLDERS, keeps_weights
from orca_cli.runs.preprocessing import BODY_CONFIG, load_preprocessing
from orca_cli.training import checkpoint

if TYPE_CHECKING:
    from torch import Tensor

_AGAIN = "get the folder again"
_MOST_EMBEDDINGS = 2**30  # values of a body's own embedding layer, which predictions do not need


@dataclass(frozen=True)
class Loaded:
    """A model with what belongs to it.

    Args:
        record: what its run says about it.
        preprocessing: how new data become its inputs.
        model: on the CPU, in evaluation mode; of several members, whose outputs it averages.
        folder: the run or export.
        body: folder with the body's config.json; None where only its checkpoint has it.
    """

    record: ModelRecord
    preprocessing: Preprocessing
    model: TransferModel | Ensemble
    folder: Path
    body: Path | None

    @property
    def members(self) -> list[TransferModel]:
        """Return the models whose outputs are averaged, or the only one."""
        if isinstance(self.model, Ensemble):
            return [member for member in self.model.members if isinstance(member, TransferModel)]
        return [self.model]


def open_model(folder: Path, body_checkpoint: str | None = None) -> Loaded:
    """Return the model of a run folder or an exported folder.

    Args:
        folder: the run or export.
        body_checkpoint: folder or hub id of the body's checkpoint, where it is needed and has moved.

    Raises:
        DataError: no run or export, not completed, or of a task that keeps no preprocessing.
        ChecksumError: a file is missing or damaged.
        CheckpointError: a newer program wrote it, or its weights fit no model that it describes.
        UnsafeError: it holds links, or names what is no part of a model.
        NetworkError: the body's checkpoint is needed and is not on this machine.
    """
    return _open_export(folder) if is_export(folder) else _open_run(folder, body_checkpoint)


def _open_export(folder: Path) -> Loaded:
    record = read_export(folder)
    preprocessing, body = load_preprocessing(folder), folder / BODY_CONFIG.parent
    layers, models = check_modest(body), []
    for name in record.weight_files:
        tensors = storage.read_tensors(folder / name)
        if layers > len(tensors):
            what = f"asks for {layers} layers, and there are {len(tensors)} weights"
            raise UnsafeError(what, where=str(folder / BODY_CONFIG), hint=_AGAIN)
        model = _architecture(record, preprocessing, body)
        models.append(_fill(model, tensors, {**record.body, "checkpoint": str(body)}, folder))
    return Loaded(record, preprocessing, _joined(models, preprocessing), folder, body)


def _open_run(folder: Path, body_checkpoint: str | None) -> Loaded:
    record = read_run(folder)
    if not keeps_weights(folder):
        what = "the run kept no weights (keep_weights=false, or a trial of a search), so it cannot predict"
        raise DataError(what, where=str(folder), hint="run it again with --force keep_weights=true")
    build, finetune = (folder / STAGE_FOLDERS[stage] for stage in ("build", "finetune"))
    preprocessing, body = load_preprocessing(build), build / BODY_CONFIG.parent
    has_config = (build / BODY_CONFIG).exists()
    if has_config:
        own_file(build, str(BODY_CONFIG))
        storage.verify_folder(folder, only=[f"{build.name}/{BODY_CONFIG}"])
    config_folder = body if has_config else None
    selected = record.result.get("selected")
    word = "fold" if isinstance(selected, dict) and selected.get("folds") else "member"
    # One by one: a stranger's record may speak of more members than memory could name.
    several = (f"{word}-{number}" for number in range(record.members))
    attempts: list[Iterable[str]] = [several] if record.members > 1 else [("best",), ("last",)]
    for names in attempts:
        if names == ("best",) and not os.path.lexists(finetune / "best"):
            continue  # nothing was validated
        models: list[TransferModel] = []
        source: Path | None = None
        for name in names:
            for file in (storage.MANIFEST, WEIGHTS):
                own_file(folder, f"{finetune.name}/{name}/{file}")
            storage.verify_folder(finetune / name)
            tensors = storage.read_tensors(finetune / name / WEIGHTS)
            if models and source != config_folder:
                models.append(twin(models[0], tensors))
                with _described(str(folder)):
                    load_trained_state(models[-1], tensors)
            else:
                model, source = _member(record, preprocessing, folder, tensors, config_folder, body_checkpoint)
                models.append(model)
        joined = _joined(models, preprocessing)
        if checkpoint.weights_sha256(joined.state_dict()) == record.weights_sha256:
            return Loaded(record, preprocessing, joined.eval(), folder, source)
    raise ChecksumError("the weights are not those that the run was tested with", where=str(finetune))


def _member(
    record: ModelRecord,
    preprocessing: Preprocessing,
    folder: Path,
    tensors: dict[str, Tensor],
    body: Path | None,
    body_checkpoint: str | None,
) -> tuple[TransferModel, Path | None]:
    """Return a model with a run's weights, and the folder with its body's config.json: `body`, or that of the checkpoint."""
    if body is not None and check_modest(body) <= len(tensors):
        model = _architecture(record, preprocessing, body)
        if set(model.state_dict()) == set(tensors):
            return _fill(model, tensors, {**record.body, "checkpoint": str(body)}, folder), body
    model, source = _with_checkpoint(record, preprocessing, folder, body_checkpoint)
    with _described(str(folder)):  # the weights that the run trained; the others are those of the body's checkpoint
        load_trained_state(model, tensors)
    return model, source


def _joined(models: list[TransferModel], preprocessing: Preprocessing) -> TransferModel | Ensemble:
    return models[0] if len(models) == 1 else Ensemble(models, preprocessing.targets.kind).eval()


def _architecture(record: ModelRecord, preprocessing: Preprocessing, body_folder: Path) -> TransferModel:
    """Return the model without memory for its weights, from the config.json in a folder."""
    with _described(str(body_folder)), architecture_only(), torch.device("meta"):
        body = load_body({**record.body, "checkpoint": str(body_folder), "weights": "pretrained"}, record.seed)
        return _assembled(record, preprocessing, body)


def _fill(model: TransferModel, tensors: Mapping[str, Tensor], node: dict[str, Any], folder: Path) -> TransferModel:
    """Load a model's weights only if names, shapes and types agree, so that a record cannot request more memory than they take.

    Returns:
        the model, in evaluation mode.

    Raises:
        CheckpointError: they do not agree.
    """
    expected = model.state_dict()
    for name in sorted(set(expected) ^ set(tensors)):
        what = f"'{name}' is only in {'the model' if name in expected else 'the weights'}"
        raise CheckpointError(what, where=str(folder), hint=_AGAIN)
    for name, value in expected.items():
        if (value.shape, value.dtype) != (tensors[name].shape, tensors[name].dtype):
            theirs, ours = (
                f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}" for one in (tensors[name], value)
            )
            raise CheckpointError(f"'{name}' is {theirs}, the model's is {ours}", where=str(folder), hint=_AGAIN)
    # Clone to align in memory: tensors start anywhere in the file, and unaligned matrix products may differ in the last bits.
    aligned = {name: value.clone() for name, value in tensors.items()}
    with _described(str(folder)):
        model.load_state_dict(aligned, strict=True, assign=True)
        # Buffers that follow from the body's settings are not stored with the weights.
        if empty := [name for name, buffer in model.body.named_buffers() if buffer.is_meta]:
            aside = getattr(model.body, "embeddings", None)
            if aside is not None and sum(value.numel() for value in aside.parameters()) > _MOST_EMBEDDINGS:
                raise CheckpointError("the body's embedding layer is too large", where=str(folder))
            with architecture_only("cpu"):
                body: Any = load_body({**node, "weights": "pretrained"}, 0)
                made = dict(body.named_buffers())
            for name in empty:
                owner, _, buffer_name = name.rpartition(".")
                model.body.get_submodule(owner)._buffers[buffer_name] = made[name]
    return model.eval()


def _with_checkpoint(
    record: ModelRecord, preprocessing: Preprocessing, folder: Path, body_checkpoint: str | None
) -> tuple[TransferModel, Path | None]:
    """Return the model with the weights of the body's checkpoint, before the run's own are loaded; and its folder."""
    from huggingface_hub import constants

    node = {**record.body, **({"checkpoint": body_checkpoint} if body_checkpoint else {})}
    name = str(node.get("checkpoint", ""))
    hint = "give the checkpoint's folder with --checkpoint; an exported folder needs none"
    if "${" in name:
        raise DataError(f"names its body's checkpoint as {name}", where=str(folder), hint=hint)
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True  # nothing is fetched
    try:
        with _described(str(folder)):
            body = load_body(node, record.seed)
    except (ConfigError, DataError, NetworkError) as error:
        what = f"the run trained a part of its body only and needs its checkpoint: {error.what}"
        raise type(error)(what, where=error.where, hint=hint) from error
    finally:
        constants.HF_HUB_OFFLINE = before
    if body.checkpoint_digest != record.checkpoint_sha256:
        what = "has changed since the run: other weights would give other predictions"
        raise ChecksumError(what, where=f"body.checkpoint={name}", hint=hint)
    with _described(str(folder)):
        return _assembled(record, preprocessing, body), getattr(body, "folder", None)


def _assembled(record: ModelRecord, preprocessing: Preprocessing, body: Body) -> TransferModel:
    model = build_model(
        body=body,
        kind=record.kind,
        input_shape=tuple(record.input_shape),
        num_outputs=record.num_outputs,
        embedder=parts.build(record.embedder, "embedder"),
        pooling=record.pooling,
        target_scale=preprocessing.targets.scale,
        seed=record.seed,
    )
    mode: Finetune = parts.build(record.finetune, "finetune")
    mode.apply(model)
    return model


@contextmanager
def _described(where: str) -> Iterator[None]:
    """Turn whatever libraries raise for a record that describes no model into a one-line DataError."""
    try:
        yield
    except (OrcaError, MemoryError):
        raise
    except Exception as error:
        if "allocate memory" in str(error) or process_error(error):
            raise
        what = f"does not describe a model: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(what, where=where, hint=_AGAIN) from error
