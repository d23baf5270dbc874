"""The predictor starts as a ridge on its inputs: against scikit-learn, and in a run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

import orca_cli
from orca_cli.data.fraction import Part
from orca_cli.interfaces import Scale
from orca_cli.models.bodies import auto
from orca_cli.models.embedders.patches import Multiscale, Patch
from orca_cli.models.predictors import pooled
from orca_cli.scoring.losses import default_loss
from orca_cli.stages import ridge_start
from orca_cli.stages.joint_members import JointErrors
from tests.checkpoints import save_tiny, save_tiny_bert
from tests.models.conftest import build
from tests.training.toy import Pairs, engine

PENALTIES = np.logspace(-3, 5, 33)
WANTED = SimpleNamespace(predictor=SimpleNamespace(init="ridge"))


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    return {
        name: auto.load(str(save_tiny(name, tmp_path_factory.mktemp(name))))
        for name in ("bert", "vit")
    }


def started(body, y, kind, embedder, scale=None, rows=None):
    samples = Pairs(y, length=12)
    outputs = 3 if kind == "classes" else y.shape[1]
    model = build(
        body,
        kind=kind,
        input_shape=(3, 12),
        num_outputs=outputs,
        embedder=embedder,
        target_scale=scale,
    )
    model.embedder.fit([(samples.x, None)])
    task = SimpleNamespace(kind=kind, num_outputs=outputs)
    built = SimpleNamespace(
        plan=WANTED, model=model, task=task, loss=default_loss(kind, kind == "classes")
    )
    used = samples if rows is None else Part(samples, rows)
    return model, samples, ridge_start.start(built, engine(), used, seed=0)


def standard(x):
    kept = x[:, x.std(0) > 1e-7]
    return (kept - kept.mean(0)) / kept.std(0) / kept.shape[1] ** 0.5


@torch.no_grad()
def ridge(model, x, targets):
    """Return outputs [n, K] of scikit-learn's ridge with the best leave-one-out score.

    The outputs are for the samples that it was fitted to.
    """
    features = model.features(x)
    parts = [pooled(features).double().numpy()]
    if features.samples is not None:
        parts.append(features.samples.double().numpy())
    parts = [standard(part) for part in parts]
    tables = [np.concatenate(parts, 1) / np.sqrt(len(parts)), *(parts if len(parts) > 1 else [])]
    fits = [
        RidgeCV(PENALTIES, scoring="neg_mean_squared_error").fit(table, targets) for table in tables
    ]
    best = max(range(len(fits)), key=lambda number: fits[number].best_score_)
    return fits[best].predict(tables[best]).reshape(len(x), -1)


@pytest.mark.parametrize(
    ("kind", "name"), [("classes", "vit"), ("labels", "bert"), ("values", "vit")]
)
def test_outputs_are_those_of_a_ridge_up_to_one_factor(bodies, kind, name):
    y, scale = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), None
    if kind == "classes":
        y = (y[:, 0] > 0).long() + (y[:, 1] > 0).long()
        targets = np.eye(3)[y.numpy()]
    elif kind == "labels":
        y = (y > 0).float()
        targets = 2 * y.numpy() - 1
    else:
        y = 50 + 7 * y
        scale = Scale(y.mean(0).numpy(), y.std(0).numpy())
        targets = (y.numpy() - scale.mean) / scale.std
    embedder = Patch() if name == "bert" else Multiscale(filters=4, skip=True)
    model, samples, is_started = started(bodies[name], y, kind, embedder, scale)
    assert is_started
    with torch.no_grad():
        outputs = model.predictor(model.features(samples.x)).double().numpy()
    expected = ridge(model, samples.x, targets)
    factor = (outputs * expected).sum() / (expected**2).sum()
    assert factor > 0
    np.testing.assert_allclose(outputs, factor * expected, atol=2e-3 * factor)
    if kind == "values":
        assert factor == pytest.approx(1, abs=1e-3)


def test_samples_without_a_target_do_not_count(bodies):
    y = torch.arange(40) % 3
    with_gaps = torch.where(torch.arange(40) % 2 == 0, -100, y)
    model, _, is_started = started(bodies["bert"], with_gaps, "classes", Patch())
    assert is_started
    known = np.arange(1, 40, 2)
    without_gaps, *_ = started(bodies["bert"], y, "classes", Patch(), rows=known)
    torch.testing.assert_close(model.predictor.state_dict(), without_gaps.predictor.state_dict())


def test_too_few_known_targets_change_nothing(bodies):
    few = torch.tensor([0, 1, 2, -100])
    model, _, is_started = started(bodies["bert"], few, "classes", Patch())
    assert not is_started
    untouched = build(bodies["bert"], input_shape=(3, 12))
    assert torch.equal(model.predictor.linear.weight, untouched.predictor.linear.weight)


@pytest.mark.parametrize(
    ("settings", "epochs"),
    [
        ([], 0),
        # Several models are evaluated as one model.
        (["train.members=2"], [0, 0]),
        (["train.folds=3"], 0),
    ],
)
def test_a_run_that_training_makes_worse_ends_where_it_began(
    tmp_path, monkeypatch, settings, epochs
):
    draw, y = np.random.default_rng(0), np.arange(330) % 3
    x = draw.normal(size=(330, 1, 24)) + 0.7 * np.sin(np.arange(24) * (1 + y[:, None, None]) / 3)
    parts = {"train": slice(0, 120), "val": slice(120, 230), "test": slice(230, 330)}
    arrays = {
        f"{name}_{part}": value[rows]
        for part, rows in parts.items()
        for name, value in (("x", x), ("y", y))
    }
    np.savez(tmp_path / "sets.npz", **arrays)
    monkeypatch.setenv("ORCA_HOME", str(tmp_path / "home"))
    words = [
        "task=arrays",
        "task.kind=classes",
        f"task.train={tmp_path / 'sets.npz'}",
        "metric=none",
        "baselines=none",
    ]
    words += [
        f"body.checkpoint={save_tiny_bert(tmp_path / 'bert')}",
        "predictor.init=ridge",
        "embedder.filters=8",
    ]
    outcome = orca_cli.run(
        *words, *settings, "train.epochs=1", "train.lr=3.0", f"paths.runs={tmp_path}"
    )
    worse = outcome.result
    assert worse["selected"]["epoch"] in (0, epochs)
    assert worse["selected"]["start"]["validation_error"] == worse["validation_error"]
    assert worse["error"]["value"] < 0.5  # of three classes
    # The weights in the run's folder are those that were tested.
    predicted = orca_cli.load(outcome).predict(x[parts["test"]])
    assert np.mean(predicted != y[parts["test"]]) == pytest.approx(worse["error"]["value"])


@pytest.mark.parametrize(
    ("error", "start_error", "is_kept"),
    [
        (0.2, 0.1, True),
        # Equal errors: nothing shows that training has helped.
        (0.2, 0.2, True),
        (0.1, 0.2, False),
        (None, 0.2, True),
        (0.2, None, False),
    ],
)
def test_a_start_that_is_no_worse_is_kept(error, start_error, is_kept):
    assert JointErrors(error=error, start_error=start_error).is_start_better is is_kept
