"""How well the frozen body's features separate classes: ridge regression on the training set, judged by leaving one out.

It asks, without a step of training and without a validation sample, whether alignment has kept what distinguishes the classes.
The residual of the sample that is left out has a closed form (Allen 1974), with hat matrix H of the centred regression:

    y_i - prediction without i = (y_i - prediction_i) / (1 - H_ii - 1/n)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from orca_cli import seeding, signals
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.problem import Labelled
from orca_cli.training.engine import Engine

_SAMPLES = 256
_BATCH = 64
_STRENGTHS = 10.0 ** np.arange(-4, 5)  # of ridge regression, in units of the mean eigenvalue


@torch.no_grad()
def inseparability(model: TransferModel, engine: Engine, split: Labelled, seed: int, batch_size: int) -> float:
    """Return the squared error of the best ridge regression of indicators of classes on features, as a share of the constant's.

    0 where the classes are separated, about 1 where they are not, or where a feature is not finite. Features are the body's
    outputs, averaged over a sample's tokens; up to 256 samples are drawn, the same at every call.
    """
    members = np.concatenate(list(split.members.values()))
    places = np.repeat(np.arange(len(split.members)), [len(rows) for rows in split.members.values()])
    order = np.sort(seeding.numpy_generator(seed, "align", "inseparability").permutation(len(members))[:_SAMPLES])
    indices, labels = members[order], places[order]
    size = min(batch_size, _BATCH)
    model.eval()
    features = []
    for start in range(0, len(indices), size):
        signals.check()
        batch = engine.move(split.samples.batch(indices[start : start + size]))
        with engine.autocast():
            found = model.features(batch.x, batch.valid)
        weight = found.mask[:, found.prefix :].unsqueeze(-1).float()
        features.append(((found.x[:, found.prefix :] * weight).sum(1) / weight.sum(1).clamp(min=1)).cpu())
    indicators = torch.nn.functional.one_hot(torch.from_numpy(labels), len(split.members)).double()
    x = torch.cat(features).double()
    return left_out_error(x, indicators) if bool(x.isfinite().all()) else 1.0


def left_out_error(x: Tensor, y: Tensor) -> float:
    """Return the least mean squared residual of left-out rows over strengths of ridge regression, as a share of the mean's.

    Args:
        x: [n, d] float64.
        y: [n, k] float64.
    """
    n = len(x)
    x, y = x - x.mean(0), y - y.mean(0)
    constant = (y * n / (n - 1)).square().mean() if n > 1 else y.new_zeros(())
    values, vectors = torch.linalg.eigh(x @ x.T)
    values = values.clamp(min=0)
    if n < 3 or not float(constant) > 0 or not float(values.sum()) > 0:
        return 1.0
    errors = []
    for strength in _STRENGTHS:
        share = values / (values + strength * values.mean())
        hat = (vectors * share) @ vectors.T
        left = (1 - 1 / n - hat.diagonal()).clamp(min=1e-9)
        errors.append(float(((y - hat @ y) / left[:, None]).square().mean()))
    return min(errors) / float(constant)
