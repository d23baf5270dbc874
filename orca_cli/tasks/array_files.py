"""Arrays in .npy and .npz files, opened by their headers first: nothing is allocated and no code runs before the check."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from orca_cli.exceptions import DataError, MemoryExhaustedError, UnsafeError

_ALLOWED = "allowed: .npz (x and y in one file) and .npy (task.train=x.npy task.labels=y.npy)"
_MAX_MEMBERS = 1000
# What zipfile raises for damaged archives and for features that it lacks.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
_MAX_HEADER = 10_000  # characters of an npy header; NumPy's own bound
# What files are that have the wrong name, by their first bytes.
_DISGUISES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch the data with `git lfs pull`"),
    (b"<!doctype", "a web page", "download the file again"),
    (b"<html", "a web page", "download the file again"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x89hdf", "an HDF5 file", _ALLOWED),
)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file whose header was read and found harmless.

    Args:
        where: file and array, for messages.
        shape: as declared, and as the file's size allows.
        dtype: a plain dtype: no objects, no fields.
        read: returns the array; a memory map where the file allows it.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def open_arrays(path: Path, where: str) -> dict[str, StoredArray]:
    """Return the arrays of a file by name; a .npy file's one array has the empty name.

    Args:
        path: .npz or .npy file.
        where: setting that names the file, for messages.

    Raises:
        DataError: missing, empty, cut off, or not such a file.
        UnsafeError: an array of Python objects: reading it would execute code.
        MemoryExhaustedError: an array is larger than the memory that is free.
    """
    _check_file(path, where)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with open(path, "rb") as file:
            return {"": _from_npy(path, file)}
    if suffix == ".npz":
        return _from_npz(path)
    raise DataError(f"'{path.name}' has an ending that is not read", where=where, hint=_ALLOWED)


def _check_file(path: Path, where: str) -> None:
    if path.is_dir():
        raise DataError(f"'{path}' is a folder", where=where, hint=_ALLOWED)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise DataError(f"no file '{path}'", where=where, hint="check the name") from error
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read: {error.strerror}", where=where, hint="check its permissions"
        ) from error
    if not head:
        raise DataError("the file is empty", where=str(path), hint="write or download it again")
    for start, what, hint in _DISGUISES:
        if head.lstrip().lower().startswith(start):
            raise DataError(f"this is {what}", where=str(path), hint=hint)


def _from_npy(path: Path, file: IO[bytes]) -> StoredArray:
    shape, fortran, dtype, offset = _header(file, str(path))
    declared, held = _bytes(shape, dtype), path.stat().st_size - offset
    if declared > held:
        raise DataError(
            f"the header declares {declared:,} bytes, the file holds {held:,}", where=str(path), hint="write it again"
        )

    def read() -> np.ndarray:
        if declared == 0:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if fortran else "C")

    return StoredArray(str(path), shape, dtype, read)


def _from_npz(path: Path) -> dict[str, StoredArray]:
    arrays: dict[str, StoredArray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise UnsafeError(f"{len(members)} members, at most {_MAX_MEMBERS} are read", where=str(path))
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise UnsafeError(f"two arrays are named '{name}'", where=str(path), hint="write it again")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(f"'{name}' has an unusual compression", where=str(path), hint="use np.savez")
                with archive.open(member) as file:
                    arrays[name] = _from_member(path, name, member, file)
    except _DAMAGE as error:
        raise DataError(f"is no readable .npz file: {error}", where=str(path), hint="write it again") from error
    return arrays


def _from_member(path: Path, name: str, member: zipfile.ZipInfo, file: IO[bytes]) -> StoredArray:
    where = f"{path}[{name}]"
    shape, fortran, dtype, offset = _header(file, where)
    declared, held = _bytes(shape, dtype), member.file_size - offset
    if declared > held:
        raise DataError(f"the header declares {declared:,} bytes, the file holds {held:,}", where=where)

    def read() -> np.ndarray:
        # Checked here and not on opening: members that nobody asks for may be large.
        _check_memory(declared, where)
        if declared == 0:
            return np.empty(shape, dtype)
        data = np.empty(declared, np.uint8)
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                stream.read(offset)
                done = 0
                while done < declared:
                    chunk = stream.read(min(2**20, declared - done))
                    if not chunk:
                        raise DataError("the file ends before the array does", where=where, hint="write it again")
                    data[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
                    done += len(chunk)
                # The checksum of a member is compared when its end is reached.
                stream.read(1)
        except _DAMAGE as error:
            raise DataError(f"cannot be read: {error}", where=where, hint="write it again") from error
        return data.view(dtype).reshape(shape, order="F" if fortran else "C")

    return StoredArray(where, shape, dtype, read)


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    try:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = reader(file, max_header_size=_MAX_HEADER)
    except (ValueError, KeyError, SyntaxError, EOFError, TypeError, MemoryError, RecursionError) as error:
        raise DataError("is no NumPy array: its header cannot be read", where=where, hint=_ALLOWED) from error
    if dtype.hasobject:
        raise UnsafeError(
            "an array of Python objects; reading it would execute code of the file",
            where=where,
            hint="store numbers or strings: np.asarray(values, dtype=...)",
        )
    if dtype.fields is not None or dtype.subdtype is not None or dtype.kind == "V":
        raise DataError(f"dtype {dtype} has fields", where=where, hint="store plain arrays under one name each")
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise DataError(f"the header declares shape {shape}", where=where, hint="write it again")
    return shape, fortran, dtype, file.tell()


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _check_memory(needed: int, where: str) -> None:
    free = _free_memory()
    if free is not None and needed > free:
        raise MemoryExhaustedError(
            f"the array needs {needed / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free",
            where=where,
            hint="store it as .npy, which is read in parts",
        )


def _free_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass  # not Linux: the memory that is built in is the next best bound
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
