"""Variables of MATLAB files, the same from both formats: MATLAB 5 (`-v6`, `-v7`) and HDF5 (`-v7.3`); read in the worker.

MATLAB 5 is read by SciPy, HDF5 by h5py; no link is followed out of the file and no filter is loaded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from orca_cli.data.untrusted import isolation
from orca_cli.data.untrusted.archives import MAX_DEFLATE
from orca_cli.data.untrusted.first_bytes import HDF5, damage, first_bytes
from orca_cli.data.untrusted.memory import check_memory, checked_characters
from orca_cli.exceptions import DataError, UnsafeError

_ALLOWED = "a MATLAB 5 or 7.3 .mat file is needed"
_MEMORY = "use a machine with more memory"
_MAX_BYTES = 8 * 2**30
# MATLAB's classes of numbers.
_CLASSES = {
    "double": "f8",
    "single": "f4",
    **{f"{sign}int{bits}": f"{sign or 'i'}{bits // 8}" for sign in ("u", "") for bits in (8, 16, 32, 64)},
    "logical": "?",
}
_FILTERS = {1, 2, 3}  # deflate, shuffle and fletcher32, which are part of HDF5; others are loaded as plug-ins
_MAX_CHUNK = 2**30


def read(path: Path, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return variables with MATLAB's axes and types.

    Real numbers get the type of their MATLAB class (double: float64; logical: bool), whatever smaller type the file stores
    them in. A cell array becomes an object array of arrays. Text, an array of strings, is read from MATLAB 5 alone.

    Raises:
        DataError: missing, damaged, MATLAB 4, or lacks a variable; a variable is a struct, sparse, complex, a function or an
            object of a class.
        UnsafeError: more bytes than `max_bytes` together or than the file can hold, or (HDF5) links, external files and
            filters that would load code.
        MemoryExhaustedError: a variable is larger than the free memory.
        UnavailableError: an HDF5 file, and h5py is not installed.
        WorkerError: the worker crashed on the file, or reached its memory or time limit.
    """
    where = str(path)
    first_bytes(path, where, _ALLOWED)
    if _is_hdf5(path):
        otherwise = ", or save the file with -v7"
        isolation.check_installed("h5py", where, "HDF5 (MATLAB 7.3)", extra="hdf5", otherwise=otherwise)
    variables: dict[str, np.ndarray] = isolation.read(
        read_here, where, path.stat().st_size, path=where, names=list(names), max_bytes=max_bytes
    )
    return variables


def read_here(path: str, names: Iterable[str], max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """Return what `read` does, parsed in this process, which a damaged file can crash; errors as there."""
    unique_names = list(dict.fromkeys(names))
    if _is_hdf5(Path(path)):
        import h5py

        # h5py has no type of its own for what it raises on damage.
        with damage(path, "HDF5 file"), h5py.File(path, "r", locking="best-effort") as hdf5:
            reader = _Hdf5Reader(h5py, hdf5, path, max_bytes)
            return {name: reader.variable(name) for name in unique_names}
    with open(path, "rb") as file:
        if file.read(128)[126:] not in (b"IM", b"MI"):
            raise DataError("not a MATLAB file, or a MATLAB 4 file", where=path, hint=f"{_ALLOWED}; save it with -v7")
    with damage(path, "MATLAB file"):
        return _read_matlab_5(path, unique_names, max_bytes)


def _read_matlab_5(path: str, names: list[str], max_bytes: int) -> dict[str, np.ndarray]:
    import scipy.io

    held = scipy.io.whosmat(path, appendmat=False, chars_as_strings=False)
    size, total = Path(path).stat().st_size, 0
    for name, shape, kind in held:
        if name in names:
            total += math.prod(shape) * np.dtype(_CLASSES.get(kind, "f8")).itemsize
            if min(shape, default=0) < 0 or math.prod(shape) > size * MAX_DEFLATE or total > max_bytes:
                what = f"'{name}' declares the shape {shape}, more than the file can hold or than is read"
                raise _refused(path, what)
            check_memory(total, path, hint=_MEMORY)
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)  # the conversion would drop imaginary parts
        values = scipy.io.loadmat(path, appendmat=False, variable_names=names, mat_dtype=True)
    for name in names:
        if name not in values:
            raise _missing(name, path, sorted(other for other, _, _ in held))
    return {name: _plain(values[name], name, path) for name in names}


