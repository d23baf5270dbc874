"""Inputs as tables: known values, padding, bounds."""

import numpy as np
import pytest

from orca_cli.baselines.features import pooled, table, width

RNG = np.random.default_rng(0)


def test_small_inputs_are_taken_as_they_are():
    x = RNG.normal(size=(5, 2, 3)).astype(np.float32)
    assert np.array_equal(table(x, None, 6), x.reshape(5, 6))


@pytest.mark.parametrize("shape", [(1, 9000), (3, 5000), (3, 64, 64), (2, 20, 20, 20), (900, 50), (2000, 3)])
def test_large_inputs_become_summaries_within_bounds(shape):
    x = RNG.normal(size=(4, *shape)).astype(np.float32)
    features = table(x, None, 1024)
    assert features.shape[1] <= 1024
    assert features.shape[1] > 300
    assert np.isfinite(features).all()
    # A sample's features do not depend on the other samples in the batch.
    assert np.array_equal(features[1:2], table(x[1:2], None, 1024))


def test_summaries_hold_what_is_known():
    x = np.repeat([1.0, 3.0], 3000)[None, None].astype(np.float32)
    features = table(x, None, 500)[0]
    assert features[:5] == pytest.approx([2, 1, 1, 3, 2 / 5999])
    image = np.arange(16.0).reshape(1, 1, 4, 4)
    assert pooled(image, np.ones((1, 1, 4, 4), bool), 4).tolist() == [[2.5, 4.5, 10.5, 12.5]]


def test_padding_counts_for_nothing_but_its_share():
    x = RNG.normal(size=(2, 2, 6000)).astype(np.float32)
    valid = np.ones((2, 6000), dtype=bool)
    valid[0, 2000:] = False
    valid[1] = False
    x = np.where(valid[:, None], x, 0)
    features = table(x, valid, 1000)
    assert np.isfinite(features).all()
    assert features[:, -1] == pytest.approx([1 / 3, 0])
    assert features[0, :2] == pytest.approx(x[0, :, :2000].mean(axis=1), abs=1e-6)
    assert features[0, 2:4] == pytest.approx(x[0, :, :2000].std(axis=1), rel=1e-5)
    assert features[0, 4:6] == pytest.approx(x[0, :, :2000].min(axis=1))


def test_the_table_is_bounded_by_the_larger_split():
    assert width(100, 100, 2**26) == 4096
    assert width(4096, 4096, 2**26) == 1024
    assert width(4096, 2**20, 2**26) == 64
