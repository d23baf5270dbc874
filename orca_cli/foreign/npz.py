"""Read arrays of an .npz archive after a look at its directory and headers; nothing is unpickled or inflated before."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from orca_cli.exceptions import DataError, UnsafeError

_MAX_HEADER = 64 * 1024


def read_npz(path: Path, names: Iterable[str], max_bytes: int = 8 * 2**30) -> dict[str, np.ndarray]:
    """Return the named arrays of an archive.

    Args:
        path: the .npz file.
        names: arrays to read.
        max_bytes: a larger array is refused.

    Raises:
        DataError: the file is missing, no archive, damaged, or lacks an array.
        UnsafeError: an array holds Python objects, or its header declares more than the archive holds or is allowed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read(archive, name, path, max_bytes) for name in names}
    except FileNotFoundError as error:
        raise DataError("the file does not exist", where=str(path)) from error
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"is not a readable .npz archive ({error})", where=str(path)) from error


def _read(archive: zipfile.ZipFile, name: str, path: Path, max_bytes: int) -> np.ndarray:
    try:
        member = archive.getinfo(f"{name}.npy")
    except KeyError:
        held = ", ".join(sorted(entry.removesuffix(".npy") for entry in archive.namelist())[:10])
        raise DataError(f"holds no array '{name}'", where=str(path), hint=f"it holds: {held or 'nothing'}") from None
    with archive.open(member) as file:
        version = npy.read_magic(file)
        reader = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if reader is None:
            raise DataError(f"array '{name}' has format version {version}", where=str(path), hint="save it again")
        shape, fortran, dtype = reader(file, max_header_size=_MAX_HEADER)
        if dtype.hasobject:
            raise UnsafeError(
                f"array '{name}' holds Python objects, which would run code when read",
                where=str(path),
                hint="save it with a number type",
            )
        if any(extent < 0 for extent in shape):
            raise UnsafeError(f"array '{name}' declares the shape {shape}", where=str(path))
        size = math.prod(shape) * dtype.itemsize
        if size > min(member.file_size, max_bytes):
            raise UnsafeError(f"array '{name}' declares {size} bytes, more than there are", where=str(path))
        content = file.read(size)
    if len(content) != size:
        raise DataError(f"array '{name}' is cut off", where=str(path))
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
