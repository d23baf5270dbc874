"""Rows F3, F6 and F8: data without variation, batches that do not fit into memory, splits that overlap or are too small."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from orca_cli import storage
from orca_cli.runs.check import check
from tests.cli.conftest import results, run_folders
from tests.reliability.conftest import error_line
from tests.tiers import count

pytestmark = pytest.mark.slow

N = 60
RNG = np.random.default_rng(0)
SPLITS = "splits that overlap or are too small / told"
X = RNG.normal(size=(N, 3, 9)).astype(np.float32)
Y = np.arange(N) % 3
SPLIT = np.repeat(["train", "validation", "test"], [30, 15, 15])
BRIEF = ["align.epochs=2", "align.source_points=100", "align.max_samples=16", "source.size=60"]
BRIEF += ["train.epochs=1", "train.warmup_epochs=0", "train.batch_size=8"]


def with_channel(channel: int, value: float) -> np.ndarray:
    return np.where(np.arange(3)[:, None] == channel, np.float32(value), X)


@pytest.fixture
def array_words(tmp_path, tiny):
    """Return a function that writes arrays to a file and returns the command line of a run on it."""

    def make(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        words = ["run", "task=arrays", "task.kind=classes", f"task.train={tmp_path / 'own.npz'}", *BRIEF]
        return [*words, f"body.checkpoint={tiny['bert']}", "source=stdlib_docs"]

    return make


def finite(value) -> bool:
    """Return whether all numbers of a record are finite, and none is missing where an error stands."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


ALL_CONSTANT = "channel 0, 1, 2 is constant"
# name -> (inputs, settings, what the warning names); targets are classes, or for maps as they stand
FLAT = {
    "zero_variance_channel": (with_channel(1, 4.5), [], "channel 1 is constant"),
    "constant_features": (np.full_like(X, 2.0), [], ALL_CONSTANT),
    "signals_of_one_value": (np.repeat(X[:, :, :1], 9, axis=2), [], ""),
    "duplicate_rows": (X[np.arange(N) % 6], [], "in the training set as well"),
    "constant_maps": (with_channel(2, 0.0), ["task.kind=dense"], "channel 2 is constant"),
    "constant_metric_mmd": (np.full_like(X, 2.0), ["metric=mmd"], ALL_CONSTANT),
}


@pytest.mark.parametrize("name", list(FLAT)[: count(pr=2, nightly=len(FLAT))])
def test_data_without_variation(array_words, orca, environment, counted, name):
    """F3: the run ends with finite numbers, and what carries no information is told by name, quiet or not."""
    x, settings, warning = FLAT[name]
    y = np.full((N, 9), 3.0) if name == "constant_maps" else Y
    assert warning == "" or not x.std(axis=(0, -1)).all() or len(np.unique(x, axis=0)) < N  # the fault is in the data
    code, out, err = orca(*array_words(x=x, y=y), *settings, "--quiet")
    assert code == 0, err
    (result,) = results(environment)
    is_warned = warning in " ".join((out + err).split())
    passed = finite(result) and result["error"]["value"] is not None and is_warned
    counted("data without variation / finite, told by channel", passed, result, out, err)


@pytest.mark.parametrize("shared", [5, 0][: count(pr=1, nightly=2)])
def test_test_samples_that_are_trained_on_are_reported(array_words, orca, environment, counted, shared):
    """F8: a warning, at the end since the test split is opened then, and the number in the result."""
    x = np.concatenate([X[:45], X[:shared], X[45 + shared :]])
    code, _, err = orca(*array_words(x=x, y=Y, split=SPLIT), "metric=none")
    assert code == 0, err
    (result,) = results(environment)
    is_counted = result["splits"]["test"]["also_in_train"] == {"shared": shared, "of": 15, "complete": True}
    lines = [line for line in err.splitlines() if "training set as well" in line]
    passed = is_counted and len(lines) == bool(shared) and all("5 of 15" in line for line in lines)
    counted(SPLITS, passed, result["splits"], err)


# what is typed -> what it becomes
BATCHES = {
    "train.batch_size=43": "train.batch_size=42",
    "train.accumulation=50": "train.batch_size=8, train.accumulation=5",
}


