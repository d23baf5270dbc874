"""Named arrays of a file that may be a stranger's, each taken with its type and shape."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orca_cli.exceptions import UnsafeError


@dataclass(frozen=True)
class ForeignArrays:
    """Arrays by name. What is wrong with one of them is an UnsafeError that names it."""

    arrays: Mapping[str, np.ndarray]
    # The file, for messages.
    where: str = ""
    # Of the names in this part of a model.
    prefix: str = ""
    # Names that were asked for, in all parts.
    taken: set[str] = field(default_factory=set)

    def part(self, name: str) -> "ForeignArrays":
        """Return the arrays of a part of the model, whose names start with its own."""
        prefix = f"{self.prefix}{name}."
        return ForeignArrays(self.arrays, self.where, prefix, self.taken)

    def take(
        self, name: str, dtype: Any, shape: tuple[int | None, ...], *, infinite: bool = False
    ) -> np.ndarray:
        """Return an array that has this type and shape.

        Args:
            name: without the prefix.
            dtype: of NumPy, exactly.
            shape: sizes; None where any size is allowed.
            infinite: whether values may be infinite; NaN is always refused.
        """
        array = self.arrays.get(self.prefix + name)
        if array is None:
            raise self.error(name, "is missing")
        sizes = zip(array.shape, shape, strict=False)
        fits = len(array.shape) == len(shape) and all(
            expected in (None, size) for size, expected in sizes
        )
        if array.dtype != dtype or not fits:
            expected_text = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.error(
                name,
                f"is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} "
                f"[{expected_text}]",
            )
        is_refused = np.isnan(array) if infinite else ~np.isfinite(array)
        if is_refused.any():
            raise self.error(name, "has values that are not finite")
        self.taken.add(self.prefix + name)
        return array

    def refuse_others(self) -> None:
        """Raise UnsafeError if there are arrays that nobody has taken."""
        others = self.arrays.keys() - self.taken
        if others:
            raise self.error(min(others), "does not belong to this model", prefix="")

    def error(self, name: str, fault: str, *, prefix: str | None = None) -> UnsafeError:
        """Return the error about an array."""
        full_name = (self.prefix if prefix is None else prefix) + name
        return UnsafeError(f"array '{full_name[:80]}' {fault}", where=self.where)
