"""Files of predictions are whole or absent, whatever ends the work; predictions and scores against scikit-learn's."""

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

RNG = np.random.default_rng(0)


def decoder(kind="classes", k=3, **more):
    return Decoder(TargetForm(kind, k, **more), k)


def parts(outputs, size=7):
    return [outputs[start : start + size] for start in range(0, len(outputs), size)]


LOGITS = RNG.normal(size=(30, 3)).astype(np.float32)


@pytest.mark.parametrize("suffix", output.SUFFIXES)
def test_the_same_for_parts_of_any_size(suffix, tmp_path):
    ids = [f"{i}.png" for i in range(30)]
    paths = [tmp_path / f"{size}{suffix}" for size in (1, 7, 30)]
    for path in paths:
        output.write(path, parts(LOGITS, int(path.stem)), decoder(), ids)
    if suffix == ".npz":
        for arrays in map(np.load, paths):
            assert np.array_equal(arrays["outputs"], LOGITS)
            assert arrays["id"].tolist() == ids
            np.testing.assert_allclose(
                arrays["probability"], torch.softmax(torch.from_numpy(LOGITS), 1), rtol=1e-5
            )
    else:
        assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("suffix", output.SUFFIXES)
def test_work_that_fails_half_way_leaves_the_old_file_and_its_own_error(suffix, tmp_path):
    path = tmp_path / f"p{suffix}"
    path.write_text("old")
    for error in (DataError("sample 9 is damaged"), RuntimeError("a bug"), KeyboardInterrupt()):

        def failing(error=error):
            yield LOGITS[:7]
            raise error

        with pytest.raises(type(error)) as caught:
            output.write(path, failing(), decoder(), None)
        assert caught.value is error
        assert path.read_text() == "old"
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(StorageError, match="stands where a folder is needed"):
        output.write(path / f"q{suffix}", parts(LOGITS), decoder(), None)


def test_labels_called_like_other_columns_keep_their_own():
    names = ("index", "p_index", "prediction")
    _, columns = output.parts_of([LOGITS[:5], LOGITS], decoder("labels", names=names), None)
    assert list(columns) == [
        "index",
        "index_",
        "p_index",
        "prediction",
        "p_index_",
        "p_p_index",
        "p_prediction",
    ]
    assert columns["index"].tolist() == list(range(5, 35))
    assert columns["index_"].tolist() == (LOGITS[:, 0] >= 0).astype(int).tolist()
    np.testing.assert_allclose(
        columns["p_prediction"], torch.sigmoid(torch.from_numpy(LOGITS[:, 2])), rtol=1e-6
    )


def test_texts_in_csv_are_neither_formulas_nor_commands():
    cases = {
        "=1+1": "'=1+1",
        "@a": "'@a",
        "-1.5": "-1.5",
        "+3": "+3",
        "-x": "'-x",
        "a,b": "a,b",
        "\x1b[2J": "\\x1b[2J",
    }
    for name, shown in (cases | {"-": "-"}).items():  # a class; alone it computes nothing
        text = "".join(
            output.csv_lines([{"id": np.array([name]), "p": np.array([0.5], np.float32)}])
        )
        assert list(csv.reader(io.StringIO(text))) == [["id", "p"], [shown, "0.5"]]


def test_classes_in_the_form_of_the_data():
    logits = RNG.normal(size=(50, 3)).astype(np.float32)
    for classes, expected in (((-5, 5, 70), [-5, 5, 70]), (("a", "b", "ä"), ["a", "b", "ä"])):
        decoder = Decoder(TargetForm("classes", 3, tuple(map(str, classes)), classes), 3)
        assert decoder.classes.tolist() == expected
        assert decoder.predictions(logits).tolist() == [expected[k] for k in logits.argmax(1)]
        targets = RNG.integers(0, 3, 50)
        assert decoder.score(logits, targets) == accuracy_score(targets, logits.argmax(1))
    assert Decoder(TargetForm("class_maps", 3, extent=(4,)), 3).classes.tolist() == [0, 1, 2]
    huge = np.array([[1e4, -1e4, 0.0]])
    assert decoder.probabilities(huge).tolist() == [[1.0, 0.0, 0.0]]


def test_labels_are_scored_as_whole_sets():
    logits, targets = (
        RNG.normal(size=(50, 4)).astype(np.float32),
        RNG.integers(0, 2, (50, 4)).astype(np.float32),
    )
    targets[:20] = logits[:20] > 0
    decoder = Decoder(TargetForm("labels", 4), 4)
    assert decoder.score(logits, targets) == accuracy_score(targets, logits >= 0)
    unknown = targets.copy()
    unknown[:, 1] = np.nan
    kept = [0, 2, 3]
    assert decoder.score(logits, unknown) == accuracy_score(
        targets[:, kept], (logits >= 0)[:, kept]
    )
    unknown[1:], unknown[0, 0] = np.nan, logits[0, 0] < 0
    assert decoder.score(logits, unknown) == 0.0  # what is unknown is neither right nor wrong


@pytest.mark.parametrize("form", [TargetForm("maps", 2, extent=(5,)), TargetForm("values", 2)])
@pytest.mark.parametrize("unknown", [10, 40])
def test_numbers_are_scored_by_the_mean_r2_of_their_outputs(form, unknown):
    shape = (40, 2, 5) if form.kind == "maps" else (40, 2)
    targets = RNG.normal(size=shape)
    outputs = targets + RNG.normal(size=shape) * 0.3
    targets[:10, 0] = targets[:unknown, 1] = (
        np.nan
    )  # where all of an output are unknown, the other one alone counts
    counted = [k for k in (0, 1) if not np.isnan(targets[:, k]).all()]
    rows = [~np.isnan(targets[:, k].ravel()) for k in counted]
    by_output = [
        r2_score(targets[:, k].ravel()[row], outputs[:, k].ravel()[row])
        for k, row in zip(counted, rows, strict=True)
    ]
    decoder = Decoder(form, 2)
    assert decoder.score(outputs, targets) == pytest.approx(np.mean(by_output))
    assert decoder.classes is None
