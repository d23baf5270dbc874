"""Baselines of whole runs through the command line."""

import json

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from orca_cli.baselines import compute
from orca_cli.tasks import digits

SHORT = ["metric=none", "train.epochs=1", "train.warmup_epochs=0"]


@pytest.fixture
def cold(small, tmp_path):
    """Words of a short run with a cache of its own."""
    return [*small, *SHORT, "train.refit=false", f"paths.cache={tmp_path / 'cache'}"]


def test_a_run_shows_simple_models_beside_its_error(orca, run, cold, tmp_path):
    done = run(*cold, "baselines=simple")
    result, out = done.result, " ".join(done.out.split())
    task = digits.load(train_size=60, validation_size=40, test_size=50)
    test = task.open_test()
    x, new = (part.batch(np.arange(len(part))).x.numpy().reshape(len(part), -1) for part in (task.train, test))
    model = RandomForestClassifier(300, random_state=0).fit(x, task.train.targets())
    forest = result["baselines"]["forest"]
    assert forest["error"] == (model.predict(new) != test.targets()).mean()
    assert forest["trained_on"] == {"splits": ["train"], "n": 60, "of": 60}
    assert result["baselines"]["constant"]["error"] == result["trivial_error"]
    assert result["test_reads"] == 1
    # A barely trained model loses, and that is said.
    assert result["comparison"]["is"] == "worse"
    assert result["comparison"]["text"] in out
    assert "use it, or try" in out
    assert f"forest {100 * forest['error']:.2f} %" in out

    cache = tmp_path / "cache" / "baselines"
    entries = set(cache.iterdir())
    # Another seed has the same data, so nothing is fitted again.
    assert run(*cold, "seed=1", "baselines=simple").result["baselines"] == result["baselines"]
    assert set(cache.iterdir()) == entries

    # They are no part of the experiment.
    assert "already completed" in run(*cold, "baselines=none").err
    shown = json.loads(orca("report", "--json")[1])
    best = min(("linear", "forest"), key=lambda name: result["baselines"][name]["error"])
    assert shown["columns"][0]["baselines"] == {best: [result["baselines"][best]["error"]] * 2}
    assert shown["rows"][0]["settings"] == {}
    report = orca("report")[1]
    assert "best baseline" in report
    assert "not better than the best" in report


def test_a_baseline_that_fails_does_not_end_the_run(run, cold, monkeypatch):
    for name in ("linear", "forest"):
        monkeypatch.setitem(compute.LIMITS_S, name, 0.01)
    done = run(*cold, "baselines=simple")
    assert "baselines: linear was not computed: it needs more than 0.01 s" in done.err
    assert "linear: not computed" in done.out
    assert done.result["baselines"]["forest"]["reason"] == "it needs more than 0.01 s"
    assert done.result["comparison"]["baseline"] == "constant"


def test_they_learn_from_what_the_run_learned_from_and_the_model_card_lists_them(orca, run, tiny, tmp_path):
    """Few validation samples choose nothing and are trained on (docs/selection.md)."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=rng.normal(size=(60, 2, 9)), y=np.arange(60) % 3)
    words = ["task=arrays", "task.kind=classes", f"task.train={tmp_path / 'own.npz'}", *SHORT, "baselines=simple"]
    done = run(*words, f"body.checkpoint={tiny['bert']}", "source.size=160")
    count = done.result["splits"]["train"]["n"] + done.result["splits"]["val"]["n"]
    linear = done.result["baselines"]["linear"]
    assert linear["trained_on"] == {"splits": ["train", "val"], "n": count, "of": count}
    assert orca("export", done.folder, tmp_path / "exported")[0] == 0
    card = (tmp_path / "exported" / "README.md").read_text()
    assert f"| baseline: linear | {100 * linear['error']:.2f} % |" in card
    assert "Beside simple models on the same split: " in card
