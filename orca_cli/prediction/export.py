"""One folder with all that a finished run needs to predict: no checkpoint of the body, no network, no training data.

DIR/
  README.md                            the model card
  model.safetensors                    all weights; model-0.safetensors, ... of several members, whose outputs are averaged
  preprocessing.{json,safetensors}     how new data become inputs, and what outputs mean
  body/config.json                     the body's architecture
  export.json                          what joins them; config.yaml: the run's settings
  model.onnx onnx.json                 with --onnx, where the model can be written so
  MANIFEST.json                        size and SHA-256 of all files

The ONNX takes `x` [batch, C, *E] float32 as the preprocessing gives it, and returns `outputs` [batch, K] or [batch, K, *E].
It is checked against onnxruntime, or left out with the reason.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from orca_cli import seeding, storage
from orca_cli.config import configuration
from orca_cli.config.compose import to_yaml
from orca_cli.exceptions import ConfigError, DataError, UnavailableError
from orca_cli.models.checkpoints import shareable_config
from orca_cli.models.transfer import TransferModel
from orca_cli.prediction.card import model_card
from orca_cli.prediction.loading import Loaded
from orca_cli.prediction.record import EXPORT, SETTINGS
from orca_cli.runs.preprocessing import BODY_CONFIG, write_preprocessing

_ROOM = 2**22  # bytes that an export takes besides its weights
ONNX = "model.onnx"
_TOLERANCE = 1e-3  # of the largest output
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MOST_BYTES = 2**31 - 2**24  # of one file in protobuf's format
_SIZES = (1, 3)


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
    sizes = [value.nbytes for member in loaded.members for value in member.state_dict().values()]
    storage.require_space(target.parent, sum(sizes) + _ROOM)
    record, reason = loaded.record, ""
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
        storage.write_json(folder / BODY_CONFIG, shareable_config(loaded.body))
        storage.write_checked_json(folder / EXPORT, record.plain())
        storage.write_text(folder / SETTINGS, to_yaml(settings))
        if onnx:
            try:
                storage.write_checked_json(folder / "onnx.json", {"schema": 1, **write_onnx(loaded, folder / ONNX)})
            except NotExportedError as error:
                reason = str(error)
                for left in folder.glob(f"{ONNX}*"):
                    storage.remove(left)
        storage.write_text(folder / "README.md", model_card(replace(loaded, record=record)))
    return reason


class NotExportedError(Exception):
    """This model cannot be written as ONNX; the message says why."""


class _Unmasked(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, None)


def check_packages() -> None:
    """Raise UnavailableError where a package of the extra `onnx` is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        what = f"the package {missing[0]} is not installed"
        raise UnavailableError(what, where="--onnx", hint="pip install 'orca-transfer[onnx]'")


def write_onnx(loaded: Loaded, path: Path) -> dict[str, Any]:
    """Write a model, and return what was written and how far onnxruntime's outputs are from torch's.

    Raises:
        NotExportedError: torch cannot export it, it is too large, or the outputs differ.
    """
    size = sum(value.nbytes for value in loaded.model.state_dict().values())
    if size > _MOST_BYTES:
        raise NotExportedError(f"its weights take {size / 2**30:.1f} GiB, and one file of ONNX holds 2 GiB")
    if getattr(loaded.preprocessing, "has_masks", False):
        raise NotExportedError("its samples have padding, and the mask is not an input of the exported model")
    model = _Unmasked(loaded.model).eval()
    shape = loaded.record.input_shape
    draws = seeding.torch_generator(0, "onnx")
    batches = [torch.randn((count, *shape), generator=draws) for count in _SIZES]
    # Plain products: torch's fused attention is not in every graph.
    configs = [config for member in loaded.members if (config := getattr(member.body, "config", None)) is not None]
    kept = [copy.copy(config._attn_implementation) for config in configs]
    try:
        for config in configs:
            config._attn_implementation = "eager"
        _export(model, batches[-1], path)
    finally:
        for config, implementation in zip(configs, kept, strict=True):
            config._attn_implementation = implementation
    with torch.no_grad():
        expected = [model(x).numpy() for x in batches]
    outputs = _run(path, batches)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True))
    check_same(outputs, expected, loaded.members[0])
    return {
        "file": path.name,
        "input": {"name": "x", "shape": ["batch", *shape], "dtype": "float32"},
        "output": {"name": "outputs", "shape": ["batch", *expected[0].shape[1:]], "dtype": "float32"},
        "largest_difference": difference,
    }


def check_same(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], model: TransferModel) -> None:
    """Compare outputs [B, K, ...] of a graph with those of its model.

    Numbers are compared in units of the targets' deviation: a large offset would hide all that differs.

    Raises:
        NotExportedError: they differ.
    """
    mean, unit = (model.scale_mean.cpu().numpy(), model.scale_std.cpu().numpy()) if model.has_scale else (0.0, 1.0)
    pairs = [((one - mean) / unit, (other - mean) / unit) for one, other in zip(outputs, expected, strict=True)]
    apart = max(float(np.abs(one - other).max()) for one, other in pairs)
    largest = max(float(np.abs(other).max()) for _, other in pairs)
    if not apart <= _TOLERANCE * max(1.0, largest):
        unit_text = " deviations of the targets" if model.has_scale else ""
        raise NotExportedError(f"onnxruntime's outputs differ by {apart:.3g}{unit_text} (largest output {largest:.3g})")


def _export(model: nn.Module, x: Tensor, path: Path) -> None:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    silenced = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())  # the exporter's own messages
    try:
        with warnings.catch_warnings(action="ignore"), silenced[0], silenced[1]:
            torch.onnx.export(
                model,
                (x,),
                path,
                input_names=["x"],
                output_names=["outputs"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        text = " ".join(str(error.__cause__ or error).split())[:200]
        raise NotExportedError(f"torch cannot export it: {type(error).__name__}: {text}") from error
    finally:
        logging.disable(disabled)


def _run(path: Path, batches: list[Tensor]) -> list[np.ndarray]:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return [session.run(["outputs"], {"x": x.numpy()})[0] for x in batches]
    except Exception as error:
        raise NotExportedError(f"onnxruntime cannot run it: {str(error).splitlines()[0][:200]}") from error
