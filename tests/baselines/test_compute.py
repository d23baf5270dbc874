"""Baselines of a task's data: their training samples, the cache, and failures, which end no run."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler
from torch import nn

from orca_cli.baselines import compute, inputs, models, names
from orca_cli.baselines.inputs import Subject
from orca_cli.data.fraction import Joined
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import folds
from orca_cli.data.untrusted import isolation
from orca_cli.interfaces import InputLayer, TaskData
from orca_cli.scoring.classification import Balanced, ZeroOne
from orca_cli.scoring.dense import MaskError
from orca_cli.scoring.regression import RelativeL2

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
SIGNS = np.array([1, -1])[:, None]
X = (RNG.normal(size=(60, 2, 12)) + 0.4 * Y[:, None, None] * SIGNS).astype(np.float32)
FLAT = X.reshape(60, -1)
POOLED = np.c_[X.mean(2), X.max(2)]
TABLE = {"_target_": "orca_cli.data.table.load", "id": None}


def samples(rows, groups=None):
    return ArraySamples(X[rows], Y[rows], groups=groups)


def ridge(learned, y, new):
    """Return the expected outputs for new features: the decisions of scikit-learn."""
    scaler = StandardScaler().fit(learned)
    model = RidgeClassifierCV(np.logspace(-3, 3, 10)).fit(scaler.transform(learned), y)
    return model.decision_function(scaler.transform(new))


class Tokens(nn.Module, InputLayer):
    """An embedder whose tokens are the inputs, so that the pooled features are known."""

    def forward(self, x, valid):
        mask = torch.ones(len(x), x.shape[2], dtype=torch.bool) if valid is None else valid
        return SimpleNamespace(x=x.transpose(1, 2), mask=mask)


class Knowing(Tokens):
    def sample_features(self, x, valid):
        return x[:, :1, 0]


class Start(nn.Module):
    """A model whose predictor sees the inputs' means."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.body = nn.Identity()
        self.predictor = SimpleNamespace(pool=lambda features: features)

    def features(self, x, valid):
        return self.weight * x.mean(2)


def subject(task, learned):
    return Subject(
        task=task,
        error=ZeroOne(),
        learned=learned,
        may_judge=False,
        run_folds=None,
        embedder=Tokens(),
        start=None,
        open_test=task.open_test,
        targets=None,
        groups=None,
        digests={},
        constant=None,
    )


@pytest.fixture
def task():
    return TaskData(
        kind="classes",
        input_shape=(2, 12),
        num_outputs=3,
        train=samples(slice(30)),
        validation=samples(slice(30, 45)),
        open_test=lambda: samples(slice(45, 60)),
    )


@pytest.fixture
def messages():
    return []


@pytest.fixture
def run(tmp_path, messages, monkeypatch):
    """Compute baselines; models are fitted in this process."""
    monkeypatch.setattr(
        isolation, "isolated", lambda *_, parent, **request: models.fitted(**request)
    )

    def call(
        task,
        names,
        error=None,
        *,
        with_validation=False,
        run_folds=None,
        test=None,
        embedder=None,
        start=None,
    ):
        error = error or ZeroOne()
        test = test or task.open_test()
        digests = {
            "train": task.train.digest(),
            "val": task.validation.digest(),
            "test": test.digest(),
        }
        learned = Joined([task.train, task.validation]) if with_validation else task.train
        constant = torch.from_numpy(error.constant(task.train.targets(), task.num_outputs))
        run_subject = Subject(
            task=task,
            error=error,
            learned=learned,
            may_judge=not with_validation,
            run_folds=run_folds,
            embedder=embedder or Tokens(),
            start=lambda: start,
            open_test=lambda: test,
            targets=torch.from_numpy(test.targets()),
            groups=test.groups(),
            digests=digests,
            constant=constant,
        )
        reporter = SimpleNamespace(say=messages.append)
        return dict(compute.compute(names, run_subject, tmp_path, reporter))

    return call


def wrong_out_of_fold(fold):
    """Return for which of the first samples a ridge on the other folds is wrong."""
    wrong = []
    for number in np.unique(fold):
        train = np.flatnonzero(fold != number)
        held_out = np.flatnonzero(fold == number)
        decisions = ridge(POOLED[train], Y[train], POOLED[held_out])
        wrong += list(decisions.argmax(1) != Y[held_out])
    return wrong


