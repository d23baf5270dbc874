"""Missing values in inputs: how they are filled and reported, and that nothing else changes."""

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


def whole(task) -> np.ndarray:
    """Return the inputs of all splits, in the order of the file."""
    return np.concatenate([builders.every(part).x.numpy() for part in splits(task)])


def test_gaps_become_the_mean_of_training_as_scikit_learns(read):
    imputer = SimpleImputer().fit(GAPPY[TRAIN].transpose(0, 2, 1).reshape(-1, C))
    expected = (
        imputer.transform(GAPPY.transpose(0, 2, 1).reshape(-1, C))
        .reshape(N, L, C)
        .transpose(0, 2, 1)
    )
    np.testing.assert_allclose(whole(read(GAPPY, normalize=False)), expected, rtol=1e-6)
    # Only known values decide mean and deviation.
    mean, std = (stat(GAPPY[TRAIN], axis=(0, 2), keepdims=True) for stat in (np.nanmean, np.nanstd))
    np.testing.assert_allclose(whole(read(GAPPY)), (expected - mean) / std, atol=1e-5)


def test_gaps_are_interpolated_in_time_as_pandas_does(read):
    gappy = GAPPY.copy()
    gappy[3, 0] = np.nan  # nothing is known of this channel
    series = pd.DataFrame(gappy.reshape(N * C, L)).T
    expected = series.interpolate(limit_direction="both").T.to_numpy().reshape(N, C, L).copy()
    expected[3, 0] = np.nanmean(gappy[TRAIN][:, 0])
    np.testing.assert_allclose(
        whole(read(gappy, normalize=False, gaps="linear")), expected, rtol=1e-6
    )


def test_indicators_say_where_values_were_missing(read):
    task = read(GAPPY, gaps="linear", gap_indicator=True)
    assert task.input_shape == (C + 2, L)  # one for each channel with gaps in training
    filled = whole(task)
    np.testing.assert_array_equal(filled[:, C:], HOLES[:, :2])


def test_gaps_inside_sequences_are_filled_and_padding_is_not(read):
    ends = 4 + np.arange(N) % 5
    inside = np.arange(L) < ends[:, None]
    padded = np.where(inside[:, None], GAPPY, np.nan)
    padded[:, 2] = np.where(inside, X[:, 2], np.nan)  # the last known step is known in one channel
    task = read(padded, padding="nan", gap_indicator=True)
    batch = task.train.batch(np.arange(20))
    np.testing.assert_array_equal(batch.valid, inside[TRAIN])
    assert torch.isfinite(batch.x).all()
    assert not batch.x.numpy()[:, C:][~np.broadcast_to(inside[TRAIN][:, None], (20, 2, L))].any()
    np.testing.assert_array_equal(batch.x[:, C:] == 1, HOLES[TRAIN][:, :2] & inside[TRAIN][:, None])
