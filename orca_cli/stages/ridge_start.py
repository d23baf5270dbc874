"""The predictor's start: a ridge regression on what it sees of training samples before any step of stage 3.

Fine-tuning from a random predictor first changes the features to fit that predictor, and loses what the body knows; from one
that is fitted to them it does not (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features").
"""

import copy
import warnings
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding, signals
from orca_cli.interfaces import Samples, Tokens
from orca_cli.models.predictors import PooledPredictor
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.build import Built, is_ridge_wanted
from orca_cli.training.engine import Engine
from orca_cli.training.loop import batches

_MOST = 2000  # samples
_LEAST = 4
_AT_ONCE = 64
_PENALTIES = np.logspace(-3, 5, 33)
_SHARES = (
    0.5,
    0.0,
    1.0,
)  # of what went past the body: both alike, the body alone, what went past it alone
_SCALES = np.logspace(-1, 2, 61)
_CONSTANT = 1e-7  # deviation of a feature below which it is left out


@torch.no_grad()
def start(built: Built, engine: Engine, samples: Samples, seed: int) -> bool:
    """Fit the predictor of a run to training samples; returns whether it has been, which `predictor.init` may not ask for.

    Features are standardised. The leave-one-out error chooses the penalty and which features are used: the body's, those that
    went past it, or both with equal weight. For classes and labels the outputs are then scaled so that the loss of the samples
    left out is lowest. At most 2,000 samples are used, drawn by the seed; with fewer than 4 known targets nothing is fitted.
    """
    if not is_ridge_wanted(built.plan, built.model):
        return False
    rows = np.arange(len(samples))
    if len(rows) > _MOST:
        rows = np.sort(
            seeding.numpy_generator(seed, "finetune", "ridge").permutation(len(rows))[:_MOST]
        )
    targets = torch.from_numpy(np.array(samples.targets()[rows]))
    known = targets >= 0 if built.task.kind == "classes" else ~targets.isnan().any(1)
    rows, targets = rows[known.numpy()], targets[known]
    if len(rows) < _LEAST:
        return False
    blocks, places = [], []
    for block in _seen(built.model, engine, samples, rows):
        deviation = block.std(0)
        varies = deviation > _CONSTANT  # a row has length 1 on average
        factor = (
            np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)
            / max(1, varies.sum()) ** 0.5
        )
        places.append((block.mean(0), factor))
        blocks.append((block - places[-1][0]) * factor)
    # The outputs [n, K] that it is to give: 1 of the class, 1 and -1 of labels, numbers in the model's units.
    y = targets.double().numpy()
    if built.task.kind == "classes":
        y = np.eye(built.task.num_outputs)[targets.numpy()]
    elif built.task.kind == "labels":
        y = 2 * y - 1
    elif built.model.has_scale:
        y = (
            ((targets - built.model.scale_mean.cpu()) / built.model.scale_std.cpu())
            .double()
            .numpy()
        )
    weight, bias, held_out = _ridge(blocks, y)
    if built.task.kind != "values":  # the factor on the outputs at which the loss is lowest
        measure: Any = (
            copy.deepcopy(built.loss).cpu() if isinstance(built.loss, nn.Module) else built.loss
        )
        outputs = torch.from_numpy(held_out).float()
        losses = [float(measure(float(scale) * outputs, targets)) for scale in _SCALES]
        scale = float(_SCALES[int(np.nanargmin(losses))])
        weight, bias = scale * weight, scale * bias
    # The layers answer to raw features as these weights do to standardised ones.
    predictor = cast(PooledPredictor, built.model.predictor)
    layers = [predictor.linear] if predictor.skip is None else [predictor.linear, predictor.skip]
    parts = np.split(weight, np.cumsum([len(mean) for mean, _ in places])[:-1])
    for layer, part, (mean, factor) in zip(layers, parts, places, strict=True):
        raw = part * factor[:, None]
        layer.weight.copy_(torch.from_numpy(raw.T))
        bias = bias - mean @ raw
    predictor.linear.bias.copy_(torch.from_numpy(bias))
    return True


def _seen(
    model: TransferModel, engine: Engine, samples: Samples, rows: np.ndarray
) -> list[np.ndarray]:
    """Return what the predictor's layers see of samples, [n, F] and, where there are such features, [n, S]."""
    model.eval()
    predictor = cast(PooledPredictor, model.predictor)
    pieces: list[tuple[Tensor, ...]] = []
    for some in batches(rows, _AT_ONCE):
        signals.check()
        batch = engine.move(samples.batch(some))
        with engine.autocast():
            features: Tokens = model.features(batch.x, batch.valid)
        others = () if predictor.skip is None else (features.samples,)
        pieces.append((predictor.pool(features), *cast(tuple[Tensor, ...], others)))
    return [torch.cat(block).double().cpu().numpy() for block in zip(*pieces, strict=True)]


def _ridge(blocks: list[np.ndarray], y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights [F, K] and bias [K], and for every sample the outputs [n, K] of a ridge that has not seen it."""
    from sklearn.linear_model import RidgeCV

    candidates = []
    for share in _SHARES if len(blocks) > 1 else (0.0,):
        factor = np.repeat(
            np.sqrt([1 - share, share])[: len(blocks)], [block.shape[1] for block in blocks]
        )
        model = RidgeCV(_PENALTIES, scoring="neg_mean_squared_error", store_cv_results=True)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of matrices that are nearly singular, at the least penalties
            model.fit(np.concatenate(blocks, 1) * factor, y)
        candidates.append((model, factor))
    best, factors = max(candidates, key=lambda one: one[0].best_score_)
    held_out = best.cv_results_[..., int(np.argmin(np.abs(_PENALTIES - best.alpha_)))]
    weight = best.coef_.reshape(y.shape[1], -1).T * factors[:, None]
    return weight, np.atleast_1d(best.intercept_), held_out.reshape(y.shape)
