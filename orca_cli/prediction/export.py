"""One folder with all that a finished run needs to predict: no checkpoint of the body, no network, no training data.

DIR/
  README.md                            the model card
  model.safetensors                    all weights; model-0.safetensors, ... of several members, whose outputs are averaged
  preprocessing.{json,safetensors}     how new data become inputs, and what outputs mean
  body/config.json                     the body's architecture
  export.json                          what joins them; config.yaml: the run's settings
  model.onnx                           with --onnx
  MANIFEST.json                        size and SHA-256 of all files

The ONNX takes `x` [batch, C, *E] float32 as the preprocessing gives it, and returns `outputs` [batch, K] or [batch, K, *E].
It is checked against onnxruntime.
"""

import copy
import importlib.util
import io
import logging
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from orca_cli import seeding, storage
from orca_cli.config import configuration
from orca_cli.config.compose import to_yaml
from orca_cli.exceptions import ConfigError, DataError, UnavailableError
from orca_cli.models.checkpoints import shareable_config
from orca_cli.prediction.card import model_card
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.record import EXPORT, SCHEMA
from orca_cli.runs.directory import SETTINGS
from orca_cli.runs.preprocessing import BODY_CONFIG, write_preprocessing

_ROOM = 2**22  # bytes that an export takes besides its weights
_TOLERANCE = 1e-3  # of the largest output
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(loaded: Loaded, target: Path, *, onnx: bool = False) -> None:
    """Write a model into a new folder, as ONNX as well on request, whole or not at all.

    Raises:
        UnavailableError: a package that ONNX needs is missing.
        ConfigError: something is there already.
        DataError: the body has no config.json, or the model cannot be written as ONNX.
        StorageError: it cannot be written.
    """
    if os.path.lexists(target):
        raise ConfigError("exists already", where=str(target), hint="name a new folder; nothing is overwritten")
    body = getattr(loaded.members[0].body, "folder", None)
    if body is None:
        what = "cannot be exported: its body was not made from a folder with a config.json"
        raise DataError(what, where=str(loaded.folder))
    if onnx and (missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]):
        what = f"the package {missing[0]} is not installed"
        raise UnavailableError(what, where="--onnx", hint="pip install 'orca-transfer[onnx]'")
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
        if onnx:
            _write_onnx(loaded, folder / "model.onnx")
        storage.write_text(folder / "README.md", model_card(replace(loaded, record=record)))


def _write_onnx(loaded: Loaded, path: Path) -> None:
    """Write a model as ONNX; DataError where torch cannot, onnxruntime cannot run it, or its outputs differ."""
    import onnxruntime

    if getattr(loaded.preprocessing, "has_masks", False):
        raise _not_exported("its samples have padding, and the mask is not an input of the exported model")
    model, first = loaded.model.eval(), loaded.members[0]
    draws = seeding.torch_generator(0, "onnx")
    batches = [torch.randn((count, *loaded.record.input_shape), generator=draws) for count in (1, 3)]
    # Plain products: torch's fused attention is not in every graph.
    configs = [config for member in loaded.members if (config := getattr(member.body, "config", None)) is not None]
    kept, disabled = [copy.copy(config._attn_implementation) for config in configs], logging.root.manager.disable
    try:
        for config in configs:
            config._attn_implementation = "eager"
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            batch = ({0: torch.export.Dim("batch")},)
            names: dict[str, Any] = {"input_names": ["x"], "output_names": ["outputs"], "dynamic_shapes": batch}
            torch.onnx.export(model, (batches[-1],), path, **names, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = [session.run(["outputs"], {"x": x.numpy()})[0] for x in batches]
    except Exception as error:
        raise _not_exported(f"{type(error).__name__}: {error.__cause__ or error}") from error
    finally:
        logging.disable(disabled)
        for config, implementation in zip(configs, kept, strict=True):
            config._attn_implementation = implementation
    with torch.no_grad():
        expected = [model(x).numpy() for x in batches]
    # Numbers in units of the targets' deviation: a large offset would hide all that differs.
    mean, unit = (first.scale_mean.cpu().numpy(), first.scale_std.cpu().numpy()) if first.has_scale else (0.0, 1.0)
    for one, other in zip(outputs, expected, strict=True):
        apart, largest = np.abs((one - other) / unit).max(), np.abs((other - mean) / unit).max()
        if not apart <= _TOLERANCE * max(1.0, largest):
            raise _not_exported(f"onnxruntime's outputs differ by {apart:.3g} (largest output {largest:.3g})")


def _not_exported(why: str) -> DataError:
    text = f"cannot be written as ONNX: {' '.join(why.split())[:200]}"
    return DataError(text, where="--onnx", hint="leave it out")
