"""Files of predictions are whole or absent; predictions and scores agree with scikit-learn's."""

import csv
import io

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score

from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import DataError, StorageError
from orca_cli.prediction import output
from orca_cli.prediction.output import Decoder

LOGITS = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


def decoder(kind="classes", k=3, **settings):
    return Decoder(TargetForm(kind, k, **settings), k)


def batches(outputs, size=7):
    return [outputs[start : start + size] for start in range(0, len(outputs), size)]


@pytest.mark.parametrize("size", [1, 7, 30])
def test_csv_is_the_same_for_parts_of_any_size(size, tmp_path):
    ids = [f"{i}.png" for i in range(30)]
    output.write(tmp_path / "all.csv", [LOGITS], decoder(), ids)
    output.write(tmp_path / "parts.csv", batches(LOGITS, size), decoder(), ids)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()


@pytest.mark.parametrize("size", [1, 7, 30])
def test_npz_has_all_outputs_for_parts_of_any_size(size, tmp_path):
    ids = [f"{i}.png" for i in range(30)]
    output.write(tmp_path / "p.npz", batches(LOGITS, size), decoder(), ids)
    arrays = np.load(tmp_path / "p.npz")
    assert np.array_equal(arrays["outputs"], LOGITS)
    assert arrays["id"].tolist() == ids
    probabilities = torch.softmax(torch.from_numpy(LOGITS), 1)
    np.testing.assert_allclose(arrays["probability"], probabilities, rtol=1e-5)


@pytest.mark.parametrize("suffix", output.SUFFIXES)
@pytest.mark.parametrize(
    "error",
    [DataError("sample 9 is damaged"), RuntimeError("a bug"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_failing_work_leaves_the_old_file_and_its_own_error(error, suffix, tmp_path):
    path = tmp_path / f"p{suffix}"
    path.write_text("old")

    def failing():
        yield LOGITS[:7]
        raise error

    with pytest.raises(type(error)) as caught:
        output.write(path, failing(), decoder(), None)
    assert caught.value is error
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", output.SUFFIXES)
def test_a_file_in_place_of_a_folder_is_refused(suffix, tmp_path):
    (tmp_path / "p").write_text("old")
    with pytest.raises(StorageError, match="blocks the path"):
        output.write(tmp_path / "p" / f"q{suffix}", batches(LOGITS), decoder(), None)


def test_labels_called_like_other_columns_keep_their_own():
    names = ("index", "p_index", "prediction")
    _, columns = output.parts_of([LOGITS[:5], LOGITS], decoder("labels", names=names), None)
    assert list(columns) == [
        "index", "index_", "p_index", "prediction", "p_index_", "p_p_index", "p_prediction",
    ]  # fmt: skip
    assert columns["index"].tolist() == list(range(5, 35))
    assert columns["index_"].tolist() == (LOGITS[:, 0] >= 0).astype(int).tolist()
    probabilities = torch.sigmoid(torch.from_numpy(LOGITS[:, 2]))
    np.testing.assert_allclose(columns["p_prediction"], probabilities, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("@a", "'@a"),
        ("-1.5", "-1.5"),
        ("+3", "+3"),
        ("-x", "'-x"),
        ("a,b", "a,b"),
        ("\x1b[2J", "\\x1b[2J"),
        # A class; its name alone computes nothing.
        ("-", "-"),
    ],
)
def test_texts_in_csv_are_neither_formulas_nor_commands(name, shown):
    columns = {"id": np.array([name]), "p": np.array([0.5], np.float32)}
    text = "".join(output.csv_lines([columns]))
    assert list(csv.reader(io.StringIO(text))) == [["id", "p"], [shown, "0.5"]]


@pytest.mark.parametrize("classes", [(-5, 5, 70), ("a", "b", "ä")])
def test_classes_have_the_form_of_the_data(classes):
    by_class = decoder(names=tuple(map(str, classes)), classes=classes)
    assert by_class.classes.tolist() == list(classes)
    assert by_class.predictions(LOGITS).tolist() == [classes[k] for k in LOGITS.argmax(1)]


def test_classes_are_scored_by_accuracy():
    targets = np.random.default_rng(1).integers(0, 3, 30)
    assert decoder().score(LOGITS, targets) == accuracy_score(targets, LOGITS.argmax(1))


def test_classes_of_maps_are_numbered():
    assert decoder("class_maps", extent=(4,)).classes.tolist() == [0, 1, 2]


def test_huge_logits_have_probabilities():
    huge = np.array([[1e4, -1e4, 0.0]])
    assert decoder().probabilities(huge).tolist() == [[1.0, 0.0, 0.0]]


@pytest.fixture
def labels():
    """Logits and targets of 50 samples with 4 labels; the first 20 samples are right in all labels."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    targets = rng.integers(0, 2, (50, 4)).astype(np.float32)
    targets[:20] = logits[:20] > 0
    return logits, targets


def test_labels_are_scored_as_whole_sets(labels):
    logits, targets = labels
    assert decoder("labels", 4).score(logits, targets) == accuracy_score(targets, logits >= 0)


def test_an_unknown_label_does_not_count(labels):
    logits, targets = labels
    columns = [0, 2, 3]
    expected = accuracy_score(targets[:, columns], (logits >= 0)[:, columns])
    targets[:, 1] = np.nan
    assert decoder("labels", 4).score(logits, targets) == expected


def test_unknown_labels_are_neither_right_nor_wrong(labels):
    logits, targets = labels
    targets[:, 1] = np.nan
    targets[1:] = np.nan
    targets[0, 0] = logits[0, 0] < 0
    assert decoder("labels", 4).score(logits, targets) == 0.0


@pytest.mark.parametrize("form", [TargetForm("maps", 2, extent=(5,)), TargetForm("values", 2)])
@pytest.mark.parametrize("unknown", [10, 40])
def test_numbers_are_scored_by_the_mean_r2_of_their_outputs(form, unknown):
    rng = np.random.default_rng(3)
    shape = (40, 2, 5) if form.kind == "maps" else (40, 2)
    targets = rng.normal(size=shape)
    outputs = targets + rng.normal(size=shape) * 0.3
    targets[:10, 0] = np.nan
    # Where all targets of an output are unknown, the other output alone counts.
    targets[:unknown, 1] = np.nan
    counted = [k for k in (0, 1) if not np.isnan(targets[:, k]).all()]
    by_output = []
    for k in counted:
        is_known = ~np.isnan(targets[:, k].ravel())
        by_output.append(r2_score(targets[:, k].ravel()[is_known], outputs[:, k].ravel()[is_known]))
    by_number = Decoder(form, 2)
    assert by_number.score(outputs, targets) == pytest.approx(np.mean(by_output))
    assert by_number.classes is None
