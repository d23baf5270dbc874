"""What a finished run predicted for its test split, as numbers to draw: read from its files alone, without the model.

Shapes: n samples, K outputs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli.data.untrusted.arrays import StoredArray, open_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.runs.directory import PREDICTIONS, STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.terminal import visible

MOST_CLASSES = 60  # whose confusion matrix is shown or listed as a whole
_BLOCK_BYTES = 2**24  # what is read at once


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below in float64, NaN where the lower number is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0)


def _plain(value: float) -> float | None:
    """Return a number as JSON takes it; None for one that is undefined."""
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True)
class Confusion:
    """Classes: how often each class was predicted for samples of each class; predicted is the one with the highest output.

    `counts`: [K, K] int64; rows are the true classes, columns the predicted ones.
    """

    counts: np.ndarray
    names: Sequence[str]

    @property
    def right(self) -> str:
        """Return how many samples are right, in words."""
        correct, n = int(self.counts.trace()), int(self.counts.sum())
        return f"{correct} of {n} test samples right ({percent(correct / max(n, 1), 2)})"

    @property
    def recall(self) -> np.ndarray:
        """Return the share of each class's samples that were recognised, [K]; NaN for a class without samples."""
        return _ratio(self.counts.diagonal(), self.counts.sum(axis=1))

    def confused(self) -> list[tuple[int, int]]:
        """Return the pairs (true, predicted) of different classes that occur, those with the most samples first."""
        pairs = np.argwhere((self.counts > 0) & ~np.eye(len(self.counts), dtype=bool))
        return sorted(((int(i), int(j)) for i, j in pairs), key=lambda pair: (-int(self.counts[pair]), pair))

    def record(self) -> dict[str, Any]:
        """Return the numbers for other programs; a matrix of more than `MOST_CLASSES` classes is left out."""
        counts, names = self.counts, list(self.names)
        precision = _ratio(counts.diagonal(), counts.sum(axis=0))
        return {
            **{"kind": "classes", "n": int(counts.sum()), "correct": int(counts.trace()), "names": names},
            **{"recall": [*map(_plain, self.recall)], "precision": [*map(_plain, precision)]},
            **({"confusion": counts.tolist()} if len(names) <= MOST_CLASSES else {}),
        }


@dataclass(frozen=True)
class Labels:
    """Label sets: for each label, how often it was present, predicted (an output of at least 0), and both: [K] int64.

    Entries whose target is missing do not count; `n` is the number of samples. Shares are NaN where they have no denominator:
    of a label never predicted (precision), never there (recall), neither (F1).
    """

    n: int
    present: np.ndarray
    predicted: np.ndarray
    both: np.ndarray
    names: Sequence[str]

    @property
    def shares(self) -> dict[str, np.ndarray]:
        """Return precision, recall and F1 of each label, [K]."""
        f1 = _ratio(2 * self.both, self.present + self.predicted)
        return {"precision": _ratio(self.both, self.predicted), "recall": _ratio(self.both, self.present), "f1": f1}

    def worst(self) -> list[int]:
        """Return the labels by rising F1; those without one come last."""
        return [int(k) for k in np.argsort(self.shares["f1"], kind="stable")]

    def record(self) -> dict[str, Any]:
        """Return the numbers for other programs."""
        labels = [
            {"name": name, "present": int(self.present[k]), "predicted": int(self.predicted[k])}
            | {share: _plain(values[k]) for share, values in self.shares.items()}
            for k, name in enumerate(self.names)
        ]
        return {"kind": "labels", "n": self.n, "labels": labels}


@dataclass(frozen=True)
class Number:
    """One number of each sample whose true value is known, in the task's own units; `true`, `predicted`: [n] float64."""

    name: str
    true: np.ndarray
    predicted: np.ndarray

    @property
    def measures(self) -> dict[str, float]:
        """Return R2 (1 - RMSE² / variance), RMSE and MAE; NaN where one is undefined."""
        if not len(self.true):
            return dict.fromkeys(("r2", "rmse", "mae"), np.nan)
        apart, variance = self.predicted - self.true, float(self.true.var())
        square = float(np.square(apart).mean())
        r2 = 1 - square / variance if variance > 0 else np.nan
        return {"r2": r2, "rmse": square**0.5, "mae": float(np.abs(apart).mean())}

    def record(self) -> dict[str, Any]:
        """Return the numbers for other programs."""
        measures = {name: _plain(value) for name, value in self.measures.items()}
        return {"name": self.name, "n": len(self.true), **measures}


