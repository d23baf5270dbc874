"""Errors of tasks: against scikit-learn and NumPy, by hand, and with unknown targets."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from orca_cli.exceptions import ConfigError, DataError, NonFiniteError
from orca_cli.interfaces import IGNORED_CLASS
from orca_cli.scoring.classification import ZeroOne
from orca_cli.scoring.defaults import default_error
from orca_cli.scoring.multilabel import MeanAUROC, MeanAveragePrecision
from orca_cli.scoring.regression import MeanSquared, RelativeL2
from tests.properties import examples

NAN = float("nan")


def test_zero_one_by_hand():
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    score = ZeroOne()(outputs, torch.tensor([1, 1, 1, IGNORED_CLASS]))
    assert (score.value, score.n, score.skipped) == (pytest.approx(1 / 3), 3, 1)


def test_zero_one_counts_positions_of_maps():
    targets = torch.tensor([[[0, 1], [2, IGNORED_CLASS]]])  # [1, 2, 2]
    outputs = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [1, 0]]]), 3).movedim(-1, 1).float()
    score = ZeroOne()(outputs, targets)
    assert (score.value, score.n, score.skipped) == (pytest.approx(1 / 3), 3, 1)


def test_zero_one_counts_nan_as_wrong():
    assert ZeroOne()(torch.tensor([[NAN, 0.0], [1.0, 0.0]]), torch.tensor([0, 0])).value == 0.5


def test_zero_one_constant_is_the_majority_class_of_every_position():
    flat = ZeroOne().constant(torch.tensor([2, 1, 2, IGNORED_CLASS, 0]), 3)
    assert flat.tolist() == [0, 0, 1]
    unknown = IGNORED_CLASS
    maps = torch.tensor([[0, 1, unknown], [0, 1, unknown], [1, 1, unknown]])
    constant = ZeroOne().constant(maps, 2)
    assert constant.shape == (2, 3)
    assert constant.argmax(0).tolist() == [0, 1, 1]
    assert ZeroOne()(constant.expand(3, 2, 3), maps).value == pytest.approx(1 / 6)


@examples(60)
@given(st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 5), st.integers(1, 6))
def test_multilabel_errors_agree_with_scikit_learn(seed, n, k, levels):
    rng = np.random.default_rng(seed)
    outputs = rng.integers(0, levels, (n, k)) / 4.0  # few levels: many ties
    targets = rng.integers(0, 2, (n, k)).astype(np.float32)
    unknown = rng.random((n, k)) < 0.2
    precision, auroc = [], []
    for j in range(k):
        y, p = targets[~unknown[:, j], j], outputs[~unknown[:, j], j]
        if y.any():
            precision.append(average_precision_score(y, p))
            if not y.all():
                auroc.append(roc_auc_score(y, p))
    targets[unknown] = NAN
    for error, expected in ((MeanAveragePrecision(), precision), (MeanAUROC(), auroc)):
        score = error(torch.from_numpy(outputs), torch.from_numpy(targets))
        assert (score.n, score.skipped) == (len(expected), k - len(expected))
        assert score.value == (pytest.approx(1 - np.mean(expected), abs=1e-9) if expected else None)


def test_multilabel_outputs_of_nan_rank_last():
    targets = torch.tensor([[1.0], [0.0], [0.0]])
    assert MeanAUROC()(torch.tensor([[NAN], [0.1], [-5.0]]), targets).value == pytest.approx(1.0)


def test_any_multilabel_constant_has_auroc_one_half():
    targets = torch.tensor([[1.0, 0.0], [0.0, NAN], [0.0, 1.0]])
    constant = MeanAUROC().constant(targets, 2)
    assert constant.tolist() == pytest.approx([1 / 3, 1 / 2])
    assert MeanAUROC()(constant.expand(3, 2), targets).value == pytest.approx(0.5)


def test_relative_l2_agrees_with_numpy_and_skips_zero_targets():
    rng = np.random.default_rng(0)
    outputs, targets = rng.normal(size=(2, 5, 2, 3, 4))
    targets[3] = 0
    expected = np.mean([np.linalg.norm(outputs[i] - targets[i]) / np.linalg.norm(targets[i]) for i in (0, 1, 2, 4)])
    score = RelativeL2()(torch.from_numpy(outputs), torch.from_numpy(targets))
    assert (score.value, score.n, score.skipped) == (pytest.approx(expected), 4, 1)


def test_relative_l2_leaves_out_unknown_entries():
    score = RelativeL2()(torch.tensor([[[9.0, 4.0, 1.0]]]), torch.tensor([[[NAN, 3.0, 0.0]]]))
    assert score.value == pytest.approx(np.sqrt(2) / 3)


@examples(25)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_relative_l2_constant_beats_mean_and_every_sample(seed, n):
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(rng.normal(size=(n, 1, 5)) * rng.uniform(0.2, 5, (n, 1, 1)))
    error = RelativeL2()
    constant = error.constant(targets, 1)
    assert constant.shape == (1, 5)
    value = error(constant.expand(targets.shape), targets).value
    for other in (targets.mean(0), torch.zeros(1, 5), *targets):
        assert value <= error(other.expand(targets.shape), targets).value + 1e-3


def test_mean_squared_ignores_nan_and_its_constant_is_the_mean_of_every_position():
    targets = torch.tensor([[[1.0, NAN, NAN]], [[3.0, 5.0, NAN]]])
    outputs = torch.zeros_like(targets)
    score = MeanSquared()(outputs, targets)
    assert (score.value, score.n, score.skipped) == (pytest.approx(35 / 3), 3, 3)
    assert MeanSquared().constant(targets, 1).tolist() == [[2.0, 5.0, 3.0]]


@pytest.mark.parametrize("error", [RelativeL2(), MeanSquared()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_regression_outputs_that_are_no_numbers_are_told(error, value):
    outputs, targets = torch.zeros(2, 1, 3), torch.ones(2, 1, 3)
    outputs[0, 0, :2] = value
    with pytest.raises(NonFiniteError, match=r"task\.error: 2 outputs are NaN or infinite"):
        error(outputs, targets)
    targets[0, 0, :2] = NAN  # what nobody asks for does not matter
    assert error(outputs, targets).value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("error", "outputs", "targets"),
    [
        (ZeroOne(), torch.zeros(2, 3), torch.full((2,), IGNORED_CLASS)),
        (MeanAveragePrecision(), torch.zeros(2, 3), torch.zeros(2, 3)),
        (MeanAUROC(), torch.zeros(2, 3), torch.ones(2, 3)),
        (RelativeL2(), torch.zeros(2, 1, 3), torch.zeros(2, 1, 3)),
        (MeanSquared(), torch.zeros(2, 1, 3), torch.full((2, 1, 3), NAN)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_undefined_errors_are_none(error, outputs, targets):
    score = error(outputs, targets)
    assert score.value is None
    assert score.n == 0
    assert score.skipped > 0
    assert torch.isfinite(error.constant(targets, outputs.shape[1])).all()


@pytest.mark.parametrize(
    ("error", "outputs", "targets"),
    [
        # (n, H, W) against (n, 1, H, W) would broadcast to (n, n, H, W).
        (RelativeL2(), torch.zeros(2, 4, 4), torch.ones(2, 1, 4, 4)),
        (MeanSquared(), torch.zeros(2, 4, 4), torch.ones(2, 1, 4, 4)),
        (ZeroOne(), torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long)),
        (MeanAUROC(), torch.zeros(2, 3), torch.zeros(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_shapes_that_do_not_fit_are_refused(error, outputs, targets):
    with pytest.raises(DataError, match="do not fit"):
        error(outputs, targets)


def test_default_errors():
    assert isinstance(default_error("classes", True), ZeroOne)
    assert isinstance(default_error("labels", False), MeanAveragePrecision)
    assert isinstance(default_error("dense", False), MeanSquared)
    assert isinstance(default_error("dense", True), ZeroOne)
    with pytest.raises(ConfigError, match="did you mean 'dense'"):
        default_error("dens", True)
