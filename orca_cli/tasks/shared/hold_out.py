"""The validation split of data sets that come as a training and a test set only: a part of the training set.

Shapes: N samples of the training set.
"""

from __future__ import annotations

import numpy as np

from orca_cli.exceptions import ConfigError, suggest
from orca_cli.tasks.shared.splits import check_seed, check_size, check_train, split

_WAYS = ("stratified", "last")
_KEYS = ("task.train_size", "task.validation_size", "task.test_size")


def hold_out(
    classes: np.ndarray,
    validation: str = "stratified",
    validation_size: int | float = 0.1,
    train_size: int | None = None,
    train_on_validation: bool = False,
    split_seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the training set that are for training and those for validation, each sorted.

    Args:
        classes: [N] class of each row.
        validation: "stratified" draws rows so that every class is there in proportion; "last" takes the end of the set.
        validation_size: a number of rows (int), or a fraction of N (float).
        train_size: rows for training, stratified; None takes all that validation leaves.
        train_on_validation: whether the validation rows are for training as well, as in experiments without a
            validation set; they say nothing about new data then.
        split_seed: of the draw.

    Raises:
        ConfigError: a value is not allowed.
        DataError: the sizes add up to more than N.
    """
    check_hold_out(validation, validation_size, train_size, split_seed)
    keys = _KEYS
    parts = split(
        len(classes), validation=validation_size, test=0, train=train_size, seed=split_seed, classes=classes, keys=keys
    )
    train, held_out = parts.train, parts.validation
    if validation == "last":
        cut = len(classes) - len(held_out)
        held_out = np.arange(cut, len(classes))
        train = split(
            cut, validation=0, test=0, train=train_size, seed=split_seed, classes=classes[:cut], keys=keys
        ).train
    return (np.union1d(train, held_out) if train_on_validation else train), held_out


def check_hold_out(validation: str, validation_size: int | float, train_size: int | None, split_seed: int) -> None:
    """Refuse settings that no training set could be divided by; arguments as those of `hold_out`.

    Raises:
        ConfigError: a value is not allowed.
    """
    if validation not in _WAYS:
        raise ConfigError(
            f"'{validation}' is not allowed", where="task.validation", hint=suggest(str(validation), _WAYS)
        )
    check_size(validation_size, _KEYS[1])
    if not validation_size:
        raise ConfigError(
            f"{validation_size!r} is out of range",
            where=_KEYS[1],
            hint="models are chosen on validation: give 1 or more",
        )
    check_train(train_size, _KEYS[0])
    check_seed(split_seed)


def describe(train: np.ndarray, held_out: np.ndarray, validation: str, split_seed: int) -> str:
    """Return in words what `hold_out` gave."""
    how = "the training set's last" if validation == "last" else f"stratified, split_seed={split_seed}"
    shared = len(np.intersect1d(train, held_out))
    note = f"{len(train)} training and {len(held_out)} validation samples ({how})"
    return f"{note}; warning: {shared} validation samples are trained on" if shared else note
