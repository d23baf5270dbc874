"""Sequences of amino acids as texts, for bodies over letters of amino acids: the user's own table, or TAPE's proteins."""

import io
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli import storage
from orca_cli.benchmarks.sources.balance import drawn_texts, facts_digest, unambiguous
from orca_cli.data.own_data import check_columns
from orca_cli.data.published import find
from orca_cli.data.untrusted import tape
from orca_cli.data.untrusted.first_bytes import damage, read_text
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Examples, SourceData

_MAX_BYTES = 2**28


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
        path: the file, see `find`; None looks for data_folder/peptides/peptides.csv.
        sequence: its column of sequences, letters alone.
        label: its column of classes, any text.
    """
    hint = "a .csv file with columns 'sequence' and 'label' will do as well; or use source=proteins, or metric=none"
    (place,) = find(data_folder, "peptides", ["peptides.csv"], path, hint, "source.path")
    digest = facts_digest("peptides", storage.sha256_file(place), size, seed, sequence, label)

    def read() -> Examples:
        import pandas as pd

        content, separator = read_text(place, _MAX_BYTES), "\t" if place.suffix == ".tsv" else ","
        with damage(str(place), "table"):
            # Texts stay texts: NA is a peptide of asparagine and alanine.
            table = pd.read_csv(io.StringIO(content), sep=separator, dtype=str, na_filter=False)
        for key, name in (("source.sequence", sequence), ("source.label", label)):
            check_columns([name], list(table.columns), key, place.name)
        texts, names = table[sequence].str.strip().str.upper(), table[label].str.strip()
        for row in np.flatnonzero(~texts.str.fullmatch("[A-Z]+") | (names == "")):
            what = (
                f"'{table[sequence][row][:20]}' is not a sequence of letters, or has no '{label}'"
            )
            raise DataError(what, where=f"{place}, row {row + 1}", hint="correct or remove the row")
        return drawn_texts(unambiguous(zip(texts, names, strict=True)), size, seed, str(place))

    return SourceData("text", digest, read)


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
    """
    first, second = ([form.format("train")] for form in tape.FORMS)
    hint = "source=peptides reads a table, metric=none needs no source"
    (place,) = find(data_folder, "homology", first, path, hint, "source.path", [second])
    content = place / "data.mdb" if place.is_dir() else place

    def read() -> Examples:
        pairs = [*tape.proteins(place)]
        counts = Counter(fold for _, fold in pairs)
        largest = set(sorted(counts, key=lambda fold: (-counts[fold], fold))[:folds])
        kept = unambiguous(
            (text.upper(), f"fold {fold}") for text, fold in pairs if fold in largest
        )
        return drawn_texts(kept, size, seed, str(place))

    return SourceData(
        "text", facts_digest("homology", storage.sha256_file(content), size, seed, folds), read
    )
