"""Baselines of whole runs through the command line."""

import json
import os
import signal

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from orca_cli.baselines import choice
from orca_cli.benchmarks import digits
from orca_cli.runs.directory import keeps_weights
from tests.cli.conftest import results, run_folders
from tests.reliability.signal_points import SENT

SHORT = ["metric=none", "train.epochs=1", "train.warmup_epochs=0"]


@pytest.fixture
def cold(small, tmp_path):
    """Words of a short run with a cache of its own."""
    return [*small, *SHORT, "task.layout=image", "train.refit=false", f"paths.cache={tmp_path / 'cache'}"]


@pytest.fixture
def stopped_at(fork, tmp_path):
    """Run a command that gets a signal at a point of the program (see signal_points); returns it, ended."""

    def call(point, *words):
        case = fork(*words, hook=f"tests.reliability.signal_points:at:{point}", more={SENT: str(tmp_path / "sent")})
        case.wait()
        return case

    return call


def test_a_completed_run_gets_the_simple_models_beside_its_error_without_training_again(orca, run, cold, tmp_path):
    first = run(*cold, "baselines=none")
    assert (first.result["baselines"], first.result["comparison"]) == ({}, None)
    curve = (first.folder / "3_finetune" / "metrics.jsonl").read_bytes()
    done = run(*cold, "baselines=simple")
    result, out = done.result, " ".join(done.out.split())
    assert done.folder == first.folder
    # The test split was opened once more, which is counted; all else is as it was.
    assert (first.result["test_reads"], result["test_reads"]) == (1, 2)
    new = {"baselines", "comparison", "test_reads", "seconds"}
    assert {key for key in result if result[key] != first.result[key]} == new
    assert (first.folder / "3_finetune" / "metrics.jsonl").read_bytes() == curve
    assert orca("doctor", first.folder)[0] == 0
    for which in ("simple", "none"):  # they are no part of the experiment
        assert "already completed, not run again" in run(*cold, f"baselines={which}").err

    task = digits.load(train_size=60, validation_size=40, test_size=50)
    test = task.open_test()
    x, new = (part.batch(np.arange(len(part))).x.numpy().reshape(len(part), -1) for part in (task.train, test))
    model = RandomForestClassifier(300, random_state=0).fit(x, task.train.targets())
    forest = result["baselines"]["forest"]
    assert forest["error"] == (model.predict(new) != test.targets()).mean()
    assert forest["trained_on"] == {"splits": ["train"], "n": 60, "of": 60}
    assert result["baselines"]["constant"]["error"] == result["trivial_error"]
    # A barely trained model loses, and that is said.
    assert result["comparison"]["is"] == "worse"
    assert result["comparison"]["text"] in out
    assert "use it, or try" in out
    assert f"forest {100 * forest['error']:.2f} %" in out

    cache = tmp_path / "cache" / "baselines"
    entries = set(cache.iterdir())
    # A run beside its own test computes the same, as does one of another metric, which starts with the same embedder:
    # nothing is fitted again. Another seed has another embedder.
    again = run(*cold, "metric=moments", "baselines=simple").result
    assert (again["baselines"], again["test_reads"]) == (result["baselines"], 1)
    assert set(cache.iterdir()) == entries
    other = run(*cold, "seed=1", "baselines=simple").result["baselines"]
    assert {name: other[name] == one for name, one in result["baselines"].items()} == {
        **dict.fromkeys(("constant", "linear", "forest"), True),
        **dict.fromkeys(("features", "probe"), False),
    }

    shown = json.loads(orca("report", "--json")[1])
    best = min(("linear", "forest", "features", "probe"), key=lambda name: result["baselines"][name]["error"])
    assert result["baselines"][best]["error"] in shown["columns"][0]["baselines"][best]
    assert shown["rows"][0]["settings"] == {}
    report = orca("report")[1]
    assert "best baseline" in report
    assert "not better than the best" in report


