"""What chooses the weights that are tested, on how many samples, and what stage 3 trains on; the rule is docs/selection.md.

A choice among epochs by the error of a few samples is noise, and the samples are lost for training. So validation chooses
where it is large enough; where it is not, nothing is chosen, and validation that was drawn from the training data goes back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from orca_cli.config.schema import Config, Train
from orca_cli.interfaces import Samples, TaskData
from orca_cli.stages.decision import Decided, Decision
from orca_cli.tasks.shared.fraction import Joined

# Numbers of validation samples.
BEST_FROM = 100  # from which on they choose the epoch; fewer choose nothing
ERROR_FROM = 300  # from which on they choose by the error; fewer by the loss, which moves with every sample

UNCHOSEN = "stage 3 trained on the validation samples too, so that none are left to judge by"


def decide(config: Config, task: TaskData) -> Decided:
    """Return the settings of the choice of weights that were left open."""
    train, count = config.train, len(task.validation)
    decided: Decided = {}
    if train.select == "auto":
        decided["train.select"] = _select(train, count)
        train = dataclasses.replace(train, select=decided["train.select"].value)
    if train.select_by == "auto" and train.select == "best":
        few = count < ERROR_FROM
        why = f"{count} validation samples, {'fewer' if few else 'not fewer'} than {ERROR_FROM}"
        decided["train.select_by"] = Decision("loss" if few else "error", why)
    if train.refit == "auto":
        decided["train.refit"] = _refit(config, train, task)
    return decided


def _select(train: Train, count: int) -> Decision:
    if train.folds:
        return Decision("last", f"train.folds={train.folds} judges by all samples, and none are left to choose by")
    if train.refit is True:
        return Decision("last", "train.refit=true leaves no samples to choose by")
    if count < BEST_FROM:
        return Decision("last", f"{count} validation samples, fewer than {BEST_FROM}")
    return Decision("best", f"{count} validation samples, not fewer than {BEST_FROM}")


def _refit(config: Config, train: Train, task: TaskData) -> Decision:
    if train.select == "best":
        return Decision(False, "validation chooses")
    if not task.validation_drawn:
        return Decision(False, "validation was not drawn from the training data")
    if train.validate_on == "test":
        return Decision(False, "train.validate_on=test")
    if config.task.get("train_fraction") is not None:
        return Decision(False, "task.train_fraction says how much is trained on")
    return Decision(True, "nothing is chosen by validation, which was drawn from the training data")


def learned(config: Config, task: TaskData) -> Samples:
    """Return the samples that stage 3 trains on, once `config` is decided: training, or training and validation."""
    return Joined([task.train, task.validation]) if config.train.refit is True else task.train


def count_learned(config: Config, task: TaskData) -> int:
    """Return how many samples each fine-tuning of stage 3 trains on, once `config` is decided; the most of several."""
    count = len(task.train) + (len(task.validation) if config.train.refit is True else 0)
    return count - count // config.train.folds if config.train.folds else count


def count_members(config: Config) -> int:
    """Return how many models stage 3 fine-tunes."""
    return config.train.folds or config.train.members or 1


def judged_on(config: Config, task: TaskData, samples: Samples) -> tuple[str, Samples | None]:
    """Return what validates the run's weights, once `config` is decided, and its samples; ("nothing", None) after a refit.

    Args:
        config: the run's settings.
        task: the data.
        samples: what stage 3 trains on.
    """
    if config.train.folds:
        return "folds", samples
    if config.train.refit is True:
        return "nothing", None
    return config.train.validate_on, task.validation


def record(
    config: Config, task: TaskData, samples: Samples, splits: Mapping[str, Mapping[str, Any]], epochs: list[int]
) -> dict[str, Any]:
    """Return what chose the weights, as result.json holds it.

    Args:
        config: the run's settings, decided.
        task: the data.
        samples: what stage 3 trains on.
        splits: train, val -> {"sha256"} of the data.
        epochs: after which the weights of every member were taken, 1 for the first; 0 for those before any step.

    Returns:
        by: best or last. rule: error or loss, null where nothing was chosen. epoch: one, or a list of several members' ones
        where they differ. on: validation, test, folds or nothing. n, sha256: of these samples. learned: how many samples were
        trained on; refit: validation among them. folds, members, average: as set.
    """
    train = config.train
    on, judging = judged_on(config, task, samples)
    digest = None if judging is None else splits["val"]["sha256"] if on != "folds" else samples.digest()
    return {
        "by": train.select,
        "rule": train.select_by if train.select == "best" else None,
        "epoch": epochs[0] if len(set(epochs)) == 1 else epochs,
        "on": on,
        "n": 0 if judging is None else len(judging),
        "sha256": digest,
        "learned": len(samples),
        "refit": train.refit is True,
        "folds": train.folds,
        "members": count_members(config),
        "average": train.average,
        "reason": UNCHOSEN if judging is None else None,
    }
