"""ListOps: values, grammar and statistics of the expressions; what the samples look like; the cache; the files."""

import itertools
import statistics

import numpy as np
import pytest

from orca_cli.benchmarks.listops import VOCABULARY, expressions
from orca_cli.exceptions import DataError
from tests import benchmark_files
from tests.tasks.builders import refused, splits

SHORT = {"max_depth": 6, "max_arity": 5, "min_length": 5, "max_length": 40}
FEW = {"num_train": 30, "num_validation": 10, "num_test": 10}
FUNCTIONS = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def evaluate(words):
    """Value of an expression by recursion, its depth and its largest arity; consumes the words."""
    word = words.pop(0)
    if word not in FUNCTIONS:
        return int(word), 1, 0
    parts = []
    while words[0] != "]":
        parts.append(evaluate(words))
    words.pop(0)
    value = FUNCTIONS[word]([part[0] for part in parts])
    return value, 1 + max(part[1] for part in parts), max(len(parts), *(part[2] for part in parts))


def test_values_agree_with_a_recursive_evaluator():
    seen = set()
    for text, value in itertools.islice(expressions(3, **SHORT), 200):
        words = [VOCABULARY[token] for token in text]
        assert 5 <= len(words) <= 40
        result, depth, arity = evaluate(words)
        assert (result, words) == (value, [])
        assert depth <= 6
        assert 2 <= arity <= 5
        seen.add(text)
    assert len(seen) == 200


def test_the_long_range_arena_setting_has_its_statistics():
    drawn = list(
        itertools.islice(
            expressions(0, max_depth=10, max_arity=10, min_length=501, max_length=1999), 500
        )
    )
    lengths = np.array([len(text) for text, _ in drawn])
    frequencies = np.bincount([value for _, value in drawn], minlength=10) / len(drawn)
    # Measured on the published generator's grammar: 0..9 as below, mean length 1038, 54 % up to 1000 tokens.
    expected = [0.168, 0.091, 0.081, 0.080, 0.089, 0.085, 0.075, 0.076, 0.089, 0.167]
    assert np.abs(frequencies - expected).max() < 0.06  # 3.6 standard errors
    assert abs(lengths.mean() - 1038) < 64


def test_samples_are_one_hot_tokens_with_a_mask(build):
    task = build("listops", **FEW)
    batch = task.validation.batch(np.array([7, 0]))
    assert (batch.x.sum(dim=1) == batch.valid).all()  # one token where valid, nothing where not
    assert (batch.x[:, :2] == 0).all()  # pad and unk
    for row, index in enumerate((7, 0)):
        assert (
            evaluate(words_of(task.validation, index))[0]
            == batch.y[row]
            == task.validation.targets()[index]
        )


def test_the_bits_of_a_seed_stay_what_they_are(build):
    task, more = build("listops", **FEW), build("listops", **FEW | {"num_train": 40})
    assert task.validation.digest() == more.validation.digest()
    assert (task.train.targets() == more.train.targets()[:30]).all()
    assert task.train.digest() == "72619dde708a8081b45179f3425bccf20d7545356d5f2831ee2a9c7f86aa2c13"
    assert (
        task.open_test().digest()
        == "beac66f6915abb09c0ad2f9f931c60c89eb9d596dce2379c03c437afb566726d"
    )


def words_of(samples, index):
    batch = samples.batch(np.array([index]))
    return [VOCABULARY[i] for i in batch.x[0].argmax(dim=0)[batch.valid[0]]]


@pytest.fixture
def folder(tmp_path):
    """Write the files of the Long Range Arena, the last expression of each too long; as the archive has them."""
    benchmark_files.make("listops", tmp_path)
    place = tmp_path / "listops" / "lra_release" / "listops-1000"
    place.mkdir(parents=True)
    for path in (tmp_path / "listops").glob("*.tsv"):
        path.rename(place / path.name)
    return place


def test_files_are_read_without_parentheses_and_with_closing_brackets(folder, build):
    rows = ["Source\tTarget", "( ( ( [SM ( ( ( [MIN 8 ) 4 ) ] ) ) 7 ) ] )\t1", "5\t5", ""]
    for newline in ("\r\n", "\n\n"):  # blank lines are passed over
        (folder / "basic_train.tsv").write_bytes(newline.join(rows).encode())
        task = build("listops", origin="files", over_length="drop")
        assert words_of(task.train, 0) == ["[SM", "[MIN", "8", "4", "]", "7", "]"]
        for samples in splits(task):
            for index, value in enumerate(samples.targets()):
                assert evaluate(words_of(samples, index))[0] == value


def test_over_length_expressions_are_cut_or_dropped(folder, build):
    cut, dropped = (
        build("listops", origin="files", over_length=word) for word in ("truncate", "drop")
    )
    first, *digits = words_of(cut.train, 59)
    assert (first, len(digits), set(digits) <= set("0123456789")) == ("[SM", 1023, True)
    before = [part.targets().tolist() for part in splits(cut)]
    assert [part.targets().tolist() for part in splits(dropped)] == [
        values[:-1] for values in before
    ]


def test_rows_that_are_no_expressions_are_refused(folder, build):
    file = folder / "basic_train.tsv"
    for line, message in (
        (
            "( ( [AVG 3 ) ] )\t3",
            r"basic_train.tsv, line 5: '\[AVG' is not a word of ListOps; allowed: digits, \[MIN",
        ),
        ("( ( [MAX 1 ) ] )\t12", "line 5: '12' is not a value"),
    ):
        file.write_text("Source\tTarget\n" + "5\t5\n" * 3 + line)
        with refused(message, DataError):
            build("listops", origin="files")
