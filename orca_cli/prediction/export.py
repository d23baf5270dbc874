"""One folder with all that a finished run needs to predict: no checkpoint of the body, no network, no training data.

DIR/
  README.md                            the model card
  model.safetensors                    all weights; model-0.safetensors, ... of several members, whose outputs are averaged
  preprocessing.{json,safetensors}     how new data become inputs, and what outputs mean
  body/config.json                     the body's architecture
  export.json                          what joins them; config.yaml: the run's settings
  MANIFEST.json                        size and SHA-256 of all files
"""

import os
from dataclasses import asdict, replace
from pathlib import Path

from safetensors.torch import save_file

from orca_cli import storage
from orca_cli.config import configuration
from orca_cli.config.compose import to_yaml
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.models.checkpoints import shareable_config
from orca_cli.prediction.card import model_card
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.record import EXPORT, SCHEMA
from orca_cli.runs.directory import SETTINGS
from orca_cli.runs.preprocessing import BODY_CONFIG, write_preprocessing

_ROOM = 2**22  # bytes that an export takes besides its weights


def export(loaded: Loaded, target: Path) -> None:
    """Write a model into a new folder, whole or not at all.

    Raises:
        ConfigError: something is there already.
        DataError: the body has no config.json.
        StorageError: it cannot be written.
    """
    if os.path.lexists(target):
        raise ConfigError("exists already", where=str(target), hint="name a new folder; nothing is overwritten")
    body = getattr(loaded.members[0].body, "folder", None)
    if body is None:
        what = "cannot be exported: its body was not made from a folder with a config.json"
        raise DataError(what, where=str(loaded.folder))
    sizes = [value.nbytes for member in loaded.members for value in member.state_dict().values()]
    storage.require_space(target.parent, sum(sizes) + _ROOM)
    record = loaded.record
    checkpoint = str(record.body.get("checkpoint", ""))
    if Path(checkpoint).expanduser().is_dir():  # of this machine
        record = replace(record, body={**record.body, "checkpoint": Path(checkpoint).name})
    settings = configuration.content(loaded.folder / SETTINGS)
    settings.pop("paths", None)  # of this machine
    with storage.commit_folder(target, owner=str(record.result.get("identity", ""))) as folder:
        for name, member in zip(record.weight_files, loaded.members, strict=True):
            weights = {key: value.detach().cpu().contiguous() for key, value in member.state_dict().items()}
            save_file(weights, folder / name)
        write_preprocessing(folder, loaded.preprocessing)
        storage.write_json(folder / BODY_CONFIG, shareable_config(body))
        storage.write_checked_json(folder / EXPORT, {"schema": SCHEMA, **asdict(record)})
        storage.write_text(folder / SETTINGS, to_yaml(settings))
        storage.write_text(folder / "README.md", model_card(replace(loaded, record=record)))
