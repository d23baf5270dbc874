"""Read variables in MATLAB 5 files (`-v6`, `-v7`) with SciPy, in the worker."""

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

_ALLOWED = "provide a MATLAB 5 file, saved with the option -v7"
_MAX_BYTES = 8 * 2**30
# MATLAB's class of numbers -> bytes per number; other classes have up to 8 bytes per number.
_SIZES = {
    "single": 4,
    "logical": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
}


def read(path: Path, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return variables with MATLAB's axes and types.

    Real numbers get the type of their MATLAB class (double: float64; logical: bool), even if the
    file stores them in a smaller type. A cell array becomes an object array of arrays, and text
    becomes an array of strings.

    Raises:
        DataError: the file is missing, damaged, of another version, or lacks a variable; or a
            variable is a struct, sparse, complex, a function or an object of a class.
        UnsafeError: the variables together declare more bytes than `max_bytes` or than the file can
            contain.
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
    """Return variables as `read` does, but read in this process, which a damaged file may crash."""
    import scipy.io

    with open(path, "rb") as file:
        # The header ends with the version, 1.0, and the byte order.
        version_mark = file.read(128)[124:]
    if version_mark not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise DataError("is not a valid MATLAB 5 file", where=path, hint=_ALLOWED)
    with damage(path, "MATLAB file"):
        # Only names and declared shapes are read first; they are checked before any content is.
        variables = scipy.io.whosmat(path, appendmat=False, chars_as_strings=False)
        file_size = Path(path).stat().st_size
        total_bytes = 0
        for name, shape, matlab_class in variables:
            if name not in names:
                continue
            num_elements = math.prod(shape)
            total_bytes += num_elements * _SIZES.get(matlab_class, 8)
            # The product of two negative lengths would be a positive size.
            is_negative = min(shape, default=0) < 0
            if is_negative or num_elements > file_size * MAX_DEFLATE or total_bytes > max_bytes:
                raise UnsafeError(
                    f"'{name}' declares the shape {shape}, which is larger than the limit,"
                    " or larger than the file can contain",
                    where=path,
                    hint="get the file from a source that you trust",
                )
            check_memory(total_bytes, path, hint="use a machine with more memory")
        with warnings.catch_warnings():
            # An error, because the conversion would drop imaginary parts.
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            arrays = scipy.io.loadmat(path, appendmat=False, variable_names=names, mat_dtype=True)
        for name in names:
            if name not in arrays:
                present = sorted(variable for variable, _, _ in variables)
                # Names come from the file, so they are shown in ASCII.
                shown = ascii(present[:10])
                raise DataError(f"has no array '{name}'", where=path, hint=f"it has: {shown}")
        return {name: _plain(arrays[name], name, path) for name in names}


def _plain(array: Any, name: str, where: str) -> np.ndarray:
    """Return an array in this machine's byte order.

    Raises:
        DataError: the array, or a cell of it, is a struct, object, function or sparse matrix.
    """
    if type(array) is not np.ndarray or array.dtype.kind not in "biufUO":
        type_name = "struct" if isinstance(array, np.ndarray) else type(array).__name__
        shown_name = ascii(name)[1:-1]
        raise DataError(
            f"'{shown_name}' is a {type_name}",
            where=where,
            hint="save it as an array of numbers or text, or as a cell array",
        )
    if array.dtype.kind == "O":
        # A cell may contain anything, including another cell array.
        for index in np.ndindex(array.shape):
            array[index] = _plain(array[index], f"{name}{{...}}", where)
    native_dtype = array.dtype.newbyteorder("=")
    return checked_characters(array.astype(native_dtype, copy=False), where)
