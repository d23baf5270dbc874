"""Electrocardiograms of the PhysioNet/CinC challenge 2017 (Clifford et al. 2017): one lead at 300 Hz, four rhythms.

One file, challenge2017.pkl: a pickled dict with data, N records of different lengths, and label, N strings. It is checked
and written end to end into the cache once, and mapped from there. Samples are windows of records; splits are of records, so
no record lies in two of them.

Shapes: N records of the file, S steps of all of them, n windows of a split, W steps of a window.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli import signals
from orca_cli.config.ranges import Seed
from orca_cli.data import splits
from orca_cli.data.blocks import Ragged
from orca_cli.data.generated import folder_of
from orca_cli.data.published import (
    check_array,
    entries,
    fault,
    file_identity,
    find,
    load_arrays,
    refuse,
)
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted.first_bytes import damage
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.interfaces import Batch, Reporter, TaskData

CLASSES = ("N", "A", "O", "~")  # in the order of their numbers
_VERSION = 1
_MAX_BYTES = 2 * 2**30  # of the file, which has 150 MB
# A record whose deviation is below this fraction of its largest value is constant up to rounding.
_ROUNDING = 1e-9
_WINDOW = 1000  # steps
# Steps between training windows of each class: denser where the rhythm is rare, which evens out the classes.
_STRIDES = (500, 83, 250, 25)


@dataclass(frozen=True)
class Records:
    """All records of the file, in its order."""

    steps: np.ndarray  # [S] in the file's own type, a read-only memory map
    ends: np.ndarray  # [N] int64, where each record ends in `steps`
    classes: np.ndarray  # [N] int64 in 0..3
    mean: np.ndarray  # [N] float64, of each record
    std: np.ndarray  # [N] float64, population deviation of each record; 1 where it is constant

    def signal(self, row: int) -> np.ndarray:
        """Return one record as the file has it."""
        return self.steps[self.ends[row - 1] if row else 0 : self.ends[row]]


class Windows(ArraySamples):
    """Samples (see interfaces): windows [1, W] of the records `rows`, z-scored by their own record; cut batch by batch.

    The groups are the numbers of the windows' records in the file. A split without padding has no mask.

    Args:
        records, rows: all of the file, and the numbers of those of this split.
        strides: steps from one window to the next, for each class.
        inclusive: whether a window that ends with the record's last step is one.
        pad: whether a record that has no window gives one, with zeros after its end.
    """

    def __init__(
        self, records: Records, rows: np.ndarray, strides: Sequence[int], inclusive: bool, pad: bool
    ) -> None:
        self._records = records
        self._cut = {"window": _WINDOW, "strides": strides, "inclusive": inclusive, "pad": pad}
        lengths = np.diff(records.ends, prepend=0)
        room = np.maximum(lengths - _WINDOW + int(inclusive), int(pad))
        starts = [np.arange(0, room[row], strides[records.classes[row]]) for row in rows]
        self._starts = np.concatenate([np.empty(0, np.int64), *starts])
        self._record_rows = np.repeat(np.asarray(rows, dtype=np.int64), list(map(len, starts)))
        left = lengths[self._record_rows] - self._starts
        x = Ragged(self._window, left, (1, _WINDOW), np.float64)
        super().__init__(x, records.classes[self._record_rows], groups=self._record_rows)
        self._padded = bool((left < _WINDOW).any())

    def _window(self, index: int) -> np.ndarray:
        """Return the steps from the start of a window to the end of its record, [1, l]."""
        row = int(self._record_rows[index])
        values = self._records.signal(row)[int(self._starts[index]) :][:_WINDOW]
        return (values - self._records.mean[row])[None] / self._records.std[row]

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, 1, W], y [B], and valid [B, W] where the split has padding; nothing is augmented."""
        batch = super().batch(indices)
        return batch if self._padded else replace(batch, valid=None)

    def digest(self) -> str:
        """Return a SHA-256 over the records, their classes, and how they are cut."""
        digest = hashlib.sha256(f"ecg {len(self)} {json.dumps(self._cut, sort_keys=True)}".encode())
        for array in (self._record_rows, self._starts, self.targets()):
            digest.update(array.astype("<i8").tobytes())
        for row in np.unique(self._record_rows):
            digest.update(np.ascontiguousarray(self._records.signal(int(row))).tobytes())
        return digest.hexdigest()


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: str | None = None,
    inclusive: bool = True,
    short: Literal["pad", "drop"] = "pad",
    evaluation_strides: Literal["equal", "class"] = "equal",
    split: Literal["sklearn", "sklearn_90_10"] = "sklearn",
    train_on_validation: bool = False,
    split_seed: Seed = 0,
) -> TaskData:
    """Return windows [n, 1, 1000] with four classes: normal (N), atrial fibrillation (A), other rhythm (O), noise (~).

    A record of 1000 steps has no window unless `inclusive`; padded records have zeros, marked as padding. With
    evaluation_strides=class, as in the published code, noise has up to 20 times its weight in validation and test. Validation
    records of "sklearn_90_10" are a ninth of those that are not for test, drawn by `split_seed` with every class in
    proportion.
    """
    (file,) = find(data_folder, "ecg", ["challenge2017.pkl"], path)
    records = _read(file, cache_folder, reporter)
    parts = _split(records.classes, split, split_seed, str(file))
    learned = np.union1d(parts.train, parts.validation) if train_on_validation else parts.train
    windows = partial(Windows, records, inclusive=inclusive, pad=short == "pad")
    strides = _STRIDES if evaluation_strides == "class" else _STRIDES[:1] * len(CLASSES)
    return TaskData(
        kind="classes",
        input_shape=(1, _WINDOW),
        num_outputs=len(CLASSES),
        train=windows(learned, _STRIDES),
        validation=windows(parts.validation, strides),
        open_test=lambda: windows(parts.test, strides),
        class_names=CLASSES,
        note="records too short for a window are left out" if short == "drop" else "",
    )


