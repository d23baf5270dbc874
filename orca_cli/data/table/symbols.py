"""A column of text in which every character is a symbol, such as peptides, DNA or words of a formal language.

Shapes: n rows, V symbols of the alphabet, L steps of the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orca_cli.data.blocks import Ragged
from orca_cli.data.one_hot import one_hot
from orca_cli.data.own_data import counted, refuse_rows
from orca_cli.exceptions import DataError

_MOST_SYMBOLS = 128  # more of them are the letters of a language, or not symbols at all
_MOST_SHOWN = 40


@dataclass(frozen=True)
class Symbols:
    """One-hot columns over the symbols of the training rows; a symbol that they lack becomes a column of zeros.

    Args:
        name: of the column.
        alphabet: the V symbols, ascending.
        length: L; longer texts are cut at their end.
    """

    name: str
    alphabet: str
    length: int

    def encode(self, values: np.ndarray, where: str) -> Ragged:
        """Return texts [n] as [n, V, L] of 0 and 1.

        Raises:
            DataError: a text is empty, or the column holds numbers.
        """
        texts = _checked(values, f"{where}[{self.name}]")
        points, alphabet = _code_points("".join(texts)), _code_points(self.alphabet)
        place = np.searchsorted(alphabet, points).clip(max=len(alphabet) - 1)
        codes = np.where(alphabet[place] == points, place, len(alphabet)).astype(np.uint8)  # V where unknown
        ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        return one_hot(codes, ends, len(alphabet), self.length)

    def remarks(self, values: np.ndarray) -> dict[str, int]:
        """Return what `encode` does to make new texts fit, each with the number of rows."""
        absent = [set(text).difference(self.alphabet) for text in values]
        unknown = "".join(sorted(set().union(*absent)))[:_MOST_SHOWN]
        counts = {
            f"longer than {self.length} symbols and cut at the end": sum(len(text) > self.length for text in values),
            f"with a symbol that training lacks ({unknown}): read as none of its symbols": sum(map(bool, absent)),
        }
        return {what: count for what, count in counts.items() if count}


def fit_symbols(
    name: str, values: np.ndarray, rows: np.ndarray, length: int | None, where: str
) -> tuple[Symbols, list[str]]:
    """Return how a column of text becomes inputs, from the training rows alone, and notes on it.

    Args:
        name: of the column.
        values: [N] texts.
        rows: the training rows.
        length: L, or None for that of the longest training text.
        where: the file.

    Raises:
        DataError: the column holds numbers, an empty text, or too many different characters.
    """
    texts = list(np.array(_checked(values, f"{where}[{name}]"), dtype=object)[rows])
    alphabet = "".join(sorted(set().union(*map(set, texts))))
    if len(alphabet) > _MOST_SYMBOLS:
        what = f"holds {len(alphabet)} different characters, at most {_MOST_SYMBOLS} are read as symbols"
        raise DataError(what, where=f"{where}[{name}]", hint="a sequence has one symbol a character, such as ACGT")
    sizes = [len(text) for text in texts]
    shown = alphabet[:_MOST_SHOWN]
    note = f"{counted(len(alphabet), 'symbol')} in '{name}' ({shown}), {min(sizes)} to {max(sizes)} a row"
    return Symbols(name, alphabet, length or max(sizes)), [note]


def _checked(values: np.ndarray, where: str) -> list[str]:
    if values.dtype.kind != "O":
        raise DataError("holds numbers, not text", where=where, hint="a sequence has one symbol a character")
    refuse_rows(values == "", "sequence", where, "remove these rows")
    return list(values)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
