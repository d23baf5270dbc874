"""Variables of MATLAB 5 files (`-v6`, `-v7`), read by SciPy in the worker."""

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.untrusted import isolation
from orca_cli.data.untrusted.archives import MAX_DEFLATE
from orca_cli.data.untrusted.first_bytes import damage, first_bytes
from orca_cli.data.untrusted.memory import check_memory, checked_characters
from orca_cli.exceptions import DataError, UnsafeError

_ALLOWED = "a MATLAB 5 file is needed: save it with -v7"
_MAX_BYTES = 8 * 2**30
_SIZES = {
    "single": 4,
    "logical": 1,
    **{f"{sign}int{bits}": bits // 8 for sign in ("u", "") for bits in (8, 16, 32)},
}


def read(path: Path, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return variables with MATLAB's axes and types.

    Real numbers get the type of their MATLAB class (double: float64; logical: bool), whatever smaller type the file stores
    them in. A cell array becomes an object array of arrays, text an array of strings.

    Raises:
        DataError: missing, damaged, of another version, or lacks a variable; a variable is a struct, sparse, complex, a
            function or an object of a class.
        UnsafeError: more bytes than `max_bytes` together or than the file can hold.
        MemoryExhaustedError: a variable is larger than the free memory.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    where = str(path)
    first_bytes(path, where, _ALLOWED)
    settings = {"path": where, "names": list(names), "max_bytes": max_bytes}
    variables: dict[str, np.ndarray] = isolation.read(
        read_here, where, path.stat().st_size, **settings
    )
    return variables


def read_here(path: str, names: list[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return what `read` does, parsed in this process, which a damaged file can crash; errors as there."""
    import scipy.io

    with open(path, "rb") as file:
        if file.read(128)[124:] not in (b"\x00\x01IM", b"\x01\x00MI"):
            raise DataError(
                "not a MATLAB file, or one of another version", where=path, hint=_ALLOWED
            )
    with damage(path, "MATLAB file"):
        held = scipy.io.whosmat(path, appendmat=False, chars_as_strings=False)
        size, total = Path(path).stat().st_size, 0
        for name, shape, kind in held:
            if name in names:
                total += math.prod(shape) * _SIZES.get(kind, 8)
                if (
                    min(shape, default=0) < 0
                    or math.prod(shape) > size * MAX_DEFLATE
                    or total > max_bytes
                ):
                    what = f"'{name}' declares the shape {shape}, more than the file can hold or than is read"
                    raise UnsafeError(
                        what, where=path, hint="get the file from a source that you trust"
                    )
                check_memory(total, path, hint="use a machine with more memory")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", np.exceptions.ComplexWarning
            )  # the conversion would drop imaginary parts
            values = scipy.io.loadmat(path, appendmat=False, variable_names=names, mat_dtype=True)
        for name in names:
            if name not in values:
                shown = ascii(sorted(other for other, _, _ in held)[:10])
                raise DataError(f"holds no array '{name}'", where=path, hint=f"it holds {shown}")
        return {name: _plain(values[name], name, path) for name in names}


def _plain(value: Any, name: str, where: str) -> np.ndarray:
    """Return an array in this machine's byte order; refuse structs, objects, functions, sparse matrices, also in cells."""
    if type(value) is not np.ndarray or value.dtype.kind not in "biufUO":
        what = f"'{ascii(name)[1:-1]}' is a {'struct' if isinstance(value, np.ndarray) else type(value).__name__}"
        raise DataError(
            what, where=where, hint="save it as an array of numbers or text, or as a cell array"
        )
    for index in np.ndindex(value.shape if value.dtype.kind == "O" else 0):
        value[index] = _plain(value[index], f"{name}{{...}}", where)
    return checked_characters(value.astype(value.dtype.newbyteorder("="), copy=False), where)
