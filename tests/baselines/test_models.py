"""Baselines: the same numbers as scikit-learn called directly, and known answers."""

import importlib.util
from functools import partial

import numpy as np
import pytest
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from orca_cli.baselines.features import pooled, table
from orca_cli.baselines.models import fitted
from orca_cli.interfaces import IGNORED_CLASS

RNG = np.random.default_rng(0)
SETTINGS = {"groups": None, "causal": False, "balanced": False}


def classification(n=120, features=8, k=3):
    y = np.arange(n) % k
    return (RNG.normal(size=(n, features)) + 1.5 * np.eye(k, features)[y]).astype(np.float32), y


def outputs(model, form, x, y, new, k, **settings):
    fit = fitted(model, form, x, y, new, k=k, **SETTINGS | settings)
    assert fit["outputs"].dtype == (np.float64 if y.dtype == np.float64 else np.float32)
    assert np.isfinite(fit["outputs"]).all()
    return fit["outputs"], fit["about"]


@pytest.mark.parametrize("features", [8, 300])
def test_linear_models_are_scikit_learns(features):
    rng = np.random.default_rng(1)
    y = np.arange(120) % 3
    x = (rng.normal(size=(120, features)) + 1.5 * np.eye(3, features)[y]).astype(np.float32)
    new = rng.normal(size=(30, features)).astype(np.float32)
    predicted, about = outputs("linear", "classes", x, y, new, 3)
    direct = make_pipeline(
        StandardScaler(), LogisticRegression(C=float(about[2:]), tol=1e-8, max_iter=5000)
    )
    expected = direct.fit(x.astype(np.float64), y).predict_proba(new.astype(np.float64))
    assert np.exp(predicted) == pytest.approx(expected, abs=2e-3)
    y = x[:, :2] @ np.array([[1.0, 0], [2, -1]]) + 0.1 * RNG.normal(size=(120, 2))
    predicted, about = outputs("linear", "values", x, y, new, 2)
    direct = make_pipeline(StandardScaler(), Ridge(alpha=float(about[6:])))
    assert predicted == pytest.approx(direct.fit(x.astype(np.float64), y).predict(new), abs=1e-4)


BOOSTING = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
FOREST = (
    partial(RandomForestClassifier, 300),
    partial(RandomForestRegressor, 300, max_features=1 / 3),
)


@pytest.mark.parametrize(("model", "pair"), [("boosting", BOOSTING), ("forest", FOREST)])
def test_trees_are_scikit_learns(model, pair):
    classifier, regressor = (model_class(random_state=0) for model_class in pair)
    x, y = classification(n=60)
    new = RNG.normal(size=(30, 8)).astype(np.float32)
    predicted, _ = outputs(model, "classes", x, y, new, 3)
    assert np.array_equal(predicted.argmax(1), classifier.fit(x, y).predict(new))
    predicted, _ = outputs(model, "values", x, x[:, :1] ** 2, new, 1)
    assert predicted[:, 0] == pytest.approx(regressor.fit(x, x[:, 0] ** 2).predict(new), rel=1e-5)


@pytest.mark.parametrize("model", ["linear", "boosting"])
def test_unknown_targets_are_left_out_output_by_output(model):
    x = RNG.normal(size=(80, 4))
    y = np.stack([x[:, 0], -x[:, 1]], axis=1)
    y[:20, 0] = np.nan
    y[70:, 1] = np.nan
    predicted, _ = outputs(model, "values", x, y, x, 2)
    for k, rows in enumerate((slice(20, None), slice(70))):
        column, _ = outputs(model, "values", x[rows], y[rows, k : k + 1], x, 1)
        assert predicted[:, k : k + 1] == pytest.approx(column, abs=1e-6)


@pytest.mark.parametrize("model", ["linear", "forest", "boosting", "features"])
def test_likely_labels_are_above_zero(model):
    x = np.random.default_rng(0).normal(size=(200, 3))
    y = (x[:, :2] > 0).astype(np.float32)
    y[0, 0] = np.nan
    scores, _ = outputs(model, "labels", x[:150], y[:150], x[150:], 2)
    assert ((scores > 0) == (y[150:] > 0)).mean() > 0.9


@pytest.mark.parametrize("model", ["linear", "forest", "boosting", "features"])
def test_classes_without_a_sample_get_the_least_score(model):
    x, y = classification(k=3)
    y[y == 1] = 3
    scores, _ = outputs(model, "classes", x, y, x, 5)
    assert set(scores.argmax(1)) == {0, 2, 3}
    # In each sample, whatever the other samples of the batch are.
    assert (scores[:, [1, 4]].max(axis=1) <= scores[:, [0, 2, 3]].min(axis=1)).all()


CONSTANT = (np.full((12, 3), 1e30), np.arange(12) % 2)
ONE_CLASS = (RNG.normal(size=(12, 4)), np.zeros(12, int))
A_CLASS_A_SAMPLE = (RNG.normal(size=(6, 40)), np.arange(6))


@pytest.mark.parametrize("model", ["linear", "boosting", "features"])
@pytest.mark.parametrize(("x", "y"), [CONSTANT, ONE_CLASS, A_CLASS_A_SAMPLE])
def test_degenerate_data_give_outputs_all_the_same(x, y, model):
    inputs = x.astype(np.float32)
    scores, _ = outputs(model, "classes", inputs, y, inputs[:2], 6)
    assert scores.shape == (2, 6)
    numbers, _ = outputs(model, "values", x, y[:, None].astype(float), x[:2], 1)
    assert numbers.shape == (2, 1)


