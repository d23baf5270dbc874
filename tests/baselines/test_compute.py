"""Baselines of a task's data: what they learn from, the cache, and whatever goes wrong, which never ends a run."""

import signal
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from orca_cli import seeding, signals
from orca_cli.baselines import compute, inputs, process
from orca_cli.baselines.inputs import Inputs
from orca_cli.baselines.process import FitError
from orca_cli.exceptions import InterruptionError
from orca_cli.interfaces import TaskData
from orca_cli.scoring.classification import Balanced, ZeroOne
from orca_cli.scoring.masks import MaskError
from orca_cli.scoring.regression import RelativeL2
from orca_cli.scoring.sequences import NatsPerFrame
from orca_cli.tasks.shared.samples import ArraySamples

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = (RNG.normal(size=(60, 2, 12)) + 0.4 * Y[:, None, None] * np.array([1, -1])[:, None]).astype(np.float32)
SETTINGS = {"model": "linear", "form": "classes", "k": 3, "groups": None, "causal": False, "balanced": False, "seed": 0}


def samples(rows, groups=None):
    return ArraySamples(X[rows], Y[rows], groups=groups)


@pytest.fixture
def task():
    train, validation = samples(slice(30)), samples(slice(30, 45))
    return TaskData("classes", (2, 12), 3, train, validation, lambda: samples(slice(45, 60)))


@pytest.fixture
def said():
    return []


@pytest.fixture
def run(tmp_path, said):
    def call(task, which="simple", error=None, *, with_validation=False, test=None):
        error, test = error or ZeroOne(), test or task.open_test()
        targets = torch.from_numpy(test.targets())
        digests = {"train": task.train.digest(), "val": task.validation.digest(), "test": test.digest()}
        constant = error.constant(torch.from_numpy(task.train.targets()), task.num_outputs)
        constant = constant.expand(len(targets), *constant.shape)
        tested = compute.Tested(test, targets, digests, error(constant, targets).value, constant)
        reporter = SimpleNamespace(say=said.append)
        return compute.compute(which, task, tested, error, tmp_path, reporter, with_validation=with_validation)

    return call


@pytest.fixture
def in_process(monkeypatch):
    """Fit in this process: the same function, without the start of another interpreter."""
    monkeypatch.setattr(process, "fit", lambda limit_s, **request: process.fitted(**request))


@pytest.fixture
def no_process(monkeypatch):
    def refuse(*_, **settings):
        raise AssertionError(f"{settings['model']} was fitted again")

    return lambda: monkeypatch.setattr(process, "fit", refuse)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("with_validation", [False, True])
def test_they_learn_from_training_and_where_asked_from_validation_too(task, run, said, with_validation):
    found = run(task, with_validation=with_validation)
    assert (list(found), said) == (["constant", "linear", "forest"], [])
    rows = slice(45 if with_validation else 30)
    scaler = StandardScaler().fit(X[rows].reshape(len(Y[rows]), -1))
    c = float(found["linear"].about[2:])
    model = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(X[rows].reshape(-1, 24)), Y[rows])
    wanted = (model.predict(scaler.transform(X[45:].reshape(-1, 24))) != Y[45:]).mean()
    assert found["linear"].error == wanted
    names, n = (["train", "val"], 45) if with_validation else (["train"], 30)
    assert found["linear"].record()["trained_on"] == {"splits": names, "n": n, "of": n}
    assert found["forest"].versions["scikit-learn"]
    assert found["constant"].error == pytest.approx(2 / 3)


@pytest.mark.usefixtures("in_process")
def test_what_was_computed_once_is_taken_from_the_cache(task, run, no_process):
    first = run(task)
    no_process()
    again = run(task)
    for name in ("linear", "forest"):
        assert again[name].record() == first[name].record()
        assert torch.equal(again[name].outputs, first[name].outputs)
    # Another error needs no other model.
    error = ZeroOne()
    error.name = "another"
    assert run(task, error=error)["forest"].error == first["forest"].error
    for other in (
        lambda: run(replace(task, train=samples(slice(1, 30)))),
        lambda: run(task, test=samples(slice(44, 60))),
        lambda: run(task, with_validation=True),
        lambda: run(task, error=Balanced()),
    ):
        with pytest.raises(AssertionError, match="fitted again"):
            other()


