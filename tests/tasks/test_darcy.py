"""Darcy flow: the solver against a series, the field's distribution, and the samples."""

import numpy as np
from scipy.io import savemat

from orca_cli.benchmarks import darcy
from orca_cli.benchmarks.darcy import gaussian_field, solve
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.seeding import numpy_generator
from tests.tasks.builders import every, refused

FEW = {"num_train": 8, "num_validation": 3, "num_test": 4}
FILES = FEW | {"origin": "files"}


def load(folder, reporter, **settings):
    return darcy.load(folder, folder / "cache", reporter, **settings)


def write_files(folder, **changes):
    """Write the two .mat files as the Fourier neural operator's are; returns their arrays."""
    folder.mkdir(exist_ok=True)
    written = []
    for number, name in enumerate(darcy.FILES):
        coeff, sol = np.random.default_rng(number).random((2, 12, 21, 21))
        written.append({"coeff": np.where(coeff < 0.5, 12.0, 3.0), "sol": sol * 0.01} | changes)
        savemat(folder / name, written[-1])
    return written


def test_constant_permeability_gives_the_double_sine_series():
    m = np.arange(1, 200, 2)
    errors = []
    for k in (21, 41):
        sines = np.sin(np.pi * np.outer(np.linspace(0, 1, k), m))
        u = sines @ (16 / (np.pi**4 * 3 * np.outer(m, m) * (m[:, None] ** 2 + m**2))) @ sines.T
        errors.append(np.abs(solve(np.full((k, k), 3.0)) - u).max())
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


def test_the_fields_covariance_is_that_of_its_spectrum():
    fields = np.stack([gaussian_field(16, numpy_generator(0, "test", i)) for i in range(2000)])
    k = np.arange(1, 16)
    # The mean over an axis leaves the cosines that are constant along it; its variance is the sum
    # of their spectrum.
    means = fields.mean(axis=2)
    cosines = np.cos(np.pi * np.outer(np.arange(16) + 0.5, k) / 16)
    expected = (2 * cosines**2 * 9 / (np.pi**2 * k**2 + 9) ** 2).sum(axis=1)
    np.testing.assert_allclose(means.var(axis=0), expected, rtol=0.15)


def test_inputs_are_normalised_and_targets_physical(tmp_path, reporter, monkeypatch):
    monkeypatch.setitem(darcy.SIZES, "small", darcy.Size(nodes=21, stride=2, counts={}))
    task = load(tmp_path, reporter, **FEW)
    batch = every(task.train)
    assert task.input_shape == (3, 11, 11)
    assert np.allclose(batch.x[:, 0].mean(dim=0), 0, atol=1e-5)
    assert (batch.x[:, 1, 4] == batch.x[:, 2, :, 4]).all()
    high = gaussian_field(21, numpy_generator(0, "darcy", "train", 5)) >= 0
    np.testing.assert_allclose(batch.y[5, 0], solve(np.where(high, 12.0, 3.0))[::2, ::2], rtol=1e-6)
    scale = task.target_scale
    np.testing.assert_allclose(scale.mean, batch.y.mean(dim=0), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(scale.std, batch.y.std(dim=0) + 1e-5, rtol=1e-4)
    both = load(tmp_path, reporter, **FEW, train_on_validation=True).train.targets()
    np.testing.assert_array_equal(
        both, np.concatenate([task.train.targets(), task.validation.targets()])
    )
    more = load(tmp_path, reporter, **FEW | {"num_train": 9})  # leaves the first ones as they are
    assert (task.train.targets() == more.train.targets()[:8]).all()
    assert not np.array_equal(more.open_test().targets()[:3], more.validation.targets())


def test_files_give_normalised_permeability_and_pressure(tmp_path, reporter):
    train, test = write_files(tmp_path / "darcy")
    task = load(tmp_path, reporter, **FILES)
    coeff, u = train["coeff"][:8, ::5, ::5], train["sol"][:, ::5, ::5]
    centre, spread = coeff.mean(axis=0), coeff.std(axis=0, ddof=1) + 1e-5
    batch = every(task.train)
    np.testing.assert_allclose(batch.x[:, 0], (coeff - centre) / spread, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(batch.y[:, 0], u[:8], rtol=1e-6)
    np.testing.assert_allclose(
        task.target_scale.std[0], u[:8].std(axis=0, ddof=1) + 1e-5, rtol=1e-5
    )
    np.testing.assert_allclose(task.validation.targets()[:, 0], u[8:11], rtol=1e-6)
    last = task.open_test()
    np.testing.assert_allclose(last.targets()[:, 0], test["sol"][:4, ::5, ::5], rtol=1e-6)
    expected = (test["coeff"][:4, ::5, ::5] - centre) / spread
    np.testing.assert_allclose(every(last).x[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_files_that_do_not_fit_are_refused(tmp_path, reporter):
    for changes, settings, what in (
        ({"sol": np.zeros((12, 22, 22))}, {}, "'sol' has 22 nodes per side, expected 421"),
        ({"coeff": np.full((12, 21, 21), np.nan)}, {}, "NaN or infinite"),
        ({}, {"num_validation": 5}, "task.num_validation: needs 13 samples of .*, which has 12"),
    ):
        write_files(tmp_path / "darcy", **changes)
        with refused(what, (ConfigError, DataError)):
            load(tmp_path, reporter, **FILES | settings)
