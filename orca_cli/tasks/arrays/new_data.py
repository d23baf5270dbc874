"""New samples in .npz and .npy files, for a model that was trained on such files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import NewData
from orca_cli.tasks.arrays.layout import rows_of_splits
from orca_cli.tasks.shared.splits import PART_NAMES
from orca_cli.untrusted.arrays import StoredArray, open_arrays

_PART = 4096  # samples of which lengths are read at once


@dataclass(frozen=True)
class Found:
    """Arrays of new samples, not yet read.

    Args:
        x: inputs [N, ...].
        y: targets [N, ...]; None where the file has none.
        lengths: of sequences [N]; None where they have none, or the inputs say them.
        rows: [n] ascending, the rows of both that are asked for; None for all.
    """

    x: StoredArray
    y: StoredArray | None
    lengths: StoredArray | None
    rows: np.ndarray | None

    def samples(
        self,
        encode: Callable[[np.ndarray, str, np.ndarray | None], np.ndarray],
        ends_in: Callable[[np.ndarray], np.ndarray] | None,
    ) -> NewData:
        """Return the samples; their targets are read and encoded when they are asked for.

        Args:
            encode: makes targets of those in the file, of their origin and of the lengths [n].
            ends_in: returns the lengths [n] of inputs that mark their ends themselves; None where targets need none.
        """
        read, rows, y = self.x.rows(), self.rows, self.y
        count = self.x.shape[0] if rows is None else len(rows)
        ends = None if self.lengths is None else _of(self.lengths.read(), rows)

        def values(start: int, stop: int) -> np.ndarray:
            if rows is None:
                return read(start, stop)
            chosen = rows[start:stop]
            return read(int(chosen[0]), int(chosen[-1]) + 1)[chosen - chosen[0]]

        def inputs(start: int, stop: int) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
            return values(start, stop) if ends is None else (values(start, stop), ends[start:stop])

        def encoded() -> np.ndarray | None:
            if y is None:
                return None
            known = ends
            if known is None and ends_in is not None:
                starts = range(0, count, _PART)
                known = np.concatenate([ends_in(values(start, min(start + _PART, count))) for start in starts])
            return encode(_of(y.read(), rows), y.where, known)

        ids = None if rows is None else [str(row) for row in rows]
        return NewData(count, inputs, encoded, self.x.where, ids)


def locate_new(path: Path, where: str, names: tuple[str, str, str | None], part: str) -> Found:
    """Return the arrays of new samples in a file, of which only the headers are read.

    Args:
        path: .npz file with inputs and possibly targets, or .npy file of inputs.
        where: what names it, for messages.
        names: of inputs, targets and, where sequences have some, lengths in .npz files.
        part: train, validation or test: inputs called so (x_test), or rows that an array `split` marks; empty for all.

    Raises:
        DataError: no such array or part, no samples, or targets of another number.
        ConfigError: a part of an .npy file.
    """
    arrays = open_arrays(path, where)
    if "" in arrays:
        if part:
            raise ConfigError("applies to .npz files", where="--part", hint=f"{path.name} holds one array")
        return _checked(Found(arrays[""], None, None, None))
    x, y, lengths = names
    held = f"it holds {', '.join(sorted(arrays)) or 'nothing'}"
    if part:
        word = next((word for word in PART_NAMES[part] if f"{x}_{word}" in arrays), None)
        if word is not None:
            own = _lengths(arrays, lengths, f"_{word}", path)
            return _checked(Found(arrays[f"{x}_{word}"], arrays.get(f"{y}_{word}"), own, None))
        if x in arrays and "split" in arrays:
            rows = rows_of_splits(arrays["split"], arrays[x].shape[:1])
            if part in rows:
                return _checked(Found(arrays[x], arrays.get(y), _lengths(arrays, lengths, "", path), rows[part]))
        raise DataError(f"has no part '{part}'", where=str(path), hint=held)
    if x not in arrays:
        parts = [part for part, words in PART_NAMES.items() if any(f"{x}_{word}" in arrays for word in words)]
        advice = f"take a part of it by --part {parts[-1]}" if parts else f"the model was trained on '{x}'"
        raise DataError(f"no array '{x}'", where=str(path), hint=f"{held}; {advice}")
    return _checked(Found(arrays[x], arrays.get(y), _lengths(arrays, lengths, "", path), None))


def _lengths(arrays: dict[str, StoredArray], name: str | None, ending: str, path: Path) -> StoredArray | None:
    if name is None:
        return None
    if name + ending not in arrays:
        hint = f"the model was trained on sequences with an array of lengths; it holds {', '.join(sorted(arrays))}"
        raise DataError(f"no array '{name + ending}'", where=str(path), hint=hint)
    return arrays[name + ending]


def _of(values: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    return values if rows is None else values[rows]


def _checked(found: Found) -> Found:
    x, y = found.x, found.y
    if not x.shape or x.shape[0] == 0:
        raise DataError("no samples", where=x.where, hint="give a file with samples")
    if y is not None and y.shape[:1] != x.shape[:1]:
        what = f"shape {y.shape} does not match inputs of shape {x.shape}"
        raise DataError(what, where=y.where, hint="inputs and targets need one row per sample")
    lengths = found.lengths
    if lengths is not None and lengths.shape != x.shape[:1]:
        raise DataError(f"has shape {lengths.shape}, expected {x.shape[:1]}", where=lengths.where)
    return found
