"""Runs that an earlier program recorded stay readable: `report`, `predict` and `score` give what that program gave.

`tests/recorded` was written at commit f375517 by `orca run task=arrays` for each kind (what was typed is in `overrides.txt`,
settings that are retired among it), `orca predict RUN new.npz` and `orca export`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

RECORDED = Path(__file__).parent.parent / "recorded"
KINDS = {
    json.loads((run / "1_build" / "summary.json").read_text())["kind"]: run.name
    for run in (RECORDED / "arrays").iterdir()
}


@pytest.fixture
def recorded(environment):
    """A copy of the runs, where this test's runs go; returns kind -> folder."""
    shutil.copytree(RECORDED / "arrays", environment / "arrays")
    return {kind: environment / "arrays" / name for kind, name in KINDS.items()}


def test_report_shows_their_errors(orca, recorded):
    code, out, err = orca("report", "--json")
    assert code == 0, err
    shown = json.dumps(json.loads(out))
    for run in recorded.values():
        assert run.name in shown
        assert str(json.loads((run / "result.json").read_text())["error"]["value"]) in shown


@pytest.mark.parametrize("kind", KINDS)
def test_their_predictions_and_errors_are_what_they_were(orca, recorded, kind, tmp_path):
    code, _, err = orca("predict", recorded[kind], RECORDED / "new.npz", "--out", tmp_path / "new.npz")
    assert code == 0, err
    before, now = (np.load(path) for path in (RECORDED / "predicted" / f"{kind}.npz", tmp_path / "new.npz"))
    assert set(now) == set(before)
    for name in before:
        if before[name].dtype.kind == "f":
            np.testing.assert_allclose(now[name], before[name], rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(now[name], before[name])
    code, out, err = orca("score", recorded[kind], "--json")
    assert code == 0, err
    assert json.loads(out)["runs"][0]["equal"]


def test_an_export_predicts_as_it_did(orca, tmp_path):
    shutil.copytree(RECORDED / "exported", tmp_path / "exported")
    code, _, err = orca("predict", tmp_path / "exported", RECORDED / "new.npz", "--out", tmp_path / "new.npz")
    assert code == 0, err
    before, now = (np.load(path) for path in (RECORDED / "predicted" / "classes.npz", tmp_path / "new.npz"))
    np.testing.assert_allclose(now["probability"], before["probability"], rtol=1e-4, atol=1e-5)
