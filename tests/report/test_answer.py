"""The picture of an answer: its numbers agree with scikit-learn, and every drawing holds them and fits its place."""

import io
import json
import re
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from sklearn import metrics

from orca_cli.exceptions import DataError
from orca_cli.report.answer import numbers, svg
from orca_cli.report.answer.console import Picture
from orca_cli.report.answer.numbers import Confusion, Labels, Number, Values
from tests.properties import examples

RNG = np.random.default_rng(0)
NAMES = st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=70, unique=True)
WIDTHS = st.integers(40, 200)


@pytest.fixture
def run(tmp_path):
    def write(kind, outputs, targets, names=()):
        for folder in ("1_build", "3_finetune"):
            (tmp_path / folder).mkdir(exist_ok=True)
        summary = {"schema": 1, "kind": kind, "class_names": list(names)}
        (tmp_path / "1_build" / "summary.json").write_text(json.dumps(summary))
        np.savez(tmp_path / "3_finetune" / "predictions.npz", outputs=outputs.astype(np.float32), targets=targets)
        return tmp_path

    return write


def printed(answer, width):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(Picture(answer, "as a file"))
    return file.getvalue()


def confusion(names, seed=0, most=40):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most, (len(names),) * 2) * (rng.random((len(names),) * 2) < 0.5)
    return Confusion(counts, tuple(numbers.visible(name) for name in names))


def test_classes_are_counted_as_scikit_learn_counts_them(run):
    count = 2**20  # which are read in parts
    outputs, targets = RNG.normal(size=(count, 5)), RNG.integers(0, 4, count)  # no sample of class 4
    targets[::7] = -100
    matrix = numbers.read(run("classes", outputs, targets, ("a", "b", "c", "d", "e")))
    known = targets != -100
    true, predicted = targets[known], outputs.astype(np.float32)[known].argmax(axis=1)
    assert isinstance(matrix, Confusion)
    assert matrix.counts.tolist() == metrics.confusion_matrix(true, predicted, labels=range(5)).tolist()
    precision, recall, _, _ = metrics.precision_recall_fscore_support(
        true, predicted, labels=range(5), zero_division=np.nan
    )
    np.testing.assert_allclose(matrix.precision, precision)
    np.testing.assert_allclose(matrix.recall, recall)
    assert (matrix.correct / matrix.n, matrix.n) == (metrics.accuracy_score(true, predicted), known.sum())
    record = json.loads(json.dumps(matrix.record(), allow_nan=False))
    assert (record["confusion"], record["recall"][4]) == (matrix.counts.tolist(), None)


def test_labels_are_counted_as_scikit_learn_counts_them_and_missing_ones_do_not_count(run):
    outputs, targets = RNG.normal(size=(150, 4)), (RNG.random((150, 4)) < 0.3).astype(np.float32)
    outputs[:, 2] = -1  # never predicted
    targets[:, 3], outputs[:, 3] = 0, -1  # neither there nor predicted
    targets[::5, 0] = np.nan
    labels = numbers.read(run("labels", outputs, targets))
    assert isinstance(labels, Labels)
    for k in range(4):
        known = ~np.isnan(targets[:, k])
        expected = metrics.precision_recall_fscore_support(
            targets[known, k], outputs[known, k] >= 0, average="binary", zero_division=np.nan
        )
        np.testing.assert_allclose((labels.precision[k], labels.recall[k], labels.f1[k]), expected[:3])
    assert labels.worst()[-1] == 3
    assert json.loads(json.dumps(labels.record(), allow_nan=False))["labels"][3]["f1"] is None


def test_numbers_are_measured_as_scikit_learn_measures_them(run):
    targets = RNG.normal(size=(120, 2)).astype(np.float32) * 1e-6 + 3e-6
    outputs = (targets + RNG.normal(size=targets.shape) * 5e-7).astype(np.float32)
    targets[::4, 1] = np.nan
    values = numbers.read(run("values", outputs, targets, ("height", "weight")))
    assert isinstance(values, Values)
    for k, number in enumerate(values.numbers):
        known = ~np.isnan(targets[:, k])
        pair = targets[known, k].astype(np.float64), outputs[known, k].astype(np.float64)
        assert number.rmse == pytest.approx(metrics.root_mean_squared_error(*pair))
        assert number.mae == pytest.approx(metrics.mean_absolute_error(*pair))
        assert number.r2 == pytest.approx(metrics.r2_score(*pair))
        assert number.correlation == pytest.approx(np.corrcoef(*pair)[0, 1])
    assert [entry["n"] for entry in values.record()["values"]] == [120, 90]


