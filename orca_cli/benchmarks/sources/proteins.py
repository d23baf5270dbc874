"""Sequences of amino acids as texts, for bodies that read letters of amino acids.

They come from the user's own table, or from TAPE's proteins.
"""

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
    path: Annotated[
        str | None,
        "your .csv or .tsv file; null: peptides/peptides.csv in the data folder (paths.data)",
    ] = None,
    sequence: Annotated[
        str, "name of the column with the sequences, which have one letter per residue"
    ] = "sequence",
    label: Annotated[str, "name of the column with the classes"] = "label",
) -> SourceData:
    """Return the sequences of a .csv or .tsv file and the class of each.

    Args:
        size: number of sequences, balanced over the classes; None means all sequences.
        path: path of the file, see `find`; None means data_folder/peptides/peptides.csv.
        sequence: column with the sequences, which have letters only.
        label: column with the classes, which may be any text.
    """
    (file,) = find(
        data_folder,
        "peptides",
        ["peptides.csv"],
        path,
        hint="or set source.path to your own .csv file with columns 'sequence' and 'label', or use "
        "source=proteins or metric=none",
        key="source.path",
    )
    # The facts that determine the examples; the file is identified by its content.
    facts = (storage.sha256_file(file), size, seed, sequence, label)

    def read() -> Examples:
        pairs = unambiguous(_read_table(file, sequence, label))
        return drawn_texts(pairs, size, seed, where=str(file))

    return SourceData("text", facts_digest("peptides", *facts), read)


def _read_table(file: Path, sequence: str, label: str) -> list[tuple[str, str]]:
    """Return the sequences of a table, in capital letters, and the class of each.

    Raises DataError for a row without a class, or with characters other than letters in its
    sequence.
    """
    import pandas as pd

    content = read_text(file, _MAX_BYTES)
    separator = "\t" if file.suffix == ".tsv" else ","
    with damage(str(file), "table"):
        # Texts stay texts, since NA is a peptide of asparagine and alanine.
        table = pd.read_csv(io.StringIO(content), sep=separator, dtype=str, na_filter=False)
    columns = list(table.columns)
    check_columns([sequence], columns, "source.sequence", file.name)
    check_columns([label], columns, "source.label", file.name)
    # Small letters and capitals name the same residue.
    texts = table[sequence].str.strip()
    texts = texts.str.upper()
    classes = table[label].str.strip()
    is_wrong = ~texts.str.fullmatch("[A-Z]+") | (classes == "")
    if is_wrong.any():
        row = np.flatnonzero(is_wrong)[0]
        wrong_text = table[sequence][row]
        raise DataError(
            f"the sequence '{wrong_text[:20]}' has characters other than letters, or its '{label}' "
            "is empty",
            where=f"{file}, row {row + 1}",
            hint="correct or remove the row",
        )
    return list(zip(texts, classes, strict=True))


def load_homology(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    data_folder: Path,
    path: Annotated[
        str | None,
        "folder with remote_homology_train.lmdb; "
        "null: folder homology of the data folder (paths.data)",
    ] = None,
    folds: Annotated[
        int,
        Ge(2),
        "number of classes: 2 or more; a class is a shape of proteins (SCOP fold), and the shapes "
        "with the most proteins are taken",
    ] = 10,
) -> SourceData:
    """Return training proteins of TAPE's remote homology and the fold of each.

    Args:
        size: number of proteins, balanced over the folds; None means all proteins.
        path: folder with remote_homology_train.lmdb; None means data_folder/homology.
        folds: number of classes, which are the folds with the most proteins; among folds of the
            same size, the smallest fold numbers come first.
    """
    in_folder, in_archive = tape.FORMS
    (database,) = find(
        data_folder,
        "homology",
        [in_folder.format("train")],
        path,
        hint="or use source=peptides, which reads a table, or metric=none, which needs no source",
        key="source.path",
        others=[[in_archive.format("train")]],
    )
    # A database is a folder with the file data.mdb, or that file itself.
    file = database / "data.mdb" if database.is_dir() else database
    facts = (storage.sha256_file(file), size, seed, folds)

    def read() -> Examples:
        # A list, since two loops read the proteins.
        proteins = list(tape.proteins(database))
        counts = Counter(fold for _, fold in proteins)
        # Sorted by the number of proteins, then by the number of the fold.
        in_order = sorted(counts, key=lambda fold: (-counts[fold], fold))
        largest = set(in_order[:folds])
        pairs = []
        for text, fold in proteins:
            if fold in largest:
                pairs.append((text.upper(), f"fold {fold}"))
        return drawn_texts(unambiguous(pairs), size, seed, where=str(database))

    return SourceData("text", facts_digest("homology", *facts), read)
