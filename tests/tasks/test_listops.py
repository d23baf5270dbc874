"""ListOps: values, grammar and statistics of the expressions; samples, cache and files."""

import itertools
import statistics

import numpy as np
import pytest

from orca_cli.benchmarks import listops
from orca_cli.benchmarks.listops import VOCABULARY, expressions
from orca_cli.exceptions import ConfigError, DataError
from tests import benchmark_files
from tests.tasks.builders import refused, splits

SHORT = {"max_depth": 6, "max_arity": 5, "min_length": 5, "max_length": 40}
ARENA = {"max_depth": 10, "max_arity": 10, "min_length": 501, "max_length": 1999}
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
    arguments = []
    while words[0] != "]":
        arguments.append(evaluate(words))
    words.pop(0)
    values, depths, arities = zip(*arguments, strict=True)
    return FUNCTIONS[word](values), 1 + max(depths), max(len(values), *arities)


def words_of(samples, index):
    batch = samples.batch(np.array([index]))
    return [VOCABULARY[i] for i in batch.x[0].argmax(dim=0)[batch.valid[0]]]


@pytest.fixture(scope="module")
def drawn():
    """Return 200 short expressions, as words, with their values."""
    pairs = itertools.islice(expressions(3, **SHORT), 200)
    return [([VOCABULARY[token] for token in text], value) for text, value in pairs]


@pytest.fixture
def folder(tmp_path):
    """Write files as in the Long Range Arena's archive, the last expression of each too long."""
    benchmark_files.make("listops", tmp_path)
    place = tmp_path / "listops" / "lra_release" / "listops-1000"
    place.mkdir(parents=True)
    for path in (tmp_path / "listops").glob("*.tsv"):
        path.rename(place / path.name)
    return place


def test_values_agree_with_a_recursive_evaluator(drawn):
    for words, value in drawn:
        left = list(words)
        assert evaluate(left)[0] == value
        assert left == []


def test_expressions_keep_the_bounds_of_the_grammar(drawn):
    assert all(5 <= len(words) <= 40 for words, _ in drawn)
    measures = [evaluate(list(words)) for words, _ in drawn]
    assert max(depth for _, depth, _ in measures) <= 6
    assert {arity for _, _, arity in measures} == {2, 3, 4, 5}


def test_no_expression_is_drawn_twice(drawn):
    assert len({tuple(words) for words, _ in drawn}) == 200


def test_the_long_range_arena_setting_has_its_statistics():
    arena = list(itertools.islice(expressions(0, **ARENA), 500))
    lengths = np.array([len(text) for text, _ in arena])
    frequencies = np.bincount([value for _, value in arena], minlength=10) / len(arena)
    # Measured on the published generator's grammar: 0..9 as below, mean length 1038, 54 % up to
    # 1000 tokens.
    expected = [0.168, 0.091, 0.081, 0.080, 0.089, 0.085, 0.075, 0.076, 0.089, 0.167]
    assert np.abs(frequencies - expected).max() < 0.06  # 3.6 standard errors
    assert abs(lengths.mean() - 1038) < 64


def test_samples_are_one_hot_tokens_with_a_mask(build):
    batch = build("listops", **FEW).validation.batch(np.array([7, 0]))
    assert (batch.x.sum(dim=1) == batch.valid).all()  # one token where valid, nothing where not
    assert (batch.x[:, :2] == 0).all()  # pad and unk


@pytest.mark.parametrize("index", [7, 0])
def test_targets_are_the_values_of_their_inputs(index, build):
    samples = build("listops", **FEW).validation
    value = evaluate(words_of(samples, index))[0]
    assert samples.batch(np.array([index])).y.tolist() == [value]
    assert samples.targets()[index] == value


def test_more_training_samples_leave_the_others_as_they_are(build):
    task = build("listops", **FEW)
    more = build("listops", **FEW | {"num_train": 40})
    assert task.validation.digest() == more.validation.digest()
    assert (task.train.targets() == more.train.targets()[:30]).all()


def test_the_bits_of_a_seed_stay_what_they_are(build):
    task = build("listops", **FEW)
    train = "72619dde708a8081b45179f3425bccf20d7545356d5f2831ee2a9c7f86aa2c13"
    test = "beac66f6915abb09c0ad2f9f931c60c89eb9d596dce2379c03c437afb566726d"
    assert (task.train.digest(), task.open_test().digest()) == (train, test)


@pytest.mark.parametrize("newline", ["\r\n", "\n\n"], ids=["windows", "blank-lines"])
def test_files_are_read_with_brackets_alone(newline, folder, build):
    rows = ["Source\tTarget", "( ( ( [SM ( ( ( [MIN 8 ) 4 ) ] ) ) 7 ) ] )\t1", "5\t5", ""]
    (folder / "basic_train.tsv").write_bytes(newline.join(rows).encode())
    train = build("listops", origin="files").train
    assert words_of(train, 0) == ["[SM", "[MIN", "8", "4", "]", "7", "]"]
    assert train.targets().tolist() == [1, 5]


def test_files_hold_the_values_of_their_expressions(folder, build):
    for samples in splits(build("listops", origin="files", over_length="drop")):
        values = [evaluate(words_of(samples, index))[0] for index in range(len(samples))]
        assert values == samples.targets().tolist()


def test_long_expressions_are_cut(folder, build):
    operator, *digits = words_of(build("listops", origin="files").train, 59)
    assert (operator, len(digits)) == ("[SM", 1023)
    assert set(digits) <= set("0123456789")


def test_long_expressions_are_dropped_on_request(folder, build):
    cut = splits(build("listops", origin="files"))
    dropped = splits(build("listops", origin="files", over_length="drop"))
    for samples, fewer in zip(cut, dropped, strict=True):
        assert fewer.targets().tolist() == samples.targets().tolist()[:-1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "( ( [AVG 3 ) ] )\t3",
            r"basic_train.tsv, line 5: unknown symbol '\[AVG'; allowed: digits, \[MIN",
        ),
        ("( ( [MAX 1 ) ] )\t12", "line 5: must end in a tab and a digit .*, got '12'"),
        ("( )\t3", r"line 5: unknown symbol '\( \)'"),
    ],
    ids=["word", "value", "nothing"],
)
def test_rows_that_are_no_expressions_are_refused(line, message, folder, build):
    (folder / "basic_train.tsv").write_text("Source\tTarget\n" + "5\t5\n" * 3 + line)
    with refused(message, DataError):
        build("listops", origin="files")


def test_files_with_too_few_rows_are_refused(folder, build):
    with refused("basic_test.tsv: has 20 rows, fewer than the 21 requested", DataError):
        build("listops", origin="files", num_test=21).open_test()


def test_a_path_without_files_to_read_is_refused():
    with refused("task.path: does not apply to task.origin=generated", ConfigError):
        listops.check_settings(origin="generated", path="somewhere")
