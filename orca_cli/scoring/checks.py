"""What all errors check of a split's outputs and targets."""

from __future__ import annotations

from torch import Tensor

from orca_cli.exceptions import DataError, NonFiniteError


def check_fit(fits: bool, outputs: Tensor, targets: Tensor, takes: str) -> None:
    """Raise DataError unless outputs and targets fit together; `takes` says in words which shapes are expected."""
    if not fits:
        what = f"outputs {tuple(outputs.shape)} do not fit {targets.dtype} targets {tuple(targets.shape)}"
        raise DataError(what, where="task.error", hint=f"this error takes {takes}")


def check_numbers(broken: Tensor, what: str = "NaN or infinite") -> None:
    """Raise NonFiniteError where outputs that count are not numbers: an error of NaN cannot be compared with others."""
    if count := int(broken.sum()):
        raise NonFiniteError(f"{count} outputs are {what}", where="task.error", hint="try a smaller train.lr")