def test_a_crash_is_reported_and_the_others_go_on(task, run, said, monkeypatch):
    crashed = []

    class Crashing(subprocess.Popen):
        def __init__(self, *words, **settings):
            super().__init__(*words, **settings)
            if not crashed:
                crashed.append(self.pid)
                self.send_signal(signal.SIGSEGV)

    monkeypatch.setattr(subprocess, "Popen", Crashing)
    found = run(task)
    assert found["linear"].error is None
    assert "SIGSEGV" in found["linear"].reason
    assert said == [f"baselines: linear was not computed: {found['linear'].reason}"]
    assert found["forest"].error is not None
    # A failure is not kept.
    assert run(task)["linear"].error is not None


def test_the_limit_is_of_computing_and_an_exception_is_the_reason():
    x = RNG.normal(size=(4000, 300)).astype(np.float32)  # a forest that computes for longer than a second
    with pytest.raises(FitError, match="more than 1 s"):
        process.fit(1, **SETTINGS | {"model": "forest"}, x=x, y=np.arange(4000) % 3, new=x)
    with pytest.raises(FitError, match="KeyError: 'nothing'"):
        process.fit(60, **SETTINGS | {"model": "nothing"}, x=X[:, 0], y=Y, new=X[:, 0])


def test_an_interruption_ends_the_baselines_and_not_the_run(task, run, monkeypatch):
    def interrupted():
        raise InterruptionError.by(signal.SIGTERM)

    monkeypatch.setattr(signals, "check", interrupted)
    found = run(task)
    assert [one.reason for one in found.values()] == ["", "interrupted", "interrupted"]


@pytest.mark.usefixtures("in_process")
def test_minirocket_says_how_to_install_it(task, run, said, monkeypatch):
    monkeypatch.setattr(compute.importlib.util, "find_spec", lambda name: None)
    found = run(task, "all")
    assert found["linear"].error is not None
    assert "pip install 'orca-transfer[peers]'" in found["minirocket"].reason
    assert len(said) == 1


@pytest.mark.usefixtures("in_process")
def test_large_training_sets_are_sampled_and_it_is_said(task, run, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_ROWS", 20)
    found = run(task, with_validation=True)["linear"]
    assert found.trained_on == {"splits": ["train", "val"], "n": 20, "of": 45}
    given = Inputs([task.train, task.validation], task.open_test(), (2, 12))
    rows = given.rows(raw=False)
    wanted = seeding.numpy_generator(0, "baselines", "samples").choice(45, 20, replace=False)
    assert rows.tolist() == sorted(wanted.tolist())
    assert np.array_equal(given.table[0], X[rows].reshape(20, -1))
    assert np.array_equal(given.raw[0], X[rows])
    assert np.array_equal(given.targets(rows), Y[rows])


def test_records_of_two_splits_are_numbered_apart():
    first = samples(slice(6), groups=np.array([5, 5, 5, 9, 9, 9]))
    second = samples(slice(6, 10), groups=np.array([5, 5, 9, 9]))
    given = Inputs([first, second], first, (2, 12))
    groups = given.groups(np.array([0, 2, 3, 6, 7, 9]))
    assert groups[0] == groups[1]
    assert groups[3] == groups[4]
    assert len(set(groups.tolist())) == 4
    assert Inputs([first, samples(slice(6, 10))], first, (2, 12)).groups(np.arange(10)) is None


def test_a_test_split_that_is_too_large_is_a_reason(task, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_CELLS", 100)
    with pytest.raises(FitError, match="too many"):
        _ = Inputs([task.train], task.open_test(), (2, 12)).raw


def dense(y, shape=(2, 12)):
    x = ArraySamples(X[:30], y[:30])
    return TaskData("dense", shape, y.shape[1], x, x, lambda: ArraySamples(X[30:], y[30:]))


@pytest.mark.usefixtures("in_process")
def test_dense_outputs_have_a_linear_model_where_that_makes_sense(run, said):
    maps = X[:, :1] - X[:, 1:] + 3
    found = run(dense(maps), error=RelativeL2())
    assert list(found) == ["constant", "linear"]
    assert found["linear"].error < 0.1 * found["constant"].error
    masks = (X[:, :1] > 0).astype(np.float32)
    assert run(dense(masks), error=MaskError())["linear"].error < 0.05
    assert said == []
    several = (X > 0).astype(np.float32)
    assert "the best constant is the only baseline" in run(dense(several), error=NatsPerFrame())["linear"].reason
    assert len(said) == 1
