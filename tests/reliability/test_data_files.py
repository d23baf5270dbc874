"""Bad data files of every format through the readers of the tasks (rows F1, F2, F4, F5, F7, F8): one line that names the file.

A few cases go through the command line. The files are the synthetic ones of tests/benchmark_files.py, damaged.
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_cli.exceptions import OrcaError
from tests import benchmark_files
from tests.forked import Case
from tests.reliability import damages
from tests.reliability.conftest import error_line
from tests.reliability.damages import Damage
from tests.tasks.test_bad_arrays import BAD, X, Y
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
    "mat 7.3": ("darcy", "piececonst_r421_N1024_smooth1.mat", False, True),
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


DAMAGE: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": damages.replaced(b""),
    "a folder": damages.folder,
    "a web page": damages.replaced(PAGE),
    "a pointer of Git LFS": damages.replaced(POINTER),
    "packed by gzip": damages.changed(gzip.compress),
    "cut in half": damages.cut(0.5),
    "random bytes": damages.replaced(bytes(np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8))),
    "an image": damages.replaced(b"\x89PNG\r\n\x1a\n" + bytes(500)),
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
    for task in {task for task, *_ in FILES.values()}:
        benchmark_files.make(task, folder)
    return folder


def use(task: str, data_folder: Path, cache_folder: Path) -> None:
    """Read a task and, as a run does, some of its samples."""
    load = importlib.import_module(f"orca_cli.benchmarks.{task}").load
    arguments = {"data_folder": data_folder, "cache_folder": cache_folder, "reporter": Quiet()}
    taken = {name: value for name, value in arguments.items() if name in inspect.signature(load).parameters}
    made = load(**taken, **SMALL.get(task, {}))
    for samples in (made.train, made.validation):
        samples.targets()
        samples.batch(np.arange(len(samples)))


@pytest.mark.parametrize("task", sorted({task for task, *_ in FILES.values()}))
def test_the_files_are_right_before_they_are_damaged(task, whole, tmp_path):
    use(task, whole, tmp_path / "cache")


def typed_error(fork: Callable[..., Case], words: list[str]) -> tuple[int, str]:
    """Return exit code and message of a run that must fail."""
    case = fork("run", *words)
    code = case.wait(120)
    return code, error_line(case, code)


def assert_reported(code: int, text: str, path: Path) -> None:
    assert code in (11, 12, 13), text
    assert "\n" not in text.strip()
    assert "Traceback" not in text
    # The file, or the folder in which one is missed.
    assert any(part in text for part in (path.name, path.parent.name, path.stem)), text


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
        code, message = typed_error(fork, [*words, f"body.checkpoint={tiny['swin' if swin else 'bert']}"])
    else:
        with pytest.raises(OrcaError) as caught:
            use(task, folder, tmp_path / "cache")
        code, message = caught.value.code, str(caught.value)
    assert_reported(code, message, path)
    if damage in _NAMED and not is_text:
        assert _NAMED[damage] in message
    counted(FIGURE)


@pytest.mark.parametrize("name", list(BAD)[:: count(pr=30, nightly=1)])
def test_bad_values_are_reported(name, tmp_path, fork, tiny, counted):
    """F1, F2, F4, F5, F8, typed; tests/tasks/test_bad_arrays.py reads them all and checks what the messages say."""
    changes, settings, _ = BAD[name]
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in ({"x": X, "y": Y} | changes).items() if value is not None})
    parameters: dict[str, Any] = {"kind": "classes", "train": str(path)} | settings
    words = ["task=arrays", f"body.checkpoint={tiny['bert']}"]
    words += [f"task.{key}={value}" for key, value in parameters.items()]
    assert_reported(*typed_error(fork, words), path)
    counted(FIGURE)
