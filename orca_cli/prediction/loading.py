"""Load a model that a finished run kept, or an exported model, with its preprocessing.

This module does not import torch, which a baseline on table features or raw inputs does not need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import storage
from orca_cli.baselines import plain
from orca_cli.baselines.names import TRANSFER
from orca_cli.baselines.plain import PlainModel
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Preprocessing
from orca_cli.prediction.candidates import kept
from orca_cli.prediction.record import (
    ModelRecord,
    check_own_files,
    is_export,
    own_file,
    read_export,
    read_run,
)
from orca_cli.runs.directory import CANDIDATES, STAGE_FOLDERS, keeps_weights
from orca_cli.runs.preprocessing import load_preprocessing

if TYPE_CHECKING:
    from orca_cli.models.transfer import TransferModel


@dataclass(frozen=True)
class Loaded:
    """A model, its record and its preprocessing; `open_model` makes it."""

    record: ModelRecord
    preprocessing: Preprocessing
    # The run or export.
    folder: Path
    # Networks on the CPU, in evaluation mode: those of the transfer, whose outputs are averaged, or
    # the network whose features a baseline takes.
    members: tuple[TransferModel, ...] = ()
    # None for the transfer.
    simple: PlainModel | None = None

    @property
    def model(self) -> Any:
        """Return the transfer's network, or a network that averages the outputs of its members."""
        from orca_cli.prediction.networks import combined

        return combined(self)


def open_model(
    folder: Path, body_checkpoint: str | None = None, candidate: str | None = None
) -> Loaded:
    """Return a model that a run kept, or the model of an export.

    Args:
        folder: folder of the run or export.
        body_checkpoint: folder or hub id of the body's checkpoint, if it is needed and has moved.
        candidate: name of a model that the run kept; None takes the transfer, or the model of the
            export.

    Raises:
        DataError: the folder is neither a run nor an export, the run is not completed, or its task
            keeps no preprocessing.
        ChecksumError: a file is missing or damaged.
        CheckpointError: a newer program wrote it, or its weights do not fit the model that it
            describes.
        UnsafeError: the folder contains links, names code that a model does not consist of, or asks
            for far more memory than its weights.
        ConfigError: the folder has no model of that name, a setting in its record is out of range,
            or the body's checkpoint is needed and its folder does not exist.
        NetworkError, UnavailableError: the body's checkpoint is needed, and neither this machine
            nor a package has it.
        StorageError: a file cannot be read.
    """
    if is_export(folder):
        return _open_export(folder, candidate)
    return _open_run(folder, body_checkpoint, TRANSFER if candidate is None else candidate)


def _open_export(folder: Path, candidate: str | None) -> Loaded:
    record = read_export(folder)
    if candidate is not None:
        _check_name(candidate, [record.candidate], folder, "the export contains")
    loaded = Loaded(record=record, preprocessing=load_preprocessing(folder), folder=folder)
    if record.candidate != TRANSFER:
        return _with_simple(loaded, folder, None)
    from orca_cli.prediction.networks import members_of_export

    return replace(loaded, members=members_of_export(loaded))


def _open_run(folder: Path, body_checkpoint: str | None, candidate: str) -> Loaded:
    record = read_run(folder)
    if not keeps_weights(folder):
        message = (
            "the run kept no weights, so it cannot predict (keep_weights=false was set, or the run "
            "is a trial of a search)"
        )
        hint = "rerun the run's command with --force keep_weights=true"
        raise DataError(message, where=str(folder), hint=hint)
    _check_name(candidate, kept(folder, record.result), folder, "the run kept")
    build = folder / STAGE_FOLDERS["build"]
    loaded = Loaded(record=record, preprocessing=load_preprocessing(build), folder=folder)
    if candidate == TRANSFER:
        from orca_cli.prediction.networks import members_of_run

        return replace(loaded, members=members_of_run(loaded, body_checkpoint))
    # The name is known to the program, so this folder is inside the run.
    model_folder = folder / CANDIDATES / candidate
    manifest_file = f"{CANDIDATES}/{candidate}/{storage.MANIFEST}"
    own_file(folder, manifest_file)
    storage.verify_folder(folder, only=[manifest_file])
    check_own_files(model_folder)
    storage.verify_folder(model_folder)
    record = replace(record, candidate=candidate, members=1)
    return _with_simple(replace(loaded, record=record), model_folder, body_checkpoint)


def _with_simple(loaded: Loaded, folder: Path, body_checkpoint: str | None) -> Loaded:
    """Return a run or an export with the baseline of a folder, whose files have been verified.

    Raises as `open_model`.
    """
    record = loaded.record
    simple = plain.read(folder)
    forms = ("maps", "class_maps", "masks") if record.kind == "dense" else (record.kind,)
    # In an untrusted folder, baseline and record may not belong together.
    if simple.record["form"] not in forms or simple.num_outputs != record.num_outputs:
        message = "the model record and the saved baseline differ in the kind or number of outputs"
        hint = "get the folder again, from a source that you trust"
        raise DataError(message, where=str(folder), hint=hint)
    loaded = replace(loaded, simple=simple)
    if simple.record["inputs"] in ("table", "raw"):
        return loaded
    # The embedder or the body makes its features.
    from orca_cli.prediction.networks import start

    network = start(loaded, folder, simple.record["inputs"], body_checkpoint)
    return replace(loaded, members=(network,))


def _check_name(candidate: str, names: Iterable[str], folder: Path, owner: str) -> None:
    """Raise ConfigError if a name is not among the names of the models that can predict."""
    if candidate not in names:
        hint = f"{owner}: {', '.join(names)}"
        raise ConfigError(f"has no model {candidate!r}", where=str(folder), hint=hint)
