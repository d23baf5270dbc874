"""Checkpoints of stages 2 and 3: folders `step-00000120` with a manifest, safetensors and JSON only.

A checkpoint holds weights, optimizer state, fp16's gradient scale and the records so far. It holds no generator state:
every draw is a function of (seed, name, step), see `seeding`.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, ChecksumError
from orca_cli.runs.directory import checkpoints
from orca_cli.terminal import log
from orca_cli.training.cache import Entry, save_tensors

_KEEP = 2
_SCHEMA = 1
_MEMBERS = ("model.safetensors", "optimizer.safetensors", "trainer.json")
_KEPT, _RECORD, _TENSORS = "kept.safetensors", "member.json", "outputs.safetensors"
_ROOM = 2**20  # bytes that a checkpoint takes besides its tensors


@dataclass
class Checkpoint:
    """The state of a stage after `step` optimizer steps.

    Args:
        step: number of optimizer steps taken.
        weights: the trained module's state.
        optimizer: the optimizer's tensors, flat; see `optimizer_tensors`.
        kept: weights kept besides the current ones, such as the best so far.
        records: plain values, such as the lines of metrics.jsonl.
        scaler: state of fp16's gradient scaler, plain values; empty at other precisions.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    kept: dict[str, Tensor] = field(default_factory=dict)
    records: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, *, owner: str = "") -> None:
    """Commit a checkpoint of a run (`owner`) and drop all but the newest two; a valid one of the same step is left as it is.

    Raises:
        StorageError: disk full or failing; the earlier checkpoints are intact.
    """
    path = folder / f"step-{checkpoint.step:08d}"
    if path.exists():
        try:
            storage.verify_folder(path)
            return
        except ChecksumError:
            storage.quarantine(path)
    tensors = (checkpoint.weights, checkpoint.optimizer, checkpoint.kept)
    size = sum(value.nbytes for group in tensors for value in group.values())
    storage.require_space(folder, size + _ROOM)
    with storage.commit_folder(path, owner=owner) as temporary:
        save_tensors(temporary / "model.safetensors", checkpoint.weights)
        save_tensors(temporary / "optimizer.safetensors", checkpoint.optimizer)
        if checkpoint.kept:
            save_tensors(temporary / _KEPT, checkpoint.kept)
        state = {
            "step": checkpoint.step,
            "records": checkpoint.records,
            "scaler": checkpoint.scaler,
        }
        storage.write_json(temporary / "trainer.json", {"schema": _SCHEMA, **state})
    for old in list(checkpoints(folder).values())[:-_KEEP]:
        storage.remove(old)


def load_latest(folder: Path, *, owner: str = "") -> Checkpoint | None:
    """Return the newest valid checkpoint, or None if there has been none.

    A damaged one, or one of another run, is moved aside with a warning, and the one before it is used.

    Raises:
        CheckpointError: there are checkpoints but none is valid, or a newer program wrote them.
        StorageError: one exists but cannot be read.
    """
    for path in reversed(checkpoints(folder).values()):
        try:
            return _load(path, owner)
        except ChecksumError as error:
            log.warning(f"skipping a damaged checkpoint: {error}")
            storage.quarantine(path)
    if any(folder.glob("step-*")):
        hint = "delete this folder to restart the stage, or use --force to restart the run"
        raise CheckpointError("no valid checkpoint found", where=str(folder), hint=hint)
    return None


def _load(path: Path, owner: str) -> Checkpoint:
    if storage.verify_folder(path) != owner:
        raise ChecksumError("belongs to another run", where=str(path))
    storage.verify_folder(path, only=_MEMBERS, contents=False)  # a valid manifest may name too few
    trainer = json.loads((path / "trainer.json").read_text(encoding="utf-8"))
    if trainer["schema"] != _SCHEMA:
        what = f"schema {trainer['schema']} is not supported"
        raise CheckpointError(what, where=str(path), hint="use a newer program")
    if path.name != f"step-{trainer['step']:08d}":
        raise ChecksumError(f"actually contains step {trainer['step']}", where=str(path))
    weights, optimizer = (
        storage.read_tensors(path / f"{name}.safetensors") for name in ("model", "optimizer")
    )
    kept = storage.read_tensors(path / _KEPT) if (path / _KEPT).exists() else {}
    return Checkpoint(
        trainer["step"], weights, optimizer, kept, trainer["records"], trainer.get("scaler", {})
    )


class Saver:
    """The checkpoints of one stage: the newest to resume from, and another whenever `every_s` seconds have passed."""

    def __init__(self, folder: Path, *, owner: str, every_s: float) -> None:
        self._folder, self._owner, self._every_s = folder, owner, every_s
        self._last = time.monotonic()
        self._saved = 0

    def load(self) -> Checkpoint | None:
        """Return the newest valid checkpoint; see `load_latest`."""
        newest = load_latest(self._folder, owner=self._owner)
        self._saved = 0 if newest is None else newest.step
        return newest

    def is_due(self, step: int) -> bool:
        """Return whether a step has not been saved yet and enough time has passed."""
        return step != self._saved and time.monotonic() - self._last >= self._every_s

    def save(self, checkpoint: Checkpoint) -> bool:
        """Commit a checkpoint and return True, unless its step has one already."""
        if checkpoint.step == self._saved:
            return False
        save(self._folder, checkpoint, owner=self._owner)
        self._last, self._saved = time.monotonic(), checkpoint.step
        return True


def commit_weights(
    folder: Path, weights: Mapping[str, Tensor], *, owner: str, finished: Entry | None = None
) -> None:
    """Commit a folder with model.safetensors and a manifest; one that exists is replaced.

    Of a member it also has what `read_finished` returns while others still train: outputs.safetensors and member.json.
    """
    with storage.commit_folder(folder, owner=owner) as temporary:
        save_tensors(temporary / "model.safetensors", weights)
        if finished is not None:
            save_tensors(temporary / _TENSORS, finished.tensors)
            storage.write_json(temporary / _RECORD, {"schema": _SCHEMA, **finished.record})


def read_finished(folder: Path, *, owner: str) -> Entry | None:
    """Return what a finished member has left; None where it is not finished, or its folder was damaged and moved aside."""
    if not folder.exists():
        return None
    try:
        if storage.verify_folder(folder) != owner:
            raise ChecksumError("belongs to another run", where=str(folder))
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except ChecksumError as error:
        log.warning(f"damaged, training it again: {error}")
        storage.quarantine(folder)
        return None
    return Entry(storage.read_tensors(folder / _TENSORS), record)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors by names such as "5.exp_avg"; its settings come from the configuration."""
    return {
        f"{number}.{name}": value.detach().cpu()
        if isinstance(value, Tensor)
        else torch.tensor(value)
        for number, group in optimizer.state_dict()["state"].items()
        for name, value in group.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


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
