"""The picture of an answer: its numbers follow their definitions, and each drawing shows all of them."""

import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from orca_cli.exceptions import DataError
from orca_cli.report import answer as numbers
from orca_cli.report.answer import Confusion, Labels, Number, Values
from tests.properties import examples

RNG = np.random.default_rng(0)
WIDTHS = st.integers(40, 200)


@pytest.fixture
def run(tmp_path):
    def write(kind, outputs, targets, names=()):
        for folder in ("1_build", "3_finetune"):
            (tmp_path / folder).mkdir(exist_ok=True)
        summary = {"schema": 1, "kind": kind, "class_names": list(names)}
        (tmp_path / "1_build" / "summary.json").write_text(json.dumps(summary))
        np.savez(
            tmp_path / "3_finetune" / "predictions.npz",
            outputs=outputs.astype(np.float32),
            targets=targets,
        )
        return tmp_path

    return write


def printed(answer, width):
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None)
    for thing in numbers.picture(answer, width):
        console.print(thing)
    assert max(map(cell_len, file.getvalue().split("\n"))) <= width
    return file.getvalue()


def confusion(names, most=40):
    rng = np.random.default_rng(len(names))
    counts = rng.integers(0, most, (len(names),) * 2) * (rng.random((len(names),) * 2) < 0.5)
    return Confusion(counts=counts, names=tuple(numbers.visible(name) for name in names))


def share(hits):
    return np.mean(hits) if len(hits) else np.nan


def test_classes_are_counted_but_not_samples_without_a_class(run):
    outputs = RNG.random((7001, 600), np.float32)
    targets = RNG.integers(0, 599, 7001)  # no sample has the last class
    targets[::7] = -100
    matrix = numbers.read(run("classes", outputs, targets))
    true = targets[targets != -100]
    predicted = outputs[targets != -100].argmax(axis=1)
    expected = np.zeros((600, 600), np.int64)
    np.add.at(expected, (true, predicted), 1)
    assert isinstance(matrix, Confusion)
    assert (matrix.counts == expected).all()
    record = matrix.record()
    precision = np.array(record["precision"], dtype=float)  # None becomes NaN
    np.testing.assert_allclose(precision, [share(true[predicted == k] == k) for k in range(600)])
    np.testing.assert_allclose(
        matrix.recall, [share(predicted[true == k] == k) for k in range(600)]
    )
    assert (record["correct"], record["n"]) == ((true == predicted).sum(), len(true))
    assert "confusion" not in record  # too many classes to draw


def test_true_classes_are_rows_of_the_matrix(run):
    outputs = np.eye(2)[[0, 0, 1]]
    matrix = numbers.read(run("classes", outputs, np.zeros(3, np.int64), ("a", "b")))
    assert re.search(r"\n0 a +2 +1 ", printed(matrix, 80))
    assert json.loads(json.dumps(matrix.record(), allow_nan=False)) == {
        "kind": "classes",
        "n": 3,
        "correct": 2,
        "names": ["a", "b"],
        "recall": [2 / 3, None],
        "precision": [1.0, 0.0],
        "confusion": [[2, 1], [0, 0]],
    }


def test_labels_are_counted_and_missing_ones_do_not_count(run):
    outputs = RNG.normal(size=(150, 4))
    targets = (RNG.random((150, 4)) < 0.3).astype(np.float32)
    outputs[:, 2] = -1  # never predicted
    outputs[:, 3] = -1  # neither present nor predicted
    targets[:, 3] = 0
    targets[::5, 0] = np.nan
    labels = numbers.read(run("labels", outputs, targets))
    assert isinstance(labels, Labels)
    for k in range(4):
        is_known = ~np.isnan(targets[:, k])
        present = targets[is_known, k] == 1
        predicted = outputs[is_known, k] >= 0
        precision = share(present[predicted])
        recall = share(predicted[present])
        f1 = (0.0, np.nan)[k - 2] if k > 1 else 2 / (1 / precision + 1 / recall)
        np.testing.assert_allclose(
            [values[k] for values in labels.shares.values()], (precision, recall, f1)
        )
    assert labels.worst()[-1] == 3
    assert json.loads(json.dumps(labels.record(), allow_nan=False))["labels"][3]["f1"] is None


