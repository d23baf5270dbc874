"""The loss of a task, which stage 3 minimises, and its weights of classes and labels."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from orca_cli.config import parts
from orca_cli.config.schema import Config, Train
from orca_cli.data.blocks import blocks
from orca_cli.exceptions import ConfigError, OrcaError
from orca_cli.interfaces import Loss, TaskData
from orca_cli.scoring.losses import MaskedBCE, MaskedCrossEntropy, counts_targets, default_loss

_CLASS_WEIGHTS = "train.class_weights"
_LABEL_WEIGHTS = "train.positive_weight"
_LOSSES = "use a loss that suits the targets: cross_entropy, bce, mse, huber, mae or relative_l2"


def is_real_valued(targets: np.ndarray) -> bool:
    """Return whether targets are real-valued, as labels are too; else they are class numbers."""
    return np.issubdtype(targets.dtype, np.floating)


def make_loss(config: Config, task: TaskData) -> Loss:
    """Return the loss that stage 3 minimises: `task.loss`, or the default for such targets.

    Raises:
        ConfigError: the loss does not suit such targets, would count unknown targets, or does not
            accept the weights that are set.
    """
    targets = task.train.targets()
    has_real_targets = is_real_valued(targets)
    loss_node = parts.named("loss", config.task.get("loss"), task.kind, not has_real_targets)
    if loss_node is None:
        loss: Loss = default_loss(task.kind, not has_real_targets)
    else:
        loss = parts.build(loss_node, "task.loss")
        # A user's own loss fails now rather than after the alignment.
        _check_loss(loss, task)
    # A loss that counts all targets, such as torch's, is NaN if a target is unknown.
    if has_real_targets and not counts_targets(loss):
        for block in blocks(targets, np.arange(len(targets))):
            if np.isnan(block).any():
                raise ConfigError(
                    f"{type(loss).__name__} does not skip unknown targets (NaN), and some targets "
                    "of these data are unknown",
                    where="task.loss",
                    hint=_LOSSES,
                )
    return weighted(loss, task, config.train)


def _check_loss(loss: Any, task: TaskData) -> None:
    """Call a loss with outputs of zero and targets of the task.

    Raises:
        ConfigError: it does not return one number with a gradient.
    """
    # The number of samples differs from the number of outputs, since wrong shapes could pass if the
    # two were equal.
    num_samples = 3 if task.num_outputs == 2 else 2
    first_targets = task.train.targets()[:num_samples]
    targets = torch.from_numpy(np.array(first_targets))
    # Positions of a dense target: [n, K, *E] for numbers, [n, *E] for classes.
    target_extent = targets.shape[2:] if targets.is_floating_point() else targets.shape[1:]
    outputs = torch.zeros(len(targets), task.num_outputs, *target_extent, requires_grad=True)
    loss_name = type(loss).__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Using a target size")  # torch broadcasts
            loss_value = loss(outputs, targets)
    # An OrcaError already says where the error is, and what to do.
    except OrcaError:
        raise
    except Exception as error:  # noqa: BLE001 - the loss may be the user's own module
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{loss_name} does not accept this task's outputs and targets: {reason}",
            where="task.loss",
            hint=_LOSSES,
        ) from error
    is_number = isinstance(loss_value, torch.Tensor) and loss_value.ndim == 0
    if not (is_number and loss_value.requires_grad):
        raise ConfigError(
            f"{loss_name} does not return one number with a gradient",
            where="task.loss",
            hint=_LOSSES,
        )


def target_counts(task: TaskData) -> np.ndarray:
    """Return the number of training targets of each class, [K] int64.

    For real-valued targets, such as labels, return how often each output is 0 and how often it is
    1, [2, K]. Every position of a dense target counts, unknown targets do not.
    """
    targets = task.train.targets()
    num_outputs = task.num_outputs
    has_real_targets = is_real_valued(targets)
    totals = np.zeros((2, num_outputs) if has_real_targets else num_outputs, dtype=np.int64)
    # In blocks, since targets may be a memory map that is larger than the memory.
    for block in blocks(targets, np.arange(len(targets))):
        if has_real_targets:
            outputs = block.reshape(len(block), num_outputs, -1)  # [rows, K, positions]
            totals[0] += (outputs == 0).sum(axis=(0, 2))
            totals[1] += (outputs == 1).sum(axis=(0, 2))
        else:
            # Unknown classes are negative.
            totals += np.bincount(block[block >= 0], minlength=num_outputs)
    return totals


def weighted(loss: Loss, task: TaskData, train: Train) -> Loss:
    """Return a loss with the weights of `train.class_weights` or `train.positive_weight`.

    If both are null, it is the loss itself. With "balanced", a class with n_k of n training targets
    gets n / (K n_k), where K classes occur, as in scikit-learn; a label gets the number of samples
    without it, divided by the number of samples with it. A weight that would be 0 or infinite is 1.

    Raises:
        ConfigError: the number of weights differs from the number of outputs, or the weights do not
            suit the targets or the loss.
    """
    if train.class_weights is not None:
        setting_name = _CLASS_WEIGHTS
        weights = _weights(setting_name, train.class_weights, task)
        if isinstance(loss, MaskedCrossEntropy) and loss.weight is None:
            return MaskedCrossEntropy(weights)
        # A subclass may compute more than the new loss would, so it is refused.
        if type(loss) is nn.CrossEntropyLoss and loss.weight is None and loss.reduction == "mean":
            return nn.CrossEntropyLoss(
                torch.tensor(weights),
                ignore_index=loss.ignore_index,
                label_smoothing=loss.label_smoothing,
            )
    elif train.positive_weight is not None:
        setting_name = _LABEL_WEIGHTS
        weights = _weights(setting_name, train.positive_weight, task)
        if isinstance(loss, MaskedBCE) and loss.positive_weight == 1:
            return MaskedBCE(weights, loss.count_missing)
    else:
        return loss
    raise ConfigError(
        f"does not apply: the task's loss, {type(loss).__name__}, accepts no weights or has "
        "weights of its own",
        where=setting_name,
        hint="use task.loss=cross_entropy for classes, task.loss=bce for labels",
    )


def _weights(setting_name: str, setting: Any, task: TaskData) -> list[float]:
    """Return a weight for each output.

    Args:
        setting_name: `_CLASS_WEIGHTS` or `_LABEL_WEIGHTS`.
        setting: "balanced" or a list of weights.
        task: task of the run.
    """
    if setting != "balanced":
        if len(setting) != task.num_outputs:
            raise ConfigError(
                f"needs {task.num_outputs} weights, one for each output, got {len(setting)}",
                where=setting_name,
                hint="give them in the order of the outputs",
            )
        return [float(weight) for weight in setting]
    counts = target_counts(task)  # [K], or [2, K] of labels
    is_of_classes = setting_name == _CLASS_WEIGHTS
    # Weights of classes need counts [K], weights of labels need counts [2, K].
    if is_of_classes == (counts.ndim > 1):
        raise ConfigError(
            "does not apply to this task's kind of targets",
            where=setting_name,
            hint=f"use {_CLASS_WEIGHTS} for classes, {_LABEL_WEIGHTS} for labels",
        )
    if is_of_classes:
        numerators = counts.sum()
        denominators = (counts > 0).sum() * counts
    else:
        # [K] each: samples without the label, samples with it
        numerators, denominators = counts
    is_finite = (numerators > 0) & (denominators > 0)
    return np.where(is_finite, numerators / np.maximum(denominators, 1), 1.0).tolist()
