"""Baselines of a task's data: what they learn from, the cache, and whatever goes wrong, which never ends a run."""

import signal
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler
from torch import nn

from orca_cli import seeding
from orca_cli.baselines import choice, compute, fitting, inputs
from orca_cli.baselines.fitting import FitError
from orca_cli.baselines.inputs import Inputs
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import folds
from orca_cli.data.untrusted import isolation
from orca_cli.interfaces import TaskData
from orca_cli.scoring.classification import Balanced, ZeroOne
from orca_cli.scoring.masks import MaskError
from orca_cli.scoring.regression import RelativeL2
from orca_cli.scoring.sequences import NatsPerFrame

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = (RNG.normal(size=(60, 2, 12)) + 0.4 * Y[:, None, None] * np.array([1, -1])[:, None]).astype(np.float32)
SIMPLE, DENSE = ("constant", "linear", "forest"), ("constant", "linear")
TABLE = {"_target_": "orca_cli.data.table.load", "id": None}
SETTINGS = {"model": "linear", "form": "classes", "k": 3, "groups": None, "causal": False, "balanced": False, "seed": 0}


def samples(rows, groups=None):
    return ArraySamples(X[rows], Y[rows], groups=groups)


@pytest.fixture
def task():
    train, validation = samples(slice(30)), samples(slice(30, 45))
    return TaskData("classes", (2, 12), 3, train, validation, lambda: samples(slice(45, 60)))


@pytest.fixture
def messages():
    return []


@pytest.fixture
def run(tmp_path, messages):
    def call(task, names=SIMPLE, error=None, *, with_validation=False, test=None, embedder=None, start=None):
        error, test = error or ZeroOne(), test or task.open_test()
        digests = {"train": task.train.digest(), "val": task.validation.digest(), "test": test.digest()}
        subject = compute.Subject(
            task,
            error,
            [task.train, task.validation] if with_validation else [task.train],
            may_judge=not with_validation,
            embedder=embedder or nn.Identity(),
            start=lambda: start,
            open_test=lambda: test,
            targets=torch.from_numpy(test.targets()),
            groups=test.groups(),
            digests=digests,
            constant=torch.from_numpy(error.constant(task.train.targets(), task.num_outputs)),
        )
        return dict(compute.compute(names, subject, tmp_path, SimpleNamespace(say=messages.append)))

    return call


@pytest.fixture
def in_process(monkeypatch):
    """Fit in this process: the same function, without the start of another interpreter."""
    monkeypatch.setattr(compute, "fit", lambda limit_s, **request: fitting.fitted(**request))


@pytest.fixture
def no_process(monkeypatch):
    def refuse(*_, **settings):
        raise AssertionError(f"{settings['model']} was fitted again")

    return lambda: monkeypatch.setattr(compute, "fit", refuse)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("with_validation", [False, True])
def test_they_learn_from_training_and_where_asked_from_validation_too(task, run, messages, with_validation):
    baselines = run(task, with_validation=with_validation)
    assert (list(baselines), messages) == (["constant", "linear", "forest"], [])
    rows = slice(45 if with_validation else 30)
    scaler = StandardScaler().fit(X[rows].reshape(len(Y[rows]), -1))
    c = float(baselines["linear"].about[2:])
    model = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(X[rows].reshape(-1, 24)), Y[rows])
    expected = (model.predict(scaler.transform(X[45:].reshape(-1, 24))) != Y[45:]).mean()
    assert baselines["linear"].error == expected
    names, n = (["train", "val"], 45) if with_validation else (["train"], 30)
    assert baselines["linear"].record()["trained_on"] == {"splits": names, "n": n, "of": n}
    assert baselines["forest"].versions["scikit-learn"]
    assert baselines["constant"].error == pytest.approx(2 / 3)


@pytest.mark.usefixtures("in_process")
def test_what_was_computed_once_is_taken_from_the_cache(task, run, no_process):
    first = run(task)
    no_process()
    again = run(task)
    for name in ("linear", "forest"):
        assert again[name].record() == first[name].record()
        assert torch.equal(again[name].outputs, first[name].outputs)
    # Another error reuses the same model.
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


def test_a_crash_is_reported_and_the_others_go_on(task, run, messages, monkeypatch):
    crashed = []

    class Crashing(subprocess.Popen):
        def __init__(self, *words, **settings):
            super().__init__(*words, **settings)
            if not crashed:
                crashed.append(self.pid)
                self.send_signal(signal.SIGSEGV)

    monkeypatch.setattr(subprocess, "Popen", Crashing)
    baselines = run(task, ("constant", "linear", "features"), embedder=Tokens())  # the next model gets a new process
    assert baselines["linear"].error is None
    assert "SIGSEGV" in baselines["linear"].reason
    assert messages == [f"baselines: linear was not computed: {baselines['linear'].reason}"]
    assert baselines["features"].error is not None
    monkeypatch.setattr(compute, "fit", lambda limit_s, **request: fitting.fitted(**request))
    assert run(task, ("linear",))["linear"].error is not None  # failures are not cached


