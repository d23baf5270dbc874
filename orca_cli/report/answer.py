"""What a finished run predicted for its test split, as numbers and on a terminal: read from its files, without the model.

`read` returns an answer by the task's kind: `Confusion` for classes, `Labels` for label sets, `Values` for numbers. Its
`record` is for other programs, `picture` for people. Shapes: n samples, K outputs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.data.untrusted.arrays import open_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.report.layout import clean
from orca_cli.runs.directory import PREDICTIONS, STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.terminal import counted, visible

_MOST_CLASSES = 60  # whose confusion matrix is in a record
# On a terminal: classes of a matrix; rows; characters of a name.
_MOST_IN_MATRIX, _MOST_ROWS, _LONGEST_NAME = 30, 20, 16


@dataclass(frozen=True)
class Confusion:
    """How often each class was predicted for samples of each class; the predicted class is the one with the highest output.

    Args:
        counts: [K, K] int64; rows are the true classes, columns the predicted ones. Samples without a class do not count.
        names: of the classes, K; their numbers where the data have no names.
    """

    counts: np.ndarray
    names: Sequence[str]

    @property
    def right(self) -> str:
        """Return how many samples are right, in words, such as "9 of 10 test samples right (90.00 %)"."""
        correct, n = int(self.counts.trace()), int(self.counts.sum())
        return f"{correct} of {n} test samples right ({percent(correct / max(n, 1), 2)})"

    @property
    def recall(self) -> np.ndarray:
        """Return the share of each class's samples that were recognised, [K]; NaN for a class without samples."""
        return _ratio(self.counts.diagonal(), self.counts.sum(axis=1))

    def record(self) -> dict[str, Any]:
        """Return JSON-able numbers: recall and precision by class (None where undefined), the matrix of at most 60 classes."""
        counts = self.counts
        precision = _ratio(counts.diagonal(), counts.sum(axis=0))
        record = {
            "kind": "classes",
            "n": int(counts.sum()),
            "correct": int(counts.trace()),
            "names": list(self.names),
        }
        record |= {"recall": [*map(_plain, self.recall)], "precision": [*map(_plain, precision)]}
        return record | ({"confusion": counts.tolist()} if len(counts) <= _MOST_CLASSES else {})


@dataclass(frozen=True)
class Labels:
    """For each label, in how many samples it is present, predicted (an output of at least 0), and both: [K] int64.

    A sample whose target for a label is missing does not count for that label; `n` is the number of all samples. A share
    without a denominator is NaN: precision of a label that is never predicted, recall of one that is never present, F1 of one
    that is neither.
    """

    n: int
    present: np.ndarray
    predicted: np.ndarray
    both: np.ndarray
    names: Sequence[str]

    @property
    def shares(self) -> dict[str, np.ndarray]:
        """Return precision, recall and F1 of each label, [K]."""
        return {
            "precision": _ratio(self.both, self.predicted),
            "recall": _ratio(self.both, self.present),
            "f1": _ratio(2 * self.both, self.present + self.predicted),
        }

    def worst(self) -> list[int]:
        """Return the places of the labels, in 0..K-1, by rising F1; those without one come last."""
        return np.argsort(self.shares["f1"], kind="stable").tolist()

    def record(self) -> dict[str, Any]:
        """Return JSON-able numbers of each label: name, counts, precision, recall and F1 (None where undefined)."""
        shares = self.shares
        return {
            "kind": "labels",
            "n": self.n,
            "labels": [
                {"name": name, "present": int(self.present[k]), "predicted": int(self.predicted[k])}
                | {share: _plain(values[k]) for share, values in shares.items()}
                for k, name in enumerate(self.names)
            ],
        }


@dataclass(frozen=True)
class Number:
    """One number of each sample whose true value is known, in the task's own units.

    `true` and `predicted` are [n] float64 and finite; `name` is empty for the only number of a task that names none.
    """

    name: str
    true: np.ndarray
    predicted: np.ndarray

    @property
    def measures(self) -> dict[str, float]:
        """Return r2 (1 - RMSE² / variance of the true values), rmse and mae; NaN: all of no sample, r2 of equal true values."""
        if not len(self.true):
            return dict.fromkeys(("r2", "rmse", "mae"), np.nan)
        apart, variance = self.predicted - self.true, float(self.true.var())
        square = float(np.square(apart).mean())
        r2 = 1 - square / variance if variance > 0 else np.nan
        return {"r2": r2, "rmse": square**0.5, "mae": float(np.abs(apart).mean())}


@dataclass(frozen=True)
class Values:
    """Numbers: what was predicted against what is true, for each of K outputs."""

    numbers: Sequence[Number]

    def record(self) -> dict[str, Any]:
        """Return JSON-able measures of each number, with its name and n; None where undefined."""
        return {
            "kind": "values",
            "values": [
                {"name": one.name, "n": len(one.true)}
                | {name: _plain(value) for name, value in one.measures.items()}
                for one in self.numbers
            ],
        }


