"""Electrocardiograms of the PhysioNet/CinC challenge 2017 (Clifford et al. 2017): one lead at 300 Hz, four rhythms.

One file, challenge2017.pkl: a pickled dict with data, N records of different lengths, and label, N strings. Samples are
windows of records; splits are of records, so no record lies in two of them.

Shapes: N records of the file, n windows of a split, W steps of a window.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge

from orca_cli.exceptions import DataError
from orca_cli.interfaces import Batch, Reporter, TaskData
from orca_cli.ranges import Count, Seed
from orca_cli.tasks.ecg.records import CLASSES, Records, read_records
from orca_cli.tasks.shared import splits
from orca_cli.tasks.shared.files import find
from orca_cli.tasks.shared.published import note, overlap_warning

_FILE = "challenge2017.pkl"
# How many times denser the windows of each class are in training, so that rare rhythms give more of them.
_CLOSER = (1, 6, 2, 20)
_PART = 0.1  # of the records, for validation and for test


@dataclass(frozen=True)
class Cut:
    """How records are cut into windows.

    Args:
        window: W, steps.
        strides: steps from one window to the next, for each class.
        inclusive: whether a window that ends with the record's last step is one.
        pad: whether a record that has no window gives one, padded at the end.
    """

    window: int
    strides: tuple[int, ...]
    inclusive: bool
    pad: bool

    def starts(self, length: int, label: int) -> np.ndarray:
        """Return where the windows of a record begin, ascending; none for a record that is left out."""
        room = length - self.window + int(self.inclusive)
        return np.arange(0, max(room, int(self.pad)), self.strides[label])


class Windows:
    """Samples (see interfaces): windows of records, z-scored by their own record; cut batch by batch.

    Args:
        records: all records of the file.
        rows: numbers of this split's records.
        cut: how they are cut.
    """

    def __init__(self, records: Records, rows: np.ndarray, cut: Cut) -> None:
        self._records, self._cut = records, cut
        lengths = records.lengths()
        starts = [cut.starts(int(lengths[row]), int(records.classes[row])) for row in rows]
        self._starts = np.concatenate([np.empty(0, np.int64), *starts])
        self._of = np.repeat(np.asarray(rows, dtype=np.int64), [len(found) for found in starts])
        self._padded = bool((lengths[self._of] < cut.window).any())

    def __len__(self) -> int:
        return len(self._of)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, 1, W], y [B], and valid [B, W] where the split has padding; nothing is augmented."""
        indices = np.asarray(indices, dtype=np.int64)
        x = np.zeros((len(indices), 1, self._cut.window), np.float32)
        valid = np.zeros((len(indices), self._cut.window), bool)
        for place, index in enumerate(indices):
            values = self._records.z_scores(int(self._of[index]), int(self._starts[index]), self._cut.window)
            x[place, 0, : len(values)] = values
            valid[place, : len(values)] = True
        y = torch.from_numpy(self._records.classes[self._of[indices]])
        return Batch(torch.from_numpy(x), y, torch.from_numpy(valid) if self._padded else None)

    def targets(self) -> np.ndarray:
        """Return the class of every window [n]."""
        return self._records.classes[self._of]

    def groups(self) -> np.ndarray:
        """Return the number of every window's record in the file [n]."""
        return self._of

    def digest(self) -> str:
        """Return a SHA-256 over the records, their classes, and how they are cut."""
        digest = hashlib.sha256(f"ecg {len(self)} {json.dumps(asdict(self._cut), sort_keys=True)}".encode())
        for array in (self._of, self._starts, self.targets()):
            digest.update(array.astype("<i8").tobytes())
        for row in np.unique(self._of):
            digest.update(np.ascontiguousarray(self._records.signal(int(row))).tobytes())
        return digest.hexdigest()

    def counts(self) -> str:
        """Return the number of windows of every class in words."""
        found = np.bincount(self.targets(), minlength=len(CLASSES))
        return ", ".join(f"{count} {name}" for name, count in zip(CLASSES, found, strict=True))


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Literal["classes"] = "classes",
    path: str | None = None,
    window: Count = 1000,
    stride: Annotated[int, Ge(20)] = 500,
    inclusive: bool = True,
    short: Literal["pad", "drop"] = "pad",
    evaluation_strides: Literal["equal", "class"] = "equal",
    split: Literal["sklearn", "sklearn_90_10", "stratified"] = "sklearn",
    train_on_validation: bool = False,
    split_seed: Seed = 0,
) -> TaskData:
    """Return windows [n, 1, W] with four classes: normal (N), atrial fibrillation (A), other rhythm (O), noise (~).

    Training windows are stride / 1, 6, 2 and 20 apart for N, A, O and ~, which evens out the classes.

    Args:
        window: W; 1000 steps are 3.3 s.
        stride: steps between windows of class N in training.
        inclusive: whether the window that ends with a record's last step counts; the published code loses it.
        short: what happens to records without a window (shorter than W; W itself where not inclusive): "pad" makes one,
            padded with zeros marked as padding; "drop" leaves the record out of every split, the test split too, as the
            published code does.
        evaluation_strides: strides in validation and test: "equal" is `stride` for all classes; "class" those of training,
            as in the published code, which gives noise up to 20 times its weight.
        split: of records. "sklearn" is NAS-Bench-360's, scikit-learn's train_test_split with test_size 0.2 and then 0.5, both
            with random_state 0. "sklearn_90_10" is the published code's, test_size 0.1; validation is a ninth of the
            training records, stratified by `split_seed`. "stratified" draws a tenth each by `split_seed`.
        split_seed: of the draws that are not scikit-learn's.
    """
    (file,) = find(data_folder, "ecg", [_FILE], path)
    records = read_records(file, cache_folder, reporter)
    parts = _split(records.classes, split, split_seed, str(file))
    learned = np.union1d(parts.train, parts.validation) if train_on_validation else parts.train
    by_class = tuple(stride // closer for closer in _CLOSER)
    equal = (stride,) * len(CLASSES)
    training = Cut(window, by_class, inclusive, short == "pad")
    evaluated = Cut(window, by_class if evaluation_strides == "class" else equal, inclusive, short == "pad")
    train, validation = Windows(records, learned, training), Windows(records, parts.validation, evaluated)
    text = note(
        f"ECG: {len(learned)} training, {len(parts.validation)} validation and {len(parts.test)} test records (split {split})",
        f"{len(train)} training windows ({train.counts()}), {len(validation)} validation windows ({validation.counts()})",
        _left_out(records, evaluated),
        f"{records.constant} records are constant and become zeros" if records.constant else "",
        overlap_warning(train_on_validation, f"{len(parts.validation)} validation records"),
    )
    reporter.say(text)
    return TaskData(
        kind="classes",
        input_shape=(1, window),
        num_outputs=len(CLASSES),
        train=train,
        validation=validation,
        open_test=lambda: Windows(records, parts.test, evaluated),
        class_names=CLASSES,
        note=text,
    )


def _split(classes: np.ndarray, how: str, seed: int, where: str) -> splits.Split:
    if how == "stratified":
        return splits.split(len(classes), validation=_PART, test=_PART, seed=seed, classes=classes)
    if len(classes) < 10:
        raise DataError(f"{len(classes)} records are too few to split; at least 10 are needed", where=where)
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(classes))
    # A published split, so the seed and the generator are not ours: random_state=0 gives the same records everywhere.
    if how == "sklearn":
        train, rest = train_test_split(rows, test_size=2 * _PART, random_state=0)
        validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    else:
        learned, test = train_test_split(rows, test_size=_PART, random_state=0)
        inner = splits.split(len(learned), validation=1 / 9, test=0, seed=seed, classes=classes[learned])
        train, validation = learned[inner.train], learned[inner.validation]
    return splits.Split(np.sort(train), np.sort(validation), np.sort(test))


def _left_out(records: Records, cut: Cut) -> str:
    """Return in words what happens to records that are too short."""
    lengths = records.lengths()
    if dropped := sum(len(cut.starts(int(length), 0)) == 0 for length in lengths):
        return f"warning: {dropped} of {len(lengths)} records are too short for a window and left out, test too"
    short = int((lengths < cut.window).sum())
    return f"{short} of {len(lengths)} records have less than {cut.window} steps and are padded" if short else ""