def test_the_limit_is_of_computing_and_an_exception_is_the_reason():
    """All in one process, which the limit ends."""
    with pytest.raises(FitError, match="KeyError: 'seed'"):
        compute.fit(60, **{name: value for name, value in SETTINGS.items() if name != "seed"}, x=X, y=Y, new=X)
    assert compute.fit(60, **SETTINGS, x=X[:, 0], y=Y, new=X[:, 0])["outputs"].shape == (60, 3)
    x = RNG.normal(size=(4000, 300)).astype(np.float32)  # a forest that computes for longer than a second
    with pytest.raises(FitError, match="more than 1 s"):
        compute.fit(1, **SETTINGS | {"model": "forest"}, x=x, y=np.arange(4000) % 3, new=x)
    isolation.close()


@pytest.mark.usefixtures("in_process")
def test_large_training_sets_are_sampled_and_it_is_said(task, run, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_ROWS", 20)
    baseline = run(task, with_validation=True)["linear"]
    assert baseline.trained_on == {"splits": ["train", "val"], "n": 20, "of": 45}
    training_inputs = Inputs([task.train, task.validation], None, task.open_test, (2, 12))
    rows = training_inputs.rows(raw=False)
    expected = seeding.numpy_generator(0, "baselines", "samples").choice(45, 20, replace=False)
    assert rows.tolist() == sorted(expected.tolist())
    assert np.array_equal(training_inputs.table[0], X[rows].reshape(20, -1))
    assert np.array_equal(training_inputs.raw[0], X[rows])
    assert np.array_equal(training_inputs.targets(rows), Y[rows])


def test_records_of_two_splits_are_numbered_apart():
    first = samples(slice(6), groups=np.array([5, 5, 5, 9, 9, 9]))
    second = samples(slice(6, 10), groups=np.array([5, 5, 9, 9]))
    training_inputs = Inputs([first, second], None, lambda: first, (2, 12))
    groups = training_inputs.groups(np.array([0, 2, 3, 6, 7, 9]))
    assert groups[0] == groups[1]
    assert groups[3] == groups[4]
    assert len(set(groups.tolist())) == 4
    assert Inputs([first, samples(slice(6, 10))], None, lambda: first, (2, 12)).groups(np.arange(10)) is None


def dense(y, shape=(2, 12)):
    x = ArraySamples(X[:30], y[:30])
    return TaskData("dense", shape, y.shape[1], x, x, lambda: ArraySamples(X[30:], y[30:]))


@pytest.mark.usefixtures("in_process")
def test_dense_outputs_have_a_linear_model_where_that_makes_sense(run, messages):
    maps = X[:, :1] - X[:, 1:] + 3
    baselines = run(dense(maps), DENSE, RelativeL2())
    assert baselines["linear"].error < 0.1 * baselines["constant"].error
    masks = (X[:, :1] > 0).astype(np.float32)
    assert run(dense(masks), DENSE, MaskError())["linear"].error < 0.05
    assert messages == []
    several = (X > 0).astype(np.float32)
    assert "the best constant is the only baseline" in run(dense(several), DENSE, NatsPerFrame())["linear"].reason
    assert len(messages) == 1
    features = run(dense(maps), ["features"], RelativeL2())["features"].record()
    assert (features["error"], features["suits"]) == (None, False)


class Tokens(nn.Module):
    """An embedder whose tokens are the inputs: what is pooled is known."""

    def forward(self, x, valid):
        mask = torch.ones(len(x), x.shape[2], dtype=torch.bool) if valid is None else valid
        return SimpleNamespace(x=x.transpose(1, 2), mask=mask)


class Knowing(Tokens):
    def sample_features(self, x, valid):
        return x[:, :1, 0]


@pytest.mark.usefixtures("in_process")
def test_features_are_the_embedders_own_or_its_pooled_tokens(task, run):
    for embedder, features in ((Tokens(), lambda x: np.c_[x.mean(2), x.max(2)]), (Knowing(), lambda x: x[:, :1, 0])):
        baseline = run(task, ["features"], embedder=embedder)["features"]
        scaler = StandardScaler().fit(features(X[:30]))
        direct = RidgeClassifierCV(np.logspace(-3, 3, 10)).fit(scaler.transform(features(X[:30])), Y[:30])
        expected = direct.decision_function(scaler.transform(features(X[45:])))
        assert baseline.outputs.numpy() == pytest.approx(expected, abs=1e-4)
    # Padding is left out, and a sample of padding alone has features too.
    valid = np.arange(12) < np.arange(1, 31)[:, None] % 12
    padded = ArraySamples(np.where(valid[:, None], X[:30], 99), Y[:30], valid=valid)
    (learned, new) = Inputs([padded], None, lambda: padded, (2, 12)).embedded(Tokens())
    assert learned[1] == pytest.approx([*X[1, :, :2].mean(1), *X[1, :, :2].max(1)])
    assert np.isfinite(learned).all()
    assert np.array_equal(learned, new)


class Start(nn.Module):
    """A model whose predictor sees the inputs' means."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.predictor = SimpleNamespace(pool=lambda features: features)

    def features(self, x, valid):
        return self.weight * x.mean(2)


@pytest.mark.usefixtures("in_process")
def test_the_probe_is_of_what_the_predictor_sees_before_any_training(task, run):
    probe = run(task, ["probe"], start=Start())["probe"]
    scaler = StandardScaler().fit(X[:30].mean(2))
    direct = RidgeClassifierCV(np.logspace(-3, 3, 10)).fit(scaler.transform(X[:30].mean(2)), Y[:30])
    assert probe.outputs.numpy() == pytest.approx(direct.decision_function(scaler.transform(X[45:].mean(2))), abs=1e-4)
    other = Start()
    nn.init.zeros_(other.weight)
    assert (
        run(task, ["probe"], start=other)["probe"].error != probe.error
    )  # another body has another entry in the cache


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("with_validation", [False, True])
def test_what_says_which_one_is_best_was_neither_trained_on_nor_tested(task, run, monkeypatch, with_validation):
    """Chosen on the validation split, or by cross-validation where that split was trained on or is small."""
    monkeypatch.setattr(compute, "LEAST_JUDGES", 15)
    forest = run(task, with_validation=with_validation)["forest"]
    if not with_validation:
        model = RandomForestClassifier(300, random_state=0).fit(X[:30].reshape(30, -1), Y[:30])
        expected = (model.predict(X[30:45].reshape(15, -1)) != Y[30:45]).mean()
    else:
        x, y, wrong = X[:45].reshape(45, -1), Y[:45], []
        fold = folds(45, 5, seed=0, classes=y)
        for held in (fold == number for number in range(5)):
            model = RandomForestClassifier(300, random_state=0).fit(x[~held], y[~held])
            wrong += list(model.predict(x[held]) != y[held])
        expected = np.mean(wrong)
    assert forest.validation_error == pytest.approx(expected)
    assert forest.record()["validation_error"] == forest.validation_error
    # The test error does not depend on how the best model is chosen.
    monkeypatch.setattr(compute, "LEAST_JUDGES", 16)
    again = run(task, with_validation=with_validation)["forest"]
    assert again.error == forest.error
    assert (again.validation_error == forest.validation_error) == with_validation


# (which, task's settings, kind, input shape, samples, with aeon) -> names
WANTED = [
    (("none", {}, "classes", (1, 99), 10, True), []),
    (("simple", {}, "classes", (3, 99), 10, True), ["constant", "linear", "forest", "features", "probe", "minirocket"]),
    (("simple", {}, "values", (3, 99), 10, False), ["constant", "linear", "forest", "features", "probe"]),
    (("simple", {}, "values", (3, 99), 10**5, True), ["constant", "linear", "forest", "features", "probe"]),
    (("all", {}, "values", (3, 99), 10**5, False), ["constant", "linear", "forest", "features", "probe", "minirocket"]),
    (("all", {}, "labels", (3, 32, 32), 10, True), ["constant", "linear", "forest", "features", "probe"]),
    (("all", {}, "dense", (3, 99), 10, True), ["constant", "linear", "features"]),
    (("all", TABLE, "classes", (1, 9), 10, True), ["constant", "linear", "forest", "boosting", "features", "probe"]),
    (
        ("simple", TABLE | {"id": "patient"}, "values", (9, 7), 10, False),
        ["constant", "linear", "forest", "features", "probe"],
    ),
    (("all", {}, "values", (9, 1), 10, True), ["constant", "linear", "forest", "boosting", "features", "probe"]),
]


@pytest.mark.parametrize(("situation", "names"), WANTED)
def test_which_models_stand_beside_a_run(monkeypatch, situation, names):
    *arguments, aeon = situation
    monkeypatch.setattr(choice, "has_aeon", lambda: aeon)
    assert choice.baseline_names(*arguments) == names


def test_what_another_attempt_may_mend_is_missing(monkeypatch):
    recorded = {
        "constant": {"error": 0.5, "validation_error": None},
        "linear": {"error": 0.5},  # as earlier programs recorded it
        "forest": {"error": None, "reason": "it was killed by SIGKILL", "suits": True},
        "features": {"error": None, "reason": "dense", "suits": False},
        "minirocket": {"error": None, "reason": "it needs the package aeon", "suits": True},
    }
    monkeypatch.setattr(choice, "has_aeon", lambda: False)
    assert choice.missing([*recorded, "boosting"], recorded) == ["linear", "forest", "boosting"]
    monkeypatch.setattr(choice, "has_aeon", lambda: True)
    assert choice.missing([*recorded], recorded) == ["linear", "forest", "minirocket"]