def _plain(value: Any, name: str, where: str) -> np.ndarray:
    """Return an array in this machine's byte order; refuse structs, objects, functions, sparse matrices, also in cells."""
    if type(value) is not np.ndarray or value.dtype.kind not in "biufUO":
        what = f"'{ascii(name)[1:-1]}' is a {'struct' if isinstance(value, np.ndarray) else type(value).__name__}"
        raise DataError(what, where=where, hint="save it as an array of numbers or text, or as a cell array")
    for index in np.ndindex(value.shape if value.dtype.kind == "O" else 0):
        value[index] = _plain(value[index], f"{name}{{...}}", where)
    return checked_characters(value.astype(value.dtype.newbyteorder("="), copy=False), where)


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(520)
    return HDF5 in (start[:8], start[512:])  # MATLAB writes it behind a block of 512 bytes


def _refused(where: str, what: str) -> UnsafeError:
    return UnsafeError(what, where=where, hint="get the file from a source that you trust, saved with -v7")


def _missing(name: str, where: str, held: list[str]) -> DataError:
    shown = ", ".join(ascii(other)[1:-1] for other in held[:10]) or "nothing"
    return DataError(f"holds no array '{name}'", where=where, hint=f"it holds: {shown}")


class _Hdf5Reader:
    """Variables of an HDF5 file, with axes in MATLAB's order, the reverse of HDF5's."""

    def __init__(self, h5py: ModuleType, file: Any, where: str, max_bytes: int) -> None:
        self._h5py, self._file, self._where, self._left = h5py, file, where, max_bytes

    def variable(self, name: str) -> np.ndarray:
        link = None if "/" in name else self._file.get(name, getlink=True)
        if link is None:
            raise _missing(name, self._where, [other for other in self._file if not other.startswith("#")])
        if not isinstance(link, self._h5py.HardLink):
            raise _refused(self._where, f"'{name}' is a link to another place")
        return self._value(self._file[name], name)

    def _value(self, node: Any, name: str) -> np.ndarray:
        """Return a dataset, or an array of those that it refers to; one that refers to itself ends as damage."""
        if not isinstance(node, self._h5py.Dataset):
            raise DataError(f"'{name}' is a struct", where=self._where, hint="save it as an array or a cell array")
        self._check(node, name)
        kind = node.attrs.get("MATLAB_class")
        kind = kind.decode("ascii") if isinstance(kind, bytes) else ""
        is_cell = self._h5py.check_ref_dtype(node.dtype) is self._h5py.Reference
        if node.attrs.get("MATLAB_empty", 0):  # its dataset holds the extents instead
            shape = [int(extent) for extent in np.ravel(node[()])[:32]]
            if 0 not in shape or not 0 <= min(shape) <= max(shape) <= 2**32:
                raise DataError("an empty array has elements", where=self._where)
            return np.empty(shape, "O" if kind == "cell" else _CLASSES.get(kind, "f8"))
        if not is_cell and (node.dtype.kind not in "biuf" or kind not in (*_CLASSES, "")):
            what = f"'{name}' has values of type {node.dtype} and class {ascii(kind)}"
            raise DataError(what, where=self._where, hint="save it as real numbers, or with -v7")
        data = np.asarray(node[()])
        if is_cell:
            cells = np.empty(data.shape, object)
            for index in np.ndindex(data.shape):
                cells[index] = self._value(self._file[data[index]], f"{name}{{...}}")
            return cells.T
        return data.T.astype(_CLASSES.get(kind, data.dtype.newbyteorder("=")), copy=False)

    def _check(self, dataset: Any, name: str) -> None:
        """Check where and how a dataset is stored, before a byte of it is read."""
        if dataset.is_virtual or dataset.external:
            raise _refused(self._where, f"'{name}' takes its content from other files")
        plan = dataset.id.get_create_plist()
        unknown = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())} - _FILTERS
        if unknown:
            raise _refused(self._where, f"'{name}' needs the filter {min(unknown)}, which is code to be loaded")
        if dataset.shape is None:
            raise DataError(f"'{name}' has no shape", where=self._where)
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        packed = dataset.id.get_storage_size()
        if size > packed * MAX_DEFLATE + 1024:
            raise _refused(self._where, f"'{name}' declares {size:,} bytes, more than the {packed:,} stored can hold")
        if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > max(_MAX_CHUNK, size):
            raise _refused(self._where, f"'{name}' is stored in parts larger than itself")
        self._left -= size
        if self._left < 0:
            raise _refused(self._where, "the variables declare more bytes than are read")
        if size > 2**26:
            check_memory(size, self._where, hint=_MEMORY)
