"""MATLAB 7.3 files, which are HDF5, by h5py; no link is followed out of the file and no filter is loaded."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.untrusted.memory import check_memory
from orca_cli.untrusted.zips import MAX_DEFLATE

# MATLAB's classes of numbers; the same names in both formats.
CLASSES = {
    "double": "f8",
    "single": "f4",
    **{f"{sign}int{bits}": f"{sign or 'i'}{bits // 8}" for sign in ("u", "") for bits in (8, 16, 32, 64)},
    "logical": "?",
}
_FILTERS = (1, 2, 3)  # deflate, shuffle and fletcher32, which are part of HDF5; others are loaded as plug-ins
_MAX_CHUNK = 2**30
_MAX_DEPTH = 16
_MAX_CELLS = 2_000_000


def read(path: str, names: list[str], max_bytes: int) -> dict[str, np.ndarray]:
    """Return variables of an HDF5 file with axes in MATLAB's order, the reverse of HDF5's.

    Raises:
        OrcaError: as in `matlab.read`.
        Exception: of any kind, where the file is damaged; h5py has no type of its own for that.
    """
    import h5py

    with h5py.File(path, "r", locking="best-effort") as file:
        reader = _Reader(h5py, file, path, max_bytes)
        return {name: reader.variable(name) for name in names}


class _Reader:
    def __init__(self, h5py: ModuleType, file: Any, where: str, max_bytes: int) -> None:
        self._h5py, self._file, self._where, self._left, self._cells = h5py, file, where, max_bytes, 0

    def variable(self, name: str) -> np.ndarray:
        link = None if "/" in name else self._file.get(name, getlink=True)
        if link is None:
            held = ", ".join(ascii(other)[1:-1] for other in list(self._file)[:10] if not other.startswith("#"))
            raise DataError(f"holds no array '{name}'", where=self._where, hint=f"it holds: {held or 'nothing'}")
        if not isinstance(link, self._h5py.HardLink):
            raise self._refused(f"'{name}' is a link to another place")
        return self._value(self._file[name], name, 0)

    def _value(self, found: Any, name: str, depth: int) -> np.ndarray:
        if not isinstance(found, self._h5py.Dataset):
            raise DataError(f"'{name}' is a struct", where=self._where, hint="save it as an array or a cell array")
        self._check(found, name)
        kind = found.attrs.get("MATLAB_class")
        kind = kind.decode("ascii") if isinstance(kind, bytes) else ""
        if found.attrs.get("MATLAB_empty", 0):
            return self._empty(found, kind)
        if self._h5py.check_ref_dtype(found.dtype) is not None:
            return self._cell(found, name, depth)
        data = self._numbers(found, name).T
        if kind == "char":
            return self._text(data, name)
        if kind in CLASSES and data.dtype.kind != "c":
            return data.astype(CLASSES[kind], copy=False)
        if kind and kind not in CLASSES:
            raise DataError(f"'{name}' is of class {ascii(kind)}", where=self._where, hint="save it as an array")
        return data

    def _check(self, found: Any, name: str) -> None:
        """Check where and how a dataset is stored, before a byte of it is read."""
        if found.is_virtual or found.external:
            raise self._refused(f"'{name}' takes its content from other files")
        plan = found.id.get_create_plist()
        filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
        unknown = [code for code in filters if code not in _FILTERS]
        if unknown:
            raise self._refused(f"'{name}' needs the filter {unknown[0]}, which is code to be loaded")
        if found.shape is None:
            raise DataError(f"'{name}' has no shape", where=self._where)
        size = math.prod(found.shape) * found.dtype.itemsize
        packed = found.id.get_storage_size()
        if size > packed * MAX_DEFLATE + 1024:
            raise self._refused(f"'{name}' declares {size:,} bytes, more than the {packed:,} stored can hold")
        if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > max(_MAX_CHUNK, size):
            raise self._refused(f"'{name}' is stored in parts larger than itself")
        self._left -= size
        if self._left < 0:
            raise self._refused("the variables declare more bytes than are read")
        if size > 2**26:
            check_memory(size, self._where, hint="use a machine with more memory")

    def _numbers(self, found: Any, name: str) -> np.ndarray:
        dtype = found.dtype
        is_complex = dtype.names is not None and set(dtype.names) == {"real", "imag"}
        if dtype.kind not in "biuf" and not is_complex:
            raise DataError(f"'{name}' has values of type {dtype}", where=self._where, hint="save it as numbers")
        data = np.asarray(found[()])
        return data["real"] + 1j * data["imag"] if is_complex else data.astype(dtype.newbyteorder("="), copy=False)

    def _text(self, codes: np.ndarray, name: str) -> np.ndarray:
        """Return codes [..., n] as strings [...]."""
        if codes.dtype.kind != "u":
            raise DataError(f"'{name}' is text of an unknown form", where=self._where)
        rows = ["".join(map(chr, row)) for row in codes.reshape(-1, codes.shape[-1]).tolist()]
        return np.array(rows).reshape(codes.shape[:-1])

    def _empty(self, found: Any, kind: str) -> np.ndarray:
        """Return an array without elements; its dataset holds the extents instead."""
        shape = [int(extent) for extent in self._numbers(found, "an empty array").ravel()[:32]]
        if 0 not in shape or any(extent < 0 or extent > 2**32 for extent in shape):
            raise DataError("an empty array has elements", where=self._where)
        if kind == "char":
            return np.empty(0, "U1")
        return np.empty(shape, object if kind == "cell" else CLASSES.get(kind, "f8"))

    def _cell(self, found: Any, name: str, depth: int) -> np.ndarray:
        if self._h5py.check_ref_dtype(found.dtype) is not self._h5py.Reference:
            raise self._refused(f"'{name}' refers to parts of arrays")
        self._cells += found.size
        if depth >= _MAX_DEPTH or self._cells > _MAX_CELLS:
            raise self._refused("has too many cells, or nests them too deep")
        references = found[()]
        cells = np.empty(references.shape, object)
        for index in np.ndindex(references.shape):
            if not references[index]:
                raise DataError(f"a cell of '{name}' refers to nothing", where=self._where)
            cells[index] = self._value(self._file[references[index]], f"{name}{{...}}", depth + 1)
        return cells.T

    def _refused(self, what: str) -> UnsafeError:
        return UnsafeError(what, where=self._where, hint="get the file from a source that you trust, saved with -v7")
