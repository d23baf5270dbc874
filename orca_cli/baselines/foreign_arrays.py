"""Arrays of a file that may be a stranger's: only of the types and shapes that they must have."""

from collections.abc import Mapping

import numpy as np

from orca_cli.exceptions import UnsafeError

# Name -> its type, and a letter for each of its axes.
Forms = Mapping[str, tuple[type, str]]


def taken(
    arrays: Mapping[str, np.ndarray], forms: Forms, prefix: str, sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return the arrays that `forms` names; in `arrays` their names start with the prefix.

    Axes with the same letter have the same size, that of `sizes` where it has the letter.

    Raises:
        UnsafeError: an array is missing, has another type or shape, or a number that is not finite.
    """
    by_name = {}
    known_sizes = dict(sizes)
    for name, (dtype, letters) in forms.items():
        full_name = prefix + name
        array = arrays.get(full_name)
        if array is None:
            raise UnsafeError(f"array '{full_name}' is missing")
        if array.dtype != dtype or array.ndim != len(letters):
            raise UnsafeError(
                f"array '{full_name}' is {array.dtype} with {array.ndim} axes, "
                f"expected {dtype.__name__} with {len(letters)}"
            )
        for letter, size in zip(letters, array.shape, strict=True):
            expected = known_sizes.setdefault(letter, size)
            if size != expected:
                raise UnsafeError(f"array '{full_name}' has {size} entries, expected {expected}")
        if not np.isfinite(array).all():
            raise UnsafeError(f"array '{full_name}' has numbers that are not finite")
        by_name[name] = array
    return by_name
