"""`orca tune` as a user runs it: whole searches of real runs on a tiny body."""

import json
import signal
import sys
import time

import pytest

from tests.cli.conftest import results

SPACE = "params: {train.lr: [1.0e-2, 2.0e-2, 3.0e-2]}\nfixed: {train.epochs: 5, train.outer_rate: 1.0}\n"
WEAK = "# @package _global_\n# Learns next to nothing.\ntrain: {lr: 1.0e-7, epochs: 1, warmup_epochs: 0, batch_size: 16}\n"


@pytest.fixture
def words(small, tmp_path):
    """The command line of a search; the user's folder has settings that any trial beats."""
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    for name, text in {"space/rates.yaml": SPACE, "hparams/weak.yaml": WEAK}.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True)
        (tmp_path / "own" / name).write_text(text)
    kept = [
        text
        for text in small
        if not text.startswith(("train.epochs", "train.lr", "train.warmup", "train.batch"))
    ]
    return [*kept, "--config-dir", str(tmp_path / "own")]


SEARCH = ("hparams=weak", "space=rates", "trials=2")


def hide(module):
    """Make every import of a module fail, in a fork."""
    sys.modules[module] = None


def trial_runs(environment):
    return sorted(environment.glob(".searches/[!.]*/runs/digits/2*"))


@pytest.mark.slow
def test_a_killed_search_does_no_trial_twice(fork, environment, words):
    """The final run of the search trains like its best trial, and opens the test split, which no trial does."""
    search_words = ("tune", *words, *SEARCH, "baselines=none", "--allow-module", "json")
    case = fork(*search_words)
    end = time.monotonic() + 300
    while len(trial_runs(environment)) < 2 and time.monotonic() < end:  # the second has begun
        time.sleep(0.02)
    case.send(signal.SIGKILL)
    assert case.wait(60) == -signal.SIGKILL
    first = (trial_runs(environment)[0] / "result.json").read_bytes()
    assert not results(environment)  # no trial is among the runs
    again = fork(*search_words, "--json")
    assert again.wait(300) == 0, again.err
    assert "trial 0: " not in again.err
    record = json.loads(again.out)
    search = record["search"]
    assert [trial["state"] for trial in search["trials"]] == ["completed"] * 2
    assert (
        search["best"]["error"]
        == min(trial["error"] for trial in search["trials"])
        < search["defaults"]
    )
    runs = trial_runs(environment)
    assert len(runs) == 2
    assert (runs[0] / "result.json").read_bytes() == first
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        assert (result["state"], result["test_reads"], result["error"]["value"]) == (
            "completed",
            0,
            None,
        )
        assert set(result["splits"]) == {"train", "val"}
        names = {path.name for path in (run / "3_finetune").iterdir()}
        assert names == {
            "metrics.jsonl"
        }  # neither predictions, nor reads of the test split, nor weights

    (tested,) = results(environment)
    assert tested == record["run"]["result"]
    assert tested["validation_error"] == search["best"]["error"]
    assert tested["test_reads"] == 1
    assert tested["error"]["value"] is not None
    assert list((environment / "digits").glob("2*/3_finetune/best/*.safetensors"))  # it can predict

    # Its command is the one that the search prints.
    command = search["command"].split()
    best_rate = search["best"]["settings"]["train.lr"]
    assert {"hparams=weak", f"train.lr={best_rate:g}", "train.outer_rate=1"} <= set(command)
    assert command[-4:] == ["--config-dir", words[-1], "--allow-module", "json"]
    case = fork(*command[1:])
    assert case.wait(120) == 0, case.err
    assert "already completed" in case.err
    assert len(results(environment)) == 1


@pytest.mark.slow
def test_recipes_need_no_optuna_and_end_in_a_run(fork, environment, small):
    """The search tries the first recipes; if the command is rerun, it only shows its results."""
    words = [
        *(text for text in small if not text.startswith(("train.lr", "train.epochs"))),
        *("train.epochs=1", "train.warmup_epochs=0", "trials=3", "baselines=none"),
    ]
    without_optuna = "tests.cli.test_tune:hide:optuna"
    case = fork("tune", *words, hook=without_optuna)
    assert case.wait(500) == 0, case.err
    trials = trial_runs(environment)
    choices = [json.loads((path / "status.json").read_text()) for path in trials]
    # The trial with unchanged settings is aligned, like a run with these settings.
    assert [(choice["metric"], choice["finetune"]) for choice in choices] == [("otdd", "full")] * 3
    assert "embedder=overlap finetune=full lr=0.0002" in case.out
    assert "embedder=patch finetune=full lr=0.0002" in case.out
    assert "0-1 error on 40 validation samples: " in case.out
    assert "orca run task=digits" in case.out
    (run,) = results(environment)
    assert f"on {run['splits']['test']['n']} samples" in case.out  # the end of that run

    again = fork("tune", *words, hook=without_optuna)
    assert again.wait(60) == 0, again.err
    assert again.out == case.out
    assert (len(trial_runs(environment)), len(results(environment))) == (3, 1)


def test_what_cannot_be_searched_is_refused_in_one_line(refused, environment, words, tmp_path):
    (tmp_path / "bad.yaml").write_text("params: {train.lr: [1.0e-3], train.learning_rate: [1.0]}\n")
    refused(10, ["tune", *words, "space=bad.yaml"], "unknown setting 'train.learning_rate'")
    assert not environment.exists()


@pytest.mark.usefixtures("completed")
def test_a_run_without_test_says_so_and_is_another_run(run, orca, small):
    done = run(*small, "test=false", "metric=none")
    assert "none: the test split was not read, since test=false" in done.out
    assert (done.result["variant"]["test"], done.result["comparison"]) == ("false", None)
    assert orca("report")[0] == 0
    assert "already completed" in orca("run", *small, "test=true")[2]


@pytest.mark.slow
def test_two_at_a_time(fork, environment, words):
    more = ("metric=none", "seed=1", "baselines=none")
    case = fork("tune", *words, *SEARCH, *more, "--at-once", "2", "--json")
    assert case.wait(500) == 0, case.err
    search = json.loads(case.out)["search"]
    assert len({row["facts"]["run"] for row in search["trials"]}) == 2
    assert {"metric=none", "seed=1"} <= set(search["command"].split())


@pytest.mark.slow
def test_a_trial_that_falls_behind_is_stopped(fork, words, tmp_path):
    good = "# @package _global_\n# Learns.\ntrain: {lr: 1.0e-2, epochs: 5, warmup_epochs: 0, batch_size: 16}\n"
    (tmp_path / "own" / "hparams" / "good.yaml").write_text(good)
    (tmp_path / "own" / "space" / "slow.yaml").write_text("params: {train.lr: [1.0e-9, 2.0e-9]}\n")
    search_words = ("hparams=good", "space=slow", "trials=2", "metric=none", "baselines=none")
    case = fork("tune", *words, *search_words, "--json")
    assert case.wait(300) == 0, case.err
    search = json.loads(case.out)["search"]
    assert [trial["state"] for trial in search["trials"]] == ["completed", "stopped"]
    assert "trial 1: stopped after" in case.err
    assert "orca: error" not in case.err
    assert search["best"]["number"] == 0
    assert "train.lr" not in search["command"]
