"""Darcy flow: the solver against a series, the field's distribution, and what the samples look like."""

import numpy as np
import pytest

from orca_cli.exceptions import ConfigError
from orca_cli.seeding import numpy_generator
from orca_cli.tasks.darcy import gaussian_field, load, solve

FEW = {"nodes": 21, "stride": 2, "num_train": 8, "num_validation": 3, "num_test": 4}


def series(nodes, a):
    """u of -a laplace(u) = 1 on the unit square, by its double sine series."""
    m = np.arange(1, 200, 2)
    sines = np.sin(np.pi * np.outer(np.linspace(0, 1, nodes), m))
    return sines @ (16 / (np.pi**4 * a * np.outer(m, m) * (m[:, None] ** 2 + m**2))) @ sines.T


def test_constant_permeability_gives_the_analytic_series():
    errors = [np.abs(solve(np.full((k, k), 3.0)) - series(k, 3.0)).max() for k in (21, 41)]
    assert errors[0] < 1e-4  # of a maximum of 0.025
    assert errors[1] < errors[0] / 3  # second order


def test_the_solution_fulfils_the_balance_of_every_cell():
    a = np.random.default_rng(0).uniform(1, 10, (12, 12))
    u = solve(a)
    h = 1 / 11
    flux_down = (a[1:] + a[:-1]) / 2 * np.diff(u, axis=0) / h
    flux_right = (a[:, 1:] + a[:, :-1]) / 2 * np.diff(u, axis=1) / h
    balance = np.diff(flux_down[:, 1:-1], axis=0) / h + np.diff(flux_right[1:-1], axis=1) / h
    np.testing.assert_allclose(-balance, 1, rtol=1e-9)
    assert (u[[0, -1]] == 0).all()
    assert (u[:, [0, -1]] == 0).all()


def test_the_mean_pressure_is_that_of_the_distribution():
    solutions = []
    for index in range(60):
        high = gaussian_field(71, numpy_generator(0, "test", index)) >= 0
        solutions.append(solve(np.where(high, 12.0, 3.0)).mean())
    # 0.00558 at 141 nodes, over many fields; a threshold of 12/4 would give 0.00488.
    assert abs(np.mean(solutions) - 0.00556) < 3 * np.std(solutions) / np.sqrt(len(solutions))
    assert abs(np.mean(solutions) - 0.00556) < 0.0005


def test_the_fields_covariance_is_that_of_its_spectrum():
    fields = np.stack([gaussian_field(16, numpy_generator(0, "test", i)) for i in range(2000)])
    k = np.arange(1, 16)
    # The mean over one axis leaves the cosines that are constant along it: variance = sum of their spectrum.
    means = fields.mean(axis=2)
    cosines = np.cos(np.pi * np.outer(np.arange(16) + 0.5, k) / 16)
    expected = (2 * cosines**2 * 9 / (np.pi**2 * k**2 + 9) ** 2).sum(axis=1)
    np.testing.assert_allclose(means.var(axis=0), expected, rtol=0.15)


def test_samples_have_normalised_inputs_grids_and_physical_targets(tmp_path, reporter):
    task = load(tmp_path, reporter, **FEW)
    batch = task.train.batch(np.arange(8))
    assert task.synthetic
    assert task.input_shape == (3, 11, 11)
    assert batch.y.shape == (8, 1, 11, 11)
    assert np.allclose(batch.x[:, 0].mean(dim=0), 0, atol=1e-5)
    assert (batch.x[:, 1, 4] == batch.x[:, 2, :, 4]).all()
    assert batch.x[0, 1, 0].tolist() == pytest.approx(np.linspace(0, 1, 11).tolist())  # along columns
    assert (batch.y[:, :, 0] == 0).all()
    assert 0.001 < batch.y.mean() < 0.02
    high = gaussian_field(21, numpy_generator(0, "darcy", "train", 5)) >= 0
    np.testing.assert_allclose(batch.y[5, 0], solve(np.where(high, 12.0, 3.0))[::2, ::2], rtol=1e-6)
    scale = task.target_scale
    assert scale.mean.shape == scale.std.shape == (1, 11, 11)
    assert (scale.std > 0).all()
    np.testing.assert_allclose(scale.mean, batch.y.mean(dim=0), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(scale.std, batch.y.std(dim=0) + 1e-5, rtol=1e-4)


def test_more_samples_leave_the_first_ones_as_they_are(tmp_path, reporter):
    few, more = load(tmp_path, reporter, **FEW), load(tmp_path, reporter, **FEW | {"num_train": 9})
    assert (few.train.targets() == more.train.targets()[:8]).all()
    assert few.open_test().targets().shape == (4, 1, 11, 11)
    assert not np.array_equal(few.open_test().targets()[:3], few.validation.targets())


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"stride": 3}, "task.stride"), ({"nodes": 4}, "task.nodes"), ({"num_train": 1}, "task.num_train")],
)
def test_impossible_settings_are_refused(settings, key, tmp_path, reporter):
    with pytest.raises(ConfigError, match=key):
        load(tmp_path, reporter, **FEW | settings)
