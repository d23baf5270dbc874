"""Sentences with named entities or chunks, in the column format of the CoNLL tasks: a source for text bodies.

CoNLL-2003 (the paper's source, section 4.1; Tjong Kim Sang and De Meulder 2003) has lines of word, part of speech, chunk
and entity; CoNLL-2000 (Tjong Kim Sang and Buchholz 2000) word, part of speech and chunk; WNUT-17 (Derczynski et al. 2017)
word and entity, separated by a tab. Sentences end at blank lines and at -DOCSTART-. The tags are IOB1, IOB2 or BIOES.

One example is one sentence, and its class is the type of one span in it, such as `person` or `NP`, drawn uniformly from
the sentence's spans. The text is the sentence (or the span alone), words joined by spaces, which the body's own tokenizer
cuts into tokens: all of them, or their mean, carry the class of the span (align.features). The released code is said to
follow Jawahar et al. 2019, who take the vectors at the two ends of 3,000 chunks and 500 stretches outside any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from orca_cli import seeding, signals, storage
from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.config.ranges import Count, CountOrZero, PlainName
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Examples, Reporter, SourceData

OUTSIDE = "O"
_PREFIXES = "BIESLU"  # begin, inside, end, single; last and unit are other names of the last two
_MAX_BYTES = 2**28


@dataclass(frozen=True)
class Span:
    """Words start..end-1 of a sentence, with their type."""

    start: int
    end: int
    type: str


def load(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    reporter: Reporter,
    data_folder: Path,
    name: PlainName,
    files: Sequence[PlainName],
    path: str | None = None,
    column: Count | Annotated[int, Le(-1)] = -1,
    example: Literal["sentence", "span"] = "sentence",
    outside: CountOrZero = 0,
) -> SourceData:
    """Return texts and the type of one span of each.

    Args:
        size: balanced over the types; None for all.
        seed: of the draw of a span from each sentence and of the sentences.
        reporter: shows progress, and gets a line on types that are left out.
        name: of the corpus, and of its folder in `data_folder`.
        files: possible names of the file of training sentences; the first that exists is read.
        path: another folder, or the file itself; from the working folder or else from `data_folder`.
        column: of the tags, from 0, which holds the words; -1 is the last.
        example: "sentence", or "span" for the words of the span alone.
        outside: largest number of further examples of class O: a sentence without spans, or else a stretch of words outside
            the spans of a sentence that then gives no other example.

    Raises:
        DataError: the file is missing, a line has no such column or tag, or fewer than two types have two sentences.
    """
    place = _find(data_folder, name, files, path)
    facts = (storage.sha256_file(place), size, seed, name, column, example, outside)

    def read() -> Examples:
        examples: list[tuple[str, str]] = []  # text and type
        with reporter.track(f"reading {place.name}", 1) as advance:
            parsed = [(words, spans(tags)) for words, tags in sentences(place, column)]
            chosen_outside = _outside(parsed, outside, seed)
            for index, (words, inside) in enumerate(parsed):
                candidates = _gaps(inside, len(words)) if index in chosen_outside else inside
                if candidates:
                    generator = seeding.numpy_generator(seed, "source", "span", index)
                    span = candidates[int(generator.integers(len(candidates)))]
                    chosen = words if example == "sentence" else words[span.start : span.end]
                    examples.append((" ".join(chosen), span.type))
            advance()
        counts = Counter(kind for _, kind in examples)
        rare = sorted(kind for kind, count in counts.items() if count < 2)
        if rare:
            reporter.say(f"{name}: left out {', '.join(rare)}, which have only one example")
        names = sorted((kind for kind in counts if kind not in rare), key=lambda kind: (kind == OUTSIDE, kind))
        if len(names) < 2:
            what = f"{len(names)} types have two sentences or more; at least two are needed"
            raise DataError(what, where=str(place), hint="check source.column")
        examples = [(text, kind) for text, kind in examples if kind in names]
        labels = np.array([names.index(kind) for _, kind in examples], dtype=np.int64)
        drawn = draw(labels, size, seed)
        return Examples([examples[i][0] for i in drawn], labels[drawn], tuple(names))

    return SourceData("text", facts_digest("conll", *facts), read)


def sentences(path: Path, column: int = -1) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (words, tags) of each sentence of a file in UTF-8, or else Latin-1; `column` as in `load`.

    Lines with a tab are separated by tabs alone, so that a word may hold a space; others by white space.

    Raises:
        DataError: the file cannot be read, or a line has no such column or no valid tag.
    """
    words: list[str] = []
    tags: list[str] = []
    hint = f"source.column={column} counts from 0, and -1 is the last; column 0 holds the words"
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if number % 100_000 == 0:
            signals.check()
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        if not fields or not fields[0] or fields[0] == "-DOCSTART-":
            if words:
                yield words, tags
            words, tags = [], []
            continue
        where = f"{path}, line {number}"
        place = column if column >= 0 else len(fields) + column
        if not 1 <= place < len(fields):
            raise DataError(f"has {len(fields)} columns, none with tags", where=where, hint=hint)
        tag = fields[place]
        if tag != OUTSIDE and (tag[:1] not in _PREFIXES or tag[1:2] != "-" or len(tag) < 3):
            what = f"'{tag[:20]}' is not a tag; allowed: O, and B-, I-, E-, S- with a type"
            raise DataError(what, where=where, hint=hint)
        words.append(fields[0])
        tags.append(tag)
    if words:
        yield words, tags


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the spans of a sentence, in order.

    A span begins at B-, S-, at another type than before, after O, and after E- or S-; so IOB1, IOB2 and BIOES agree.
    """
    chunks: list[Span] = []
    previous = OUTSIDE
    for index, tag in enumerate(tags):
        if tag != OUTSIDE:
            if tag[0] in "BSU" or previous == OUTSIDE or previous[2:] != tag[2:] or previous[0] in "ESLU":
                chunks.append(Span(index, index + 1, tag[2:]))
            else:
                chunks[-1] = Span(chunks[-1].start, index + 1, tag[2:])
        previous = tag
    return chunks


def _gaps(inside: Sequence[Span], length: int) -> list[Span]:
    """Return the stretches of words outside all spans."""
    starts, ends = [0, *(span.end for span in inside)], [*(span.start for span in inside), length]
    return [Span(start, end, OUTSIDE) for start, end in zip(starts, ends, strict=True) if end > start]


def _outside(parsed: Sequence[tuple[list[str], list[Span]]], count: int, seed: int) -> set[int]:
    """Return the sentences that stand for class O: those without spans first, both kinds in a seeded order."""
    without = [index for index, (_, inside) in enumerate(parsed) if not inside]
    others = [index for index, (words, inside) in enumerate(parsed) if inside and _gaps(inside, len(words))]
    generator = seeding.numpy_generator(seed, "source", "outside")
    order = [*generator.permutation(np.array(without, int)), *generator.permutation(np.array(others, int))]
    return {int(index) for index in order[:count]}


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"has more than {_MAX_BYTES} bytes", where=str(path))
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    try:
        return content.decode("utf-8-sig").replace("\r", "")
    except UnicodeDecodeError:
        return content.decode("latin-1").replace("\r", "")


def _find(data_folder: Path, name: str, files: Sequence[str], path: str | None) -> Path:
    requested = Path(path).expanduser() if path else None
    folders = [requested, data_folder / requested] if requested else [data_folder / name]
    for place in [place for folder in folders for place in (folder, *(folder / file for file in files))]:
        if place.is_file():
            return place
    others = "" if name == "wnut17" else "source=wnut17, which `orca data get wnut17` fetches, "
    raise DataError(
        f"no file {' or '.join(files)}",
        where=f"source.path={path}" if path else str(data_folder / name),
        hint=f"put it there (`orca data get {name}` fetches it, or says who hands it out), or give source.path=FOLDER or FILE; "
        f"without it: {others}source=stdlib_docs, which needs no files, or metric=none",
    )