def test_numbers_are_measured_and_unknown_ones_do_not_count(run):
    targets = RNG.normal(size=(120, 2)).astype(np.float32) * 1e-6 + 3e-6
    outputs = (targets + RNG.normal(size=targets.shape) * 5e-7).astype(np.float32)
    targets[::4, 1] = np.nan
    values = numbers.read(run("values", outputs, targets, ("height", "weight")))
    assert isinstance(values, Values)
    for k, number in enumerate(values.numbers):
        is_known = ~np.isnan(targets[:, k])
        true = targets[is_known, k].astype(np.float64)
        predicted = outputs[is_known, k].astype(np.float64)
        measures = number.measures
        assert measures["rmse"] == pytest.approx(
            np.linalg.norm(predicted - true) / len(true) ** 0.5
        )
        assert measures["mae"] == pytest.approx(np.abs(predicted - true).sum() / len(true))
        assert measures["r2"] == pytest.approx(
            1 - ((predicted - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
        )
    assert [entry["n"] for entry in values.record()["values"]] == [120, 90]


def test_dense_outputs_and_no_predictions_have_no_answer(run, tmp_path):
    assert numbers.read(tmp_path / "nothing") is None
    assert numbers.read(run("dense", np.zeros((3, 1, 4)), np.zeros((3, 1, 4)))) is None


@pytest.mark.parametrize(
    ("kind", "shape", "targets", "message"),
    [
        ("classes", (3, 2), [0, 1, 2], "class numbers outside 0..1"),
        ("classes", (3, 2, 4), [0, 1, 1], "does not contain the predictions"),
        ("labels", (3, 2), [[0], [1], [1]], "does not contain the predictions"),
        ("values", (0, 2), np.zeros((0, 2)), "does not contain the predictions"),
    ],
)
def test_what_no_run_writes_is_an_error_of_the_data(run, kind, shape, targets, message):
    with pytest.raises(DataError, match=message):
        numbers.read(run(kind, np.zeros(shape), np.array(targets)))


@given(
    st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=34, unique=True),
    WIDTHS,
    st.sampled_from([1, 9, 2000]),
)
@examples(8)
def test_a_terminal_shows_all_counts_or_the_most_confused_pairs(names, width, most):
    matrix = confusion(names, most)
    counts = Counter(map(str, matrix.counts[matrix.counts > 0].tolist()))
    text = printed(matrix, width)
    right = f"{matrix.counts.trace()} of {matrix.counts.sum()} test samples correct"
    assert right in " ".join(text.split())
    if "rows: true class" in " ".join(text.split()):
        assert not counts - Counter(
            re.findall(r"(?<![\w.])\d+(?![\w%.])", text[text.index("recall") :])
        )
    elif (confused := matrix.counts * (1 - np.eye(len(names), dtype=int))).any():
        assert len(names) > 30 or width < 190
        assert f"of {np.count_nonzero(confused)} pair" in " ".join(text.split())
        assert str(confused.max()) in text


@given(st.integers(1, 70), st.integers(1, 40), WIDTHS)
@examples(4)
def test_pictures_of_labels_and_numbers_fit_the_terminal(k, n, width):
    rng = np.random.default_rng(k)
    present, predicted = rng.integers(0, n + 1, (2, k))
    labels = Labels(
        n=n,
        present=present,
        predicted=predicted,
        both=np.minimum(present, predicted),
        names=[f"label {i} of {k}" for i in range(k)],
    )
    columns = []
    for i in range(k):
        true, guessed = rng.normal(size=(2, n)) * 10.0 ** rng.integers(-9, 9)
        columns.append(Number(name=f"n{i}", true=true, predicted=guessed))
    values = Values(columns)
    assert ("1 test sample;" if n == 1 else f"{n} test samples;") in " ".join(
        printed(labels, width).split()
    )
    assert str(n) in printed(values, width)


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [
        (0, 0, "0 %"),
        (0.001, 0, "1 %"),
        (0.997, 0, "99 %"),
        (1, 0, "100 %"),
        (np.nan, 0, "-"),
        (0.99999, 2, "99.99 %"),
    ],
)
def test_shares_that_are_neither_all_nor_nothing_never_look_so(share, decimals, text):
    assert numbers.percent(share, decimals) == text
