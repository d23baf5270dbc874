"""A finished run, or an export of one, as a model with its preprocessing.

Of a run folder that trained a part of the body only, the body's checkpoint is read as well, from where the run had it or
from another folder. An export holds all it needs. Nothing is fetched.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

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
from orca_cli.report.collect import collect, mapping
from orca_cli.runs.directory import RESULT, STAGE_FOLDERS, keeps_weights, read_or_empty
from orca_cli.runs.preprocessing import BODY_CONFIG, can_predict, load_preprocessing
from orca_cli.terminal import percent_or_number
from orca_cli.training.checkpoint import weights_sha256

if TYPE_CHECKING:
    from torch import Tensor

_AGAIN = "get the folder again"
_COMPARABLE = "run them with train.folds=5 (or train.refit=false), or give one by its folder"
_MOST_EMBEDDINGS = 2**30  # values of a body's own embedding layer, which predictions do not need


@dataclass(frozen=True)
class Loaded:
    """A model with what belongs to it; `open_model` makes it."""

    record: ModelRecord  # what its run says about it
    preprocessing: Preprocessing  # how new data become its inputs
    folder: Path  # the run or export
    members: tuple[
        TransferModel, ...
    ] = ()  # their outputs are averaged; on the CPU, in evaluation mode

    @cached_property
    def model(self) -> TransferModel | Ensemble:
        """Return the only member, or a model that averages what several predict (`models.transfer.Ensemble`)."""
        several = len(self.members) > 1
        return (
            Ensemble(self.members, self.preprocessing.targets.kind).eval()
            if several
            else self.members[0]
        )


def open_model(folder: Path, body_checkpoint: str | None = None) -> Loaded:
    """Return the model of a run folder or an exported folder.

    Args:
        folder: the run or export.
        body_checkpoint: folder or hub id of the body's checkpoint, where it is needed and has moved.

    Raises:
        DataError: no run or export, not completed, or of a task that keeps no preprocessing.
        ChecksumError: a file is missing or damaged.
        CheckpointError: a newer program wrote it, or its weights fit no model that it describes.
        UnsafeError: it holds links, names what is no part of a model, or asks for far more than its weights.
        ConfigError: a setting in its record is out of range, or the body's checkpoint is needed and there is no such folder.
        NetworkError, UnavailableError: the body's checkpoint is needed, and neither this machine nor a package has it.
        StorageError: a file cannot be read.
    """
    if not is_export(folder):
        return _open_run(folder, body_checkpoint)
    loaded, body = (
        Loaded(read_export(folder), load_preprocessing(folder), folder),
        folder / BODY_CONFIG.parent,
    )
    layers, members = check_modest(body), []
    for name in loaded.record.weight_files:
        tensors = storage.read_tensors(folder / name)
        if layers > len(tensors):
            what = f"asks for {layers} layers, and there are {len(tensors)} weights"
            raise UnsafeError(what, where=str(folder / BODY_CONFIG), hint=_AGAIN)
        members.append(_whole(loaded, tensors, body))
    return replace(loaded, members=tuple(members))


def _open_run(folder: Path, body_checkpoint: str | None) -> Loaded:
    record = read_run(folder)
    if not keeps_weights(folder):
        what = "the run kept no weights (keep_weights=false, or a trial of a search), so it cannot predict"
        raise DataError(what, where=str(folder), hint="run it again with --force keep_weights=true")
    build, finetune = (folder / STAGE_FOLDERS[stage] for stage in ("build", "finetune"))
    loaded, body = Loaded(record, load_preprocessing(build), folder), build / BODY_CONFIG.parent
    if has_config := (build / BODY_CONFIG).exists():
        own_file(build, str(BODY_CONFIG))
        storage.verify_folder(folder, only=[f"{build.name}/{BODY_CONFIG}"])
    word = "fold" if mapping(record.result.get("selected")).get("folds") else "member"
    # One by one: a stranger's record may speak of more members than memory could name.
    attempts: list[Iterable[str]] = [(f"{word}-{number}" for number in range(record.members))]
    if record.members == 1:  # there is no `best` where nothing was validated
        attempts = [(name,) for name in ("best", "last") if os.path.lexists(finetune / name)]
    for names in attempts:
        members: list[TransferModel] = []
        is_whole = has_config
        for name in names:
            for file in (storage.MANIFEST, WEIGHTS):
                own_file(folder, f"{finetune.name}/{name}/{file}")
            storage.verify_folder(finetune / name)
            tensors = storage.read_tensors(finetune / name / WEIGHTS)
            if is_whole and check_modest(body) <= len(tensors):
                with suppress(CheckpointError):  # only a part of the weights was trained
                    members.append(_whole(loaded, tensors, body))
                    continue
            is_whole = False
            members.append(
                twin(members[0], tensors) if members else _with_checkpoint(loaded, body_checkpoint)
            )
            with _described(
                folder
            ):  # the weights that the run trained; the others are those of the checkpoint
                load_trained_state(members[-1], tensors)
        whole = replace(loaded, members=tuple(member.eval() for member in members))
        if weights_sha256(whole.model.state_dict()) == record.weights_sha256:
            return whole
    raise ChecksumError(
        "the weights are not those that the run was tested with", where=str(finetune)
    )


def _whole(loaded: Loaded, tensors: Mapping[str, Tensor], body_folder: Path) -> TransferModel:
    """Return a model with all its weights, by the config.json in a folder.

    Memory is used only once names, shapes and types agree: a record cannot request more than the weights take.

    Raises:
        CheckpointError: they do not agree.
    """
    node = {**loaded.record.body, "checkpoint": str(body_folder), "weights": "pretrained"}
    with _described(body_folder), architecture_only(), torch.device("meta"):
        model = _assembled(loaded, load_body(node, loaded.record.seed))
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        theirs, ours = (
            f"{str(one[name].dtype).removeprefix('torch.')} {tuple(one[name].shape)}"
            if name in one
            else "missing"
            for one in (tensors, expected)
        )
        if theirs != ours:
            what = f"'{name}' is {theirs} in the weights, the model's is {ours}"
            raise CheckpointError(what, where=str(loaded.folder), hint=_AGAIN)
    # Clone to align in memory: tensors start anywhere in the file, and unaligned matrix products may differ in the last bits.
    aligned = {name: value.clone() for name, value in tensors.items()}
    with _described(loaded.folder):
        model.load_state_dict(aligned, strict=True, assign=True)
        # Buffers that follow from the body's settings are not stored with the weights.
        if empty := [name for name, buffer in model.body.named_buffers() if buffer.is_meta]:
            aside = getattr(model.body, "embeddings", None)
            if (
                aside is not None
                and sum(value.numel() for value in aside.parameters()) > _MOST_EMBEDDINGS
            ):
                raise UnsafeError(
                    "the body's embedding layer is too large", where=str(loaded.folder)
                )
            with architecture_only("cpu"):
                made = dict(load_body(node, 0).named_buffers())
            for name in empty:
                owner, _, buffer_name = name.rpartition(".")
                model.body.get_submodule(owner)._buffers[buffer_name] = made[name]
    return model.eval()


def _with_checkpoint(loaded: Loaded, body_checkpoint: str | None) -> TransferModel:
    """Return a model with the weights of the body's checkpoint, before the run's own are loaded."""
    from huggingface_hub import constants

    node = {**loaded.record.body, **({"checkpoint": body_checkpoint} if body_checkpoint else {})}
    name = str(node.get("checkpoint", ""))
    hint = "give the checkpoint's folder with --checkpoint; an exported folder needs none"
    if "${" in name:
        raise DataError(
            f"names its body's checkpoint as {name}", where=str(loaded.folder), hint=hint
        )
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True  # nothing is fetched
    try:
        with _described(loaded.folder):
            body = load_body(node, loaded.record.seed)
    except (ConfigError, DataError, NetworkError) as error:
        what = f"the run trained a part of its body only and needs its checkpoint: {error.what}"
        raise type(error)(what, where=error.where, hint=hint) from error
    finally:
        constants.HF_HUB_OFFLINE = before
    if body.checkpoint_digest != loaded.record.checkpoint_sha256:
        what = "has changed since the run: other weights would give other predictions"
        raise ChecksumError(what, where=f"body.checkpoint={name}", hint=hint)
    with _described(loaded.folder):
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
    parts.build(record.finetune, "finetune").apply(model)
    return model


@contextmanager
def _described(where: Path) -> Iterator[None]:
    """Turn whatever libraries raise for a record that describes no model into a one-line DataError."""
    try:
        yield
    except (OrcaError, MemoryError):
        raise
    except Exception as error:
        if "allocate memory" in str(error) or process_error(error):
            raise
        what = f"does not describe a model: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(what, where=str(where), hint=_AGAIN) from error


def best_run(folder: Path) -> tuple[Path, str]:
    """Return the completed run with the lowest validation error (the oldest of equals), or the only run; and why it is best.

    Runs that cannot predict, whose weights were chosen on the test split, or without a validation error, are left out.

    Args:
        folder: of all runs, or of one task.

    Raises:
        DataError: there is no such run, or they were validated on different data or by different errors.
    """
    # By validation data, error, and whether it is in per cent.
    validated: dict[tuple[str, str, bool], list[tuple[float, Path]]] = defaultdict(list)
    unvalidated: list[Path] = []
    for run in collect([folder]).runs:
        if (
            (score := run.score) is None
            or not can_predict(run.path)
            or score.validated_on == "test"
        ):
            continue
        if score.validated_on == "nothing":
            unvalidated.append(run.path)
        elif score.validation is not None:
            result = read_or_empty(run.path / RESULT)
            data = mapping(result.get("selected")).get("sha256") or mapping(
                result.get("splits")
            ).get("val")
            validated[str(data), score.error_name, score.percent].append(
                (score.validation, run.path)
            )
    if not validated and len(unvalidated) == 1:
        return unvalidated[0], f"{unvalidated[0]}: the only run"
    best = {key: min(runs, key=lambda run: run[0]) for key, runs in validated.items()}
    if len(best) > 1:
        what = f"the runs were validated on {len(best)} different sets of data or errors, which cannot be compared"
        hint = f"give one of the best of each: {', '.join(path.name for _, path in best.values())}"
        raise DataError(what, where=str(folder), hint=hint)
    if not best and unvalidated:
        what = f"all {len(unvalidated)} runs trained on their validation samples: no validation error compares them"
        raise DataError(what, where=str(folder), hint=_COMPARABLE)
    if not best:
        what = "holds no completed run on data of your own, chosen by a validation split, with its weights"
        hint = "orca report shows the runs; those of benchmarks keep no preprocessing, and predict no new data"
        raise DataError(what, where=str(folder), hint=hint)
    (((_, name, percent), (lowest, path)),) = best.items()
    count = sum(map(len, validated.values()))
    text = f"{path}: {name} {percent_or_number(lowest, percent)} on validation, the lowest of {count} runs"
    left_out = f"{len(unvalidated)} that trained on their validation samples are left out"
    return path, f"{text}; {left_out}: {_COMPARABLE}" if unvalidated else text
