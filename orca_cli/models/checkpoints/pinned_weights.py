"""Weights that a package publishes as a torch file (.bin), which is a pickle: read only if it is the published one.

The caller compares the file's SHA-256 with the recorded one before; torch's own reader of plain tensors
(`weights_only=True`), which builds nothing else, is a second barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.exceptions import DataError

if TYPE_CHECKING:  # commands that only look at checkpoints import no torch
    from torch import Tensor, nn

_SHOWN = 3


def fill(model: nn.Module, file: Path, prefix: str, left_out: Sequence[str]) -> None:
    """Give a model the tensors of a torch file; each of the model's is needed, and none that is not named may be over.

    Args:
        model: a transformers model without pooler.
        file: a state dict of plain tensors.
        prefix: of the model's tensors in the file, such as "bert.".
        left_out: beginnings of the names, in the file, of tensors that the model has no use for, such as heads.

    Raises:
        DataError: the file cannot be read, lacks a tensor, has one more, or one of another shape.
    """
    stored = _read(file)
    wanted = model.state_dict()
    used = {name: value for name, value in stored.items() if not name.startswith(tuple(left_out))}
    own = {name.removeprefix(prefix): value for name, value in used.items() if name.startswith(prefix)}
    extra = sorted(name for name in used if not name.startswith(prefix) or name.removeprefix(prefix) not in wanted)
    missing = sorted(f"{prefix}{name}" for name in wanted if name not in own)
    wrong = sorted(f"{prefix}{name}" for name in own.keys() & wanted.keys() if own[name].shape != wanted[name].shape)
    for what, names in (("lacks", missing), ("also holds", extra), ("has another shape of", wrong)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            hint = "install the version of the package that the extra names"
            raise DataError(f"{what} {', '.join(names[:_SHOWN])}{more}", where=str(file), hint=hint)
    model.load_state_dict(own)


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a torch file by their names; anything else in it is refused."""
    import torch

    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        reason = str(error).partition("\n")[0][:100]
        raise DataError(f"is not a file of plain tensors ({reason})", where=str(file)) from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise DataError("is not a dict of tensors", where=str(file))
    return {str(name): value for name, value in found.items()}
