"""The records of challenge2017.pkl: checked and written end to end into the cache once, and mapped from there.

Shapes: N records, S steps of all records together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import signals
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter
from orca_cli.tasks.shared.generated import folder_of
from orca_cli.tasks.shared.published import check_array, entries, file_identity, load_arrays
from orca_cli.untrusted.pickle import unpickle

CLASSES = ("N", "A", "O", "~")  # in the order of their numbers
_VERSION = 1
_MAX_BYTES = 2 * 2**30  # of the file, which has 150 MB
_AGAIN = "`orca data get ecg` fetches it again"
# Of a record whose deviation is below this part of its largest value, rounding is all that is left.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Records:
    """All records of the file, in its order.

    Args:
        steps: [S] in the file's own type, a read-only memory map.
        ends: [N] int64, where each record ends in `steps`.
        classes: [N] int64 in 0..3.
        mean: [N] float64, of each record.
        std: [N] float64, population deviation of each record; 1 where it is constant.
        constant: number of records that are constant.
    """

    steps: np.ndarray
    ends: np.ndarray
    classes: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    constant: int

    def lengths(self) -> np.ndarray:
        """Return the steps of every record [N]."""
        return np.diff(self.ends, prepend=0)

    def signal(self, row: int) -> np.ndarray:
        """Return one record as the file has it."""
        return self.steps[self.ends[row - 1] if row else 0 : self.ends[row]]

    def z_scores(self, row: int, start: int, size: int) -> np.ndarray:
        """Return up to `size` steps of a record from `start`, less the record's mean, over its deviation; float64."""
        return (self.signal(row)[start : start + size] - self.mean[row]) / self.std[row]


def read_records(file: Path, cache_folder: Path, reporter: Reporter) -> Records:
    """Return the records of the pickle."""
    parameters = {"version": _VERSION, **file_identity(file)}
    folder = folder_of(cache_folder, "ecg", parameters, lambda folder: _write(folder, file, reporter), reporter)
    ends, classes, mean, std, constant = load_arrays(folder, ["ends", "classes", "mean", "std", "constant"])
    (steps,) = load_arrays(folder, ["steps"], mapped=True)
    return Records(steps, ends, classes, mean, std, int(constant))


def _write(folder: Path, file: Path, reporter: Reporter) -> None:
    recorded, labels = _open(file)
    kind = np.result_type(*{signal.dtype for signal in recorded})
    lengths = [len(signal) for signal in recorded]
    mean, std = np.zeros(len(labels)), np.ones(len(labels))
    constant = 0
    with open(folder / "steps.npy", "wb") as stream, reporter.track(f"reading {file.name}", len(labels)) as advance:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (sum(lengths),)}
        np.lib.format.write_array_header_1_0(stream, header)
        for row, signal in enumerate(recorded):
            signals.check()
            values = signal.astype(np.float64)
            if not np.isfinite(values).all():
                raise DataError(f"record {row} has values that are NaN or infinite", where=str(file))
            mean[row], deviation = values.mean(), values.std()
            if deviation > _ROUNDING * np.abs(values).max():
                std[row] = deviation
            else:
                constant += 1
            stream.write(signal.astype(kind).tobytes())
            advance()
    arrays = {"ends": np.cumsum(lengths, dtype=np.int64), "classes": labels, "mean": mean, "std": std}
    for name, array in (arrays | {"constant": np.array(constant)}).items():
        np.save(folder / f"{name}.npy", array)


def _open(file: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the records, each [steps], and their classes [N] int64."""
    where = str(file)
    data, names = entries(unpickle(file, max_bytes=_MAX_BYTES), ("data", "label"), where, _AGAIN)
    for key, value in (("data", data), ("label", names)):
        if not isinstance(value, (list, tuple)) and not (isinstance(value, np.ndarray) and value.ndim):
            raise DataError(f"{key} is a {type(value).__name__}, not an array or list", where=where, hint=_AGAIN)
    if len(data) != len(names) or not len(data):
        raise DataError(f"{len(data)} records and {len(names)} labels", where=where, hint=_AGAIN)
    classes = np.array([_class(name, row, where) for row, name in enumerate(names)], dtype=np.int64)
    return [_signal(record, row, where) for row, record in enumerate(data)], classes


def _class(name: Any, row: int, where: str) -> int:
    text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
    if text not in CLASSES:
        what = f"label {text[:20]!r} of record {row} is unknown"
        raise DataError(what, where=where, hint=f"allowed: {', '.join(CLASSES)}")
    return CLASSES.index(text)


def _signal(record: Any, row: int, where: str) -> np.ndarray:
    try:
        signal = np.asarray(record)
    except ValueError:  # lists of different lengths
        signal = np.empty((0, 0))
    return check_array(signal, ("steps",), where, _AGAIN, f"record {row}")
