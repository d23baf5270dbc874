"""Classes and labels of which some are rare: how many training samples each has, and losses that weigh them alike."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from orca_cli.config.schema import Train
from orca_cli.data.blocks import blocks
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Loss, TaskData
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy

_UNEVEN = 4  # ratio of the largest class to the smallest above which a note is due
_CLASSES, _LABELS = "train.class_weights", "train.positive_weight"


def counts(task: TaskData) -> np.ndarray:
    """Return how many training samples (or positions) each class has, [K], or where each label is 0 and 1, [2, K]; int64."""
    targets, k = task.train.targets(), task.num_outputs
    real = np.issubdtype(targets.dtype, np.floating)
    totals = np.zeros((2, k) if real else k, dtype=np.int64)
    for block in blocks(targets, np.arange(len(targets))):
        if real:
            flat = block.reshape(len(block), k, -1)
            totals += np.stack([(flat == value).sum(axis=(0, 2)) for value in (0, 1)])
        else:
            totals += np.bincount(block[block >= 0].ravel(), minlength=k)
    return totals


def uneven_note(task: TaskData) -> str:
    """Return a note with the settings to use where some classes have many more training samples than others; else empty."""
    if task.kind != "classes":
        return ""
    sizes = counts(task)
    least, most = sizes[sizes > 0].min(initial=sizes.max()), sizes.max()
    advice = "train.class_weights=balanced weighs them alike in the loss, task.error=balanced in the error"
    return f"classes have {least} to {most} training samples; {advice}" if most > _UNEVEN * least else ""


def weighted(loss: Loss, task: TaskData, train: Train) -> Loss:
    """Return a loss with the weights of `train.class_weights` or `train.positive_weight`; ConfigError where it takes none."""
    if train.class_weights is not None:
        key, weights = _CLASSES, _chosen(train.class_weights, _CLASSES, task)
        if isinstance(loss, MaskedCrossEntropy) and loss.weight is None:
            return MaskedCrossEntropy(weights)
        if type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.reduction == "mean":
            smoothing = loss.label_smoothing
            return nn.CrossEntropyLoss(torch.tensor(weights), ignore_index=loss.ignore_index, label_smoothing=smoothing)
    elif train.positive_weight is not None:
        key, weights = _LABELS, _chosen(train.positive_weight, _LABELS, task)
        if isinstance(loss, MaskedBCE) and loss.positive_weight == 1:
            return MaskedBCE(weights, loss.count_missing)
    else:
        return loss
    what = f"does not apply to the loss {type(loss).__name__}, or that has weights of its own"
    raise ConfigError(what, where=key, hint="use task.loss=cross_entropy for classes, task.loss=bce for labels")


def _chosen(setting: str | list[float], key: str, task: TaskData) -> list[float]:
    """Return a weight for each output, as typed or balanced: all classes that occur weigh alike, as scikit-learn's `balanced`;
    samples with a label weigh as much as samples without it.
    """
    if setting != "balanced":
        if len(setting) != task.num_outputs:
            what = f"{len(setting)} weights, but {task.num_outputs} outputs"
            raise ConfigError(what, where=key, hint="give one for each, in their order")
        return [float(weight) for weight in setting]
    sizes = counts(task)
    if (sizes.ndim > 1) != (key == _LABELS):
        hint = f"{_CLASSES} is for classes, {_LABELS} for labels"
        raise ConfigError("does not fit the targets of this task", where=key, hint=hint)
    if key == _LABELS:
        absent, present = sizes
        weights = np.where((absent > 0) & (present > 0), absent / np.maximum(present, 1), 1.0)
    else:
        weights = np.where(sizes > 0, sizes.sum() / ((sizes > 0).sum() * np.maximum(sizes, 1)), 1.0)
    return [float(weight) for weight in weights]
