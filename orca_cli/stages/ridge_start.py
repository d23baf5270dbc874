"""The predictor's start: a ridge regression on its inputs for training samples.

Fine-tuning from a random predictor first changes the features to fit that predictor, and so loses
what the body knows. Fine-tuning from a predictor that is fitted to the features does not (Kumar et
al. 2022, "Fine-Tuning can Distort Pretrained Features").
"""

import copy
import warnings
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding
from orca_cli.data.blocks import in_turn
from orca_cli.interfaces import Loss, Samples, Tokens
from orca_cli.models.predictors import PooledPredictor
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.build import Built, starts_as_ridge
from orca_cli.training.engine import Engine

_MOST_SAMPLES = 2000
_FEWEST_SAMPLES = 4
_AT_ONCE = 64
_PENALTIES = np.logspace(-3, 5, 33)
# The weight of the features that bypass the body: equal weights, the body's features alone, the
# bypassing features alone.
_SHARES = (0.5, 0.0, 1.0)
_SCALES = np.logspace(-1, 2, 61)
_CONSTANT = 1e-7  # deviation of a feature below which it is left out


@torch.no_grad()
def start(built: Built, engine: Engine, samples: Samples, seed: int) -> bool:
    """Fit the predictor of a run to training samples.

    Features are standardised. The leave-one-out error chooses the penalty and which features are
    used: the body's features, the features that bypass the body, or both with equal weight. For
    classes and labels the outputs are then scaled so that the loss of the left-out samples is
    lowest. At most 2,000 samples are used, drawn by the seed; with fewer than 4 known targets
    nothing is fitted.

    Returns:
        whether it was fitted, which happens only if `predictor.init` asks for it.
    """
    if not starts_as_ridge(built.plan, built.model):
        return False
    rows, targets = _known(built.task.kind, samples, seed)
    if len(rows) < _FEWEST_SAMPLES:
        return False
    predictor = cast(PooledPredictor, built.model.predictor)
    tables = [_standardised(x) for x in _inputs(built.model, engine, samples, rows)]
    weight, bias, held_out = _ridge([table.x for table in tables], _regressed(built, targets))
    # Outputs near 0 and 1 would make the probabilities of all classes nearly equal.
    if built.task.kind != "values":
        # By the loss of left-out samples: on fitted samples the outputs look surer than they are.
        scale = _best_scale(built.loss, torch.from_numpy(held_out).float(), targets)
        weight = scale * weight
        bias = scale * bias
    # The layers get raw features, but the ridge had standardised features: mean and factor are
    # built into the layers.
    layers = [predictor.linear]
    if predictor.skip is not None:
        layers.append(predictor.skip)
    # Rows of `weight` at which a table ends, [tables - 1].
    table_ends = np.cumsum([len(table.mean) for table in tables])[:-1]
    weight_blocks = np.split(weight, table_ends)  # [F, K] and, for bypassing features, [S, K]
    for layer, weight_block, table in zip(layers, weight_blocks, tables, strict=True):
        layer_weight = weight_block * table.factor[:, None]
        layer.weight.copy_(torch.from_numpy(layer_weight.T))
        bias = bias - table.mean @ layer_weight
    predictor.linear.bias.copy_(torch.from_numpy(bias))
    return True


def _best_scale(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """Return the factor on outputs [n, K] at which their loss is lowest."""
    # A copy, since `cpu` would move the weights of the run's own loss.
    if isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss).cpu()
    scaled_losses = [float(loss(float(scale) * outputs, targets)) for scale in _SCALES]
    return float(_SCALES[int(np.nanargmin(scaled_losses))])


def _known(kind: str, samples: Samples, seed: int) -> tuple[np.ndarray, Tensor]:
    """Return rows of samples with a known target, ascending, and their targets."""
    generator = seeding.numpy_generator(seed, "finetune", "ridge")
    rows = np.sort(generator.permutation(len(samples))[:_MOST_SAMPLES])  # all if there are fewer
    targets = torch.from_numpy(np.array(samples.targets()[rows]))
    if kind == "classes":
        is_known = targets >= 0
    else:
        is_known = ~targets.isnan().any(1)
    return rows[is_known.numpy()], targets[is_known]


