"""A finished run's predictions for its test split, as numbers and on a terminal.

They are read from the run's files, without the model. `read` returns an answer by the task's kind:
`Confusion` for classes, `Labels` for label sets, `Values` for numbers. The `record` of an answer is
for other programs, `picture` for people. Shapes: n samples, K outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.data.untrusted.arrays import StoredArray, open_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.report.collect import Record
from orca_cli.report.layout import clean
from orca_cli.runs.directory import PREDICTIONS, STAGE_FOLDERS, SUMMARY, read_or_empty
from orca_cli.terminal import counted, visible

_MOST_CLASSES = 60  # with more classes, a record has no confusion matrix
_MOST_IN_MATRIX = 30  # with more classes, a terminal shows no matrix
_MOST_ROWS = 20  # largest number of rows, or of pairs of classes, on a terminal
_LONGEST_NAME = 16  # characters on a terminal


@dataclass(frozen=True)
class Confusion:
    """How often each class was predicted for samples of each class.

    The predicted class is the one with the highest output.

    Args:
        counts: [K, K] int64; rows are true classes, columns are predicted classes. Samples without
            a class are not counted.
        names: names of the K classes, or their numbers if the data have no names.
    """

    counts: np.ndarray
    names: Sequence[str]

    @property
    def right(self) -> str:
        """Return the number of correct predictions: "9 of 10 test samples correct (90.00 %)"."""
        correct = int(self.counts.trace())
        n_samples = int(self.counts.sum())
        # If no sample has a class, 0 of 0 are correct: `max` avoids a division by 0.
        share = correct / max(n_samples, 1)
        return f"{correct} of {n_samples} test samples correct ({percent(share, 2)})"

    @property
    def recall(self) -> np.ndarray:
        """Return the share of each class's samples that were recognised, [K].

        NaN for a class without samples.
        """
        return _ratio(self.counts.diagonal(), self.counts.sum(axis=1))

    def record(self) -> Record:
        """Return JSON-able numbers: recall and precision by class, and the matrix.

        An undefined share is None. The matrix is left out for more than 60 classes.
        """
        # The sum of a column is how often its class was predicted.
        precision = _ratio(self.counts.diagonal(), self.counts.sum(axis=0))
        record = {
            "kind": "classes",
            "n": int(self.counts.sum()),
            "correct": int(self.counts.trace()),
            "names": list(self.names),
            "recall": list(map(_plain, self.recall)),
            "precision": list(map(_plain, precision)),
        }
        if len(self.names) <= _MOST_CLASSES:
            record["confusion"] = self.counts.tolist()
        return record


@dataclass(frozen=True)
class Labels:
    """Numbers of samples in which each label is present, predicted, or both.

    A label is predicted if its output is at least 0. The counts are [K] int64. A sample whose
    target for a label is missing does not count for that label; `n` is the number of all samples. A
    share whose denominator is 0 is NaN: the precision of a label that is never predicted, the
    recall of a label that is never present, the F1 of a label that is neither.
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
            # 2 P R / (P + R) in counts, which is defined for a label that is only present or only
            # predicted.
            "f1": _ratio(2 * self.both, self.present + self.predicted),
        }

    def worst(self) -> list[int]:
        """Return the labels' positions, in 0..K-1, by rising F1; labels without an F1 come last."""
        # NumPy sorts NaN last; a stable sort keeps labels of equal F1 in the order of the data.
        return np.argsort(self.shares["f1"], kind="stable").tolist()

    def record(self) -> Record:
        """Return JSON-able numbers of each label: name, counts, precision, recall and F1.

        An undefined share is None.
        """
        shares = self.shares
        labels = []
        for position, name in enumerate(self.names):
            label: Record = {
                "name": name,
                "present": int(self.present[position]),
                "predicted": int(self.predicted[position]),
            }
            for share_name, share_of_label in shares.items():
                label[share_name] = _plain(share_of_label[position])
            labels.append(label)
        return {"kind": "labels", "n": self.n, "labels": labels}


@dataclass(frozen=True)
class Number:
    """One output of the samples whose true value is known, in the task's own units.

    `true` and `predicted` are [n] float64 and finite. `name` is empty if the output is the only one
    and the task does not name it.
    """

    name: str
    true: np.ndarray
    predicted: np.ndarray

    @property
    def measures(self) -> dict[str, float]:
        """Return r2 (1 - RMSE² / variance of the true values), rmse and mae.

        Without samples all three are NaN; r2 is also NaN if all true values are equal.
        """
        if not len(self.true):
            return dict.fromkeys(("r2", "rmse", "mae"), np.nan)
        residuals = self.predicted - self.true
        mean_square = float(np.mean(np.square(residuals)))
        # Divided by n like the mean square, so that predicting the mean gives an r2 of 0.
        variance = float(self.true.var())
        r_squared = 1 - mean_square / variance if variance > 0 else np.nan
        mean_size = float(np.mean(np.abs(residuals)))
        return {"r2": r_squared, "rmse": mean_square**0.5, "mae": mean_size}


