"""What a model's outputs mean, in the words of the data, and files of predictions, written part by part.

Shapes: n samples, K outputs, *E the extent of dense outputs. Columns of a file: `id` (or `index`, from 0), then of classes
`prediction` and a probability `p_CLASS` each, of labels 0 or 1 and a probability each, of numbers `prediction`, or a column
each. Maps go into .npz only: `prediction`, and `outputs` as the model gives them.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from orca_cli import storage
from orca_cli.exceptions import ConfigError, StorageError
from orca_cli.interfaces import IGNORED_CLASS, Targets
from orca_cli.terminal import for_spreadsheet

SUFFIXES = (".csv", ".npz")

Columns = dict[str, np.ndarray]


class Decoder:
    """Predictions, probabilities and scores of a model's outputs.

    Args:
        targets: the form of the task's targets.
        num_outputs: K.

    Attributes:
        form: classes, labels, values, maps (numbers at every position) or class_maps (a class at every position).
        names: of the K outputs; empty where they have none.
        classes: the K classes or labels as the data name or number them; None for numbers and maps of numbers.
    """

    def __init__(self, targets: Targets, num_outputs: int) -> None:
        self.form, self.num_outputs = targets.kind, num_outputs
        self.has_probabilities = self.form in (
            "classes",
            "labels",
            "class_maps",
        )  # outputs are logits
        self.is_map = self.form in ("maps", "class_maps")
        self.names: Sequence[str] = targets.names if len(targets.names) == num_outputs else ()
        self.classes: np.ndarray | None = None
        if self.has_probabilities:
            class_names = targets.classes or targets.names
            self.classes = (
                np.array(class_names) if len(class_names) == num_outputs else np.arange(num_outputs)
            )

    @property
    def columns(self) -> list[str]:
        """Return K names: the classes or labels, else those of the numbers, else prediction_0, prediction_1, ..."""
        if self.classes is not None:
            return [str(name) for name in self.classes]
        return list(self.names) or [f"prediction_{k}" for k in range(self.num_outputs)]

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return predictions for outputs [n, K, ...]; their form: see Predictor.predict."""
        if self.form == "labels":
            return (outputs >= 0).astype(np.int64)
        if self.classes is not None:
            return outputs.argmax(1) if self.is_map else self.classes[outputs.argmax(1)]
        return outputs[:, 0] if not self.is_map and self.num_outputs == 1 else outputs

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return probabilities [n, K, ...] float32: over classes they sum to 1, those of labels are of each alone."""
        wide = outputs.astype(np.float64)
        return np.asarray(
            expit(wide) if self.form == "labels" else softmax(wide, axis=1), np.float32
        )

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return scikit-learn's score of outputs [n, K, ...] for encoded targets (as Batch.y): higher is better, 1 the best.

        Of classes it is the share that is right; of labels the share of samples whose known labels are all right; of numbers
        the mean R2 over the outputs with known targets. NaN and -100 do not count; it is NaN where no target is known.
        """
        if self.form in ("classes", "class_maps"):
            known = targets != IGNORED_CLASS
            return float((outputs.argmax(1) == targets)[known].mean())
        known = ~np.isnan(targets)
        if self.form == "labels":
            right = (((outputs >= 0) == (targets == 1)) | ~known).all(axis=1)
            return float(right[known.any(axis=1)].mean())
        from sklearn.metrics import r2_score

        targets, outputs = targets.astype(np.float64), outputs.astype(np.float64)
        rows = [(k, known[:, k]) for k in range(self.num_outputs) if known[:, k].any()]
        return float(np.mean([r2_score(targets[:, k][row], outputs[:, k][row]) for k, row in rows]))


def check_output(out: Path | None, decoder: Decoder, source: Path) -> None:
    """Raise ConfigError, before anything is computed, where predictions cannot be written to `out` (None: csv on stdout).

    That is a suffix other than .csv and .npz, a folder, the input itself (`source`), or maps as csv.
    """
    suffix = ".csv" if out is None else out.suffix.lower()
    if out is not None and out.exists() and source.exists() and out.samefile(source):
        raise ConfigError(
            "is the input, which would be lost", where="--out", hint="name another file"
        )
    if suffix not in SUFFIXES or (out is not None and out.is_dir()):
        hint = f"allowed: FILE{', FILE'.join(SUFFIXES)}"
        raise ConfigError(
            f"'{out}' is a folder, or has a suffix that is not written", where="--out", hint=hint
        )
    if decoder.is_map and suffix != ".npz":
        raise ConfigError(
            "dense outputs are maps, which a table has no place for",
            where="--out",
            hint="give FILE.npz",
        )