@pytest.mark.parametrize("with_validation", [False, True])
def test_they_learn_from_some_splits_and_are_judged_on_others(
    task, run, monkeypatch, messages, with_validation
):
    """They are the validation split, or folds if that split was trained on or is small."""
    monkeypatch.setattr(inputs, "BEST_FROM", 15)
    baselines = run(task, ("constant", "linear", "features"), with_validation=with_validation)
    names, n = (["train", "val"], 45) if with_validation else (["train"], 30)
    scaler = StandardScaler().fit(FLAT[:n])
    c = float(baselines["linear"].about[2:])
    model = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(FLAT[:n]), Y[:n])
    assert (
        baselines["linear"].error == (model.predict(scaler.transform(FLAT[45:])) != Y[45:]).mean()
    )
    assert baselines["linear"].record()["trained_on"] == {"splits": names, "n": n, "of": n}
    assert (baselines["constant"].error, messages) == (pytest.approx(2 / 3), [])
    if not with_validation:
        wrong = ridge(POOLED[:30], Y[:30], POOLED[30:45]).argmax(1) != Y[30:45]
    else:
        wrong = wrong_out_of_fold(folds(45, 5, seed=0, classes=Y[:45]))
    features = baselines["features"]
    assert features.validation_error == pytest.approx(np.mean(wrong))
    assert features.record()["validation_error"] == features.validation_error
    # The test error does not depend on how the best model is chosen.
    monkeypatch.setattr(inputs, "BEST_FROM", 16)
    again = run(task, ["features"], with_validation=with_validation)
    assert again["features"].error == features.error


RUN_FOLDS = np.repeat([2, 0, 1], 10)


def test_the_folds_of_the_run_judge_its_simple_models_too(task, run, monkeypatch):
    """They do so for the largest possible validation split."""
    monkeypatch.setattr(inputs, "BEST_FROM", 1)
    baselines = run(task, ["constant", "features"], run_folds=RUN_FOLDS)
    features = baselines["features"]
    assert features.validation_error == pytest.approx(np.mean(wrong_out_of_fold(RUN_FOLDS)))
    assert (features.validated_by, baselines["constant"].validated_by) == (30, 30)
    # Other folds are another entry of the cache.
    other = np.arange(30) % 2
    again = run(task, ["features"], run_folds=other)["features"]
    assert again.validation_error == pytest.approx(np.mean(wrong_out_of_fold(other)))


def test_all_validation_samples_judge_however_few_are_learned_from(task, run, monkeypatch):
    monkeypatch.setattr(inputs, "BEST_FROM", 15)
    monkeypatch.setattr(inputs, "MOST_ROWS", 9)
    baselines = run(task, ["constant", "features"])
    assert baselines["features"].trained_on["n"] == 9
    assert {baseline.validated_by for baseline in baselines.values()} == {15}


def test_what_is_kept_is_what_was_measured(task, run):
    """This is true for a model from the cache as well."""
    for _ in range(2):
        baselines = run(task, ["linear", "features", "probe"], start=Start(1.0))
        new = {"linear": FLAT, "features": POOLED, "probe": X.mean(2)}
        for name, features in new.items():
            kept_outputs = baselines[name].model.outputs(features[45:])
            np.testing.assert_allclose(kept_outputs, baselines[name].outputs.numpy(), atol=1e-4)
        assert baselines["features"].interval == pytest.approx(
            exact_interval(baselines["features"].error * 15, 15)
        )


def exact_interval(wrong, n):
    """Return Clopper and Pearson's interval by SciPy."""
    return stats.binomtest(round(wrong), n).proportion_ci(method="exact")


@pytest.fixture
def computed(task, run, monkeypatch):
    """Compute a linear model and a probe; nothing can be fitted after that."""
    linear = run(task, ["linear"])["linear"]
    probe = run(task, ["probe"], start=Start(1.0))["probe"]

    def refuse(*_, **settings):
        raise AssertionError("fitted again")

    monkeypatch.setattr(isolation, "isolated", refuse)
    return linear, probe


def test_what_was_computed_once_is_taken_from_the_cache(task, run, computed):
    first, probe = computed
    again = run(task, ["linear"])["linear"]
    assert again.record() == first.record()
    assert torch.equal(again.outputs, first.outputs)
    assert run(task, ["probe"], start=Start(1.0))["probe"].error == probe.error
    # Another error reuses the same model.
    error = ZeroOne()
    error.name = "another"
    assert run(task, ["linear"], error)["linear"].error == first.error


@pytest.mark.usefixtures("computed")
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear", {"test": samples(slice(44, 60))}),
        ("linear", {"with_validation": True}),
        ("linear", {"error": Balanced()}),
        # Another body.
        ("probe", {"start": Start(0.5)}),
    ],
)
def test_a_model_of_other_settings_is_fitted_again(task, run, name, settings):
    with pytest.raises(AssertionError, match="fitted again"):
        run(task, [name], **settings)


@pytest.mark.usefixtures("computed")
def test_a_model_of_other_training_samples_is_fitted_again(task, run):
    with pytest.raises(AssertionError, match="fitted again"):
        run(replace(task, train=samples(slice(1, 30))), ["linear"])


