"""Sequences of amino acids as texts, for bodies over letters of amino acids: the user's own table, or TAPE's proteins.

A sequence that occurs more than once counts once; one that occurs in several classes says nothing about them and is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from orca_cli import signals, storage
from orca_cli.benchmarks.sources.balance import drawn_texts, facts_digest, find_file
from orca_cli.data.untrusted import tape
from orca_cli.data.untrusted.first_bytes import damage
from orca_cli.exceptions import DataError, suggest
from orca_cli.interfaces import Examples, SourceData

_MAX_BYTES = 2**28
_LETTERS = re.compile(r"[A-Za-z]+")


def load_table(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    data_folder: Path,
    path: str | None = None,
    sequence: str = "sequence",
    label: str = "label",
) -> SourceData:
    """Return the sequences of a .csv or .tsv file and the class of each.

    Args:
        size: balanced over the classes; None for all.
        path: the file, from the working folder or else from `data_folder`; None looks for data_folder/peptides/peptides.csv.
        sequence: its column of sequences, letters alone.
        label: its column of classes, any text.

    Raises:
        DataError: the file is missing or malformed, or fewer than two classes have two sequences.
    """
    hint = "give source.path=FILE.csv with columns 'sequence' and 'label', or source=proteins, or metric=none"
    place = find_file(data_folder, "peptides", ["peptides.csv"], path, hint)
    facts = (storage.sha256_file(place), size, seed, sequence, label)
    return SourceData(
        "text", facts_digest("peptides", *facts), lambda: _examples(_rows(place, sequence, label), place, size, seed)
    )


def load_homology(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    data_folder: Path,
    path: str | None = None,
    folds: Annotated[int, Ge(2)] = 10,
) -> SourceData:
    """Return training proteins of TAPE's remote homology (data set `homology`) and the fold of each.

    Args:
        size: balanced over the folds; None for all.
        path: folder with remote_homology_train.lmdb; None looks into data_folder/homology.
        folds: number of classes: the folds with the most proteins, of equally many those with the smaller numbers.

    Raises:
        DataError, UnsafeError: the file is missing or malformed, or fewer than two folds have two proteins.
        UnavailableError: the package lmdb is not installed.
    """
    hint = "`orca data get homology` fetches it, or give source.path=FOLDER, or source=peptides; metric=none needs no source"
    names = [form.format("remote_homology_train") for form in tape.FORMS]
    place = find_file(data_folder, "homology", names, path, hint)
    content = place / "data.mdb" if place.is_dir() else place
    facts = (storage.sha256_file(content), size, seed, folds)

    def read() -> Examples:
        pairs = []
        for number, (text, fold) in enumerate(tape.proteins(place)):
            if number % 1000 == 0:
                signals.check()
            pairs.append((text.upper(), fold))
        counts = Counter(fold for _, fold in pairs)
        largest = set(sorted(counts, key=lambda fold: (-counts[fold], fold))[:folds])
        return _examples([(text, f"fold {fold}") for text, fold in pairs if fold in largest], place, size, seed)

    return SourceData("text", facts_digest("homology", *facts), read)


def _examples(pairs: Iterable[tuple[str, str]], place: Path, size: int | None, seed: int) -> Examples:
    """Return a draw from sequences and their classes."""
    distinct = list(dict.fromkeys(pairs))
    counts = Counter(text for text, _ in distinct)
    return drawn_texts([(text, name) for text, name in distinct if counts[text] == 1], size, seed, str(place))


def _rows(place: Path, sequence: str, label: str) -> list[tuple[str, str]]:
    """Return sequence, in capitals, and class of each row of a table."""
    import pandas as pd

    with damage(str(place), "table in UTF-8"):
        if place.stat().st_size > _MAX_BYTES:
            raise DataError(f"has more than {_MAX_BYTES} bytes", where=str(place))
        # Texts stay texts: NA is a peptide of asparagine and alanine.
        separator = "\t" if place.suffix == ".tsv" else ","
        table = pd.read_csv(place, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    columns = list(map(str, table.columns))
    for key, name in (("source.sequence", sequence), ("source.label", label)):
        if name not in columns:
            raise DataError(f"{place.name} has no column '{name}'", where=key, hint=suggest(name, columns))
    rows = []
    for number, (text, name) in enumerate(zip(table[sequence], table[label], strict=True), start=1):
        rows.append((str(text).strip().upper(), str(name).strip()))
        if not _LETTERS.fullmatch(rows[-1][0]) or not rows[-1][1]:
            what = f"'{str(text)[:20]}' is not a sequence of letters, or has no '{label}'"
            raise DataError(what, where=f"{place}, row {number}", hint="correct or remove the row")
    return rows
