"""Sentences with named entities or chunks, in the column format of the CoNLL tasks: a source for text bodies.

CoNLL-2003 (the paper's source, section 4.1; Tjong Kim Sang and De Meulder 2003) has lines of word, part of speech, chunk
and entity; CoNLL-2000 (Tjong Kim Sang and Buchholz 2000) word, part of speech and chunk; WNUT-17 (Derczynski et al. 2017)
word and entity, separated by a tab. Sentences end at blank lines and at -DOCSTART-. The tags are IOB1, IOB2 or BIOES.

One example is one sentence, and its class is the type of one span in it, such as `person` or `NP`, drawn uniformly from
the sentence's spans. The text is the sentence, words joined by spaces, which the body's own tokenizer
cuts into tokens: all of them, or their mean, carry the class of the span (align.features). The released code is said to
follow Jawahar et al. 2019, who take the vectors at the two ends of 3,000 chunks and 500 stretches outside any.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli import seeding, storage
from orca_cli.benchmarks.sources.balance import drawn_texts, facts_digest
from orca_cli.config.ranges import CountOrZero, PlainName
from orca_cli.data.published import AGAIN, fault, find
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.interfaces import Examples, SourceData

OUTSIDE = "O"
_PREFIXES = "BIESLU"  # begin, inside, end, single; last and unit are other names of the last two
_MAX_BYTES = 2**28


def load(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    data_folder: Path,
    name: PlainName,
    files: Sequence[PlainName],
    path: str | None = None,
    outside: CountOrZero = 0,
) -> SourceData:
    """Return sentences and the type of one span of each; types of one sentence are left out.

    Args:
        size: balanced over the types; None for all.
        seed: of the draw of a span from each sentence and of the sentences.
        name, files, path: the data set, possible names of its file, and another folder or file, see `find`.
        outside: largest number of further examples of class O: a sentence without spans, or else one of which a stretch of
            words outside all spans is meant, and which then gives no other example.
    """
    first, *rest = ([file] for file in files)
    hint = "source=stdlib_docs and metric=none need no files"
    (place,) = find(data_folder, name, first, path, hint, "source.path", rest)

    def read() -> Examples:
        examples: list[tuple[str, str]] = []  # text and type
        parsed = [
            (" ".join(words), spans(tags), OUTSIDE in tags) for words, tags in sentences(place)
        ]
        # Those that stand for class O: without spans first, both kinds in a seeded order.
        without = np.array([index for index, (_, types, _) in enumerate(parsed) if not types], int)
        others = np.array(
            [
                index
                for index, (_, types, has_outside) in enumerate(parsed)
                if types and has_outside
            ],
            int,
        )
        permutation = seeding.numpy_generator(seed, "source", "outside").permutation
        chosen_outside = {*[*permutation(without), *permutation(others)][:outside]}
        for index, (text, types, _) in enumerate(parsed):
            if index in chosen_outside:
                examples.append((text, OUTSIDE))
            elif types:
                generator = seeding.numpy_generator(seed, "source", "span", index)
                examples.append((text, types[int(generator.integers(len(types)))]))
        return drawn_texts(examples, size, seed, str(place), last=OUTSIDE)

    facts = (
        storage.sha256_file(place),
        size,
        seed,
        name,
        -1,
        "sentence",
        outside,
    )  # column and example, settings once
    return SourceData("text", facts_digest("conll", *facts), read)


def sentences(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (words, tags) of each sentence of a file in UTF-8: the first and the last column.

    Lines with a tab are separated by tabs alone, so that a word may hold a space; others by white space. DataError at a line
    whose last column is no tag.
    """
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*read_text(path, _MAX_BYTES, AGAIN).split("\n"), ""], start=1):
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        if not fields or not fields[0] or fields[0] == "-DOCSTART-":
            if words:
                yield words, tags
            words, tags = [], []
            continue
        tag = fields[-1]
        is_tag = tag == OUTSIDE or (tag[:1] in _PREFIXES and tag[1:2] == "-" and len(tag) > 2)
        if len(fields) < 2 or not is_tag:
            what = f"'{tag[:20]}' is not a tag; allowed: O, and B-, I-, E-, S- with a type, in the last column"
            raise fault(what, f"{path}, line {number}")
        words.append(fields[0])
        tags.append(tag)


def spans(tags: Sequence[str]) -> list[str]:
    """Return the types of a sentence's spans, in order.

    A span begins at B-, S-, at another type than before, after O, and after E- or S-; so IOB1, IOB2 and BIOES agree.
    """
    return [
        tag[2:]
        for previous, tag in pairwise([OUTSIDE, *tags])
        if tag != OUTSIDE and (tag[0] in "BSU" or previous[2:] != tag[2:] or previous[0] in "ESLU")
    ]