CRASH = (isolation.StoppedError("failed: ended by SIGSEGV"), "fitting failed: ended by SIGSEGV")
OVER_TIME = (
    isolation.StoppedError("needs more computing time"),
    "fitting needs more computing time",
)


@pytest.mark.parametrize(("failure", "reason"), [CRASH, OVER_TIME])
def test_a_failure_is_reported_and_the_others_go_on(
    task, run, messages, monkeypatch, failure, reason
):
    isolated = isolation.isolated

    def failing(*places, **request):
        if request["model"] == "linear":
            raise failure
        return isolated(*places, **request)

    monkeypatch.setattr(isolation, "isolated", failing)
    baselines = run(task, ("constant", "linear", "features"))
    assert (baselines["linear"].error, baselines["linear"].reason) == (None, reason)
    assert messages == [f"baselines: linear was not computed: {reason}"]
    assert baselines["features"].error is not None
    monkeypatch.setattr(isolation, "isolated", isolated)
    # Failures are not cached.
    assert run(task, ("linear",))["linear"].error is not None


def test_large_training_sets_are_sampled_and_it_is_said(task, run, monkeypatch):
    monkeypatch.setattr(inputs, "MOST_ROWS", 20)
    baseline = run(task, ["linear"], with_validation=True)["linear"]
    assert baseline.trained_on == {"splits": ["train", "val"], "n": 20, "of": 45}
    whole = subject(task, Joined([task.train, task.validation]))
    assert np.array_equal(whole.table[0], FLAT[whole.rows(raw=False)])


def dense(y):
    train = ArraySamples(X[:30], y[:30])
    return TaskData(
        kind="dense",
        input_shape=(2, 12),
        num_outputs=y.shape[1],
        train=train,
        validation=train,
        open_test=lambda: ArraySamples(X[30:], y[30:]),
    )


def test_maps_have_a_linear_model(run, messages):
    maps = X[:, :1] - X[:, 1:] + 3
    baselines = run(dense(maps), ("constant", "linear"), RelativeL2())
    assert baselines["linear"].error < 0.1 * baselines["constant"].error
    assert messages == []


def test_masks_have_a_linear_model_where_a_target_is_known(run, messages):
    masks = (X[:, :1] > 0).astype(np.float32)
    assert run(dense(masks), ["linear"], MaskError())["linear"].error < 0.05
    assert messages == []
    masks[:30] = np.nan
    linear = run(dense(masks), ["linear"], MaskError())["linear"]
    assert linear.reason == "no training sample has a target"


@pytest.mark.parametrize(
    ("embedder", "features"), [(Tokens(), POOLED), (Knowing(), X[:, :1, 0])], ids=["pooled", "own"]
)
def test_features_are_the_embedders_own_or_its_pooled_tokens(task, run, embedder, features):
    baseline = run(task, ["features"], embedder=embedder)["features"]
    expected = ridge(features[:30], Y[:30], features[45:])
    assert baseline.outputs.numpy() == pytest.approx(expected, abs=1e-4)


def test_the_probe_is_of_what_the_predictor_sees(task, run):
    probe = run(task, ["probe"], start=Start(1.0))["probe"]
    expected = ridge(X[:30].mean(2), Y[:30], X[45:].mean(2))
    assert probe.outputs.numpy() == pytest.approx(expected, abs=1e-4)


def test_padding_is_left_out_of_pooled_tokens(task):
    valid = np.arange(12) < np.arange(1, 31)[:, None] % 12
    padded = ArraySamples(np.where(valid[:, None], X[:30], 99), Y[:30], valid=valid)
    # A sample that is all padding has features too.
    learned, new = subject(replace(task, open_test=lambda: padded), padded).embedded()
    assert learned[1] == pytest.approx([*X[1, :, :2].mean(1), *X[1, :, :2].max(1)])
    assert np.isfinite(learned).all()
    assert np.array_equal(learned, new)


ALL = "constant linear forest boosting features probe"
NO_TABLE = "constant linear forest features probe"
# (which, task's settings, kind, input shape, samples, with aeon) -> names
WANTED = [
    (("none", {}, "classes", (1, 99), 10, True), ""),
    (("simple", {}, "classes", (3, 99), 10, True), f"{NO_TABLE} minirocket"),
    (("all", {}, "values", (3, 99), 10**5, False), f"{NO_TABLE} minirocket"),
    (("all", {}, "dense", (3, 99), 10, True), "constant linear"),
    (("all", TABLE, "classes", (1, 9), 10, True), ALL),
]


@pytest.mark.parametrize(("arguments", "expected"), WANTED)
def test_which_models_a_run_is_compared_with(arguments, expected, monkeypatch):
    *settings, has_aeon = arguments
    monkeypatch.setattr(names, "has_aeon", lambda: has_aeon)
    assert names.baseline_names(*settings) == expected.split()