def parts_of(
    outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None
) -> Iterator[Columns]:
    """Yield the columns of predictions by name, part by part.

    Args:
        outputs: [B, K] of the next samples each.
        decoder: what they mean.
        ids: of all samples; None numbers them.
    """
    stop = 0
    for part in outputs:
        start, stop, predictions = stop, stop + len(part), decoder.predictions(part)
        pairs = [
            ("index", np.arange(start, stop)) if ids is None else ("id", np.array(ids[start:stop]))
        ]
        if predictions.ndim == 1:
            pairs.append(("prediction", predictions))
        else:
            pairs += zip(decoder.columns, predictions.T, strict=True)
        if decoder.has_probabilities:
            pairs += zip(
                [f"p_{name}" for name in decoder.columns],
                decoder.probabilities(part).T,
                strict=True,
            )
        columns: Columns = {}
        for name, values in pairs:
            while name in columns:  # a label may be called `index`
                name += "_"
            columns[name] = values
        yield columns


def csv_lines(parts: Iterable[Columns]) -> Iterator[str]:
    """Yield a table as csv text, part by part; texts that a spreadsheet would compute get an apostrophe before them."""
    for number, columns in enumerate(parts):
        shown = {
            place: list(map(for_spreadsheet, column.astype(str)))
            if column.dtype.kind in "UO"
            else column
            for place, column in enumerate(columns.values())
        }
        header = [for_spreadsheet(name) for name in columns] if number == 0 else False
        yield pd.DataFrame(shown).to_csv(header=header, index=False, lineterminator="\n")


def rows(parts: Iterable[Columns]) -> Iterator[dict[str, Any]]:
    """Yield the samples of a table as JSON-able records, with the digits of the columns' own precision."""
    for columns in parts:
        plain = [
            [float(str(number)) for number in column]
            if column.dtype.kind == "f"
            else column.tolist()
            for column in columns.values()
        ]
        for values in zip(*plain, strict=True):
            yield dict(zip(columns, values, strict=True))


def write(
    out: Path, outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None
) -> None:
    """Write predictions to a file by its suffix, whole or not at all; folders above it are made.

    A .npz file has the arrays outputs, prediction and probability (of classes and labels, not of maps); id, classes and names
    where there are any.

    Args:
        out: FILE.csv or FILE.npz.
        outputs: [B, K, ...] of the next samples each; an error that is raised in it passes through.
        decoder, ids: as in `parts_of`.

    Raises:
        StorageError: the file cannot be written.
    """

    def into(path: Path) -> None:
        if out.suffix.lower() == ".csv":
            with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.writelines(csv_lines(parts_of(outputs, decoder, ids)))
            return
        kept = Kept(path.parent)
        for _ in kept.passing(outputs):
            pass
        whole = kept.whole()
        arrays: dict[str, Any] = {"outputs": whole, "prediction": decoder.predictions(whole)}
        if decoder.has_probabilities and not decoder.is_map:
            arrays["probability"] = decoder.probabilities(whole)
        named = {"id": ids, "classes": decoder.classes, "names": decoder.names or None}
        arrays |= {name: np.array(values) for name, values in named.items() if values is not None}
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    try:
        storage.write_with(out, into)
    except StorageError as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, OSError):
            raise error.__cause__ from None  # of the model or its input, not of the disk
        raise


class Kept:
    """Keeps streamed outputs, all of one dtype, in a temporary file, for what needs all of them.

    The file is in `folder`, or for None where the machine has such files, and goes with this object.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._place = folder or Path(tempfile.gettempdir())
        self._file = tempfile.TemporaryFile(dir=self._place)  # noqa: SIM115 - it lives as long as this
        self._shape: tuple[int, ...] = (0,)
        self._dtype = np.dtype(np.float32)

    def passing(self, outputs: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield outputs unchanged, and keep them; StorageError where the file cannot be written."""
        for part in outputs:
            with storage.guarded(self._place):
                self._file.write(part.tobytes())
            self._shape = (self._shape[0] + len(part), *part.shape[1:])
            self._dtype = part.dtype
            yield part

    def whole(self) -> np.ndarray:
        """Return all that passed, [n, ...]: a memory map that is read only. One part or more has to have passed."""
        with storage.guarded(self._place):
            self._file.flush()
            return np.memmap(self._file, self._dtype, "r", shape=self._shape)
