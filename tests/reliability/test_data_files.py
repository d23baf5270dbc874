"""Bad data. Files of every format, damaged, through the readers of the tasks (row F7): one line that names the file.

Data without variation, batches that do not fit into memory, and test samples that are trained on (rows F3, F6 and F8).
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from orca_cli import storage
from orca_cli.exceptions import OrcaError
from orca_cli.runs.integrity import check
from tests import benchmark_files
from tests.cli.conftest import results, run_folders
from tests.reliability import damages
from tests.reliability.conftest import error_line
from tests.reliability.damages import Damage
from tests.tasks.test_fixtures import SMALL
from tests.tiers import count
from tests.untrusted.conftest import Quiet

pytestmark = pytest.mark.slow

FIGURE = "bad data files with clear errors"
PAGE = b"<!DOCTYPE html>\n<html><body>404: not found</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"

# A file of each format: task, file, whether it is text, whether it is read when the task is (else: with its sample).
FILES = {
    "pickle": ("ecg", "challenge2017.pkl", False, True),
    "npy of dicts": ("satellite", "satellite_train.npy", False, True),
    "npy of numbers": ("ninapro", "ninapro_train.npy", False, True),
    "npy of labels": ("ninapro", "label_train.npy", False, True),
    "npz": ("deepsea", "deepsea_filtered.npz", False, True),
    "mat 5": ("jsb", "JSB_Chorales.mat", False, True),
    "LMDB": ("homology", "remote_homology/remote_homology_train.lmdb/data.mdb", False, True),
    "pickle in gzip": ("spherical", "s2_cifar100.gz", False, True),
    "pickles in tar.gz": ("cifar100", "cifar-100-python.tar.gz", False, True),
    "pickle of a sample": ("psicov", "protein/deepcov/features/de0A.pkl", False, False),
    "npy of a sample": ("psicov", "protein/deepcov/distance/de0A-cb.npy", False, False),
    "npy of a number": ("cosmic", "npy_train/f435w/10000/00/sky.npy", False, False),
    "wav": ("fsd50k", "chunks/tr/1000_0.wav", False, False),
    "csv": ("fsd50k", "chunks/tr.csv", True, True),
    "json": ("fsd50k", "chunks/lbl_map.json", True, True),
    "tsv": ("listops", "basic_train.tsv", True, True),
}
TASKS = sorted({task for task, *_ in FILES.values()})
DAMAGE: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": damages.replaced(b""),
    "a folder": damages.folder,
    "a web page": damages.replaced(PAGE),
    "a pointer of Git LFS": damages.replaced(POINTER),
    "packed by gzip": damages.changed(gzip.compress),
    "cut in half": damages.cut(0.5),
    "random bytes": damages.replaced(
        bytes(np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8))
    ),
    "a link to itself": damages.loop,
}
# Half a table is a table, and a visit without the sky's level is one of its kinds.
_RIGHT = {(form, "cut in half") for form in ("csv", "tsv", "npy of a number")}
_RIGHT |= {("npy of a number", damage) for damage in ("missing", "a folder", "a link to itself")}
CASES = [(form, damage) for form in FILES for damage in DAMAGE if (form, damage) not in _RIGHT]
_TYPED = count(pr=40, nightly=10)  # one case in so many is typed
_NAMED = {"a web page": "web page", "a pointer of Git LFS": "Git LFS"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for task in TASKS:
        benchmark_files.make(task, folder)
    return folder


def use(task: str, data_folder: Path, cache_folder: Path) -> None:
    """Read a task and, as a run does, some of its samples."""
    load = importlib.import_module(f"orca_cli.benchmarks.{task}").load
    arguments = {"data_folder": data_folder, "cache_folder": cache_folder, "reporter": Quiet()}
    taken = {
        name: value
        for name, value in arguments.items()
        if name in inspect.signature(load).parameters
    }
    made = load(**taken, **SMALL.get(task, {}))
    for samples in (made.train, made.validation):
        samples.targets()
        samples.batch(np.arange(len(samples)))


@pytest.mark.parametrize("task", TASKS)
def test_the_files_are_right_before_they_are_damaged(task, whole, tmp_path):
    use(task, whole, tmp_path / "cache")


@pytest.mark.parametrize(("form", "damage"), CASES, ids=lambda name: name.replace(" ", "-"))
def test_damaged_files_are_reported(form, damage, whole, tmp_path, fork, tiny, counted):
    """F7."""
    task, name, is_text, early = FILES[form]
    folder = tmp_path / "data"
    path = folder / task / name
    shutil.copytree(whole / task, folder / task, copy_function=os.link)
    DAMAGE[damage](path)
    if early and CASES.index((form, damage)) % _TYPED == 0:
        swin = task in ("darcy", "psicov", "spherical", "cifar100", "ninapro", "cosmic", "fsd50k")
        words = [f"task={task}", "metric=none", f"body={'swin_tiny' if swin else 'minilm'}"]
        words += [f"task.{key}={value}" for key, value in SMALL.get(task, {}).items()]
        words += [f"paths.data={folder}", f"paths.cache={tmp_path / 'cache'}"]
        case = fork("run", *words, f"body.checkpoint={tiny['swin' if swin else 'bert']}")
        code = case.wait(120)
        message = error_line(case, code)
    else:
        with pytest.raises(OrcaError) as caught:
            use(task, folder, tmp_path / "cache")
        code, message = caught.value.code, str(caught.value)
    assert code in (11, 12, 13), message
    assert "\n" not in message
    # The file, or the folder in which one is missed.
    assert any(part in message for part in (path.name, path.parent.name, path.stem)), message
    if damage in _NAMED and not is_text:
        assert _NAMED[damage] in message
    counted(FIGURE)


N = 60
RNG = np.random.default_rng(0)
SPLITS = "splits that overlap or are too small / told"
X = RNG.normal(size=(N, 3, 9)).astype(np.float32)
Y = np.arange(N) % 3
SPLIT = np.repeat(["train", "validation", "test"], [30, 15, 15])
BRIEF = ["align.epochs=2", "align.source_points=100", "align.max_samples=16", "source.size=60"]
BRIEF += ["train.epochs=1", "train.warmup_epochs=0", "train.batch_size=8"]


@pytest.fixture
def array_words(tmp_path, tiny):
    """Return a function that writes arrays to a file and returns the command line of a run on it."""

    def make(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        words = [
            "run", "task=arrays", "task.kind=classes", f"task.train={tmp_path / 'own.npz'}", *BRIEF,
        ]  # fmt: skip
        return [*words, f"body.checkpoint={tiny['bert']}", "source=stdlib_docs"]

    return make


def finite(value) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


# name -> (inputs, what the warning names)
FLAT = {
    "zero_variance_channel": (X * [[1], [0], [1]] + 4, "constant in the training split: 1"),
    "constant_features": (np.full_like(X, 2.0), "constant in the training split: 0, 1, 2"),
}


@pytest.mark.parametrize("name", FLAT)
def test_data_without_variation(array_words, orca, environment, counted, name):
    """F3: the run ends with finite numbers, and it names what carries no information, also with -q."""
    x, warning = FLAT[name]
    code, out, err = orca(*array_words(x=x, y=Y), "--quiet")
    assert code == 0, err
    (result,) = results(environment)
    is_warned = warning in " ".join((out + err).split())
    passed = finite(result) and result["error"]["value"] is not None and is_warned
    counted("data without variation / finite, told by channel", passed, result, out, err)


@pytest.mark.parametrize("shared", [5, 0][: count(pr=1, nightly=2)])
def test_test_samples_that_are_trained_on_are_reported(
    array_words, orca, environment, counted, shared
):
    """F8: a warning, at the end since the test split is opened then, and the number in the result."""
    x = np.concatenate([X[:45], X[:shared], X[45 + shared :]])
    code, _, err = orca(*array_words(x=x, y=Y, split=SPLIT), "metric=none")
    assert code == 0, err
    (result,) = results(environment)
    is_counted = result["splits"]["test"]["also_in_train"] == {
        "shared": shared,
        "of": 15,
        "complete": True,
    }
    passed = is_counted and err.count("also occur in the training set") == err.count(
        "5 of 15"
    ) == bool(shared)
    counted(SPLITS, passed, result["splits"], err)


OFTEN = ["train.epochs=2", "train.checkpoint_s=0"]
# Kernel matrices of 36 MB, which malloc gives back to the system; smaller ones it keeps, and they fit again.
LARGE = ["metric=mmd", "source.size=400", "align.source_points=3000"]

# name -> (settings, hook, where and what to lower, settings that need less)
NO_ROOM = {
    "gpu_in_training": (
        ["metric=none", "train.batch_size=16"],
        "tests.reliability.phases:exhaust:step:2",
        "train.batch_size: not enough memory; lower train.batch_size and raise train.accumulation",
        ["train.batch_size=8", "train.accumulation=2"],
    ),
    "alignment": (
        [*LARGE, "train.batch_size=4", "align.epochs=3", "align.max_samples=3000"],
        "tests.reliability.phases:starve:align:2:20",
        "align: not enough memory; lower align.max_samples or align.source_points (3000 now)",
        ["align.max_samples=64"],
    ),
}


@pytest.mark.parametrize("name", list(NO_ROOM)[: count(pr=1, nightly=len(NO_ROOM))])
def test_a_batch_that_does_not_fit(array_words, fork, environment, tiny, tmp_path, counted, name):
    """F6: code 31 that names what to lower, what was saved is whole; with room it goes on exactly, lowered it completes."""
    settings, hook, message, lowered = NO_ROOM[name]
    words = array_words(x=X[:48], y=Y[:48])
    if (
        name == "alignment"
    ):  # memory that is really short: 512 tokens, whose attention takes 8 MiB a sample and layer
        words = array_words(x=RNG.normal(size=(48, 4, 512)).astype(np.float32), y=Y[:48])
        words += [f"body.checkpoint={tiny['hungry']}", "embedder.max_tokens=512"]
    words += [*OFTEN, *settings]
    elsewhere = [
        f"paths.runs={tmp_path / 'whole'}",
        f"paths.cache={tmp_path / 'cold'}",
    ]  # no alignment is shared
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
