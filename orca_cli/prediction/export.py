"""One folder with all that a finished run needs to predict: no checkpoint of the body, no network, no training data.

DIR/
  README.md                            the model card
  model.safetensors                    all weights; model-0.safetensors, ... of several members, whose outputs are averaged
  preprocessing.{json,safetensors}     how new data become inputs, and what outputs mean
  body/config.json                     the body's architecture
  export.json                          what joins them; config.yaml: the run's settings
  model.onnx onnx.json                 with --onnx, where the model can be written so
  MANIFEST.json                        size and SHA-256 of all files
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from orca_cli import configuration, storage
from orca_cli.compose import to_yaml
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.models.checkpoints import shareable_config
from orca_cli.prediction.card import model_card
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.onnx import FILE as ONNX
from orca_cli.prediction.onnx import NotExportedError, check_packages, write_onnx
from orca_cli.prediction.record import EXPORT, SETTINGS, ModelRecord, is_export
from orca_cli.runs.preprocessing import write_body_config, write_preprocessing

_ROOM = 2**22  # bytes that an export takes besides its weights


def export(loaded: Loaded, target: Path, *, onnx: bool = False) -> str:
    """Write a model into a new folder, whole or not at all.

    Args:
        loaded: the model.
        target: the folder.
        onnx: write it as ONNX as well.

    Returns:
        why there is no ONNX although it was asked for; else empty.

    Raises:
        UnavailableError: a package that ONNX needs is missing.
        ConfigError: something is there already.
        DataError: the body has no config.json.
        StorageError: it cannot be written.
    """
    if os.path.lexists(target):
        raise ConfigError("exists already", where=str(target), hint="name a new folder; nothing is overwritten")
    if loaded.body is None:
        what = "its body was not made from a folder with a config.json"
        raise DataError(f"cannot be exported: {what}", where=str(loaded.folder))
    if onnx:
        check_packages()
    reason = ""
    sizes = [value.nbytes for member in loaded.members for value in member.state_dict().values()]
    storage.require_space(target.parent, sum(sizes) + _ROOM)
    record = _portable(loaded.record)
    settings = configuration.content(loaded.folder / SETTINGS)
    settings.pop("paths", None)  # of this machine
    with storage.commit_folder(target, owner=str(record.result.get("identity", ""))) as folder:
        for name, member in zip(record.weight_files, loaded.members, strict=True):
            weights = {key: value.detach().cpu().contiguous() for key, value in member.state_dict().items()}
            save_file(weights, folder / name)
        write_preprocessing(folder, loaded.preprocessing)
        write_body_config(folder, shareable_config(loaded.body))
        storage.write_checked_json(folder / EXPORT, record.plain())
        storage.write_text(folder / SETTINGS, to_yaml(settings))
        if onnx:
            reason = _write_onnx(loaded, folder)
        predictions = loaded.folder / "3_finetune" / "predictions.npz"
        card = model_card(record, loaded, None if is_export(loaded.folder) else predictions)
        storage.write_text(folder / "README.md", card)
    return reason


def _write_onnx(loaded: Loaded, folder: Path) -> str:
    path = folder / ONNX
    try:
        storage.write_checked_json(folder / "onnx.json", {"schema": 1, **write_onnx(loaded, path)})
    except NotExportedError as error:
        for left in folder.glob(f"{ONNX}*"):
            storage.remove(left)
        return str(error)
    return ""


def _portable(record: ModelRecord) -> ModelRecord:
    """Return the record without the folder that the body's checkpoint had on this machine."""
    name = str(record.body.get("checkpoint", ""))
    if Path(name).expanduser().is_dir():
        return replace(record, body={**record.body, "checkpoint": Path(name).name})
    return record
