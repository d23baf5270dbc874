"""Classes and labels of which some are rare: how many training samples each has, and losses that weigh them alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from orca_cli.config.schema import Train
from orca_cli.data.blocks import blocks
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Loss, TaskData
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy
from orca_cli.stages.plan import TrainPlan

_UNEVEN = 4  # ratio of the largest class to the smallest above which the counts are printed
_SHOWN = 6  # classes in a note
BALANCED = "balanced"


def counts(task: TaskData) -> np.ndarray:
    """Return how many training samples (or positions) each of K classes has, or where each of K labels is 0 and 1.

    Returns:
        [K] int64 for integer targets, [2, K] for real ones of 0 and 1.
    """
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


def uneven_note(task: TaskData, train: Train | TrainPlan) -> str:
    """Return a note with the counts of classes or labels where they are uneven, and the settings to use; else empty."""
    targets = task.train.targets()
    if task.kind == "labels":
        absent, present = counts(task)
        ratio = np.maximum(absent, present) / np.maximum(np.minimum(absent, present), 1)
        if ratio.max() <= _UNEVEN:
            return ""
        hint = "" if train.positive_weight else "; train.positive_weight=balanced makes present and absent weigh alike"
        return f"samples that have each label, of {len(targets)}: {_listed(present, task.class_names)}{hint}"
    if task.kind not in ("classes", "dense") or np.issubdtype(targets.dtype, np.floating):
        return ""
    class_counts = counts(task)
    occurring = class_counts[class_counts > 0]
    if not len(occurring) or occurring.max() <= _UNEVEN * occurring.min():
        return ""
    what = "training samples" if task.kind == "classes" else "positions"
    hint = "" if train.class_weights else "; train.class_weights=balanced weighs them alike in the loss"
    return f"{what} of each class: {_listed(class_counts, task.class_names)}{hint}, task.error=balanced in the error"


def weighted(loss: Loss, task: TaskData, train: Train | TrainPlan) -> Loss:
    """Return a loss with the weights of `train.class_weights` or `train.positive_weight`; the loss itself without either.

    Raises:
        ConfigError: it takes no such weights, or there are not as many as classes or labels.
    """
    if train.class_weights is not None:
        key = "train.class_weights"
        return _weighted_classes(loss, _chosen(train.class_weights, key, task, _balanced_classes), key)
    if train.positive_weight is not None:
        key = "train.positive_weight"
        weights = _chosen(train.positive_weight, key, task, _balanced_labels)
        if not isinstance(loss, MaskedBCE) or loss.positive_weight != 1:
            raise _refused(loss, key, "bce")
        return MaskedBCE(weights, loss.count_missing)
    return loss


def _balanced_classes(task: TaskData) -> np.ndarray:
    """Return the weights [K] under which all classes that occur weigh alike, as scikit-learn's `balanced`."""
    sizes = counts(task)
    if sizes.ndim > 1:
        hint = "for labels use train.positive_weight"
        raise ConfigError("the targets of this task are not classes", where="train.class_weights", hint=hint)
    return np.where(sizes > 0, sizes.sum() / ((sizes > 0).sum() * np.maximum(sizes, 1)), 1.0)


def _balanced_labels(task: TaskData) -> np.ndarray:
    """Return the weights [K] that give samples with a label the same total weight as samples without it."""
    label_counts = counts(task)
    if label_counts.ndim == 1:
        hint = "for classes use train.class_weights"
        raise ConfigError("the targets of this task are not labels", where="train.positive_weight", hint=hint)
    absent, present = label_counts
    return np.where((absent > 0) & (present > 0), absent / np.maximum(present, 1), 1.0)


def _chosen(
    setting: str | list[float], key: str, task: TaskData, balanced: Callable[[TaskData], np.ndarray]
) -> list[float]:
    if setting == BALANCED:
        return [float(weight) for weight in balanced(task)]
    weights = [float(weight) for weight in setting]
    if len(weights) != task.num_outputs:
        names = f": {', '.join(map(str, task.class_names))}" if 0 < len(task.class_names) <= 2 * _SHOWN else ""
        what = f"{len(weights)} weights, but {task.num_outputs} outputs"
        raise ConfigError(what, where=key, hint=f"give one for each, in their order{names}")
    return weights


def _weighted_classes(loss: Loss, weights: list[float], key: str) -> Loss:
    if isinstance(loss, MaskedCrossEntropy) and loss.weight is None:
        return MaskedCrossEntropy(weights)
    if type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.reduction == "mean":
        return nn.CrossEntropyLoss(
            torch.tensor(weights), ignore_index=loss.ignore_index, label_smoothing=loss.label_smoothing
        )
    raise _refused(loss, key, "cross_entropy")


def _refused(loss: Loss, key: str, name: str) -> ConfigError:
    what = f"does not apply to the loss {type(loss).__name__}, or that has weights of its own"
    return ConfigError(what, where=key, hint=f"use task.loss={name}")


def _listed(sample_counts: np.ndarray, names: Sequence[str]) -> str:
    """Return counts by name from the rarest up; of many, the rarest and the most frequent ones."""
    order = np.argsort(sample_counts, kind="stable")
    texts = [f"{names[i] if len(names) == len(sample_counts) else i} {sample_counts[i]}" for i in order]
    half = _SHOWN // 2
    return ", ".join(texts if len(texts) <= _SHOWN else [*texts[:half], "...", *texts[-half:]])
