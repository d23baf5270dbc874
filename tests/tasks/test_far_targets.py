"""Targets far from zero, such as Unix seconds, are not rounded between file and error."""

import numpy as np
import pandas as pd
import pytest
import torch

from orca_cli.baselines.models import fitted
from orca_cli.data.targets import TargetForm
from orca_cli.interfaces import Scale
from orca_cli.prediction import output
from orca_cli.scoring.losses import MaskedMSE
from orca_cli.scoring.regression import MAE, RMSE, MeanSquared, NormalisedRMSE, RelativeL2
from orca_cli.stages.pseudo_labels import class_labels
from tests.tasks.builders import every, splits
from tests.training.toy import Dense, Pairs, plan

N, SECONDS = 60, 1.7e9
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2, 6))
# Multiples of 2^-10, so that float64 holds them exactly with the offset too; float32 has steps of
# 128 at 1.7e9.
NEAR = np.round(143 * 2**10 * RNG.normal(size=(N, 2, 6))) / 2**10
FORMS = {
    "one number": ("values", NEAR[:, 0, 0]),
    "several numbers": ("values", NEAR[:, :, 0]),
    "maps": ("dense", NEAR),
}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_keep_their_digits_and_are_scaled_by_them(form, build, tmp_path):
    kind, near = FORMS[form]
    np.savez(tmp_path / "far.npz", x=X, y=near + SECONDS)
    task = build("arrays", kind=kind, train="far.npz", normalize=False)
    read = np.concatenate([samples.targets() for samples in splits(task)])
    assert sorted(read.ravel() - SECONDS) == sorted(near.ravel())
    learned = every(task.train).y.numpy() - SECONDS
    axes = (0, 2) if kind == "dense" else 0
    assert task.target_scale.mean.dtype == task.target_scale.std.dtype == np.float64
    mean, std = task.target_scale.mean.ravel(), task.target_scale.std.ravel()
    np.testing.assert_allclose(mean - SECONDS, learned.mean(axes).ravel(), atol=1e-6)
    np.testing.assert_allclose(std, learned.std(axes).ravel(), rtol=1e-8)


def test_tables_keep_their_digits(build, tmp_path):
    table = pd.DataFrame({"a": X[:, 0, 0], "y": NEAR[:, 0, 0] + SECONDS})
    table.to_csv(tmp_path / "far.csv", index=False)
    task = build("table", train="far.csv", target="y")
    read = np.concatenate([samples.targets()[:, 0] for samples in splits(task)])
    assert sorted(read - SECONDS) == sorted(NEAR[:, 0, 0])


@pytest.mark.parametrize(("deviations", "dtype"), [(15, np.float32), (17, np.float64)])
def test_float32_is_left_where_it_rounds_too_much(deviations, dtype, build, tmp_path):
    """Other targets keep the dtype, and so the bits, that they always had."""
    y = NEAR[:, :, 0] / NEAR[:, :, 0].std(0)
    np.savez(tmp_path / "own.npz", x=X, y=y - y.mean(0) + [deviations, 0])
    split = {"validation_fraction": 0.01, "test_fraction": 0.01}
    task = build("arrays", kind="values", train="own.npz", **split)
    assert every(task.train).y.numpy().dtype == task.target_scale.mean.dtype == dtype


def learned(offset):
    """Return a small model's outputs, less the offset of the targets [64, 2, 6] that it learned."""
    x = Pairs(torch.zeros(64)).x.double()
    y = torch.stack([x[:, 0] + 0.5 * x[:, 1], 3 * x[:, 2] - x[:, 0]], dim=1) + offset
    std = y.std((0, 2), correction=0, keepdim=True)[0]
    scale = Scale(y.mean((0, 2), keepdim=True)[0].numpy(), std.numpy())
    model = Dense(2, scale=scale)
    settings = {"optimizer": "sgd", "lr": 3e-2, "batch_size": 16, "epochs": 15, "warmup_epochs": 0}
    with plan(model, Pairs(y), MaskedMSE(), **settings) as steps:
        for step in range(steps.total):
            steps.take(step)
    with torch.no_grad():
        return model(Pairs(y).x) - offset, y - offset


def test_a_model_learns_the_same_of_them():
    (far, y), (near, _) = learned(2.0**30), learned(0.0)
    assert (near - y).square().mean() < 0.5 * y.var()  # the premise: it learns
    torch.testing.assert_close(far, near, rtol=0, atol=1e-5)


@pytest.mark.parametrize("error", [RMSE(), MAE(), MeanSquared(), NormalisedRMSE()])
def test_errors_do_not_see_an_offset(error):
    near = error(NEAR[::2], NEAR[1::2])
    far = error(NEAR[::2] + SECONDS, NEAR[1::2] + SECONDS)
    assert far.value == pytest.approx(near.value, rel=1e-6)


@pytest.mark.parametrize("error", [RMSE(), MAE(), MeanSquared(), NormalisedRMSE()])
def test_best_constants_do_not_see_an_offset(error):
    scores = []
    for offset in (0.0, SECONDS):
        constant = error.constant(NEAR + offset, 2)
        outputs = np.broadcast_to(constant, NEAR[1::2].shape)
        scores.append(error(outputs, NEAR[1::2] + offset).value)
    assert scores[1] == pytest.approx(scores[0], rel=1e-6)


def test_the_best_constant_of_relative_errors_has_the_digits():
    assert RelativeL2().constant(np.full((5, 1), SECONDS + 1), 1).tolist() == [SECONDS + 1]


@pytest.mark.parametrize(
    ("model", "form"),
    [("linear", "values"), ("forest", "values"), ("boosting", "values"), ("linear", "maps")],
)
def test_simple_models_predict_them_as_they_do_others(model, form):
    x = X if form == "maps" else X.reshape(N, -1)
    near = NEAR + np.round(1e3 * X)
    if form == "values":
        near = near[:, :, 0]
    settings = {"k": 2, "groups": None, "causal": False, "balanced": False}
    fold = np.arange(N) % 5
    plain = fitted(model, form, x, near, x[:9], fold=fold, **settings)
    far = fitted(model, form, x, near + SECONDS, x[:9], fold=fold, **settings)
    for name in ("outputs", "held_out"):
        np.testing.assert_allclose(far[name] - SECONDS, plain[name], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("form", ["several numbers", "maps"])
def test_their_clusters_are_those_of_what_varies(form):
    kind, near = FORMS[form]
    near = near / 32 + 60 * (np.arange(N) % 3).reshape(-1, *(1,) * (near.ndim - 1))
    plain = class_labels(kind, near, near[:3], num_clusters=3, seed=0)
    far = class_labels(kind, near + SECONDS, near[:3] + SECONDS, num_clusters=3, seed=0)
    assert len(set(plain[0])) == 3
    assert np.array_equal(np.concatenate(plain), np.concatenate(far))


@pytest.mark.parametrize("suffix", output.SUFFIXES)
def test_predictions_are_written_with_the_digits_that_they_have(suffix, tmp_path):
    far = NEAR[:, :, 0] + SECONDS
    decoder = output.Decoder(TargetForm(kind="values", num_outputs=2), 2)
    path = tmp_path / f"p{suffix}"
    output.write(path, [far[:7], far[7:]], decoder, None)
    if suffix == ".npz":
        written = np.load(path)["prediction"]
    else:
        written = pd.read_csv(path)[["prediction_0", "prediction_1"]].to_numpy()
    assert np.array_equal(written, far)
