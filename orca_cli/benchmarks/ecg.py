"""Electrocardiograms of the PhysioNet/CinC challenge 2017 (Clifford et al. 2017): four rhythms.

The records have one lead at 300 Hz. The file challenge2017.pkl is a pickled dict with data (N
records of different lengths) and label (N strings). The records are checked once, concatenated in
the cache, and mapped from the cache. Samples are windows of records. Whole records are split, so no
record is in two splits.

Shapes: N records of the file, S steps in all records, n windows of a split, W steps of a window.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from orca_cli import signals
from orca_cli.config.ranges import Seed
from orca_cli.data import splits
from orca_cli.data.blocks import Ragged
from orca_cli.data.generated import folder_of
from orca_cli.data.published import check_array, entries, fault, file_identity, find, load_arrays
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted.first_bytes import damage
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.interfaces import Batch, Reporter, TaskData

CLASSES = ("N", "A", "O", "~")  # in the order of their numbers
_VERSION = 1  # of the files in the cache
_MAX_BYTES = 2**31  # limit on the size of the file, which has 150 MB
# A record whose deviation is below this fraction of its largest value is constant up to rounding.
_ROUNDING = 1e-9
_WINDOW = 1000  # steps
# Steps between windows of each class. With "class", windows are denser if the rhythm is rare, which
# balances the classes; training always uses it.
_STRIDES = {"equal": (500, 500, 500, 500), "class": (500, 83, 250, 25)}
_FEWEST_RECORDS = 10


@dataclass(frozen=True)
class Records:
    """All records, in the order of the file."""

    steps: np.ndarray  # [S] in the file's own type, a read-only memory map
    ends: np.ndarray  # [N] int64, index in `steps` at which each record ends
    classes: np.ndarray  # [N] int64 in 0..3
    mean: np.ndarray  # [N] float64, mean of each record
    std: np.ndarray  # [N] float64, population deviation of each record; 1 if it is constant

    def signal(self, row: int) -> np.ndarray:
        """Return the values of one record, as in the file."""
        start = self.ends[row - 1] if row else 0
        return self.steps[start : self.ends[row]]


class Windows(ArraySamples):
    """Samples (see interfaces): windows [1, W] of the records `rows`, cut batch by batch.

    A window is z-scored with the mean and deviation of its record. The group of a window is the
    number of its record in the file. A split without padding has no mask.

    Args:
        records: all records of the file.
        rows: numbers of the records in this split.
        strides: steps from one window to the next, for each class.
        inclusive: whether a window may end with the record's last step.
        pad: whether a record that is too short for a window gives a window with zeros at its end.
    """

    def __init__(
        self, records: Records, rows: np.ndarray, strides: Sequence[int], inclusive: bool, pad: bool
    ) -> None:
        self._records = records
        self._cut = {"window": _WINDOW, "strides": strides, "inclusive": inclusive, "pad": pad}
        lengths = np.diff(records.ends, prepend=0)  # [N]
        # [N]: the windows of a record start before this step. With `pad`, the limit is at least 1,
        # so that every record has a window at step 0.
        limits = np.maximum(lengths - _WINDOW + int(inclusive), int(pad))
        # The empty array is needed for splits in which no record has a window.
        starts = [np.empty(0, np.int64)]
        counts = []
        for row in rows:
            row_starts = np.arange(0, limits[row], strides[records.classes[row]])
            starts.append(row_starts)
            counts.append(len(row_starts))
        self._starts = np.concatenate(starts)  # [n], steps from the start of the record
        self._record_rows = np.repeat(np.asarray(rows, dtype=np.int64), counts)  # [n]
        # [n]: less than W if the record ends inside the window.
        steps_left = lengths[self._record_rows] - self._starts
        super().__init__(
            Ragged(self._window, steps_left, sample=(1, _WINDOW), dtype=np.float64),
            records.classes[self._record_rows],
            groups=self._record_rows,
        )
        self._is_padded = bool((steps_left < _WINDOW).any())

    def _window(self, index: int) -> np.ndarray:
        """Return the z-scored steps of a window up to the end of its record, [1, l]."""
        # Cut from the mapped file on demand, because windows overlap by up to 97 %.
        row = int(self._record_rows[index])
        start = int(self._starts[index])
        steps = self._records.signal(row)[start : start + _WINDOW]
        mean = self._records.mean[row]
        std = self._records.std[row]
        return ((steps - mean) / std)[None]

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, 1, W], y [B] and, if the split has padding, valid [B, W].

        There is no augmentation.
        """
        batch = super().batch(indices)
        # The mask of a split without padding would be True everywhere.
        if self._is_padded:
            return batch
        return replace(batch, valid=None)

    def digest(self) -> str:
        """Return a SHA-256 over the records, their classes, and the settings that cut windows."""
        cut = json.dumps(self._cut, sort_keys=True)
        header = f"ecg {len(self)} {cut}"
        digest = hashlib.sha256(header.encode())
        for array in (self._record_rows, self._starts, self.targets()):
            # A fixed byte order and size, so that the digest is the same on every machine.
            portable = array.astype("<i8")
            digest.update(portable.tobytes())
        for row in np.unique(self._record_rows):
            signal = self._records.signal(int(row))
            digest.update(np.ascontiguousarray(signal).tobytes())
        return digest.hexdigest()


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: Annotated[
        str | None,
        "folder with challenge2017.pkl; null: folder ecg of the data folder (paths.data)",
    ] = None,
    inclusive: Annotated[
        bool,
        "true: a window may end with a record's last step; "
        "false: such a window is left out (published code)",
    ] = True,
    short: Annotated[
        Literal["pad", "drop"],
        "records that are too short for a window. pad: they are padded; drop: all splits leave "
        "them out (published code)",
    ] = "pad",
    evaluation_strides: Annotated[
        Literal["equal", "class"],
        "number of steps from the start of a window to the start of the next window, in validation "
        "and test. equal: 500; class: 500, 83, 250 and 25 for the classes N, A, O and ~, as in "
        "training (published code)",
    ] = "equal",
    split: Annotated[
        Literal["sklearn", "sklearn_90_10"],
        "split of the records into training, validation and test. sklearn: 80/10/10 per cent, as "
        "in NAS-Bench-360; sklearn_90_10: 90/10 per cent for training and test, as in the "
        "published code, with a ninth of the 90 per cent for validation",
    ] = "sklearn",
    train_on_validation: Annotated[
        bool, "true: train on the validation records as well; if so, also set train.select=last"
    ] = False,
    split_seed: Annotated[
        Seed,
        "seed of the draw of validation records, 0..2147483647, used only with "
        "task.split=sklearn_90_10; not the seed of the run",
    ] = 0,
) -> TaskData:
    """Return windows [n, 1, 1000] with four classes.

    The classes are normal (N), atrial fibrillation (A), other rhythm (O) and noise (~). A record of
    exactly 1000 steps has a window only with `inclusive`. The zeros of padded records are marked as
    padding. With evaluation_strides=class, as in the published code, noise has up to 20 times its
    weight in validation and test. With "sklearn_90_10", a ninth of the records outside the test
    split are for validation; they are drawn with `split_seed`, stratified by class.
    """
    (file,) = find(data_folder, "ecg", ["challenge2017.pkl"], path)
    records = _read(file, cache_folder, reporter)
    num_records = len(records.classes)
    if num_records < _FEWEST_RECORDS:
        raise fault(f"has {num_records} records, fewer than the {_FEWEST_RECORDS} needed", file)
    rows = _split(records.classes, split, split_seed)
    learned = rows.train
    if train_on_validation:
        learned = np.union1d(rows.train, rows.validation)
    strides = _STRIDES[evaluation_strides]
    windows = partial(Windows, records, inclusive=inclusive, pad=short == "pad")
    return TaskData(
        kind="classes",
        input_shape=(1, _WINDOW),
        num_outputs=len(CLASSES),
        train=windows(learned, _STRIDES["class"]),
        validation=windows(rows.validation, strides),
        open_test=lambda: windows(rows.test, strides),
        class_names=CLASSES,
        note="records too short for a window are left out" if short == "drop" else "",
    )


