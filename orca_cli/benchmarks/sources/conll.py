"""Sentences with named entities or chunks, in the column format of the CoNLL tasks.

These are sources for text bodies. A line of CoNLL-2003 (the paper's source, section 4.1; Tjong Kim
Sang and De Meulder 2003) has word, part of speech, chunk and entity. A line of CoNLL-2000 (Tjong
Kim Sang and Buchholz 2000) has word, part of speech and chunk. A line of WNUT-17 (Derczynski et al.
2017) has word and entity, separated by a tab. Sentences end at blank lines and at -DOCSTART-. The
tags are IOB1, IOB2 or BIOES.

One example is one sentence. Its class is the type of one span in it, such as `person` or `NP`,
drawn uniformly from the spans of the sentence. The text is the sentence, with spaces between its
words, which the body's own tokenizer cuts into tokens. All tokens, or their mean, have the class of
the span (align.features). The released code is said to follow Jawahar et al. 2019, who use the
vectors at both ends of 3,000 chunks, and of 500 stretches outside of any chunk.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from orca_cli import seeding, storage
from orca_cli.benchmarks.sources.balance import drawn_texts, facts_digest
from orca_cli.config.ranges import CountOrZero, PlainName
from orca_cli.data.published import AGAIN, fault, find
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.interfaces import Examples, SourceData

OUTSIDE = "O"
# Begin, inside, end and single; last and unit are other names of end and single.
_PREFIXES = "BIESLU"
_MAX_BYTES = 2**28


def load(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    data_folder: Path,
    name: Annotated[
        PlainName, "name of the data set, and of its folder in the data folder (paths.data)"
    ],
    files: Sequence[PlainName],
    path: Annotated[
        str | None,
        "folder with the file, or the file itself; "
        "null: the folder in the data folder (paths.data) whose name is the value of source.name",
    ] = None,
    outside: Annotated[
        CountOrZero,
        "number of additional examples of class O (words outside any chunk or entity): 0 or more",
    ] = 0,
) -> SourceData:
    """Return sentences and the type of one span of each, without types that have one sentence.

    Args:
        size: number of sentences, balanced over the types; None means all sentences.
        seed: seed of the draws of sentences, and of a span from each sentence.
        name: name of the data set, see `find`.
        files: possible names of its file, see `find`.
        path: another folder, or the file itself, see `find`.
        outside: largest number of further examples, of class O. Each is a sentence without spans
            or, if no such sentence is left, a sentence with words outside its spans, which then is
            not an example of a type.
    """
    # `find` accepts alternative lists of files; each of these names is one such list.
    file_names, *other_names = ([file] for file in files)
    hint = "or use source=stdlib_docs or metric=none, which need no files"
    (file,) = find(
        data_folder, name, file_names, path, hint=hint, key="source.path", others=other_names
    )

    def read() -> Examples:
        pairs = _labelled(file, seed, outside)
        return drawn_texts(pairs, size, seed, where=str(file), last=OUTSIDE)

    # -1 is the column of the tags, and "sentence" is the unit of an example.
    facts = (storage.sha256_file(file), size, seed, name, -1, "sentence", outside)
    return SourceData("text", facts_digest("conll", *facts), read)


def _labelled(file: Path, seed: int, most_outside: int) -> list[tuple[str, str]]:
    """Return the texts of the sentences that are examples, each with its class."""
    texts = []
    types_by_sentence = []  # types of the spans of each sentence
    without_spans = []  # numbers of sentences without spans
    with_both = []  # numbers of sentences with spans and with words outside of spans
    for number, (words, tags) in enumerate(sentences(file)):
        types = spans(tags)
        texts.append(" ".join(words))
        types_by_sentence.append(types)
        if not types:
            without_spans.append(number)
        elif OUTSIDE in tags:
            with_both.append(number)
    # Sentences without spans are the first choice for class O.
    generator = seeding.numpy_generator(seed, "source", "outside")
    order = [*generator.permutation(without_spans), *generator.permutation(with_both)]
    outside_numbers = set(order[:most_outside])
    pairs = []
    for number, types in enumerate(types_by_sentence):
        if number in outside_numbers:
            pairs.append((texts[number], OUTSIDE))
        elif types:
            # One generator per sentence, so that its span does not depend on other sentences.
            generator = seeding.numpy_generator(seed, "source", "span", number)
            drawn = int(generator.integers(len(types)))
            pairs.append((texts[number], types[drawn]))
    return pairs


def sentences(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (words, tags) of each sentence of a UTF-8 file: the first and the last column.

    A line with a tab is split only at tabs, so that a word may contain a space; another line is
    split at white space. Raises DataError at a line whose last column is not a tag.
    """
    words: list[str] = []
    tags: list[str] = []
    # The added blank line ends the last sentence.
    text = read_text(path, _MAX_BYTES, AGAIN) + "\n"
    for number, line in enumerate(text.split("\n"), start=1):
        columns = line.split()
        if "\t" in line:
            columns = [column.strip() for column in line.split("\t")]
        if not columns or columns[0] in ("", "-DOCSTART-"):
            if words:  # without words, several blank lines follow each other
                yield words, tags
            words = []
            tags = []
            continue
        tag = columns[-1]
        has_prefix = tag[:1] in _PREFIXES and tag[1:2] == "-"
        is_tag = tag == OUTSIDE or (has_prefix and len(tag) > 2)
        if len(columns) < 2 or not is_tag:
            raise fault(
                "must have a word and, in the last column, a tag (O, or B-, I-, E- or S- with a "
                f"type); got '{tag[:20]}'",
                f"{path}, line {number}",
            )
        words.append(columns[0])
        tags.append(tag)


def spans(tags: Sequence[str]) -> list[str]:
    """Return the types of a sentence's spans, in order.

    A span begins at B- or S-, at a change of type, and after O, E- or S-. This rule gives the same
    spans for IOB1, IOB2 and BIOES.
    """
    types = []
    # With an O before the first tag, so that the first word can begin a span.
    for previous, tag in pairwise([OUTSIDE, *tags]):
        if tag == OUTSIDE:
            continue
        # The type of O is empty, so it differs from that of any span.
        is_other_type = previous[2:] != tag[2:]
        if tag[0] in "BSU" or is_other_type or previous[0] in "ESLU":
            types.append(tag[2:])
    return types