def _inputs(
    model: TransferModel, engine: Engine, samples: Samples, rows: np.ndarray
) -> list[np.ndarray]:
    """Return the features of samples that the predictor's layers see.

    Returns:
        [n, F] and, if features bypass the body, [n, S].
    """
    # Without dropout, whose noise the ridge would fit.
    model.eval()
    predictor = cast(PooledPredictor, model.predictor)
    pooled: list[Tensor] = []
    past_body: list[Tensor] = []
    for batch_rows in in_turn(rows, _AT_ONCE):
        batch = engine.move(samples.batch(batch_rows))
        # In the precision of training, as the predictor will see the features.
        with engine.autocast():
            features: Tokens = model.features(batch.x, batch.valid)
        pooled.append(predictor.pool(features))
        if predictor.skip is not None:
            past_body.append(cast(Tensor, features.samples))
    tables = [pooled, past_body] if past_body else [pooled]
    return [torch.cat(pieces).double().cpu().numpy() for pieces in tables]


class _Table(NamedTuple):
    """Standardised features `x` [n, F]: raw features minus their `mean`, times a `factor`, [F]."""

    x: np.ndarray
    mean: np.ndarray
    factor: np.ndarray


def _standardised(features: np.ndarray) -> _Table:
    """Return features [n, F] whose rows have length 1 on average; constant features are 0."""
    mean = features.mean(0)
    deviation = features.std(0)
    is_varying = deviation > _CONSTANT
    reciprocal = np.where(is_varying, 1 / np.where(is_varying, deviation, 1.0), 0.0)
    # With more features, each is smaller: rows of both tables have the same length.
    factor = reciprocal / max(1, is_varying.sum()) ** 0.5
    return _Table(x=(features - mean) * factor, mean=mean, factor=factor)


def _regressed(built: Built, targets: Tensor) -> np.ndarray:
    """Return the targets of the ridge regression, [n, K] float64.

    For classes they are 1 at the class and 0 elsewhere, for labels 1 and -1; numbers are in the
    model's units.
    """
    if built.task.kind == "classes":
        return np.eye(built.task.num_outputs)[targets.numpy()]
    model = built.model
    if built.task.kind == "labels":
        # Signs, since an output of 0 is a probability of one half.
        targets = 2 * targets.double() - 1
    elif model.has_scale:
        centred = targets - model.scale_mean.cpu()
        targets = centred / model.scale_std.cpu()
    return targets.double().numpy()


def _ridge(tables: list[np.ndarray], y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit y [n, K] to one or two tables; the second has the features that bypass the body.

    Returns:
        weights [F, K], bias [K], and for every sample the outputs [n, K] of a ridge that has not
        seen it.
    """
    from sklearn.linear_model import RidgeCV

    table_widths = [table.shape[1] for table in tables]
    candidates = []
    bypass_shares = _SHARES if len(tables) > 1 else (0.0,)
    for bypass_share in bypass_shares:
        # The squared lengths of rows add up by these shares.
        table_weights = np.sqrt([1 - bypass_share, bypass_share])[: len(tables)]
        factor = np.repeat(table_weights, table_widths)
        # Without `cv` it leaves out each sample in turn, by a formula. With `scoring` it stores the
        # outputs of samples left out, not their errors.
        ridge = RidgeCV(_PENALTIES, scoring="neg_mean_squared_error", store_cv_results=True)
        with warnings.catch_warnings():
            # Warnings of nearly singular matrices, at the lowest penalties.
            warnings.simplefilter("ignore")
            ridge.fit(np.concatenate(tables, 1) * factor, y)
        candidates.append((ridge, factor))
    # Chosen, since both tables together are not always best (docs/evidence/start.md).
    best_model, factor = max(candidates, key=lambda candidate: candidate[0].best_score_)
    penalty_index = np.argmin(np.abs(_PENALTIES - best_model.alpha_))
    coefficients = best_model.coef_.reshape(y.shape[1], -1)  # [K, F]
    # Weights for the tables as they were given, [F, K].
    weight = coefficients.T * factor[:, None]
    held_out = best_model.cv_results_[..., penalty_index].reshape(y.shape)
    return weight, np.atleast_1d(best_model.intercept_), held_out
