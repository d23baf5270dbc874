"""Variables of MATLAB files, the same from both formats: MATLAB 5 (`-v6`, `-v7`) and HDF5 (`-v7.3`); read in the worker."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.untrusted import matlab_hdf5, worker
from orca_cli.untrusted.characters import checked_characters
from orca_cli.untrusted.first_bytes import HDF5, damage, first_bytes
from orca_cli.untrusted.memory import check_memory
from orca_cli.untrusted.zips import MAX_DEFLATE

_ALLOWED = "a MATLAB 5 or 7.3 .mat file is needed"
_MAX_BYTES = 8 * 2**30


def read(path: Path, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return variables with MATLAB's axes and types.

    Numbers get the type of their MATLAB class (double: float64; logical: bool), whatever smaller type the file stores them
    in. Text becomes an array of strings, one per row. A cell array becomes an object array of arrays.

    Args:
        path: the .mat file.
        names: of the variables.
        max_bytes: limit for all variables together.

    Raises:
        DataError: missing, damaged, MATLAB 4, or lacks a variable; a variable is a struct, sparse, a function or an object of
            a class.
        UnsafeError: more bytes than allowed or than the file can hold, or (HDF5) cells nested too deep, links, external files
            and filters that would load code.
        MemoryExhaustedError: a variable is larger than the free memory.
        UnavailableError: an HDF5 file, and h5py is not installed.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    where = str(path)
    first_bytes(path, where, _ALLOWED, expected=(HDF5,))
    if _is_hdf5(path):
        worker.check_installed(
            "h5py", where, "HDF5 (MATLAB 7.3)", extra="hdf5", otherwise=", or save the file with -v7"
        )
    arguments = {"path": where, "names": list(names), "max_bytes": max_bytes}
    found: dict[str, np.ndarray] = worker.read("matlab", where, path.stat().st_size, **arguments)
    return found


def read_here(path: str, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return what `read` does, parsed in this process, which a damaged file can crash; errors as there."""
    wanted = list(dict.fromkeys(names))
    if _is_hdf5(Path(path)):
        with damage(path, "HDF5 file"):
            return matlab_hdf5.read(path, wanted, max_bytes)
    with open(path, "rb") as file:
        if file.read(128)[126:] not in (b"IM", b"MI"):
            raise DataError("not a MATLAB file, or a MATLAB 4 file", where=path, hint=f"{_ALLOWED}; save it with -v7")
    with damage(path, "MATLAB file"):
        return _read_matlab_5(path, wanted, max_bytes)


def _read_matlab_5(path: str, names: list[str], max_bytes: int) -> dict[str, np.ndarray]:
    import scipy.io

    try:
        held = scipy.io.whosmat(path, appendmat=False, chars_as_strings=False)
    except TypeError:  # SciPy cannot list a file with objects of classes, but it can read the rest of it
        held = []
    size, total = Path(path).stat().st_size, 0
    for name, shape, kind in held:
        if name in names:
            total += math.prod(shape) * np.dtype(matlab_hdf5.CLASSES.get(kind, "f8")).itemsize
            if min(shape, default=0) < 0 or math.prod(shape) > size * MAX_DEFLATE or total > max_bytes:
                what = f"'{name}' declares the shape {shape}, more than the file can hold or than is read"
                raise UnsafeError(what, where=path, hint="get the file from a source that you trust")
            check_memory(total, path, hint="use a machine with more memory")
    shown = ", ".join(sorted(ascii(name)[1:-1] for name, _, _ in held)[:10]) or "nothing"
    found = {}
    for name in names:
        value = _variable(path, name)
        if value is None:
            raise DataError(f"holds no array '{name}'", where=path, hint=f"it holds: {shown}")
        found[name] = _plain(value, name, path)
    return found


def _variable(path: str, name: str) -> Any:
    import scipy.io

    def load(mat_dtype: bool) -> Any:
        return scipy.io.loadmat(path, appendmat=False, variable_names=[name], mat_dtype=mat_dtype).get(name)

    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        try:
            return load(mat_dtype=True)
        except np.exceptions.ComplexWarning:  # SciPy's conversion to MATLAB's types drops imaginary parts
            return load(mat_dtype=False)


def _plain(found: Any, name: str, where: str) -> np.ndarray:
    """Return an array in this machine's byte order; refuse structs, objects, functions, sparse matrices, also in cells."""
    if type(found) is not np.ndarray or found.dtype.kind not in "biufcUO":
        what = f"'{ascii(name)[1:-1]}' is a {'struct' if isinstance(found, np.ndarray) else type(found).__name__}"
        raise DataError(what, where=where, hint="save it as an array of numbers or text, or as a cell array")
    for index in np.ndindex(found.shape if found.dtype.kind == "O" else 0):
        found[index] = _plain(found[index], f"{name}{{...}}", where)
    return checked_characters(found.astype(found.dtype.newbyteorder("="), copy=False), where)


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(520)
    return HDF5 in (start[:8], start[512:])  # MATLAB writes it behind a block of 512 bytes
