"""Predictions as csv or npz, written part by part; and outputs kept for an error over the whole set.

Columns: `id` (or `index`, from 0), then of classes `prediction` and a probability `p_CLASS` each, of labels 0 or 1 and a
probability each, of numbers `prediction`, or a column each. Maps go into .npz only: `prediction`, and `outputs` as the model
gives them.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import storage
from orca_cli.exceptions import ConfigError, StorageError
from orca_cli.prediction.targets import Decoder
from orca_cli.terminal import visible

SUFFIXES = (".csv", ".npz")
_ALLOWED = f"allowed: FILE{', FILE'.join(SUFFIXES)}"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Columns = dict[str, np.ndarray]


def check_output(out: Path | None, decoder: Decoder, source: Path) -> None:
    """Raise ConfigError where predictions cannot be written to a file, before anything is computed.

    Args:
        out: the file; None stands for csv on standard output.
        decoder: what outputs mean.
        source: of the new data.
    """
    if out is not None and out.exists() and source.exists() and out.samefile(source):
        raise ConfigError("is the input, which would be lost", where="--out", hint="name another file")
    if out is not None and out.is_dir():
        raise ConfigError(f"'{out}' is a folder", where="--out", hint=_ALLOWED)
    suffix = ".csv" if out is None else out.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"'{out}' has a suffix that is not written, or none", where="--out", hint=_ALLOWED)
    if decoder.is_map and suffix != ".npz":
        raise ConfigError("dense outputs are maps, which a table has no place for", where="--out", hint="give FILE.npz")


def columns_of(outputs: np.ndarray, decoder: Decoder, ids: Sequence[str] | None, start: int) -> Columns:
    """Return the columns of a part of the predictions, by name.

    Args:
        outputs: [B, K] of samples start..start+B-1.
        decoder: what they mean.
        ids: of all samples; None numbers them.
        start: number of the first sample.
    """
    stop = start + len(outputs)
    columns: Columns = {"index": np.arange(start, stop)} if ids is None else {"id": np.array(ids[start:stop])}
    predictions = decoder.predictions(outputs)
    if predictions.ndim == 1:
        columns["prediction"] = predictions
    else:
        names = decoder.columns if decoder.has_probabilities or decoder.names else None
        for k, column in enumerate(predictions.T):
            _add(columns, names[k] if names else f"prediction_{k}", column)
    if decoder.has_probabilities:
        for name, column in zip(decoder.columns, decoder.probabilities(outputs).T, strict=True):
            _add(columns, f"p_{name}", column)
    return columns


def _add(columns: Columns, name: str, values: np.ndarray) -> None:
    while name in columns:  # a label may be called `index`
        name += "_"
    columns[name] = values


def csv_lines(parts: Iterable[Columns]) -> Iterator[str]:
    """Yield a table as csv text, part by part; texts that a spreadsheet would compute get an apostrophe before them."""
    for number, columns in enumerate(parts):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if number == 0:
            writer.writerow(map(_inert, columns))
        texts = [map(_inert if column.dtype.kind in "UO" else str, column.astype(str)) for column in columns.values()]
        writer.writerows(zip(*texts, strict=True))
        yield text.getvalue()


def _inert(text: str) -> str:
    text = visible(text)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if len(text) > 1 and text.startswith(_FORMULA) else text
    return text


def write(out: Path, outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None) -> None:
    """Write predictions to a file by its suffix, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """

    def into(path: Path) -> None:
        if out.suffix.lower() == ".npz":
            _write_npz(path, outputs, decoder, ids)
        else:
            with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.writelines(csv_lines(parts_of(outputs, decoder, ids)))

    try:
        storage.write_with(out, into)
    except StorageError as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, OSError):
            raise error.__cause__ from None  # of the model or its input, not of the disk
        raise


def parts_of(outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None) -> Iterator[Columns]:
    """Yield the columns of predictions, part by part."""
    start = 0
    for part in outputs:
        yield columns_of(part, decoder, ids, start)
        start += len(part)


def _write_npz(path: Path, outputs: Iterable[np.ndarray], decoder: Decoder, ids: Sequence[str] | None) -> None:
    """Write outputs, predictions and probabilities; a temporary file collects the outputs, which come batch by batch."""
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


class Kept:
    """Keeps streamed outputs in a temporary file, for what needs all of them.

    Args:
        folder: of the file; None for the machine's own.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._place = folder or Path(tempfile.gettempdir())
        self._file = tempfile.TemporaryFile(dir=self._place)  # noqa: SIM115 - it lives as long as this
        self._shape: tuple[int, ...] = (0,)

    def passing(self, outputs: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield outputs unchanged, and keep them."""
        for part in outputs:
            with storage.guarded(self._place):
                self._file.write(part.tobytes())
            self._shape = (self._shape[0] + len(part), *part.shape[1:])
            yield part

    def whole(self) -> np.ndarray:
        """Return all that passed."""
        with storage.guarded(self._place):
            self._file.flush()
            return np.memmap(self._file, np.float32, "r", shape=self._shape)
