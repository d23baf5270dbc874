"""Variables of MATLAB files, the same from both formats: MATLAB 5 (`-v6`, `-v7`) and HDF5 (`-v7.3`); read in the worker."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.untrusted import matlab_5, matlab_hdf5, worker
from orca_cli.untrusted.first_bytes import HDF5, first_bytes

_ALLOWED = "a MATLAB 5 or 7.3 .mat file is needed"
_MAX_BYTES = 8 * 2**30


def read(path: Path, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return variables with MATLAB's axes and types.

    Numbers get the type of their MATLAB class (double: float64; logical: bool), whatever smaller type the file stores them
    in. Text becomes an array of strings, one for each row. A cell array becomes an object array of arrays.

    Args:
        path: the .mat file.
        names: of the variables.
        max_bytes: more in all are refused.

    Raises:
        DataError: missing, damaged, MATLAB 4, or lacks a variable; a variable is a struct, sparse, or an object of a class.
        UnsafeError: more bytes than allowed or than the file can hold, cells nested without end, or (HDF5) links, external
            files and filters that would load code.
        MemoryExhaustedError: a variable is larger than the memory that is free.
        UnavailableError: an HDF5 file, and h5py is not installed.
        WorkerError: the worker crashed on the file, or reached its limit of memory or time.
    """
    where = str(path)
    first_bytes(path, where, _ALLOWED, expected=(HDF5,))
    if _is_hdf5(path):
        matlab_hdf5.check_installed(where)
    arguments = {"path": where, "names": list(names), "max_bytes": max_bytes}
    found: dict[str, np.ndarray] = worker.read("matlab", where, path.stat().st_size, **arguments)
    return found


def read_here(path: str, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return what `read` does, parsed in this process; errors as there."""
    wanted, place, where = list(dict.fromkeys(names)), Path(path), path
    first_bytes(place, where, _ALLOWED, expected=(HDF5,))
    with open(place, "rb") as file:
        start = file.read(128)
    if _is_hdf5(place):
        found = matlab_hdf5.read(place, wanted, max_bytes)
    elif len(start) == 128 and start[126:128] in (b"IM", b"MI"):
        try:
            found = matlab_5.read(place, wanted, max_bytes)
        except (ValueError, EOFError, zlib.error, OSError) as error:
            raise DataError(f"is a damaged MATLAB file: {error}", where=where, hint="get the file again") from error
    else:
        raise DataError("is no MATLAB file, or one of MATLAB 4", where=where, hint=f"{_ALLOWED}; save it with -v7")
    return {name: found[name] for name in wanted}


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.read(8) == HDF5:
            return True
        file.seek(512)  # behind a block of the user's, as MATLAB writes it
        return file.read(8) == HDF5
