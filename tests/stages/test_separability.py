"""How well classes are separated: the closed form against refitting, and what it says of known cases."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from orca_cli.stages import separability
from orca_cli.stages.separability import left_out_error


def clouds(distance, n=60, d=20):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = rng.normal(size=(n, d)) + distance * np.eye(3, d)[labels]
    return torch.from_numpy(x), torch.nn.functional.one_hot(torch.from_numpy(labels), 3).double()


@pytest.mark.parametrize("strength", [1e-2, 1.0, 100.0])
def test_residuals_are_those_of_fitting_without_the_sample(monkeypatch, strength):
    monkeypatch.setattr(separability, "_STRENGTHS", np.array([strength]))
    x, y = clouds(2.0)
    centred = x - x.mean(0)
    alpha = strength * float(torch.linalg.eigvalsh(centred @ centred.T).mean())
    left, constant = [], []
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        # scikit-learn centres the rest: the strength is the same, and so is the prediction to a few parts in n.
        fitted = Ridge(alpha=alpha).fit(x[rest].numpy(), y[rest].numpy())
        left.append((y[i].numpy() - fitted.predict(x[[i]].numpy())[0]) ** 2)
        constant.append((y[i] - y[rest].mean(0)).numpy() ** 2)
    assert left_out_error(x, y) == pytest.approx(np.mean(left) / np.mean(constant), rel=1e-6)


def test_classes_apart_are_near_zero_and_noise_is_near_one():
    errors = [left_out_error(*clouds(distance)) for distance in (30.0, 3.0, 0.0)]
    assert errors[0] < 0.05
    assert errors[0] < errors[1] < errors[2]
    assert 0.9 < errors[2] < 1.1


def test_features_or_classes_that_are_all_alike_tell_nothing():
    x, y = clouds(1.0)
    assert left_out_error(torch.ones_like(x), y) == 1
    assert left_out_error(x, torch.ones_like(y)) == 1