def test_a_baseline_that_fails_does_not_end_the_run(run, cold, monkeypatch):
    with monkeypatch.context() as patch:
        for name in choice.NAMES:
            patch.setitem(choice.LIMITS_S, name, 0.003)
        done = run(*cold, "baselines=simple")
    assert "baselines: linear was not computed: it needs more than 0.009 s" in done.err
    assert "linear: not computed" in done.out
    assert done.result["baselines"]["forest"]["reason"] == "it needs more than 0.009 s"
    assert done.result["comparison"]["baseline"] == "constant"
    # Typed again, they are tried again.
    again = run(*cold, "baselines=simple")
    assert "computing the baselines that it lacks, linear, forest, features, probe" in again.err
    assert again.result["baselines"]["forest"]["error"] is not None
    assert again.result["weights_sha256"] == done.result["weights_sha256"]


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_among_its_baselines_is_completed_and_typed_again_has_them(
    orca, run, cold, stopped_at, environment, number
):
    case = stopped_at(f"baseline,2,{number.name[3:]}", "run", *cold, "baselines=simple")
    ((folder,), (result,)) = run_folders(environment), results(environment)
    assert json.loads((folder / "status.json").read_text())["state"] == "completed"
    if number == signal.SIGINT:
        assert case.poll() == 130
        assert "stopped by SIGINT before forest, features, probe; the same command computes what is missing" in case.err
        assert f"0-1 error {100 * result['error']['value']:.2f} %" in case.out
        assert list(result["baselines"]) == ["constant", "linear"]
    else:
        assert result["baselines"] == {}
    assert orca("doctor", folder)[0] == 0
    done = run(*cold, "baselines=simple")
    assert list(done.result["baselines"]) == ["constant", "linear", "forest", "features", "probe"]
    assert all(one["error"] is not None for one in done.result["baselines"].values())
    assert (done.result["weights_sha256"], done.result["error"]) == (result["weights_sha256"], result["error"])


def test_a_sweep_that_is_stopped_among_baselines_ends_as_stopped(run, fork, cold, environment):
    """The job that was at it is completed, the next one is not started."""
    hook = "tests.reliability.signal_points:at:baseline,2,^INT"
    words = ["run", "-m", *cold, "seed=0,1", "baselines=simple"]
    case = fork(*words, hook=hook, more={SENT: os.devnull})
    assert case.wait() == 130
    assert len(results(environment)) == 1


@pytest.mark.parametrize("way", ["typed again", "gc"])
def test_a_run_that_is_killed_before_its_weights_are_dropped_loses_them_later(
    orca, run, cold, stopped_at, environment, way
):
    stopped_at("result,1,KILL", "run", *cold, "keep_weights=false")
    (folder,) = run_folders(environment)
    assert (folder / "result.json").exists()
    assert keeps_weights(folder)
    if way == "gc":
        assert orca("runs", "gc", "--yes")[0] == 0
    else:
        assert "already completed" in run(*cold, "keep_weights=false").err
    assert not keeps_weights(folder)
    assert not list(folder.rglob("*.safetensors"))


def test_tables_have_boosting(orca, run, tiny, tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'yes' if a * b > 0 else 'no'}" for a, b in rng.normal(size=(400, 2))]
    (tmp_path / "own.csv").write_text("\n".join(["a,b,c", *rows]))
    words = ["task=table", "task.train=own.csv", "task.target=c", *SHORT, "baselines=simple"]
    result = run(*words, f"body.checkpoint={tiny['bert']}", "source.size=160").result
    assert list(result["baselines"]) == ["constant", "linear", "forest", "boosting", "features", "probe"]
    # The sign of a product is nothing to a linear model, and easy for trees.
    assert result["baselines"]["boosting"]["error"] < 0.1 < 0.3 < result["baselines"]["linear"]["error"]
    assert result["comparison"]["baseline"] in ("forest", "boosting")
    shown = json.loads(orca("report", "--json")[1])
    assert set(shown["columns"][0]["baselines"]) <= {"forest", "boosting"}
