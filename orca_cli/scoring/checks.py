"""What all errors check of a split's outputs and targets."""

from __future__ import annotations

from torch import Tensor

from orca_cli.exceptions import DataError, NonFiniteError


def check_fit(fits: bool, outputs: Tensor, targets: Tensor, takes: str) -> None:
    """Refuse outputs and targets that do not fit together.

    Args:
        fits: whether they do.
        outputs: of the model.
        targets: of the task.
        takes: the shapes that are expected, in words.

    Raises:
        DataError: they do not.
    """
    if not fits:
        what = f"outputs {tuple(outputs.shape)} do not fit {targets.dtype} targets {tuple(targets.shape)}"
        raise DataError(what, where="task.error", hint=f"this error takes {takes}")


def check_numbers(broken: Tensor, what: str = "NaN or infinite") -> None:
    """Refuse outputs that are not numbers where they count; an error of NaN could not be compared with others.

    Args:
        broken: bool, True for each such output.
        what: what it is.

    Raises:
        NonFiniteError: there are any.
    """
    if count := int(broken.sum()):
        raise NonFiniteError(f"{count} outputs are {what}", where="task.error", hint="try a smaller train.lr")
