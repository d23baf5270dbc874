"""Invalid text in arrays: NumPy takes any 32 bits for a character, and fails wherever such a text is used."""

from __future__ import annotations

import numpy as np

from orca_cli.exceptions import DataError

_LAST = 0x10FFFF  # of Unicode


def checked_characters(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return the array.

    Raises:
        DataError: it holds texts, and a code in them is not a Unicode character.
    """
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.str[0] + "u4")
        if int(codes.max()) > _LAST:
            raise DataError("holds text with invalid characters", where=where, hint="get the file again")
    return array
