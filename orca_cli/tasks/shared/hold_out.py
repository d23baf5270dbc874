"""The validation split of data sets that come as a training and a test set only: a part of the training set.

Shapes: N samples of the training set.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from orca_cli.tasks.shared.splits import split


def hold_out(
    classes: np.ndarray,
    validation: Literal["stratified", "last"] = "stratified",
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
        train_on_validation: whether to train on the validation rows as well, as in experiments without a validation
            set; their error is then optimistic.
        split_seed: of the draw.

    Raises:
        DataError: the sizes add up to more than N.
    """
    parts = split(len(classes), validation=validation_size, test=0, train=train_size, seed=split_seed, classes=classes)
    train, held_out = parts.train, parts.validation
    if validation == "last":
        cut = len(classes) - len(held_out)
        held_out = np.arange(cut, len(classes))
        train = split(cut, validation=0, test=0, train=train_size, seed=split_seed, classes=classes[:cut]).train
    return (np.union1d(train, held_out) if train_on_validation else train), held_out


def describe(train: np.ndarray, held_out: np.ndarray, validation: str, split_seed: int) -> str:
    """Return a note on what `hold_out` gave."""
    how = "the training set's last" if validation == "last" else f"stratified, split_seed={split_seed}"
    shared = len(np.intersect1d(train, held_out))
    note = f"{len(train)} training and {len(held_out)} validation samples ({how})"
    return f"{note}; warning: {shared} validation samples are trained on" if shared else note