Answer = Confusion | Labels | Values


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below in float64, NaN where the lower number is 0."""
    return np.divide(
        above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) > 0
    )


def _plain(value: float) -> float | None:
    """Return a number as JSON takes it; None for one that is undefined."""
    return float(value) if np.isfinite(value) else None


def percent(share: float, decimals: int = 0) -> str:
    """Return a share in per cent, "-" for NaN; one strictly between 0 and 1 is never rounded to 0 or 100."""
    if np.isnan(share):
        return "-"
    lowest, value = 10.0**-decimals, 100 * share
    shown = min(max(round(value, decimals), lowest), 100 - lowest) if 0 < share < 1 else value
    return f"{shown:.{decimals}f} %"


def picture(answer: Answer, width: int) -> list[RenderableType]:
    """Return an answer for a terminal of `width` characters.

    Of classes it is the confusion matrix, or the most confused pairs of classes where that does not fit; of labels and numbers
    it is a table. At most 20 pairs or rows are shown, a matrix has at most 30 classes, and long names are cut.
    """
    if isinstance(answer, Confusion):
        return _shown_confusion(answer, width)
    above: list[RenderableType] = []
    record = answer.record()
    items = record[record["kind"]]
    if isinstance(answer, Labels):
        items = [items[k] for k in answer.worst()]
        what = f"{counted(answer.n, 'test sample')}; labels by rising F1; predicted: probability of 50 % or more"
        above.append(Text(what))
    rows = [[_text(value) for value in item.values()] for item in items[:_MOST_ROWS]]
    more = [f"... and {len(items) - _MOST_ROWS} more"] if len(items) > _MOST_ROWS else []
    return [*above, terminal.table(list(items[0]), rows), *more]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return clean(value, longest=_LONGEST_NAME)
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _shown_confusion(confusion: Confusion, width: int) -> list[RenderableType]:
    """Return the share that is right, and the matrix with numbers for the columns, or else the most confused classes."""
    counts, names = confusion.counts, [_text(name) for name in confusion.names]
    if len(names) <= _MOST_IN_MATRIX:
        digits = len(str(counts.max()))
        rows: list[list[str | Text]] = []
        for i, name in enumerate(names):
            cells = [
                Text(f"{n or '.':>{digits}}", "bold green" if i == j else "")
                for j, n in enumerate(counts[i])
            ]
            rows.append(
                [name if name == str(i) else f"{i} {name}", *cells, percent(confusion.recall[i])]
            )
        matrix = terminal.table(
            ("true", *(f"{k:>{digits}}" for k in range(len(names))), "recall"), rows
        )
        if Console(width=10_000).measure(matrix).maximum <= width:
            return [
                Text.assemble((confusion.right, "bold"), "; rows: true class, columns: predicted"),
                matrix,
            ]
    pairs = np.argwhere((counts > 0) & ~np.eye(len(counts), dtype=bool)).tolist()
    worst = sorted(pairs, key=lambda pair: -counts[tuple(pair)])[:_MOST_ROWS]
    most = ", ".join(f"{names[i]} -> {names[j]} {counts[i, j]}" for i, j in worst)
    above = (
        f"most confused (true -> predicted), of {counted(len(pairs), 'pair')} of classes: {most}"
    )
    return [Text(confusion.right, "bold"), *([Text(above)] if pairs else [])]


def read(run: Path) -> Answer | None:
    """Return what a run predicted for its test split; None for dense outputs, and where the run has no predictions.

    Raises:
        DataError, ChecksumError, UnsafeError, MemoryExhaustedError: the file is damaged, or is not what a run writes.
    """
    summary = read_or_empty(run / STAGE_FOLDERS["build"] / SUMMARY)
    path = run / STAGE_FOLDERS["finetune"] / PREDICTIONS
    reader = {"classes": _confusion, "labels": _labels, "values": _values}.get(
        str(summary.get("kind"))
    )
    if reader is None or not path.exists():
        return None
    arrays = open_arrays(path, str(path))
    outputs, targets = (arrays.get(name) for name in ("outputs", "targets"))
    if (
        outputs is not None
        and targets is not None
        and len(outputs.shape) == 2
        and 0 not in outputs.shape
    ):
        names, k = summary.get("class_names"), outputs.shape[1]
        class_names: Iterable[object] = (
            names if isinstance(names, list) and len(names) == k else range(k)
        )
        has_numbers = outputs.dtype.kind == "f" and targets.dtype.kind in "fiu"
        if (
            has_numbers
            and targets.shape == outputs.shape[: 1 if summary["kind"] == "classes" else 2]
        ):
            return reader(
                outputs.read(), targets.read(), [visible(str(name)) for name in class_names]
            )
    raise DataError(
        "does not hold the predictions of a run", where=str(path), hint="run it again with --force"
    )


def _confusion(outputs: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> Answer:
    k, is_labelled = len(names), targets != IGNORED_CLASS
    true = targets[is_labelled].astype(np.int64)
    if ((true < 0) | (true >= k)).any():
        raise DataError(f"has classes that are not in 0..{k - 1}", where=PREDICTIONS)
    return Confusion(
        np.bincount(true * k + outputs[is_labelled].argmax(axis=1), minlength=k * k).reshape(k, k),
        names,
    )


def _labels(outputs: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> Answer:
    present, predicted = targets == 1, (outputs >= 0) & ~np.isnan(targets)
    there, seen, both = (one.sum(axis=0) for one in (present, predicted, present & predicted))
    return Labels(len(outputs), there, seen, both, names)


def _values(outputs: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> Answer:
    outputs, targets = outputs.astype(np.float64), targets.astype(np.float64)
    numbers = []
    for k, name in enumerate(names):
        is_finite = np.isfinite(targets[:, k]) & np.isfinite(outputs[:, k])
        numbers.append(
            Number("" if names == ["0"] else name, targets[is_finite, k], outputs[is_finite, k])
        )
    return Values(numbers)
