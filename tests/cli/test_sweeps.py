"""Sweeps of whole runs on this machine: threads, killed drivers, several drivers of one sweep, other machines' runs."""

import json

import pytest

from tests.cli.conftest import run_folders


@pytest.mark.slow
def test_jobs_at_once_share_the_threads(start, environment, small):
    process = start(
        *["run", "-m", *small, "metric=none", "train.epochs=1", "seed=0,1", "--at-once", "2"],
        more={"OMP_NUM_THREADS": "2"},
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "2 completed" in out
    runs = run_folders(environment)
    assert len(runs) == 2
    assert [json.loads((run / "env.json").read_text())["threads"] for run in runs] == ["1", "1"]
    first, second = (json.loads((run / "status.json").read_text())["attempts"][0] for run in runs)
    assert first["pid"] != second["pid"]
    assert second["started"] < first["ended"]
