"""A whole study of a user: counted, run, rerun, narrowed, reported and compared."""

import json

import numpy as np
import pytest

from orca_cli.runs import studies
from tests.cli.conftest import results


@pytest.fixture
def words(small, tmp_path):
    """The command line of a study of two arms and two data sets, of which one lacks its file."""
    common = ", ".join(
        f'"{text}"' for text in (*small, "finetune=full") if not text.startswith("task")
    )
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(
        f"""\
# Two sets, two arms
common: [{common}]
axes:
  set:
    steps: [task=digits, task.train_size=60, task.validation_size=40, task.test_size=50]
    waves: [task=arrays, task.kind=classes, task.train=study/waves.npz]
  metric:
    none: metric=none
    short: [metric=moments, align.epochs=2]
  seed: [0, 1]
files:
  task.train: make it by hand
"""
    )
    return ["-m", "study=mine", "--config-dir", str(tmp_path / "conf"), f"paths.data={tmp_path}"]


@pytest.mark.slow
def test_a_study_from_the_dry_run_to_the_comparison(orca, words, environment, tmp_path):
    def ended(*words):
        code, out, err = orca(*words)
        assert code == 0, err
        return json.loads(out) if "--json" in words else out

    plan = ended("run", *words, "seed=0", "metric=short", "--dry-run", "--json")
    assert [job["metric"] for job in plan["jobs"]] == ["moments"]
    assert plan["would"] == {"run": 1, "resume": 0, "skip": 0, "wait": 0}
    (left_out,) = plan["left_out"]
    assert left_out["runs"] == 1
    assert "has no 'study/waves.npz'; " in left_out["reason"]
    assert "sweep of 1 run: 1 completed" in ended("run", *words, "seed=0", "metric=short")
    y = np.arange(80) % 2
    (tmp_path / "study").mkdir()
    x = np.random.default_rng(0).normal(size=(80, 2, 16)) + y[:, None, None]
    np.savez(tmp_path / "study" / "waves.npz", x=x, y=y)
    assert "sweep of 4 runs: 3 completed, 1 already completed" in ended("run", *words, "seed=0")
    assert "4 runs: would skip 4" in ended("run", *words, "seed=0", "--dry-run")

    assert all(
        "study" not in result and "set" not in result for result in results(environment)
    )  # kept next to the runs
    members = studies.read(environment, "mine")
    assert {member.identity for member in members} == {
        result["identity"] for result in results(environment)
    }

    record = ended("report", "--study", "mine", "--json")
    assert sorted(column["task"] for column in record["columns"]) == ["steps", "waves"]
    assert sorted(row["metric"] for row in record["rows"]) == ["none", "short"]
    (arm,) = ended("report", "--study", "mine", "--against", "metric=none", "--json")["arms"]
    assert (arm["arm"], arm["sets"], arm["pairs"]) == ("short", 2, 2)