@dataclass(frozen=True)
class Values:
    """Predicted and true numbers, for each of K outputs."""

    numbers: Sequence[Number]

    def record(self) -> Record:
        """Return JSON-able measures of each output, with its name and n; None if undefined."""
        values = []
        for number in self.numbers:
            fields: Record = {"name": number.name, "n": len(number.true)}
            for name, measure in number.measures.items():
                fields[name] = _plain(measure)
            values.append(fields)
        return {"kind": "values", "values": values}


Answer = Confusion | Labels | Values


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """Return numerators / denominators in float64, NaN where the denominator is 0."""
    undefined = np.full(np.shape(denominators), np.nan)
    # Only defined positions are written; the others keep NaN.
    return np.divide(numerators, denominators, out=undefined, where=np.asarray(denominators) > 0)


def _plain(number: float) -> float | None:
    """Return a number for JSON; None if it is undefined."""
    return float(number) if np.isfinite(number) else None


def percent(share: float, decimals: int = 0) -> str:
    """Return a share in per cent, "-" for NaN.

    A share strictly between 0 and 1 is never rounded to 0 or 100.
    """
    if np.isnan(share):
        return "-"
    shown_percent = 100 * share
    if 0 < share < 1:
        # The smallest step of the last decimal.
        smallest = 10.0**-decimals
        shown_percent = min(max(round(shown_percent, decimals), smallest), 100 - smallest)
    return f"{shown_percent:.{decimals}f} %"


def picture(answer: Answer, width: int) -> list[RenderableType]:
    """Return an answer for a terminal of `width` characters.

    For classes it is the confusion matrix, or a list of the most confused pairs of classes if the
    matrix does not fit. For labels and numbers it is a table. At most 20 pairs or rows are shown, a
    matrix has at most 30 classes, and long names are cut.
    """
    if isinstance(answer, Confusion):
        return _shown_confusion(answer, width)
    record = answer.record()
    # A record has its lines under its kind: labels or values. There is at least one output.
    lines = record[record["kind"]]
    shown: list[RenderableType] = []
    if isinstance(answer, Labels):
        lines = [lines[position] for position in answer.worst()]
        samples = counted(answer.n, "test sample")
        shown.append(
            Text(
                f"{samples}; labels are sorted by rising F1; a label is predicted if its "
                "probability is 50 % or more"
            )
        )
    rows = []
    for line in lines[:_MOST_ROWS]:
        rows.append(list(map(_text, line.values())))
    # All lines have the same fields, which are the headers.
    shown.append(terminal.table(list(lines[0]), rows))
    n_hidden = len(lines) - _MOST_ROWS
    if n_hidden > 0:
        shown.append(f"... and {n_hidden} more")
    return shown


def _text(field: Any) -> str:
    if isinstance(field, str):
        return clean(field, longest=_LONGEST_NAME)
    if isinstance(field, float):
        return f"{field:.3g}"
    if field is None:
        return "-"
    return str(field)


def _shown_confusion(confusion: Confusion, width: int) -> list[RenderableType]:
    """Return the share of correct predictions, and the matrix or else the most confused classes."""
    counts = confusion.counts
    names = list(map(_text, confusion.names))
    if len(names) <= _MOST_IN_MATRIX:
        matrix = _matrix(confusion, names)
        # Measured on a console that is wide enough for any matrix.
        if Console(width=10_000).measure(matrix).maximum <= width:
            right = (confusion.right, "bold")
            return [Text.assemble(right, "; rows: true class, columns: predicted class"), matrix]
    shown: list[RenderableType] = [Text(confusion.right, "bold")]
    # [K, K]; the diagonal counts the correct predictions.
    is_confused = (counts > 0) & ~np.eye(len(counts), dtype=bool)
    pairs = np.argwhere(is_confused).tolist()
    # Sorted by falling count; pairs of equal count stay in the order of their classes.
    pairs.sort(key=lambda pair: -counts[tuple(pair)])
    if pairs:
        texts = []
        for true, predicted in pairs[:_MOST_ROWS]:
            count = counts[true, predicted]
            texts.append(f"{names[true]} -> {names[predicted]} {count}")
        n_pairs = counted(len(pairs), "pair")
        shown.append(
            Text(
                f"the most confused of {n_pairs} of classes (true -> predicted, number of "
                f"samples): {', '.join(texts)}"
            )
        )
    return shown