@pytest.mark.parametrize("setting", list(BATCHES)[: count(pr=1, nightly=2)])
def test_a_batch_larger_than_the_training_set_becomes_smaller(array_words, orca, environment, counted, setting):
    """F8: the run is that of the smaller batch."""
    words = [*array_words(x=X, y=Y), "metric=none", "train.refit=false"]
    code, _, err = orca(*words, setting)
    assert code == 0, err
    assert orca(*words, *BATCHES[setting].split(", "))[0] == 0
    first, second = results(environment)
    counted(SPLITS, first["weights_sha256"] == second["weights_sha256"], setting)


OFTEN = ["train.epochs=2", "train.warmup_epochs=0", "train.checkpoint_s=0"]
HOOK = "tests.reliability.phases"
# Kernel matrices of 36 MB, which malloc gives back to the system; smaller ones it keeps, and they fit again.
LARGE = ["metric=mmd", "source.size=400", "align.source_points=3000"]

# name -> (settings, hook, where and what to lower, settings that need less)
NO_ROOM = {
    "gpu_in_training": (
        ["metric=none", "train.batch_size=16"],
        f"{HOOK}:exhaust:step:2",
        "train.batch_size: not enough memory; lower it and raise train.accumulation",
        ["train.batch_size=8", "train.accumulation=2"],
    ),
    "gpu_in_validation": (
        ["metric=none", "train.batch_size=16", "train.eval_batch_size=4", "train.select=best"],
        f"{HOOK}:exhaust:batch:4",  # after the three of the first epoch
        "train.eval_batch_size: not enough memory; use less than 4",
        ["train.eval_batch_size=2"],
    ),
    "alignment": (
        [*LARGE, "train.batch_size=4", "align.epochs=3", "align.max_samples=3000"],
        f"{HOOK}:starve:align:2:20",
        "align: not enough memory; lower align.max_samples or align.source_points (3000 now)",
        ["align.max_samples=64"],
    ),
}


@pytest.mark.parametrize("name", list(NO_ROOM)[: count(pr=1, nightly=len(NO_ROOM))])
def test_a_batch_that_does_not_fit(array_words, fork, environment, tiny, tmp_path, counted, name):
    """F6: code 31 that names what to lower, what was saved is whole; with room it goes on exactly, lowered it completes."""
    settings, hook, message, lowered = NO_ROOM[name]
    words = array_words(x=X[:48], y=Y[:48])
    if name == "alignment":  # memory that is really short: 512 tokens, whose attention takes 8 MiB a sample and layer
        words = array_words(x=RNG.normal(size=(48, 4, 512)).astype(np.float32), y=Y[:48])
        words += [f"body.checkpoint={tiny['hungry']}", "embedder.max_tokens=512"]
    words += [*OFTEN, *settings]
    elsewhere = [f"paths.runs={tmp_path / 'whole'}", f"paths.cache={tmp_path / 'cold'}"]  # no alignment is shared
    assert fork(*words, *elsewhere).wait(180) == 0  # the premise: it fits without the fault
    (expected,) = results(tmp_path / "whole")
    assert message in error_line(fork(*words, hook=hook), 31)
    (run,) = run_folders(environment)
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    stage = "2_align" if "align" in name else "3_finetune"
    kept = sorted((run / stage / "checkpoints").glob("step-*"))
    assert kept
    assert not check(run).damaged
    before = storage.sha256_file(kept[-1] / "model.safetensors")
    # Another batch makes another experiment: it begins in a folder of its own, and the first is left as it is.
    assert fork(*words, *lowered).wait(180) == 0
    assert len(run_folders(environment)) == 2
    assert storage.sha256_file(kept[-1] / "model.safetensors") == before
    again = fork(*words)
    assert again.wait(180) == 0, again.err
    assert "resumed at step" in again.err
    (result,) = [record for record in results(environment) if record["run_id"] == run.name]
    passed = result["weights_sha256"] == expected["weights_sha256"]
    counted("batches that do not fit / code 31, then exact", passed)