def _split(classes: np.ndarray, how: str, seed: int, where: str) -> splits.Split:
    refuse(len(classes) < 10, f"{len(classes)} records are too few to split", where)
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(classes))
    # A published split, so the seed and the generator are not ours: random_state=0 gives the same records everywhere.
    if how == "sklearn":
        train, rest = train_test_split(rows, test_size=0.2, random_state=0)
        validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    else:
        learned, test = train_test_split(rows, test_size=0.1, random_state=0)
        inner = splits.split(
            len(learned), validation=1 / 9, test=0, seed=seed, classes=classes[learned]
        )
        train, validation = learned[inner.train], learned[inner.validation]
    return splits.Split(*map(np.sort, (train, validation, test)))


def _read(file: Path, cache_folder: Path, reporter: Reporter) -> Records:
    where = str(file)

    def make(folder: Path) -> None:
        data, names = entries(unpickle(file, max_bytes=_MAX_BYTES), ("data", "label"), where)
        with damage(where, "pickle"):  # no lists, a record of lists of different lengths
            recorded = [np.asarray(record) for record in data]
            texts = [
                name.decode("latin-1") if isinstance(name, bytes) else str(name) for name in names
            ]
        refuse(
            not recorded or len(recorded) != len(texts),
            "data and label are not two lists of one length",
            where,
        )
        if wrong := set(texts) - set(CLASSES):
            raise fault(f"label {min(wrong)[:20]!r} is not one of {', '.join(CLASSES)}", where)
        mean, std = np.zeros(len(recorded)), np.ones(len(recorded))
        for row, signal in enumerate(recorded):
            signals.check()
            values = check_array(signal, ("steps",), where, f"record {row}", holds="finite").astype(
                np.float64
            )
            mean[row] = values.mean()
            if (deviation := values.std()) > _ROUNDING * np.abs(values).max():
                std[row] = deviation
        ends = np.cumsum([len(signal) for signal in recorded], dtype=np.int64)
        classes = np.array([CLASSES.index(text) for text in texts], dtype=np.int64)
        arrays = {
            "steps": np.concatenate(recorded),
            "ends": ends,
            "classes": classes,
            "mean": mean,
            "std": std,
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)

    folder = folder_of(
        cache_folder, "ecg", {"version": _VERSION, **file_identity(file)}, make, reporter
    )
    (steps,) = load_arrays(folder, ["steps"], mapped=True)
    return Records(steps, *load_arrays(folder, ["ends", "classes", "mean", "std"]))
