"""Errors of real-valued targets against scikit-learn, by hand, and with unknown targets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from orca_cli.exceptions import DataError, NonFiniteError
from orca_cli.scoring.defaults import default_error
from orca_cli.scoring.values import MAE, RMSE, NormalisedRMSE, OneMinusR2
from tests.properties import examples

NAN = float("nan")
ERRORS = (RMSE, MAE, OneMinusR2, NormalisedRMSE)


def of_scikit_learn(targets, outputs):
    """Return what each error has to be, for [n, K]."""
    rmse = root_mean_squared_error(targets, outputs, multioutput="raw_values")
    return {
        RMSE: root_mean_squared_error(targets, outputs),
        MAE: mean_absolute_error(targets, outputs),
        OneMinusR2: 1 - r2_score(targets, outputs),
        NormalisedRMSE: np.mean(rmse / targets.std(axis=0)),
    }


@examples(60)
@given(st.integers(0, 2**31), st.integers(2, 50), st.integers(1, 4), st.sampled_from([1e-6, 1.0, 1e9]))
def test_errors_agree_with_scikit_learn(seed, n, k, units):
    rng = np.random.default_rng(seed)
    targets = (rng.normal(size=(n, k)) + 3) * units * (1 + np.arange(k))
    outputs = targets + rng.normal(size=(n, k)) * units
    expected = of_scikit_learn(targets, outputs)
    for error in ERRORS:
        score = error()(torch.from_numpy(outputs), torch.from_numpy(targets))
        assert score.value == pytest.approx(expected[error], rel=1e-9)
        assert (score.n, score.skipped) == (n * k, 0)
        for other in ERRORS:
            if other is not error:
                assert score.others[other.name] == pytest.approx(expected[other], rel=1e-9)


def test_unknown_targets_are_left_out_of_their_output():
    targets = torch.tensor([[1.0, 10.0], [3.0, NAN], [5.0, 30.0]])
    outputs = torch.tensor([[2.0, 10.0], [3.0, 7.0], [5.0, 20.0]])
    score = MAE()(outputs, targets)
    assert score.value == pytest.approx((1 / 3 + 10 / 2) / 2)
    assert (score.n, score.skipped) == (5, 1)
    nothing = RMSE()(outputs, torch.full((3, 2), NAN))
    assert (nothing.value, nothing.n, nothing.skipped) == (None, 0, 6)


def test_what_equal_targets_leave_undefined_is_skipped():
    targets = torch.tensor([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]], dtype=torch.float64)
    outputs = torch.tensor([[0.2, 3.0], [0.2, 3.0], [0.2, 3.0]], dtype=torch.float64)
    score = OneMinusR2()(outputs, targets)
    assert (score.value, score.n, score.skipped) == (pytest.approx(1.0), 3, 3)
    assert RMSE()(outputs, targets).others["1 - R2"] == pytest.approx(1.0)
    assert RMSE()(outputs, targets).value == pytest.approx((0.1 + np.sqrt(8 / 3)) / 2)


@pytest.mark.parametrize("error", ERRORS)
def test_no_other_constant_is_better_on_the_targets_that_it_is_made_of(error):
    targets = torch.from_numpy(np.random.default_rng(0).exponential(size=(41, 2))).float()
    best = error().constant(targets, 2)
    value = error()(best.expand(41, 2), targets).value
    for shift in (-0.05, 0.05):
        assert error()((best + shift).expand(41, 2), targets).value > value


def test_a_constant_of_unknown_targets_is_finite():
    targets = torch.tensor([[1.0, NAN], [4.0, NAN]])
    for error in ERRORS:
        assert torch.isfinite(error().constant(targets, 2)).all()
        assert torch.isfinite(error().constant(torch.full((2, 2), NAN), 2)).all()


def test_medians_of_many_targets_are_found():
    targets = torch.arange(2**24 + 3, dtype=torch.float32)[:, None]  # more than torch.quantile takes
    assert MAE().constant(targets, 1).tolist() == [2**23 + 1]


def test_outputs_that_do_not_fit_or_are_not_numbers_are_refused():
    with pytest.raises(DataError, match="of one shape"):
        RMSE()(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(NonFiniteError, match="1 outputs are NaN"):
        RMSE()(torch.tensor([[NAN], [1.0]]), torch.zeros(2, 1))
    # Where the target is unknown, the output does not count.
    assert RMSE()(torch.tensor([[NAN], [1.0]]), torch.tensor([[NAN], [0.0]])).value == 1.0


def test_the_error_of_values_is_the_root_mean_square():
    assert default_error("values", integer_targets=False).name == "RMSE"