def _split(classes: np.ndarray, name: str, seed: int) -> splits.Split:
    """Return the records of each split; `name` is the setting `split` of `load`."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(classes))
    # These splits are published, so they have a fixed seed: with random_state=0, scikit-learn draws
    # the same records everywhere.
    if name == "sklearn":
        train, held_out = train_test_split(rows, test_size=0.2, random_state=0)
        validation, test = train_test_split(held_out, test_size=0.5, random_state=0)
    else:
        learned, test = train_test_split(rows, test_size=0.1, random_state=0)
        # The published split has no validation part, so the program draws it.
        drawn = splits.split(
            len(learned), validation=1 / 9, test=0, seed=seed, classes=classes[learned]
        )
        train = learned[drawn.train]
        validation = learned[drawn.validation]
    return splits.Split(np.sort(train), np.sort(validation), np.sort(test))


def _read(file: Path, cache_folder: Path, reporter: Reporter) -> Records:
    """Return the records of the file; unpack them into the cache once."""
    folder = folder_of(
        cache_folder,
        "ecg",
        parameters={"version": _VERSION, **file_identity(file)},
        make=partial(_unpack, file),
        reporter=reporter,
    )
    (steps,) = load_arrays(folder, ["steps"], mapped=True)  # [S]
    ends, classes, mean, std = load_arrays(folder, ["ends", "classes", "mean", "std"])
    return Records(steps=steps, ends=ends, classes=classes, mean=mean, std=std)


def _unpack(file: Path, folder: Path) -> None:
    """Write each array of `Records` to NAME.npy; raise DataError for a file of another form."""
    where = str(file)
    stored, labels = entries(unpickle(file, max_bytes=_MAX_BYTES), ("data", "label"), where)
    # An entry may be something other than a list, and a record may contain ragged lists.
    with damage(where, "pickle"):
        records = [np.asarray(record) for record in stored]
        label_texts = []
        for label in labels:
            # Pickles of Python 2 contain texts as bytes.
            if isinstance(label, bytes):
                label = label.decode("latin-1")
            label_texts.append(str(label))
    if not records or len(records) != len(label_texts):
        raise fault("'data' and 'label' must be two lists of the same length", where)
    unknown = set(label_texts) - set(CLASSES)
    if unknown:
        unknown_label = min(unknown)[:20]
        allowed = ", ".join(CLASSES)
        raise fault(f"every label must be one of {allowed}; got {unknown_label!r}", where)
    mean, std = _statistics(records, where)
    lengths = [len(record) for record in records]
    classes = [CLASSES.index(label) for label in label_texts]
    np.save(folder / "steps.npy", np.concatenate(records))  # [S]
    np.save(folder / "ends.npy", np.cumsum(lengths, dtype=np.int64))
    np.save(folder / "classes.npy", np.array(classes, dtype=np.int64))
    np.save(folder / "mean.npy", mean)
    np.save(folder / "std.npy", std)


def _statistics(records: Sequence[np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of each record, [N] float64; a constant record has deviation 1.

    Raises DataError for a record that is not a list of finite numbers.
    """
    mean = np.zeros(len(records))
    std = np.ones(len(records))
    for row, record in enumerate(records):
        signals.check()
        check_array(record, ("steps",), where, f"record {row}", holds="finite")
        values = record.astype(np.float64)
        mean[row] = values.mean()
        deviation = values.std()
        largest = np.abs(values).max()
        if deviation > _ROUNDING * largest:
            std[row] = deviation
    return mean, std
