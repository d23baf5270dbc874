"""Sequences of amino acids as texts, for bodies over letters of amino acids: the user's own table, or TAPE's proteins.

A sequence that occurs more than once counts once; one that occurs in several classes says nothing about them and is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli import signals, storage
from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.data.untrusted import tape
from orca_cli.exceptions import DataError, suggest
from orca_cli.interfaces import Examples, Reporter, SourceData

_MAX_BYTES = 2**28
_LETTERS = re.compile(r"[A-Za-z]+")
_TABLES = ("peptides.csv", "peptides.tsv")
_TRAINING = "remote_homology_train"
_NONE_NEEDED = "metric=none needs no source"


def load_table(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    reporter: Reporter,
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
    place = _table(data_folder, path)
    facts = (storage.sha256_file(place), size, seed, sequence, label)

    def read() -> Examples:
        with reporter.track(f"reading {place.name}", 1) as advance:
            pairs = _rows(place, sequence, label)
            advance()
        return _examples(pairs, place, size, seed, reporter)

    return SourceData("text", facts_digest("peptides", *facts), read)


def load_homology(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    reporter: Reporter,
    data_folder: Path,
    path: str | None = None,
    folds: Annotated[int, Ge(2)] = 10,
) -> SourceData:
    """Return training proteins of TAPE's remote homology (data set `homology`) and the fold of each.

    Args:
        size: balanced over the folds; None for all.
        path: folder with remote_homology_train.lmdb (or .json); None looks into data_folder/homology.
        folds: number of classes: the folds with the most proteins, of equally many those with the smaller numbers.

    Raises:
        DataError, UnsafeError: the file is missing or malformed, or fewer than two folds have two proteins.
        UnavailableError: the package lmdb is not installed.
    """
    place = _proteins(data_folder, path)
    content = place / "data.mdb" if place.is_dir() else place
    facts = (storage.sha256_file(content), size, seed, folds)

    def read() -> Examples:
        with reporter.track(f"reading {place.name}", 1) as advance:
            pairs = []
            for number, (text, fold) in enumerate(tape.proteins(place)):
                if number % 1000 == 0:
                    signals.check()
                pairs.append((text.upper(), fold))
            advance()
        counts = Counter(fold for _, fold in pairs)
        largest = set(sorted(counts, key=lambda fold: (-counts[fold], fold))[:folds])
        chosen = [(text, f"fold {fold}") for text, fold in pairs if fold in largest]
        return _examples(chosen, place, size, seed, reporter)

    return SourceData("text", facts_digest("homology", *facts), read)


def _examples(
    pairs: Iterable[tuple[str, str]], place: Path, size: int | None, seed: int, reporter: Reporter
) -> Examples:
    """Return a draw from sequences and their classes."""
    distinct = list(dict.fromkeys(pairs))
    counts = Counter(text for text, _ in distinct)
    examples = [(text, name) for text, name in distinct if counts[text] == 1]
    members = Counter(name for _, name in examples)
    names = sorted(name for name in members if members[name] > 1)
    if ambiguous := len(counts) - len(examples):
        reporter.say(f"{place.name}: left out sequences that are in several classes: {ambiguous}")
    if rare := sorted(members.keys() - set(names)):
        reporter.say(f"{place.name}: left out classes of one sequence: {', '.join(rare)[:80]}")
    if len(names) < 2:
        what = f"{len(names)} classes have two sequences or more; at least two are needed"
        raise DataError(what, where=str(place), hint=f"give another file; {_NONE_NEEDED}")
    examples = [(text, name) for text, name in examples if members[name] > 1]
    number = {name: index for index, name in enumerate(names)}
    labels = np.array([number[name] for _, name in examples], dtype=np.int64)
    drawn = draw(labels, size, seed)
    return Examples([examples[i][0] for i in drawn], labels[drawn], tuple(names))


def _rows(place: Path, sequence: str, label: str) -> list[tuple[str, str]]:
    """Return sequence, in capitals, and class of each row of a table."""
    import pandas as pd

    try:
        if place.stat().st_size > _MAX_BYTES:
            raise DataError(f"has more than {_MAX_BYTES} bytes", where=str(place))
        separator = "\t" if place.suffix == ".tsv" else ","
        # Texts stay texts: NA is a peptide of asparagine and alanine.
        table = pd.read_csv(place, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(place)) from error
    except ValueError as error:  # also what pandas raises for rows of different lengths, and for other encodings
        raise DataError(f"is not a table in UTF-8 ({str(error).splitlines()[0][:100]})", where=str(place)) from error
    columns = list(map(str, table.columns))
    for key, name in (("source.sequence", sequence), ("source.label", label)):
        if name not in columns:
            raise DataError(f"{place.name} has no column '{name}'", where=key, hint=suggest(name, columns))
    rows = [
        (str(text).strip().upper(), str(name).strip()) for text, name in zip(table[sequence], table[label], strict=True)
    ]
    for index, (text, name) in enumerate(rows):
        if not _LETTERS.fullmatch(text) or not name:
            what = f"'{text[:20]}' is not a sequence of letters" if name else f"has no '{label}'"
            raise DataError(what, where=f"{place}, row {index + 1}", hint="correct or remove the row")
    return rows


def _table(data_folder: Path, path: str | None) -> Path:
    requested = Path(path).expanduser() if path else None
    names = [requested, data_folder / requested] if requested else [data_folder / "peptides" / name for name in _TABLES]
    if place := next((name for name in names if name.is_file()), None):
        return place
    where = f"source.path={path}" if path else str(data_folder / "peptides")
    hint = f"give source.path=FILE.csv with columns 'sequence' and 'label', or source=proteins; {_NONE_NEEDED}"
    raise DataError("no such file" if path else f"no file {_TABLES[0]}", where=where, hint=hint)


def _proteins(data_folder: Path, path: str | None) -> Path:
    requested = Path(path).expanduser() if path else None
    folders = [requested, data_folder / requested] if requested else [data_folder / "homology"]
    for place in (folder / form.format(_TRAINING) for folder in folders for form in tape.FORMS):
        if place.exists():
            return place
    where = f"source.path={path}" if path else str(data_folder / "homology")
    hint = f"`orca data get homology` fetches it, or give source.path=FOLDER, or source=peptides; {_NONE_NEEDED}"
    raise DataError(f"no {_TRAINING}.lmdb or .json", where=where, hint=hint)
