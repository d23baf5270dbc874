"""Turn a model's outputs into classes, labels or numbers of the data, and write files of them.

Files are written part by part. The first column is `id`, or `index`, which counts from 0. The other
columns depend on the kind of output:

* classes: `prediction`, and a probability `p_CLASS` of each class
* labels: a column of 0 and 1 for each label, and a probability of each label
* one number: `prediction`
* several numbers: a column for each number
* maps: .npz files only, with `prediction`, and `outputs` as the model computes them

Shapes: n samples, K outputs, *E the extent of dense outputs.
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

# The columns of a part of the samples, by name.
Columns = dict[str, np.ndarray]


class Decoder:
    """Turns a model's outputs into predictions, probabilities and scores.

    Args:
        targets: the form of the task's targets.
        num_outputs: K.

    Attributes:
        form: classes, labels, values, maps (numbers at every position) or class_maps (a class at
            every position).
        has_probabilities: whether outputs are logits.
        names: names of the K outputs; empty if they have no names.
        classes: the K classes or labels as the data name or number them; None for numbers and maps
            of numbers.
    """

    def __init__(self, targets: Targets, num_outputs: int) -> None:
        self.form = targets.kind
        self.num_outputs = num_outputs
        self.has_probabilities = self.form in ("classes", "labels", "class_maps")
        self.is_map = self.form in ("maps", "class_maps")
        self.names: Sequence[str] = ()
        # One name for each output, or none at all.
        if len(targets.names) == num_outputs:
            self.names = targets.names
        self.classes: np.ndarray | None = None
        if self.has_probabilities:
            self.classes = np.arange(num_outputs)
            class_names = targets.classes or targets.names
            if len(class_names) == num_outputs:
                self.classes = np.array(class_names)

    @property
    def columns(self) -> list[str]:
        """Return K names: those of classes, labels or numbers, or else prediction_0, ..."""
        if self.classes is not None:
            return [str(name) for name in self.classes]
        if self.names:
            return list(self.names)
        return [f"prediction_{number}" for number in range(self.num_outputs)]

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return predictions for outputs [n, K, ...]; `Predictor.predict` describes their form."""
        if self.form == "labels":
            # A logit of 0 is a probability of 0.5.
            return (outputs >= 0).astype(np.int64)
        if self.classes is not None:
            # [n], or [n, *E] for maps.
            class_numbers = outputs.argmax(1)
            # Maps keep the class numbers.
            return class_numbers if self.is_map else self.classes[class_numbers]
        if self.num_outputs == 1 and not self.is_map:
            return outputs[:, 0]
        return outputs

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return probabilities [n, K, ...] float32.

        The probabilities of all classes sum to 1; each label has a separate probability.
        """
        logits = outputs.astype(np.float64)
        probabilities = expit(logits) if self.form == "labels" else softmax(logits, axis=1)
        return np.asarray(probabilities, np.float32)

    def score(self, outputs: np.ndarray, targets: np.ndarray) -> float:
        """Return scikit-learn's score of outputs [n, K, ...]: higher is better, 1 the best.

        For classes it is the share of correct predictions, for labels the share of samples whose
        known labels are all correct, for numbers the mean R2 over the outputs with known targets.
        Targets of NaN and -100 are unknown and do not count. If no target is known, the score is
        NaN.

        Args:
            outputs: outputs of the model.
            targets: encoded targets, as Batch.y.
        """
        if self.form in ("classes", "class_maps"):
            is_known = targets != IGNORED_CLASS
            is_right = outputs.argmax(1) == targets
            return float(is_right[is_known].mean())
        is_known = ~np.isnan(targets)
        if self.form == "labels":
            # NaN is not 1, so this is wrong for unknown targets, which the next line excludes.
            is_right = (outputs >= 0) == (targets == 1)
            is_sample_right = (is_right | ~is_known).all(axis=1)
            has_known_label = is_known.any(axis=1)
            return float(is_sample_right[has_known_label].mean())
        from sklearn.metrics import r2_score

        targets = targets.astype(np.float64)
        outputs = outputs.astype(np.float64)
        scores = []
        # Output by output, since each has its own known targets.
        for output_number in range(self.num_outputs):
            is_used = is_known[:, output_number]  # [n], or [n, *E] for maps
            if is_used.any():
                known_targets = targets[:, output_number][is_used]
                known_outputs = outputs[:, output_number][is_used]
                scores.append(r2_score(known_targets, known_outputs))
        return float(np.mean(scores))


def check_output(out: Path | None, decoder: Decoder, source: Path) -> None:
    """Raise ConfigError, before anything is computed, if predictions cannot be written.

    A file with a suffix other than .csv and .npz, a folder, and the input file cannot be written.
    Maps cannot be written as csv.

    Args:
        out: the output file; None for csv on standard output.
        decoder: the meaning of the outputs.
        source: the input file or folder.
    """
    suffix = ".csv" if out is None else out.suffix.lower()
    # `samefile` also sees links and other spellings of the path.
    if out is not None and out.exists() and source.exists() and out.samefile(source):
        message = "is the input file, which would be overwritten"
        raise ConfigError(message, where="--out", hint="name another file")
    if suffix not in SUFFIXES or (out is not None and out.is_dir()):
        message = f"'{out}' is a folder, or has an unknown suffix"
        allowed_names = ", ".join(f"FILE{allowed_suffix}" for allowed_suffix in SUFFIXES)
        raise ConfigError(message, where="--out", hint=f"allowed: {allowed_names}")
    if decoder.is_map and suffix != ".npz":
        message = "dense outputs are maps, which a csv table cannot contain"
        raise ConfigError(message, where="--out", hint="use FILE.npz")


def parts_of(
    outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None
) -> Iterator[Columns]:
    """Yield the columns of predictions by name, part by part.

    Args:
        outputs: batches of outputs, each [B, K] for the next B samples.
        decoder: the meaning of the outputs.
        ids: ids of all samples; None numbers the samples.
    """
    start = 0
    for batch_outputs in outputs:
        stop = start + len(batch_outputs)
        predictions = decoder.predictions(batch_outputs)
        # Pairs rather than a dictionary, since names may occur twice.
        named_columns: list[tuple[str, np.ndarray]] = []
        if ids is None:
            named_columns.append(("index", np.arange(start, stop)))
        else:
            batch_ids = np.array(ids[start:stop])
            named_columns.append(("id", batch_ids))
        if predictions.ndim == 1:
            named_columns.append(("prediction", predictions))
        else:
            # A column for each of the K outputs.
            named_columns += zip(decoder.columns, predictions.T, strict=True)
        if decoder.has_probabilities:
            probability_names = [f"p_{column_name}" for column_name in decoder.columns]
            probabilities = decoder.probabilities(batch_outputs)  # [B, K]
            named_columns += zip(probability_names, probabilities.T, strict=True)
        columns: Columns = {}
        for column_name, column in named_columns:
            # A label may have the name of another column, such as `index`.
            while column_name in columns:
                column_name += "_"
            columns[column_name] = column
        yield columns
        start = stop


def csv_lines(tables: Iterable[Columns]) -> Iterator[str]:
    """Yield the parts of one table as csv text with a single header.

    Texts that a spreadsheet would compute are prefixed with an apostrophe.
    """
    for table_number, columns in enumerate(tables):
        # Keys are positions, since names may become equal.
        table: dict[int, Any] = {}
        for position, column in enumerate(columns.values()):
            table[position] = column
            # Numbers cannot be formulas.
            if column.dtype.kind in "UO":
                table[position] = list(map(for_spreadsheet, column.astype(str)))
        header: list[str] | bool = False
        if table_number == 0:
            header = [for_spreadsheet(name) for name in columns]
        frame = pd.DataFrame(table)
        yield frame.to_csv(header=header, index=False, lineterminator="\n")


def rows(tables: Iterable[Columns]) -> Iterator[dict[str, Any]]:
    """Yield the samples of tables as JSON-able records, with the digits of their precision."""
    for columns in tables:
        plain_columns = [_plain(column) for column in columns.values()]
        for sample_cells in zip(*plain_columns, strict=True):
            yield dict(zip(columns, sample_cells, strict=True))


def _plain(column: np.ndarray) -> list[Any]:
    # As text a float32 has only its own digits; tolist() would add those of a float64.
    if column.dtype.kind == "f":
        return [float(str(number)) for number in column]
    return column.tolist()


def write(
    out: Path, outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None
) -> None:
    """Write predictions to a file, completely or not at all; parent folders are made.

    The suffix decides the format. A .npz file has the arrays outputs, prediction and probability
    (for classes and labels, not for maps), and id, classes and names if the data have them.

    Args:
        out: FILE.csv or FILE.npz.
        outputs: batches of outputs, each [B, K, ...] for the next B samples; errors of the iterator
            pass through.
        decoder, ids: as in `parts_of`.

    Raises:
        StorageError: the file cannot be written.
    """

    def write_content(path: Path) -> None:
        if out.suffix.lower() != ".csv":
            _write_npz(path, outputs, decoder, ids)
            return
        # Names of files that are not UTF-8 contain lone surrogates, which UTF-8 cannot encode.
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.writelines(csv_lines(parts_of(outputs, decoder, ids)))

    try:
        storage.write_with(out, write_content)
    except StorageError as error:
        cause = error.__cause__
        # The model or its input raised this error, not the disk.
        if cause is not None and not isinstance(cause, OSError):
            raise cause from None
        raise


def _write_npz(
    path: Path, outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None
) -> None:
    # `savez` takes whole arrays, so the outputs are collected in a file first.
    kept_outputs = Kept(path.parent)
    for _ in kept_outputs.passing(outputs):
        pass
    # A memory map of the file, so that only the pages in use are in memory.
    all_outputs = kept_outputs.whole()  # [n, K, ...]
    arrays: dict[str, Any] = {
        "outputs": all_outputs,
        "prediction": decoder.predictions(all_outputs),
    }
    if decoder.has_probabilities and not decoder.is_map:
        arrays["probability"] = decoder.probabilities(all_outputs)
    if ids is not None:
        arrays["id"] = np.array(ids)
    if decoder.classes is not None:
        arrays["classes"] = decoder.classes
    if decoder.names:
        arrays["names"] = np.array(decoder.names)
    # If it got the name of the temporary file, `savez` would append .npz to it.
    with open(path, "wb") as file:
        np.savez(file, **arrays)


class Kept:
    """Keeps streamed outputs in a temporary file, for callers that need all of them at once.

    Args:
        folder: folder of the file, which is deleted with this object; None takes the system's
            folder of temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - lives as this does
        self._shape: tuple[int, ...] = (0,)
        self._dtype = np.dtype(np.float32)

    def passing(self, outputs: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield outputs, all of one dtype, unchanged, and keep them.

        Raises:
            StorageError: the file cannot be written.
        """
        for batch in outputs:
            with storage.guarded(self._folder):
                # In C order, which the map in `whole` assumes.
                self._file.write(batch.tobytes())
            self._shape = (self._shape[0] + len(batch), *batch.shape[1:])
            self._dtype = batch.dtype
            yield batch

    def whole(self) -> np.ndarray:
        """Return all outputs that passed (at least a batch) as a read-only memory map [n, ...]."""
        with storage.guarded(self._folder):
            # The map reads the file, not this object's buffer.
            self._file.flush()
            return np.memmap(self._file, self._dtype, "r", shape=self._shape)
