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
    plan = json.loads(out)
    assert [job["metric"] for job in plan["jobs"]] == ["none", "moments"]
    assert plan["would"] == {"run": 2, "resume": 0, "skip": 0, "wait": 0}
    (left_out,) = plan["left_out"]
    assert left_out["runs"] == 2
    assert left_out["reason"].startswith("no study/waves.npz")
    assert left_out["reason"].endswith("make it by hand")
    assert plan["expected"] == {"seconds": None, "runs": 0, "from_runs": 0, "unknown": 2}
    code, out, _ = orca("run", *words, "set=waves", "--dry-run")  # nothing to run is an answer too
    assert code == 0
    assert "study mine: 0 runs, 0 done, 0 left" in out
    assert "4 runs left out: no study/waves.npz" in out

    code, out, err = orca("run", *words, "seed=0")
    assert code == 0, err
    assert "sweep of 2 runs: 2 completed" in out
    y = np.arange(80) % 2
    (tmp_path / "study").mkdir()
    code, out, err = orca("run", *words, "set=steps", "--dry-run", "--json")
    plan = json.loads(out)
    assert plan["would"] == {"run": 2, "resume": 0, "skip": 2, "wait": 0}
    took = [sum(result["seconds"].values()) for result in results(environment)]
    assert plan["expected"]["seconds"] == pytest.approx(sum(took), rel=0.1, abs=0.1)
    assert (plan["expected"]["from_runs"], plan["expected"]["unknown"]) == (2, 0)
    np.savez(
        tmp_path / "study" / "waves.npz", x=np.random.default_rng(0).normal(size=(80, 2, 16)) + y[:, None, None], y=y
    )
    code, out, err = orca("run", *words)
    assert code == 0, err
    assert "sweep of 8 runs: 6 completed, 2 already completed" in out
    code, out, _ = orca("run", *words, "--dry-run")
    assert "study mine: 8 runs, 8 done, 0 left" in out
    assert "expected time" not in out
    code, out, _ = orca("run", *words, "--dry-run", "--force")
    assert "study mine: 8 runs, 0 done, 8 left" in out

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
        code, _, err = orca("run", *words, word)
        assert code == 10, err
        assert message in err
    code, _, err = orca("run", "study=alignment")
    assert code == 10
    assert "add -m" in err


def test_arms_of_a_study_share_their_alignment_and_are_reported_against_one_of_them(orca, small, environment, tmp_path):
    cache = tmp_path / "cache"
    words = [
        "-m",
        "study=ablate",
        *small,
        "seed=0",
        "arm=orca,naive,align_only,layernorm_aligned",
        f"paths.cache={cache}",
    ]
    code, out, err = orca("run", *words, "--dry-run", "--json")
    assert code == 0, err
    assert (json.loads(out)["runs"], json.loads(out)["would"]["run"]) == (4, 4)
    code, out, err = orca("run", *words)
    assert code == 0, err
    assert "sweep of 4 runs: 4 completed" in out
    keys = [json.loads(path.read_text())["trajectory"] for path in environment.glob("*/*/2_align/summary.json")]
    assert len(keys) == 3
    assert set(keys) == {path.name for path in (cache / "alignments").iterdir() if path.is_dir()}
    aligned = [result for result in results(environment) if result["metric"] == "otdd"]
    assert len({result["trajectory_s"] for result in aligned}) == 1  # the time of the run that took the steps
    assert aligned[0]["trajectory_s"] > 0
    code, out, _ = orca("run", *words, "seed=0,1", "--dry-run", "--json")
    plan = json.loads(out)
    assert (plan["runs"], plan["would"]["skip"], plan["expected"]["runs"], plan["expected"]["unknown"]) == (8, 4, 4, 0)

    code, out, err = orca("report", "--study", "ablate", "--against", "arm=naive", "--json")
    assert code == 0, err
    arms = {arm["arm"]: arm["pairs"] for arm in json.loads(out)["arms"]}
    assert arms == {"orca": 1, "align_only": 1, "layernorm_aligned": 1}
