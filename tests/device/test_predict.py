"""A run that was trained on a device predicts there with its bits, and on the CPU; an export is made for both."""

import numpy as np
import pytest

import orca_cli
from orca_cli.prediction import predictor
from tests.cli.conftest import outputs


@pytest.mark.parametrize("body", ["bert", "swin"])
def test_trained_on_a_device_and_predicted_on_both(body, words, orca, run, on_device, monkeypatch, tmp_path):
    shape, kind = ((2, 12), "classes") if body == "bert" else ((1, 12, 12), "dense")
    folder = run(*words(body, shape, kind)).folder
    expected = outputs(folder)
    x = np.load(tmp_path / "arrays.npz")["x"]
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "choose_device", lambda setting: on_device)
        there = orca_cli.load(folder)
        assert there.device == on_device
        predicted = there.outputs(x)
        assert next(there.model.parameters()).device == on_device
    rows = [np.flatnonzero([np.allclose(one, other, atol=1e-6) for other in predicted]).tolist() for one in expected]
    assert all(rows), "the test split is among the samples"
    here = orca_cli.load(folder, device="cpu")
    np.testing.assert_allclose(here.outputs(x), predicted, rtol=1e-4, atol=1e-4 * np.abs(predicted).max())
    with monkeypatch.context() as patch:
        patch.setattr(predictor, "choose_device", lambda setting: on_device)
        code, _, err = orca("export", folder, tmp_path / "model")
        assert code == 0, err
    assert np.array_equal(orca_cli.load(tmp_path / "model", device="cpu").outputs(x), here.outputs(x))