def test_what_no_run_writes_is_an_error_of_the_data(run, tmp_path):
    assert numbers.read(tmp_path / "nothing") is None
    assert numbers.read(run("dense", np.zeros((3, 1, 4)), np.zeros((3, 1, 4)))) is None  # has no picture
    for shape, targets in (((3, 2), [0, 1, 2]), ((3, 2, 4), [0, 1, 1])):
        with pytest.raises(DataError):
            numbers.read(run("classes", np.zeros(shape), np.array(targets)))


@given(NAMES, WIDTHS, st.sampled_from([1, 9, 2000]))
@examples(15)
def test_a_confusion_matrix_fits_the_terminal_and_holds_every_count_or_the_most_confused_pairs(names, width, most):
    matrix = confusion(names, len(names), most)
    text = printed(matrix, width)
    assert max(map(cell_len, text.split("\n"))) <= width
    assert f"{matrix.correct} of {matrix.n} test samples right" in " ".join(text.split())
    if "rows: true class" in text:
        body = text[text.index("recall") :]
        shown = Counter(map(int, re.findall(r"(?<![\w.])\d+(?![\w%.])", body)))
        assert not Counter(matrix.counts[matrix.counts > 0].tolist()) - shown
    elif pairs := matrix.confused():
        assert len(names) > 30 or width < 150
        assert f"of {len(pairs)} pairs of classes" in " ".join(text.split())
        assert str(matrix.counts[pairs[0]]) in text


@given(st.integers(1, 70), st.integers(1, 40), WIDTHS)
@examples(5)
def test_pictures_of_labels_and_numbers_fit_the_terminal(k, n, width):
    rng = np.random.default_rng(k)
    present, predicted = rng.integers(0, n + 1, (2, k))
    labels = Labels(n, present, predicted, np.minimum(present, predicted), [f"label {i} of {k}" for i in range(k)])
    values = Values([Number(f"n{i}", *rng.normal(size=(2, n)) * 10.0 ** rng.integers(-9, 9)) for i in range(k)])
    for answer in (labels, values):
        assert max(map(cell_len, printed(answer, width).split("\n"))) <= width
        assert re.search(r"\d", printed(answer, 80))


@given(NAMES, st.sampled_from([1, 40]))
@examples(15)
def test_an_svg_has_a_label_and_every_count_and_needs_nothing_else(names, most):
    matrix = confusion(names, len(names), most)
    text = svg.draw(matrix, '<my> & "task"')
    root = ElementTree.fromstring(text)
    right = f"{matrix.correct} of {matrix.n} test samples right ({100 * matrix.correct / max(matrix.n, 1):.2f} %)"
    assert root.attrib["aria-label"] == f'<my> & "task": {right}'
    assert not re.search(r"href|<script|url\(|@import|\son\w+=|<title", text)
    if len(names) <= 60:
        assert len(root.findall("{*}rect")) == np.count_nonzero(matrix.counts) + 1  # besides the ground
        shown = Counter(element.text for element in root.iterfind("{*}text"))
        assert not Counter(map(str, matrix.counts[matrix.counts > 0].tolist())) - shown
    assert text == svg.draw(matrix, '<my> & "task"')


def test_everything_in_an_svg_lies_inside_it():
    few = Values([Number("", np.arange(50.0), np.arange(50.0))])
    many = Values([Number("", *RNG.normal(size=(2, 5000)))])
    labels = Labels(9, np.array([3, 0]), np.array([2, 0]), np.array([1, 0]), ("x", "y"))
    drawn = []
    for answer in (few, many, labels, *(confusion([f"class {i}" for i in range(n)]) for n in (3, 30, 70))):
        drawn.append(root := ElementTree.fromstring(svg.draw(answer, "arrays")))
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        for element in root.iter():
            for key, most in (("x", width), ("y", height), ("cx", width), ("cy", height)):
                assert 0 <= float(element.attrib.get(key, 0)) <= most
        assert f"0 0 {width:.0f} {height:.0f}" == root.attrib["viewBox"]
    # A plot draws each sample, or evenly spaced ones of many.
    assert len(drawn[0].findall("{*}circle")) == 50
    assert 500 < len(drawn[1].findall("{*}circle")) <= 1000


def test_shares_that_are_neither_all_nor_nothing_never_look_so():
    shares = [numbers.percent(share) for share in (0, 0.001, 0.997, 1, np.nan)]
    assert (shares, numbers.percent(0.99999, 2)) == (["0 %", "1 %", "99 %", "100 %", "-"], "99.99 %")
