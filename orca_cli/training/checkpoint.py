"""Checkpoints of stages 2 and 3: folders `step-00000120` with a manifest, safetensors and JSON only.

A checkpoint holds weights, optimizer state and the records so far. It holds no generator state: every draw is a function
of (seed, name, step), see `seeding`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, ChecksumError
from orca_cli.terminal import log

_KEEP = 2
_PREFIX = "step-"


@dataclass
class Checkpoint:
    """The state of a stage after `step` optimizer steps.

    Args:
        step: number of optimizer steps taken.
        weights: the trained module's state.
        optimizer: the optimizer's tensors, flat; see `optimizer_tensors`.
        best: weights that are kept beside the current ones; empty where there are none.
        records: plain values, such as the lines of metrics.jsonl.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Commit a checkpoint and drop the oldest but two.

    Raises:
        StorageError: disk full or failing; the earlier checkpoints are intact.
    """
    with storage.commit_folder(folder / f"{_PREFIX}{checkpoint.step:08d}") as temporary:
        save_file(_contiguous(checkpoint.weights), temporary / "model.safetensors")
        save_file(_contiguous(checkpoint.optimizer), temporary / "optimizer.safetensors")
        if checkpoint.best:
            save_file(_contiguous(checkpoint.best), temporary / "best.safetensors")
        storage.write_json(temporary / "trainer.json", {"step": checkpoint.step, "records": checkpoint.records})
    for old in sorted(_whole(folder))[:-_KEEP]:
        storage.remove(old)


def load_latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None where there has been none.

    A damaged one is moved aside with a warning, and the one before it is used.

    Raises:
        CheckpointError: there are checkpoints, and none is whole.
    """
    for path in sorted(_whole(folder), reverse=True):
        try:
            storage.verify_folder(path)
        except ChecksumError as error:
            log.warning(f"damaged checkpoint left out: {error}")
            storage.quarantine(path)
            continue
        trainer = json.loads((path / "trainer.json").read_text(encoding="utf-8"))
        best = path / "best.safetensors"
        return Checkpoint(
            step=trainer["step"],
            weights=load_file(path / "model.safetensors"),
            optimizer=load_file(path / "optimizer.safetensors"),
            best=load_file(best) if best.exists() else {},
            records=trainer["records"],
        )
    if any(folder.glob(f"{_PREFIX}*")):
        raise CheckpointError("no checkpoint is whole", where=str(folder), hint="start anew with --force")
    return None


def _whole(folder: Path) -> list[Path]:
    """Return the checkpoints that were not moved aside as damaged."""
    return [path for path in folder.glob(f"{_PREFIX}*") if ".bad-" not in path.name]


def clear(folder: Path) -> None:
    """Delete all checkpoints of a stage that has ended."""
    if folder.exists():
        storage.remove(folder)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as flat, named tensors; its settings come from the configuration."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value.detach().cpu() if isinstance(value, Tensor) else torch.tensor(value)
        for index, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and bytes of weights; equal for equal weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
