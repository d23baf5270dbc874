"""Files of predictions are whole or absent, whatever ends the work; outputs are kept for errors of any size."""

import csv
import io

import numpy as np
import pytest
import torch

from orca_cli.data.targets import TargetForm
from orca_cli.exceptions import DataError, StorageError
from orca_cli.prediction import output
from orca_cli.prediction.targets import Decoder

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
            np.testing.assert_allclose(arrays["probability"], torch.softmax(torch.from_numpy(LOGITS), 1), rtol=1e-5)
    else:
        assert len({path.read_bytes() for path in paths}) == 1


def test_maps_of_any_extent_are_written_in_parts(tmp_path):
    maps = RNG.normal(size=(20, 2, 4, 5)).astype(np.float32)
    output.write(tmp_path / "maps.npz", parts(maps), decoder("maps", 2, extent=(4, 5)), None)
    arrays = np.load(tmp_path / "maps.npz")
    assert sorted(arrays.files) == ["outputs", "prediction"]
    assert np.array_equal(arrays["prediction"], maps)
    output.write(tmp_path / "classes.npz", parts(maps), decoder("class_maps", 2, extent=(4, 5)), None)
    assert np.array_equal(np.load(tmp_path / "classes.npz")["prediction"], maps.argmax(1))


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
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        output.write(path / f"q{suffix}", parts(LOGITS), decoder(), None)


def test_labels_called_like_other_columns_keep_their_own():
    names = ("index", "p_index", "prediction")
    columns = output.columns_of(LOGITS, decoder("labels", names=names), None, 5)
    assert list(columns) == ["index", "index_", "p_index", "prediction", "p_index_", "p_p_index", "p_prediction"]
    assert columns["index"].tolist() == list(range(5, 35))
    assert columns["index_"].tolist() == (LOGITS[:, 0] >= 0).astype(int).tolist()
    np.testing.assert_allclose(columns["p_prediction"], torch.sigmoid(torch.from_numpy(LOGITS[:, 2])), rtol=1e-6)


def test_texts_in_csv_are_neither_formulas_nor_commands():
    cases = {"=1+1": "'=1+1", "@a": "'@a", "-1.5": "-1.5", "+3": "+3", "-x": "'-x", "a,b": "a,b", "\x1b[2J": "\\x1b[2J"}
    for name, shown in (cases | {"-": "-"}).items():  # a class; alone it computes nothing
        text = "".join(output.csv_lines([{"id": np.array([name]), "p": np.array([0.5], np.float32)}]))
        assert list(csv.reader(io.StringIO(text))) == [["id", "p"], [shown, "0.5"]]