@dataclass(frozen=True)
class Values:
    """Numbers: what was predicted against what is true, for each of K outputs."""

    numbers: Sequence[Number]

    def record(self) -> dict[str, Any]:
        """Return the numbers for other programs."""
        return {"kind": "values", "values": [number.record() for number in self.numbers]}


Answer = Confusion | Labels | Values


def read(run: Path) -> Answer | None:
    """Return what a run predicted for its test split; None for dense outputs, and where the run has no predictions.

    Raises:
        DataError, ChecksumError, UnsafeError, MemoryExhaustedError: the file is damaged, or is not what a run writes.
    """
    build, finetune = (run / STAGE_FOLDERS[stage] for stage in ("build", "finetune"))
    summary, path = read_or_empty(build / SUMMARY), finetune / PREDICTIONS
    readers: dict[str, Callable[..., Answer]] = {"classes": _confusion, "labels": _labels, "values": _values}
    reader = readers.get(str(summary.get("kind")))
    if reader is None or not path.exists():
        return None
    arrays = open_arrays(path, str(path))
    outputs, targets = (arrays.get(name) for name in ("outputs", "targets"))
    if outputs is not None and targets is not None and len(outputs.shape) == 2 and 0 not in outputs.shape:
        names, k = summary.get("class_names"), outputs.shape[1]
        class_names: Iterable[object] = names if isinstance(names, list) and len(names) == k else range(k)
        has_numbers = outputs.dtype.kind == "f" and targets.dtype.kind in "fiu"
        if has_numbers and targets.shape == outputs.shape[: 1 if summary["kind"] == "classes" else 2]:
            return reader(_blocks(outputs, targets), tuple(visible(str(name)) for name in class_names))
    raise DataError("does not hold the predictions of a run", where=str(path), hint="run it again with --force")


def _blocks(outputs: StoredArray, targets: StoredArray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield outputs and targets of the same samples, part by part: neither is held whole."""
    step = max(1, _BLOCK_BYTES // max(1, outputs.dtype.itemsize * outputs.shape[1]))
    read_outputs, read_targets = outputs.rows(), targets.rows()
    for start in range(0, outputs.shape[0], step):
        stop = min(start + step, outputs.shape[0])
        yield read_outputs(start, stop), read_targets(start, stop)


def _confusion(blocks: Iterator[tuple[np.ndarray, np.ndarray]], names: Sequence[str]) -> Confusion:
    k = len(names)
    counts = np.zeros(k * k, np.int64)
    for outputs, targets in blocks:
        is_labelled = targets != IGNORED_CLASS
        true = targets[is_labelled].astype(np.int64)
        if ((true < 0) | (true >= k)).any():
            raise DataError(f"has classes that are not in 0..{k - 1}", where=PREDICTIONS)
        counts += np.bincount(true * k + outputs[is_labelled].argmax(axis=1), minlength=k * k)
    return Confusion(counts.reshape(k, k), names)


def _labels(blocks: Iterator[tuple[np.ndarray, np.ndarray]], names: Sequence[str]) -> Labels:
    n, sums = 0, np.zeros((3, len(names)), np.int64)
    for outputs, targets in blocks:
        present, predicted = targets == 1, (outputs >= 0) & ~np.isnan(targets)
        sums += np.stack([present.sum(axis=0), predicted.sum(axis=0), (present & predicted).sum(axis=0)])
        n += len(outputs)
    return Labels(n, sums[0], sums[1], sums[2], names)


def _values(blocks: Iterator[tuple[np.ndarray, np.ndarray]], names: Sequence[str]) -> Values:
    parts = [(np.array(outputs), np.array(targets)) for outputs, targets in blocks]
    outputs, targets = (np.concatenate(arrays).astype(np.float64) for arrays in zip(*parts, strict=True))
    numbers = []
    for k, name in enumerate(names):
        is_finite = np.isfinite(targets[:, k]) & np.isfinite(outputs[:, k])
        numbers.append(Number("" if names == ("0",) else name, targets[is_finite, k], outputs[is_finite, k]))
    return Values(numbers)


def percent(share: float, decimals: int = 0) -> str:
    """Return a share in per cent; one strictly between 0 and 1 is never rounded to 0 or 100."""
    if np.isnan(share):
        return "-"
    lowest, value = 10.0**-decimals, 100 * share
    shown = min(max(round(value, decimals), lowest), 100 - lowest) if 0 < share < 1 else value
    return f"{shown:.{decimals}f} %"
