"""Checkpoints of stages 2 and 3.

They are folders `step-00000120` with a manifest, safetensors and JSON only. A checkpoint contains
weights, optimizer state, fp16's gradient scale and the records so far. It contains no generator
state: every draw is a function of (seed, name, step), see `seeding`.
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

_KEEP = 2  # number of checkpoints kept in a stage
_SCHEMA = 1
_WEIGHTS = "model.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_TRAINER = "trainer.json"
_KEPT = "kept.safetensors"  # the best weights so far
_MEMBER_RECORD = "member.json"
_MEMBER_OUTPUTS = "outputs.safetensors"
_ROOM = 2**20  # number of bytes that a checkpoint takes in addition to its tensors


@dataclass
class Checkpoint:
    """The state of a stage after `step` optimizer steps.

    Args:
        step: number of optimizer steps taken.
        weights: the trained module's state.
        optimizer: the optimizer's tensors, flat; see `optimizer_tensors`.
        kept: the best weights so far, if the stage chooses by validation; otherwise empty.
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
    """Commit a checkpoint of a run (`owner`) and drop all but the newest two.

    A valid checkpoint of the same step is left as it is.

    Raises:
        StorageError: disk full or failing; the earlier checkpoints are intact.
    """
    checkpoint_folder = folder / _folder_name(checkpoint.step)
    # An earlier attempt of the run may have reached this step.
    if checkpoint_folder.exists():
        # If it is intact, it contains the same state: every draw is a function of the step.
        try:
            storage.verify_folder(checkpoint_folder)
            return
        except ChecksumError:
            storage.quarantine(checkpoint_folder)
    bytes_needed = _ROOM
    for tensors in (checkpoint.weights, checkpoint.optimizer, checkpoint.kept):
        bytes_needed += sum(tensor.nbytes for tensor in tensors.values())
    # Checked first, so that half a checkpoint does not take up the space that is left.
    storage.require_space(folder, bytes_needed)
    # The checkpoint gets its name last, so a crash inside the block leaves no half-written
    # checkpoint.
    with storage.commit_folder(checkpoint_folder, owner=owner) as temporary:
        save_tensors(temporary / _WEIGHTS, checkpoint.weights)
        save_tensors(temporary / _OPTIMIZER, checkpoint.optimizer)
        if checkpoint.kept:
            save_tensors(temporary / _KEPT, checkpoint.kept)
        trainer_state = {
            "schema": _SCHEMA,
            "step": checkpoint.step,
            "records": checkpoint.records,
            "scaler": checkpoint.scaler,
        }
        storage.write_json(temporary / _TRAINER, trainer_state)
    oldest_first = [*checkpoints(folder).values()]
    # Two are kept: the older one is used if the newest turns out to be damaged.
    for superseded in oldest_first[:-_KEEP]:
        storage.remove(superseded)


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


def load_latest(folder: Path, *, owner: str = "") -> Checkpoint | None:
    """Return the newest valid checkpoint, or None if the stage has saved none.

    A checkpoint that is damaged or belongs to another run is moved aside with a warning, and the
    one before it is used.

    Raises:
        CheckpointError: checkpoints exist, but no checkpoint is valid, or a newer program wrote
            them.
        StorageError: a checkpoint exists but cannot be read.
    """
    for checkpoint_folder in reversed(checkpoints(folder).values()):
        try:
            return _load(checkpoint_folder, owner)
        except ChecksumError as error:
            log.warning(f"skipping a damaged checkpoint: {error}")
            storage.quarantine(checkpoint_folder)
    # Folders that were moved aside match the pattern too. If checkpoints existed, a silent start at
    # step 0 would throw away the work in them.
    if any(folder.glob("step-*")):
        raise CheckpointError(
            "no valid checkpoint found",
            where=str(folder),
            hint="delete this folder to restart the stage, or use --force to restart the run",
        )
    return None


def _load(folder: Path, owner: str) -> Checkpoint:
    """Return the checkpoint in a folder; ChecksumError if it is damaged or another run's."""
    # Nothing is parsed before its checksum has been compared.
    _check_owner(folder, owner)
    # A manifest that is valid in itself may still lack one of these files.
    required_files = (_WEIGHTS, _OPTIMIZER, _TRAINER)
    storage.verify_folder(folder, only=required_files, contents=False)
    trainer_state = json.loads((folder / _TRAINER).read_text(encoding="utf-8"))
    if trainer_state["schema"] != _SCHEMA:
        raise CheckpointError(
            f"has schema {trainer_state['schema']}, which this version of orca cannot read",
            where=str(folder),
            hint="use a newer version of orca",
        )
    # A folder that was copied or renamed would resume at the wrong step.
    step = trainer_state["step"]
    if folder.name != _folder_name(step):
        message = f"contains step {step}, but the folder's name has another step"
        raise ChecksumError(message, where=str(folder))
    best_weights = {}
    if (folder / _KEPT).exists():
        best_weights = storage.read_tensors(folder / _KEPT)
    return Checkpoint(
        step=step,
        weights=storage.read_tensors(folder / _WEIGHTS),
        optimizer=storage.read_tensors(folder / _OPTIMIZER),
        kept=best_weights,
        records=trainer_state["records"],
        scaler=trainer_state.get("scaler", {}),
    )


