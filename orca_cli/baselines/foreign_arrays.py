"""Arrays of an untrusted file, checked for their types and shapes."""

from collections.abc import Mapping

import numpy as np

from orca_cli.exceptions import UnsafeError

# Name of an array -> its type, and a letter for each of its axes.
Forms = Mapping[str, tuple[type, str]]


def taken(
    arrays: Mapping[str, np.ndarray], forms: Forms, prefix: str, sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return the arrays that `forms` names; in `arrays` their names start with the prefix.

    Axes with the same letter must have the same size; `sizes` fixes the size of some letters.

    Raises:
        UnsafeError: an array is missing, has another type or shape, or has a NaN or infinite value.
    """
    by_name = {}
    known_sizes = dict(sizes)
    for name, (dtype, letters) in forms.items():
        full_name = prefix + name
        array = arrays.get(full_name)
        if array is None:
            raise UnsafeError(f"has no array '{full_name}'")
        if array.dtype != dtype or array.ndim != len(letters):
            raise UnsafeError(
                f"array '{full_name}' has type {array.dtype} and {array.ndim} axes, "
                f"expected type {dtype.__name__} and {len(letters)} axes"
            )
        for letter, size in zip(letters, array.shape, strict=True):
            expected = known_sizes.setdefault(letter, size)
            if size != expected:
                raise UnsafeError(
                    f"array '{full_name}' has an axis of {size} entries, expected {expected}"
                )
        if not np.isfinite(array).all():
            raise UnsafeError(f"array '{full_name}' contains NaN or infinite values")
        by_name[name] = array
    return by_name
