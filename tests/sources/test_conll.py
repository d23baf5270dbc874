"""Column files of the CoNLL tasks: spans of all tag schemes, examples, classes, wrong files."""

import numpy as np
import pytest

from orca_cli.benchmarks.sources.conll import load, sentences, spans
from orca_cli.exceptions import DataError
from tests.checkpoints import SHARED
from tests.tasks.builders import refused

NEWS = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER
"""
KINDS = ("LOC", "ORG", "PER")
WNUT = SHARED / "data" / "wnut17"
needs_wnut = pytest.mark.skipif(not WNUT.is_dir(), reason="ORCA_TEST_DATA has no data/wnut17")


def read(folder, size=None, seed=0, **settings):
    settings = {"name": "conll2003", "files": ["eng.train", "train.txt"]} | settings
    data = load(size, seed, folder, **settings)
    assert data.examples  # faults of the file are found when it is read
    return data


def write(folder, text, name="train.txt"):
    path = folder / "conll2003" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def types_of(k):
    """Return the types of the two entities of sentence k of the corpus."""
    return ("PER", "LOC", "ORG")[k % 3], ("LOC", "ORG")[k % 2]


def corpus():
    """Forty sentences of two entities, five without any, and one of a type that is there once."""
    lines = []
    for k in range(40):
        left, right = types_of(k)
        lines += [f"w{k} N O", f"a{k} N B-{left}", f"b{k} N I-{left}", f"c{k} N B-{right}"]
        lines += [". . O", ""]
    lines += [*(f"plain{k} N O\n" for k in range(5)), "x N B-RARE\n"]
    return "\n".join(lines)


def named(examples):
    return [examples.class_names[label] for label in examples.labels]


@pytest.mark.parametrize(
    "tags",
    [
        "I-PER I-PER O I-LOC B-LOC I-ORG",
        "B-PER I-PER O B-LOC B-LOC B-ORG",
        "B-PER L-PER O U-LOC U-LOC U-ORG",
    ],
    ids=["IOB1", "IOB2", "BILOU"],
)
def test_all_schemes_have_the_same_spans(tags):
    assert spans(tags.split()) == ["PER", "LOC", "LOC", "ORG"]


def test_sentences_end_at_blank_lines_and_documents(tmp_path):
    assert list(sentences(write(tmp_path, NEWS))) == [
        (["EU", "rejects", "German", "call"], ["I-ORG", "O", "I-MISC", "O"]),
        (["Peter", "Blackburn"], ["I-PER", "I-PER"]),
    ]


def test_words_between_tabs_may_hold_spaces(tmp_path):
    path = write(tmp_path, "New York\tB-LOC\r\n:\tO\r\n\t\r\nIBM\tB-ORG")
    expected = [(["New York", ":"], ["B-LOC", "O"]), (["IBM"], ["B-ORG"])]
    assert list(sentences(path)) == expected


def test_an_example_is_a_sentence_with_the_type_of_one_span(tmp_path):
    write(tmp_path, corpus())
    examples = read(tmp_path).examples
    assert examples.class_names == KINDS
    assert list(examples.inputs) == [f"w{k} a{k} b{k} c{k} ." for k in range(40)]
    assert all(name in types_of(k) for k, name in enumerate(named(examples)))


def test_any_span_of_a_sentence_may_be_drawn(tmp_path):
    write(tmp_path, corpus())
    drawn = named(read(tmp_path).examples)
    # Every sixth sentence has both types.
    assert {drawn[k] for k in range(0, 40, 6)} == {"PER", "LOC"}


def test_the_digest_depends_on_the_seed(tmp_path):
    write(tmp_path, corpus())
    assert read(tmp_path, seed=1).digest != read(tmp_path).digest


def test_classes_are_balanced_and_what_is_outside_comes_last(tmp_path):
    write(tmp_path, corpus())
    examples = read(tmp_path, size=20, outside=7).examples
    assert examples.class_names == (*KINDS, "O")
    assert np.bincount(examples.labels).tolist() == [5, 5, 5, 5]


def test_sentences_without_spans_are_outside_before_others(tmp_path):
    write(tmp_path, corpus())
    examples = read(tmp_path, outside=7).examples
    pairs = zip(examples.inputs, named(examples), strict=True)
    outside = [text for text, name in pairs if name == "O"]
    assert len(outside) == 7
    assert {f"plain{k}" for k in range(5)} <= set(outside)


def test_another_file_is_read_on_request(tmp_path):
    path = write(tmp_path, NEWS + "\n" + NEWS, name="other")
    examples = read(tmp_path, path=str(path)).examples
    assert list(examples.inputs) == ["EU rejects German call", "Peter Blackburn"] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a N B-X\n\nword N X\n", r"line 3: must have .* a tag \(O, or B-.*; got 'X'"),
        ("B-X\n", "line 1: must have a word .*; got 'B-X'"),
        (
            "a N B-X\n\nb N B-X\n\nc N O\n",
            "needs at least two classes with two texts each, but has only 1",
        ),
    ],
    ids=["tag", "one-column", "one-class"],
)
def test_wrong_files_are_refused(text, message, tmp_path):
    write(tmp_path, text)
    with refused(message, DataError):
        read(tmp_path)


def test_missing_files_are_named(tmp_path):
    (tmp_path / "conll2003" / "train.txt").mkdir(parents=True)  # a folder in the file's place
    with refused(r"conll2003: has no file 'eng.train' or 'train.txt'.*source\.path=", DataError):
        read(tmp_path)


@needs_wnut
def test_real_wnut17_has_its_types():
    examples = read(SHARED / "data", name="wnut17", files=["wnut17train.conll"]).examples
    types = ("corporation", "creative-work", "group", "location", "person", "product")
    assert examples.class_names == types
    assert len(examples.inputs) == 1228


@needs_wnut
def test_real_wnut17_has_the_published_counts():
    parsed = list(sentences(WNUT / "emerging.test.annotated"))
    assert len(parsed) == 1287
    assert sum(len(spans(tags)) for _, tags in parsed) == 1079
