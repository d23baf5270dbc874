"""Out of memory, reported with the setting that governs it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from orca_cli.exceptions import MemoryExhaustedError

# torch on CPU, CUDA and MPS; safetensors; C++; cuBLAS and cuDNN; oneDNN, whose whole message this is
_WORDS = re.compile(
    r"out of memory|can(?:'t|not) allocate memory|bad_alloc|STATUS_ALLOC_FAILED|could not create a (?:primitive|memory)$",
    re.IGNORECASE,
)


def is_exhausted(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out; most libraries have no type for it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_WORDS.search(str(error)))


class StepMemoryError(MemoryExhaustedError):
    """The gradient of an optimizer step does not fit; the weights are as before, so the step can be repeated in pieces."""


@contextmanager
def governed_by(
    where: str, hint: str = "", *, kind: type[MemoryExhaustedError] = MemoryExhaustedError
) -> Iterator[None]:
    """Name the setting to lower if memory runs out inside the block; an inner block takes precedence.

    Args:
        where: the setting that governs most of the block's memory.
        hint: what to do.
        kind: `StepMemoryError` tells a forward and backward pass that runs out of memory from other work that does.

    Raises:
        MemoryExhaustedError: memory ran out.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_exhausted(error):
            raise
        raise kind("not enough memory", where=where, hint=hint) from error
