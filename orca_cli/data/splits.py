"""Seeded, disjoint splits into test, validation and train: stratified by class, groups kept together.

Of data sets that come as a training and a test set only, validation is a part of the training set (`hold_out`).
DataError where the sizes add up to more than the samples, nothing is left for training, or groups are missing or shared.
"""

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np

from orca_cli.data.own_data import refuse_entry, refuse_if, refuse_rows
from orca_cli.exceptions import DataError
from orca_cli.seeding import numpy_generator

# How parts are called in names of arrays (x_train, x_val, ...), folders and splits, and in columns and arrays of marks.
PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_NUMBERS = {"train": "0", "validation": "1", "test": "2"}  # of marks alone
_WHOLE = re.compile(r"^([+-]?[0-9]+)\.0*$")  # as pandas writes a column of integers with a gap


class Split(NamedTuple):
    """Three disjoint sets of indices, each sorted int64; those of validation and test may be empty."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def marked_rows(
    marks: np.ndarray, where: str, hint: str = "", for_training: bool = True
) -> dict[str, np.ndarray]:
    """Return the rows of each split that `marks` [n] name, ascending, of the splits that have any.

    A mark is a word of PART_NAMES in any case, or 0, 1, 2 for train, validation, test. DataError for others, and where
    `for_training` is set and no row is for training; `hint` follows what is allowed.
    """
    words = np.char.lower(np.char.strip(np.asarray(marks, dtype=str)))
    is_part = {part: np.isin(words, [*names, _NUMBERS[part]]) for part, names in PART_NAMES.items()}
    wrong, allowed = (
        ~np.any([*is_part.values()], axis=0),
        f"allowed: train, validation, test, or 0, 1, 2{hint}",
    )
    refuse_entry(
        wrong, np.asarray(marks), f"is not a split ({int(wrong.sum())} rows)", where, allowed
    )
    is_empty = for_training and not is_part["train"].any()
    refuse_if(is_empty, "no rows are for training", where, f"mark some with train{hint}")
    return {part: np.flatnonzero(chosen) for part, chosen in is_part.items() if chosen.any()}


def split(
    n: int,
    *,
    validation: int | float,
    test: int | float,
    train: int | None = None,
    seed: int = 0,
    classes: np.ndarray | None = None,
    keys: Sequence[str] = ("task.train_size", "task.validation_size", "task.test_size"),
) -> Split:
    """Return disjoint index sets; the test set depends on neither the validation nor the training size.

    The n samples are put into one random order in which every stretch holds each class in proportion. Test takes its start,
    validation what follows, and train its end. So a smaller training set is a part of a larger one, and every class has a
    training sample where there are as many training samples as classes.

    Args:
        validation, test: numbers of samples (int), or fractions of n below 1 (float); a fraction above 0 takes one or more.
        train: number of samples; None takes the rest.
        classes: [n], to stratify by; None for the plain random order.
        keys: the settings that give the sizes, for messages.
    """
    n_test, n_validation = (
        one if isinstance(one, int) else max(int(one > 0), round(one * n))
        for one in (test, validation)
    )
    rest = n - n_test - n_validation
    n_train = rest if train is None else train
    sizes = f"{n_test} for test, {n_validation} for validation and {max(n_train, 1)} for training"
    refuse_if(
        rest < 1 or n_train > rest,
        f"{sizes} are more than the {n} in all",
        keys[0],
        f"change {', '.join(keys)}",
    )
    order = numpy_generator(seed, "split").permutation(n)
    if classes is not None:
        # Sorting by each sample's place within its class, as a fraction, spreads every class evenly over the order. The last
        # of each class has place 1, so that the end of the order, train, has every class.
        place = np.empty(n)
        for value in np.unique(classes):
            members = order[classes[order] == value]
            place[members] = np.arange(1, len(members) + 1) / len(members)
        # The sort is stable: samples with the same place stay in the random order.
        order = order[np.argsort(place[order], kind="stable")]
    return Split(
        np.sort(order[n - n_train :]),
        np.sort(order[n_test : n_test + n_validation]),
        np.sort(order[:n_test]),
    )


def folds(
    n: int,
    count: int,
    *,
    seed: int = 0,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return the fold of each of n samples, [n] int64 in 0..count-1; DataError for fewer samples, or groups, than folds.

    The sizes of the folds differ by 1 at most, and so do those of each class [n] in them. Samples of one group [n] are in one
    fold; sizes are numbers of groups then, and the class of a group is the most frequent one in it.
    """
    place, units, codes = merged(n, classes, groups)
    what = (
        f"{count} folds of {units} {'training samples' if groups is None else 'groups of samples'}"
    )
    refuse_if(
        units < count, what, "train.folds", f"use train.folds={units} or less" if units > 1 else ""
    )
    order = numpy_generator(seed, "folds").permutation(units)
    if codes is not None:
        # Samples of a class stand together and are dealt out in turn; the sort leaves them in their random order.
        order = order[np.argsort(codes[order], kind="stable")]
    dealt = np.empty(units, dtype=np.int64)
    dealt[order] = np.arange(units) % count
    return dealt[place]