def test_balanced_classes_weigh_alike():
    x = RNG.normal(size=(300, 1))
    y = (np.arange(300) < 30).astype(int)
    x[:, 0] += 1.5 * y
    scores = [
        outputs("linear", "classes", x, y, x[:30], 2, balanced=balanced)[0]
        for balanced in (False, True)
    ]
    assert (scores[0].argmax(1) == 1).mean() < 0.5 < (scores[1].argmax(1) == 1).mean()


GROUPS = np.repeat(np.arange(24), 5)


# Features identify the group, which is no help for other groups: if whole groups are left
# out, the strongest penalty is chosen.
@pytest.mark.parametrize(("groups", "choice"), [(None, "C=0.1"), (GROUPS, "C=0.0001")])
def test_samples_of_one_group_stay_in_one_fold(groups, choice):
    rng = np.random.default_rng(0)
    x = np.eye(24)[GROUPS] + 0.1 * rng.normal(size=(120, 24))
    y = rng.integers(0, 2, 24)[GROUPS]
    _, about = outputs("linear", "classes", x, y, x[:2], 2, groups=groups)
    assert about == choice


def test_windows_find_a_convolution():
    x = RNG.normal(size=(20, 2, 30))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    y = (padded[:, 0, :-2] - 2 * padded[:, 1, 2:] + np.linspace(0, 5, 30))[:, None]
    predicted, _ = outputs("linear", "maps", x[:15], y[:15], x[15:], 1)
    assert predicted == pytest.approx(y[15:], abs=1e-2)
    # A causal model does not see the next position, which the second term comes from.
    blind, _ = outputs("linear", "maps", x[:15], y[:15], x[15:], 1, causal=True)
    assert np.square(blind - y[15:]).mean() == pytest.approx(4, rel=0.4)


@pytest.mark.parametrize(("channels", "size"), [(2, "5 x 5"), (600, "1 x 1")])
def test_windows_shrink_with_the_number_of_channels(channels, size):
    x = RNG.normal(size=(3, channels, 8, 8))
    _, about = outputs("linear", "maps", x, x[:, :1], x[:1], 1)
    assert size in about


def test_a_class_at_every_position():
    x = RNG.normal(size=(30, 1, 8, 8))
    present = x[:, 0] > 0
    classes, masks = present.astype(np.int64), np.where(present, 1.0, 0.0)[:, None]
    classes[0, :2], masks[0, :, :2] = IGNORED_CLASS, np.nan
    scores, _ = outputs("linear", "class_maps", x[:20], classes[:20], x[20:], 2)
    assert (scores.argmax(1) == present[20:]).mean() > 0.97
    scores, _ = outputs("linear", "masks", x[:20], masks[:20], x[20:], 1)
    assert ((scores[:, 0] > 0) == present[20:]).mean() > 0.97


@pytest.mark.skipif(
    importlib.util.find_spec("aeon") is None, reason="the extra peers is not installed"
)
@pytest.mark.parametrize("length", [6, 40])
def test_minirocket_tells_waves_apart(length):
    y, phase = np.arange(60) % 3, RNG.random((60, 1)) * 6
    x = np.sin(phase + np.arange(length) * (0.5 + y[:, None])) + 0.1 * RNG.normal(size=(60, length))
    x = x[:, None].astype(np.float32)
    predicted, _ = outputs("minirocket", "classes", x[:40], y[:40], x[40:], 4)
    assert (predicted.argmax(1) == y[40:]).mean() >= (0.9 if length > 9 else 0.7)


@pytest.mark.parametrize("shape", [(1, 9000), (3, 64, 64), (2, 20, 20, 20), (2000, 3)])
def test_large_inputs_become_summaries_within_bounds(shape):
    x = RNG.normal(size=(4, *shape)).astype(np.float32)
    features = table(x, None, 1024)
    assert 300 < features.shape[1] <= 1024
    # Whatever the other samples of the batch are.
    assert np.array_equal(features[1:2], table(x[1:2], None, 1024))


def test_summaries_of_known_inputs():
    x = np.repeat([1.0, 3.0], 3000)[None, None].astype(np.float32)
    assert table(x, None, 500)[0][:5] == pytest.approx([2, 1, 1, 3, 2 / 5999])
    image = np.arange(16.0).reshape(1, 1, 4, 4)
    assert pooled(image, np.ones((1, 1, 4, 4), bool), 4).tolist() == [[2.5, 4.5, 10.5, 12.5]]


def test_padding_counts_for_nothing_but_its_share():
    x = RNG.normal(size=(2, 2, 6000)).astype(np.float32) + np.float32([[-9], [9]])  # padding is 0
    valid = np.zeros((2, 6000), dtype=bool)
    valid[0, :2000] = True
    features = table(np.where(valid[:, None], x, 0), valid, 1000)
    assert np.isfinite(features).all()
    assert features[:, -1] == pytest.approx([1 / 3, 0])
    known = x[0, :, :2000]
    expected = np.concatenate(
        [getattr(known, name)(axis=1) for name in ("mean", "std", "min", "max")]
    )
    assert features[0, :8] == pytest.approx(expected, abs=1e-4)
