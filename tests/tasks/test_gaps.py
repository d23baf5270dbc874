"""Missing values in inputs: what takes their place, what is said of them, and that nothing else changes."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.impute import SimpleImputer

from tests.tasks import builders
from tests.tasks.builders import splits

N, C, L = 60, 3, 8
RNG = np.random.default_rng(0)  # for the two arrays below
X = RNG.normal([[[5.0]], [[-300.0]], [[0.0]]], 2, (C, N, L)).transpose(1, 0, 2).copy()
Y = np.arange(N) % 2
HOLES = (RNG.random(X.shape) < 0.15) & (np.arange(C)[:, None] < 2)  # none in the last channel
SPLIT = np.repeat(["train", "val", "test"], N // 3)
TRAIN = SPLIT == "train"
GAPPY = np.where(HOLES, np.nan, X)


@pytest.fixture
def read(tmp_path, build):
    def call(x, marks=SPLIT, **settings):
        np.savez(tmp_path / "own.npz", x=x, y=Y, split=marks)
        return build("arrays", kind="classes", train="own.npz", **settings)

    return call


def all_inputs(task) -> np.ndarray:
    """Return the inputs of all splits, in the order of the file."""
    return np.concatenate([builders.every(samples).x.numpy() for samples in splits(task)])


@pytest.fixture(scope="module")
def imputed():
    """Return the inputs as scikit-learn's imputer fills them."""
    imputer = SimpleImputer().fit(GAPPY[TRAIN].transpose(0, 2, 1).reshape(-1, C))
    columns = imputer.transform(GAPPY.transpose(0, 2, 1).reshape(-1, C))
    return columns.reshape(N, L, C).transpose(0, 2, 1)


def test_gaps_become_the_mean_of_training_as_scikit_learns(read, imputed):
    np.testing.assert_allclose(all_inputs(read(GAPPY, normalize=False)), imputed, rtol=1e-6)


def test_only_known_values_decide_mean_and_deviation(read, imputed):
    mean = np.nanmean(GAPPY[TRAIN], axis=(0, 2), keepdims=True)
    std = np.nanstd(GAPPY[TRAIN], axis=(0, 2), keepdims=True)
    np.testing.assert_allclose(all_inputs(read(GAPPY)), (imputed - mean) / std, atol=1e-5)


def test_gaps_are_interpolated_in_time_as_pandas_does(read):
    gappy = GAPPY.copy()
    gappy[3, 0] = np.nan  # nothing is known of this channel
    series = pd.DataFrame(gappy.reshape(N * C, L)).T
    expected = series.interpolate(limit_direction="both").T.to_numpy().reshape(N, C, L).copy()
    expected[3, 0] = np.nanmean(gappy[TRAIN][:, 0])
    task = read(gappy, normalize=False, gaps="linear")
    np.testing.assert_allclose(all_inputs(task), expected, rtol=1e-6)


def test_indicators_say_where_values_were_missing(read):
    task = read(GAPPY, gaps="linear", gap_indicator=True)
    assert task.input_shape == (C + 2, L)  # one for each channel with gaps in training
    np.testing.assert_array_equal(all_inputs(task)[:, C:], HOLES[:, :2])


def test_gaps_are_filled_and_padding_is_not(read):
    ends = 4 + np.arange(N) % 5
    is_inside = np.arange(L) < ends[:, None]
    padded = np.where(is_inside[:, None], GAPPY, np.nan)
    # The last known step is known in one channel.
    padded[:, 2] = np.where(is_inside, X[:, 2], np.nan)
    task = read(padded, padding="nan", gap_indicator=True)
    batch = task.train.batch(np.arange(20))
    np.testing.assert_array_equal(batch.valid, is_inside[TRAIN])
    assert torch.isfinite(batch.x).all()
    # Indicators say 1 at gaps alone, and 0 at padding.
    expected = HOLES[TRAIN][:, :2] & is_inside[TRAIN][:, None]
    np.testing.assert_array_equal(batch.x[:, C:], expected)
