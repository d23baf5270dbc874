"""A study of one's own as a whole: counted, run, repeated, narrowed, reported and compared."""

import json

import numpy as np
import pytest

from orca_cli.runs import studies
from tests.cli.conftest import results


@pytest.fixture
def words(small, tmp_path):
    """The command line of a study of two sets, one of which lacks its file, and two arms."""
    common = ", ".join(f'"{text}"' for text in small if not text.startswith("task"))
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


def test_a_study_from_the_dry_run_to_the_comparison(orca, words, environment, tmp_path):
    code, out, err = orca("run", *words, "seed=0", "--dry-run", "--json")
    assert code == 0, err
    assert [job["metric"] for job in json.loads(out)["jobs"]] == ["none", "moments"]
    assert "2 runs left out: no study/waves.npz" in err
    assert "make it by hand" in err

    code, out, err = orca("run", *words, "seed=0")
    assert code == 0, err
    assert "sweep of 2 runs: 2 completed" in out
    y = np.arange(80) % 2
    (tmp_path / "study").mkdir()
    np.savez(
        tmp_path / "study" / "waves.npz", x=np.random.default_rng(0).normal(size=(80, 2, 16)) + y[:, None, None], y=y
    )
    code, out, err = orca("run", *words)
    assert code == 0, err
    assert "sweep of 8 runs: 6 completed, 2 already completed" in out
    code, out, _ = orca("run", *words, "--dry-run")
    assert "8 runs: 8 skip (completed)" in out

    assert len(results(environment)) == 8
    assert all("study" not in result and "set" not in result for result in results(environment))  # kept beside the runs
    members = studies.read(environment, "mine")
    assert {member.identity for member in members} == {result["identity"] for result in results(environment)}

    code, out, err = orca("report", "--study", "mine", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert sorted(column["task"] for column in record["columns"]) == ["steps", "waves"]
    assert sorted(row["metric"] for row in record["rows"]) == ["none", "short"]
    code, out, err = orca("report", "--study", "mine", "--against", "metric=none", "--json")
    assert code == 0, err
    (arm,) = json.loads(out)["arms"]
    assert (arm["arm"], arm["sets"], arm["pairs"]) == ("short", 2, 4)


def test_what_a_study_does_not_have_is_refused_with_what_it_has(orca, words):
    for word, message in (
        ("set=step", "did you mean 'steps'"),
        ("metric=shrt", "no such metric"),
        ("set=waves", "no run is left"),
    ):
        code, _, err = orca("run", *words, word, "--dry-run")
        assert code == 10, err
        assert message in err
    code, _, err = orca("run", "study=alignment")
    assert code == 10
    assert "add -m" in err