def merged(
    n: int, classes: np.ndarray | None, groups: np.ndarray | None
) -> tuple[np.ndarray, int, np.ndarray | None]:
    """Return the units that n samples form, which a split keeps whole: their groups [n], or without groups each sample alone.

    That is the unit of each sample, [n] in 0..units-1; the number of units; and the class of each unit, numbered from 0, None
    without classes. A group has its most frequent class, or the lowest of several such.
    """
    place = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    units, codes = (
        int(place.max()) + 1,
        None if classes is None else np.unique(classes, return_inverse=True)[1],
    )
    if codes is None or groups is None:
        return place, units, codes
    pairs, counts = np.unique(np.stack([place, codes]), axis=1, return_counts=True)
    order = np.lexsort(
        (pairs[1], -counts, pairs[0])
    )  # the lowest of several that are most frequent comes first
    return place, units, pairs[1][order][np.searchsorted(pairs[0][order], np.arange(units))]


def group_rows(
    held: dict[str, tuple[np.ndarray, str]], rows: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Return the group of each row, file -> [n] int64, numbered over all files; equal values are one group.

    `held` has the values [n] of the files of splits, and their origin; 1.0 is the group 1, as text too. `rows` are
    those of each split in the training file, None where all are for training. DataError for a row without a group, and for a
    group in two splits.
    """
    if not held:
        return {}
    texts, parts = dict[str, np.ndarray](), dict[str, tuple[np.ndarray, str]]()
    for name, (column, where) in held.items():
        names = [_WHOLE.sub(r"\1", text) for text in column.astype(str).tolist()]
        values = texts[name] = np.array(names, dtype=str)
        refuse_rows(np.isin(values, ("", "nan", "None")), "group", where)
        marked = rows if rows and name == "train" else {name: np.arange(len(values))}
        parts |= {
            part: (np.unique(values[chosen]), f"{where} ({part})")
            for part, chosen in marked.items()
        }
    for (values, where), (others, other) in permutations(parts.values(), 2):
        if len(shared := np.intersect1d(values, others)):
            what = f"group '{shared[0]}' is also in {other} ({len(shared)} are in both)"
            raise DataError(
                what, where=where, hint="rows that belong together must be in one split"
            )
    place = np.unique(np.concatenate([*texts.values()]), return_inverse=True)[1].astype(np.int64)
    return dict(
        zip(
            texts,
            np.split(place, np.cumsum([len(one) for one in texts.values()])[:-1]),
            strict=True,
        )
    )


def hold_out(
    classes: np.ndarray,
    validation: Literal["stratified", "last"] = "stratified",
    validation_size: int | float = 0.1,
    train_size: int | None = None,
    train_on_validation: bool = False,
    split_seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the training set, of these classes [N], that are for training and those for validation, each sorted.

    Other arguments are settings, see conf/task/cifar100.yaml. A size is a number of rows (int) or a fraction of N (float).
    """
    parts = split(
        len(classes),
        validation=validation_size,
        test=0,
        train=train_size,
        seed=split_seed,
        classes=classes,
    )
    train, held_out = parts.train, parts.validation
    if validation == "last":
        cut = len(classes) - len(held_out)
        held_out = np.arange(cut, len(classes))
        train = split(
            cut, validation=0, test=0, train=train_size, seed=split_seed, classes=classes[:cut]
        ).train
    return (np.union1d(train, held_out) if train_on_validation else train), held_out
