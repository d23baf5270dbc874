"""Baselines of whole runs through the command line."""

import os

import numpy as np
import pytest

from orca_cli.runs.directory import keeps_weights
from tests.cli.conftest import results, run_folders
from tests.reliability.signal_points import SENT

SHORT = ["metric=none", "train.epochs=1", "train.warmup_epochs=0"]


@pytest.fixture
def cold(small, tmp_path):
    """Words of a short run with a separate cache."""
    return [
        *small,
        *SHORT,
        "task.layout=image",
        "train.refit=false",
        f"paths.cache={tmp_path / 'cache'}",
    ]


def test_a_completed_run_gets_simple_models_untrained(orca, run, cold, tmp_path):
    """The run itself is not trained again."""
    first = run(*cold, "baselines=none")
    done = run(*cold, "baselines=simple")
    assert (
        "computing the run's missing baselines constant, linear, forest, features, probe"
        in done.err
    )
    result = done.result
    assert done.folder == first.folder
    # The test split is opened once more, which is counted.
    assert (first.result["test_reads"], result["test_reads"]) == (1, 2)
    new = {
        "baselines", "comparison", "judged", "candidates", "leader", "test_reads", "seconds",
    }  # fmt: skip
    assert {key for key in result if result[key] != first.result[key]} == new
    assert orca("doctor", first.folder)[0] == 0
    # Baselines are not part of the experiment.
    assert "already completed, so this run is skipped" in run(*cold, "baselines=none").err

    assert result["baselines"]["forest"]["trained_on"] == {"splits": ["train"], "n": 60, "of": 60}
    assert result["baselines"]["constant"]["error"] == result["trivial_error"]
    assert result["comparison"]["is"] == "worse"  # barely trained as it is
    assert result["comparison"]["text"] in " ".join(done.out.split())

    cache = tmp_path / "cache" / "baselines"
    entries = set(cache.iterdir())
    # A run of another metric starts with the same embedder and has the same baselines: nothing is
    # fitted again. Another seed has another embedder.
    again = run(*cold, "metric=moments", "baselines=simple").result
    assert (again["baselines"], again["test_reads"]) == (result["baselines"], 1)
    assert set(cache.iterdir()) == entries
    other = run(*cold, "seed=1", "baselines=simple").result["baselines"]
    changed = {name for name, record in result["baselines"].items() if other[name] != record}
    assert changed == {"features", "probe"}


@pytest.mark.slow
def test_tables_have_boosting_and_the_card_lists_baselines(orca, run, tiny, tmp_path):
    """Baselines are fitted to the samples that the run learned from.

    The sign of a product is unlearnable for a linear model, and easy for trees.
    """
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'yes' if a * b > 0 else 'no'}" for a, b in rng.normal(size=(200, 2))]
    (tmp_path / "own.csv").write_text("\n".join(["a,b,c", *rows]))
    words = [
        "task=table", "task.train=own.csv", "task.target=c", *SHORT, "baselines=simple",
        "train.refit=true",
    ]  # fmt: skip
    done = run(*words, f"body.checkpoint={tiny['bert']}", "source.size=160")
    baselines, splits = done.result["baselines"], done.result["splits"]
    assert list(baselines) == ["constant", "linear", "forest", "boosting", "features", "probe"]
    assert baselines["boosting"]["error"] < 0.1 < 0.3 < baselines["linear"]["error"]
    assert done.result["comparison"]["baseline"] in ("forest", "boosting")
    count = splits["train"]["n"] + splits["val"]["n"]
    assert baselines["linear"]["trained_on"] == {
        "splits": ["train", "val"],
        "n": count,
        "of": count,
    }
    assert orca("export", done.folder, tmp_path / "exported")[0] == 0
    card = (tmp_path / "exported" / "README.md").read_text()
    assert (
        f"| baseline linear: a linear model | {100 * baselines['linear']['error']:.2f} % |" in card
    )
    assert "Compared with baselines on the same split: " in card


@pytest.mark.slow
def test_a_sweep_that_is_stopped_among_baselines(run, fork, cold, environment):
    """The sweep ends as stopped; after its command is rerun it has the baselines."""
    hook = "tests.reliability.signal_points:at:baseline,2,^INT"
    case = fork(
        "run", "-m", *cold, "seed=0,1", "baselines=simple", hook=hook, more={SENT: os.devnull}
    )
    assert case.wait() == 130
    (result,) = results(environment)
    assert list(result["baselines"]) == ["constant", "linear"]
    done = run(*cold, "baselines=simple")
    assert list(done.result["baselines"]) == ["constant", "linear", "forest", "features", "probe"]
    assert all(one["error"] is not None for one in done.result["baselines"].values())
    assert (done.result["weights_sha256"], done.result["error"]) == (
        result["weights_sha256"],
        result["error"],
    )


def test_weights_are_dropped_by_the_next_command_after_a_kill(run, fork, cold, environment):
    words = [*cold, "keep_weights=false"]
    fork(
        "run",
        *words,
        hook="tests.reliability.signal_points:at:result,1,KILL",
        more={SENT: os.devnull},
    ).wait()
    (folder,) = run_folders(environment)
    assert (folder / "result.json").exists()
    assert keeps_weights(folder)
    assert "already completed" in run(*words).err
    assert not keeps_weights(folder)
    assert not list(folder.rglob("*.safetensors"))
