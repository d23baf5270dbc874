"""`orca runs` and `orca score` on runs that the program has made."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.conftest import results, run_folders


@pytest.mark.usefixtures("completed")
def test_a_run_is_listed_shown_scored_and_removed(orca, environment):
    (run,), (result,) = run_folders(environment), results(environment)
    code, out, err = orca("runs", "list", "--where", "train.lr=0.001", "--json")
    assert (code, [one["run"] for one in json.loads(out)["runs"]]) == (0, [run.name]), err
    code, out, err = orca("runs", "show", run.name)
    assert code == 0, err
    assert "of 50 test samples right" in out
    assert "3_finetune/predictions.npz" in out
    code, out, err = orca("score", run.name[-8:], "--json")
    assert code == 0, err
    (record,) = json.loads(out)["runs"]
    assert record["error"]["computed"] == record["error"]["recorded"] == result["error"]["value"]
    assert orca("doctor", str(run))[0] == 0
    assert orca("runs", "rm", "--yes", run.name)[0] == 0
    assert not run.exists()


@pytest.mark.usefixtures("completed")
def test_score_loads_no_body_and_no_transformers(environment):
    (run,) = run_folders(environment)
    code = (
        "import sys; from orca_cli.cli import main\n"
        f"code = main(['score', {str(run)!r}])\n"
        "heavy = ('transformers', 'hydra', 'ot', 'orca_cli.models.bodies')\n"
        "print('CODE', code, [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "CODE 0 []", done.stdout + done.stderr


def test_errors_of_records_are_computed_again(orca, run, tiny, tmp_path):
    y = np.arange(30).repeat(3) % 3
    x = np.random.default_rng(0).normal(size=(90, 2, 12)) + y[:, None, None]
    np.savez(tmp_path / "own.npz", x=x, y=y, patient=np.arange(30).repeat(3))
    words = ["task=arrays", "task.kind=classes", "task.train=own.npz", "task.group=patient", "metric=none"]
    words += ["task.error={_target_:orca_cli.scoring.classification.MacroF1,by:records}", "train.batch_size=16"]
    done = run(*words, f"body.checkpoint={tiny['bert']}", "train.epochs=1")
    assert done.result["error"]["name"] == "1 - macro F1 of records"
    (record,) = json.loads(orca("score", str(done.folder), "--json")[1])["runs"]
    assert record["error"]["computed"] == done.result["error"]["value"]
    assert record["missing"] == []
