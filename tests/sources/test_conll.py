"""Column files of the CoNLL tasks: spans of all tag schemes, one example a sentence, classes, and wrong files."""

import numpy as np
import pytest

from orca_cli.benchmarks.sources.conll import load, sentences, spans
from orca_cli.exceptions import DataError
from tests.checkpoints import SHARED
from tests.tasks.builders import refused


def read(folder, size=None, seed=0, **settings):
    settings = {"name": "conll2003", "files": ["eng.train", "train.txt"]} | settings
    data = load(size, seed, folder, **settings)
    assert data.examples  # faults of the file are found when it is read
    return data


NEWS = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""


def write(folder, text, name="train.txt"):
    (folder / "conll2003").mkdir(exist_ok=True)
    (folder / "conll2003" / name).write_text(text)


def test_all_schemes_have_the_same_spans():
    for tags in (
        "I-PER I-PER O I-LOC B-LOC I-ORG",  # IOB1
        "B-PER I-PER O B-LOC B-LOC B-ORG",  # IOB2
        "B-PER L-PER O U-LOC U-LOC U-ORG",  # BILOU
    ):
        assert spans(tags.split()) == ["PER", "LOC", "LOC", "ORG"]


def test_sentences_end_at_blank_lines_and_documents(tmp_path):
    write(tmp_path, NEWS)
    parsed = list(sentences(tmp_path / "conll2003" / "train.txt"))
    assert [len(words) for words, _ in parsed] == [4, 2]
    assert parsed[0] == (["EU", "rejects", "German", "call"], ["I-ORG", "O", "I-MISC", "O"])
    write(tmp_path, "New York\tB-LOC\r\n:\tO\r\n\t\r\nIBM\tB-ORG")
    expected = [(["New York", ":"], ["B-LOC", "O"]), (["IBM"], ["B-ORG"])]
    assert list(sentences(tmp_path / "conll2003" / "train.txt")) == expected


KINDS = ("LOC", "ORG", "PER")


def corpus(count=40):
    """Sentence k: one or two entities of types by k, words that name it."""
    lines = []
    for k in range(count):
        first, second = ("PER", "LOC", "ORG")[k % 3], ("LOC", "ORG")[k % 2]
        lines += [
            f"w{k} N O",
            f"a{k} N B-{first}",
            f"b{k} N I-{first}",
            f"c{k} N B-{second}",
            ". . O",
            "",
        ]
    lines += [*(f"plain{k} N O\n" for k in range(5)), "x N B-RARE\n"]
    return "\n".join(lines)


def test_an_example_is_a_sentence_with_the_type_of_one_span(tmp_path):
    write(tmp_path, corpus())
    data = read(tmp_path)
    assert data.examples.class_names == KINDS
    assert list(data.examples.inputs) == [f"w{k} a{k} b{k} c{k} ." for k in range(40)]
    drawn = [data.examples.class_names[label] for label in data.examples.labels]
    assert all(
        name in (("PER", "LOC", "ORG")[k % 3], ("LOC", "ORG")[k % 2])
        for k, name in enumerate(drawn)
    )
    assert {drawn[k] for k in range(0, 40, 6)} == {
        "PER",
        "LOC",
    }  # both spans of such sentences are drawn
    assert read(tmp_path, seed=1).digest != data.digest
    balanced = read(tmp_path, size=20, outside=7).examples
    assert (balanced.class_names, np.bincount(balanced.labels).tolist()) == (
        (*KINDS, "O"),
        [5, 5, 5, 5],
    )
    write(tmp_path, NEWS + "\n" + NEWS, name="other")
    other = read(tmp_path, path=str(tmp_path / "conll2003/other")).examples
    assert list(other.inputs) == ["EU rejects German call", "Peter Blackburn"] * 2


def test_what_cannot_be_read_is_reported(tmp_path):
    for text, message in (
        ("a N B-X\n\nword N X\n", "line 3: 'X' is not a tag; allowed: O, and B-"),
        (
            "a N B-X\n\nb N B-X\n\nc N O\n",
            "1 classes have two texts or more; at least two are needed",
        ),
    ):
        write(tmp_path, text)
        with refused(message, DataError):
            read(tmp_path)
    (tmp_path / "elsewhere" / "conll2003" / "train.txt").mkdir(
        parents=True
    )  # a folder in the file's place
    with refused(r"conll2003: no file 'eng.train' or 'train.txt'.*source\.path=", DataError):
        read(tmp_path / "elsewhere")


@pytest.mark.skipif(
    not (SHARED / "data" / "wnut17").is_dir(), reason="ORCA_TEST_DATA has no data/wnut17"
)
def test_real_wnut17():
    data = read(SHARED / "data", name="wnut17", files=["wnut17train.conll"])
    assert data.examples.class_names == (
        "corporation",
        "creative-work",
        "group",
        "location",
        "person",
        "product",
    )
    assert len(data.examples.inputs) == 1228
    parsed = list(sentences(SHARED / "data" / "wnut17" / "emerging.test.annotated"))
    assert len(parsed) == 1287
    assert (
        sum(len(spans(tags)) for _, tags in parsed) == 1079
    )  # the count that the corpus is published with