def _check_owner(folder: Path, owner: str) -> None:
    """Raise ChecksumError if a folder is damaged or belongs to another run."""
    # A manifest proves only that the content is intact; the owner ties it to this run's settings.
    if storage.verify_folder(folder) != owner:
        raise ChecksumError("was written by another run", where=str(folder))


class Saver:
    """Loads the newest checkpoint of a stage, and saves new checkpoints during training.

    A new checkpoint is due whenever `every_s` seconds have passed.
    """

    def __init__(self, folder: Path, *, owner: str, every_s: float) -> None:
        self._folder = folder
        self._owner = owner
        self._every_s = every_s
        self._saved_at = time.monotonic()
        # Step 0 counts as saved: a run can always start there.
        self._saved_step = 0

    def load(self) -> Checkpoint | None:
        """Return the newest valid checkpoint; see `load_latest`."""
        newest = load_latest(self._folder, owner=self._owner)
        self._saved_step = 0 if newest is None else newest.step
        return newest

    def is_due(self, step: int) -> bool:
        """Return whether a step has not been saved yet and enough time has passed."""
        return step != self._saved_step and time.monotonic() - self._saved_at >= self._every_s

    def save(self, checkpoint: Checkpoint) -> bool:
        """Commit a checkpoint and return True, unless its step has one already."""
        # The last step of a stage may have been saved just before, because it was due.
        if checkpoint.step == self._saved_step:
            return False
        save(self._folder, checkpoint, owner=self._owner)
        self._saved_at = time.monotonic()
        self._saved_step = checkpoint.step
        return True


def commit_weights(
    folder: Path, weights: Mapping[str, Tensor], *, owner: str, finished: Entry | None = None
) -> None:
    """Commit a folder with model.safetensors and a manifest; an existing folder is replaced.

    If several models are trained, `finished` has the outputs and the record of the member with
    these weights, for `read_finished`: outputs.safetensors and member.json.
    """
    # Weights, outputs and record appear together, so that a member counts as finished or not at
    # all.
    with storage.commit_folder(folder, owner=owner) as temporary:
        save_tensors(temporary / _WEIGHTS, weights)
        if finished is not None:
            save_tensors(temporary / _MEMBER_OUTPUTS, finished.tensors)
            storage.write_json(temporary / _MEMBER_RECORD, {"schema": _SCHEMA, **finished.record})


def read_finished(folder: Path, *, owner: str) -> Entry | None:
    """Return outputs and record of a finished member, as `commit_weights` wrote them.

    None if the member is not finished, or if its folder was damaged and is now moved aside.
    """
    if not folder.exists():
        return None
    try:
        _check_owner(folder, owner)
        member_record = json.loads((folder / _MEMBER_RECORD).read_text(encoding="utf-8"))
    except ChecksumError as error:
        log.warning(f"training a member again, since its folder is damaged: {error}")
        storage.quarantine(folder)
        return None
    return Entry(storage.read_tensors(folder / _MEMBER_OUTPUTS), member_record)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as tensors by names such as "5.exp_avg".

    Its settings, such as the rate, are left out: they come from the configuration.
    """
    tensors = {}
    for parameter_number, state in optimizer.state_dict()["state"].items():
        for entry_name, entry in state.items():
            tensor_name = f"{parameter_number}.{entry_name}"
            if isinstance(entry, Tensor):
                tensors[tensor_name] = entry.detach().cpu()
            # None is SGD's momentum before the first step.
            elif entry is not None:
                tensors[tensor_name] = torch.tensor(entry)
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` returned."""
    states: dict[int, dict[str, Tensor]] = {}
    for tensor_name, tensor in tensors.items():
        parameter_number, _, entry_name = tensor_name.partition(".")
        states.setdefault(int(parameter_number), {})[entry_name] = tensor
    # The groups are the optimizer's own: its settings come from the configuration.
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state on the CPU."""
    copies = {}
    for name, tensor in module.state_dict().items():
        on_cpu = tensor.detach().cpu()
        # On the CPU `cpu` returns the tensor itself, which training goes on changing.
        copies[name] = on_cpu.clone()
    return copies


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, types, shapes and bytes of weights; equal for equal weights."""
    digest = hashlib.sha256()
    # Sorted, so that the order in which a module registers its tensors does not matter.
    for name in sorted(weights):
        tensor = weights[name].detach()
        shape = tuple(tensor.shape)
        # The header keeps equal bytes of another type or shape apart.
        digest.update(f"{name} {tensor.dtype} {shape} ".encode())
        contiguous = tensor.cpu().contiguous()
        # As bytes, since numpy has no bfloat16.
        content = contiguous.reshape(-1).view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()