def _matrix(confusion: Confusion, names: Sequence[str]) -> RenderableType:
    """Return the counts as a table whose columns are class numbers, with a column of recall."""
    # All columns of counts are as wide as the largest count.
    digits = len(str(confusion.counts.max()))
    recall = confusion.recall
    rows: list[list[str | Text]] = []
    class_numbers = []
    for true, name in enumerate(names):
        class_numbers.append(f"{true:>{digits}}")
        # A class without a name already has its number in place of the name.
        row: list[str | Text] = [name if name == str(true) else f"{true} {name}"]
        for predicted, count in enumerate(confusion.counts[true]):
            # A dot in place of 0 makes the confused classes easier to see.
            count_text = f"{count or '.':>{digits}}"
            style = "bold green" if true == predicted else ""
            row.append(Text(count_text, style))
        rows.append([*row, percent(recall[true])])
    return terminal.table(("true", *class_numbers, "recall"), rows)


def read(run: Path) -> Answer | None:
    """Return the answer of a run for its test split.

    None for dense outputs, and if the run has no predictions.

    Raises:
        DataError, ChecksumError, UnsafeError, MemoryExhaustedError: the file is damaged, or does
            not have the form that a run writes.
    """
    summary = read_or_empty(run / STAGE_FOLDERS["build"] / SUMMARY)
    path = run / STAGE_FOLDERS["finetune"] / PREDICTIONS
    readers = {"classes": _confusion, "labels": _labels, "values": _values}
    # Dense outputs have no reader.
    output_kind = str(summary.get("kind"))
    if output_kind not in readers or not path.exists():
        return None
    arrays = open_arrays(path, str(path))
    outputs = arrays.get("outputs")
    targets = arrays.get("targets")
    # Shapes and types are in the headers, so they are checked before an array is read.
    if outputs is None or targets is None or not _are_predictions(outputs, targets, output_kind):
        raise DataError(
            "does not contain the predictions of a run",
            where=str(path),
            hint="rerun the run's command with --force",
        )
    n_outputs = outputs.shape[1]
    # If the record does not match the outputs, its names belong to other classes.
    names = summary.get("class_names")
    if not isinstance(names, list) or len(names) != n_outputs:
        names = list(range(n_outputs))
    readable_names = [visible(str(name)) for name in names]
    return readers[output_kind](outputs.read(), targets.read(), readable_names)


def _are_predictions(outputs: StoredArray, targets: StoredArray, output_kind: str) -> bool:
    """Return whether outputs are numbers [n, K], and targets [n] for classes, else [n, K]."""
    if len(outputs.shape) != 2 or 0 in outputs.shape:
        return False
    if outputs.dtype.kind != "f" or targets.dtype.kind not in "fiu":
        return False
    if output_kind == "classes":
        return targets.shape == outputs.shape[:1]
    return targets.shape == outputs.shape


def _confusion(outputs: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> Answer:
    n_classes = len(names)
    is_labelled = targets != IGNORED_CLASS  # [n]
    # [m] each: the m samples with a class.
    true_classes = targets[is_labelled].astype(np.int64)
    predicted_classes = outputs[is_labelled].argmax(axis=1)
    is_unknown = (true_classes < 0) | (true_classes >= n_classes)
    if is_unknown.any():
        raise DataError(f"has class numbers outside 0..{n_classes - 1}", where=PREDICTIONS)
    # A pair of classes is one number, in 0..K²-1.
    pairs = true_classes * n_classes + predicted_classes
    counts = np.bincount(pairs, minlength=n_classes * n_classes)
    return Confusion(counts=counts.reshape(n_classes, n_classes), names=names)


def _labels(outputs: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> Answer:
    # [n, K]: if a target is missing (NaN), the label counts neither as present nor as predicted.
    # An output of at least 0 is a probability of at least 50 %.
    is_present = targets == 1
    is_predicted = (outputs >= 0) & ~np.isnan(targets)
    return Labels(
        n=len(outputs),
        present=is_present.sum(axis=0),
        predicted=is_predicted.sum(axis=0),
        both=(is_present & is_predicted).sum(axis=0),
        names=names,
    )


def _values(outputs: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> Answer:
    # Float32 would round the sums of squares.
    outputs = outputs.astype(np.float64)
    targets = targets.astype(np.float64)
    if names == ["0"]:  # the only output, which has no name
        names = [""]
    numbers = []
    for column, name in enumerate(names):
        # [n]: samples that count for this output; other samples may count for the next output.
        is_finite = np.isfinite(targets[:, column]) & np.isfinite(outputs[:, column])
        number = Number(
            name=name,
            true=targets[is_finite, column],
            predicted=outputs[is_finite, column],
        )
        numbers.append(number)
    return Values(numbers)
