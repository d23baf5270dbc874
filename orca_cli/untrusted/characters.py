"""Texts in arrays that are no texts. NumPy takes any 32 bits for a character, and fails wherever such a text is used."""

from __future__ import annotations

import numpy as np

from orca_cli.exceptions import DataError

_LAST = 0x10FFFF  # of Unicode


def checked_characters(array: np.ndarray, where: str = "") -> np.ndarray:
    """Return the array; one of texts only where each of their characters is one.

    Raises:
        DataError: one is none.
    """
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).reshape(-1).view(array.dtype.str[0] + "u4")
        if int(codes.max()) > _LAST:
            raise DataError("holds texts with numbers that are no characters", where=where, hint="get the file again")
    return array
