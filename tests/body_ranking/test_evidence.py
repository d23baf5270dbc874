"""LogME against the density that it is the maximum of, and against what is known about it."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from orca_cli.body_ranking.evidence import evidences, logme
from orca_cli.body_ranking.frozen import columns


def density(features, y, alpha, beta):
    """The log-density of the targets with the weights integrated out, by its covariance."""
    covariance = np.eye(len(y)) / beta + features @ features.T / alpha
    return multivariate_normal(np.zeros(len(y)), covariance).logpdf(y)


def paper(features, y, alpha, beta):
    """The same by the paper's equation 2: with A = alpha I + beta F'F and m = beta A^-1 F'y."""
    n, width = features.shape
    a = alpha * np.eye(width) + beta * features.T @ features
    m = beta * np.linalg.solve(a, features.T @ y)
    squares = beta / 2 * np.sum((features @ m - y) ** 2) + alpha / 2 * m @ m
    return (n * np.log(beta / (2 * np.pi)) + width * np.log(alpha) - np.linalg.slogdet(a)[1]) / 2 - squares


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize(("n", "width", "noise"), [(20, 4, 0.5), (10, 30, 0.5), (15, 6, 3.0)])
def test_the_maximum_is_that_of_the_density(rng, n, width, noise):
    features = rng.normal(size=(n, width)) * np.geomspace(0.1, 10, width)
    y = features @ rng.normal(size=width) / width + noise * rng.normal(size=n) + 0.3
    (found,) = evidences(features, y[:, None])
    assert found.log == pytest.approx(density(features, y, found.alpha, found.beta), rel=1e-9)
    assert found.log == pytest.approx(paper(features, y, found.alpha, found.beta), rel=1e-9)
    grid = [(a, b) for a in np.linspace(-5, 5, 9) for b in np.linspace(-5, 5, 9)]
    start = max(grid, key=lambda logs: density(features, y, *np.exp(logs)))
    best = -minimize(lambda logs: -density(features, y, *np.exp(logs)), start, method="Nelder-Mead").fun
    assert found.log >= best - 1e-6
    assert found.log == pytest.approx(best, abs=1e-3)


def test_the_fixed_point_of_the_paper_is_the_maximum(rng):
    features = rng.normal(size=(80, 7))
    y = features @ rng.normal(size=7) + rng.normal(size=80)
    squares = np.linalg.eigvalsh(features.T @ features)
    alpha = beta = 1.0
    for _ in range(200):
        m = beta * np.linalg.solve(alpha * np.eye(7) + beta * features.T @ features, features.T @ y)
        gamma = np.sum(beta * squares / (alpha + beta * squares))
        alpha, beta = gamma / (m @ m), (80 - gamma) / np.sum((features @ m - y) ** 2)
    (found,) = evidences(features, y[:, None])
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), rel=1e-3)


def test_features_with_more_of_the_target_have_more_evidence(rng):
    y = np.arange(90) % 3
    clouds = [rng.normal(size=(90, 8)) + apart * np.eye(3, 8)[y] for apart in (0.0, 1.0, 3.0)]
    scores = [logme(cloud, columns("classes", y)) for cloud in clouds]
    assert scores == sorted(scores)
    assert scores[2] - scores[0] > 0.3


def test_turned_and_scaled_features_have_the_same_evidence(rng):
    features, y = rng.normal(size=(50, 5)), rng.normal(size=(50, 2))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert logme(1000 * features @ turn, y) == pytest.approx(logme(features, y), abs=1e-4)


def test_unknown_and_constant_targets_are_left_out(rng):
    features, y = rng.normal(size=(50, 5)), rng.normal(size=(50, 3))
    y[:, 1] = 1.0
    y[20:, 2] = np.nan
    each = [evidences(features, y[:, :1])[0].log / 50, evidences(features[:20], y[:20, 2:])[0].log / 20]
    assert logme(features, y) == pytest.approx(np.mean(each))
    assert logme(features, y[:, 1:2]) is None


def test_targets_that_features_explain_exactly_have_a_finite_evidence(rng):
    features = rng.normal(size=(20, 40))
    (found,) = evidences(features, features[:, :1])
    assert np.isfinite([found.log, found.alpha, found.beta]).all()


def test_numbers_are_measured_in_their_deviation():
    values = np.array([[1e6, 0.0], [3e6, np.nan], [5e6, 0.0]])
    found = columns("values", values)
    assert found[:, 0] == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    assert found[[0, 2], 1].tolist() == [0, 0]
