"""Seeded, disjoint splits into test, validation and train: stratified, groups kept together.

If a data set has only a training and a test split, the validation split is a part of the training
split (`hold_out`). DataError if the sizes add up to more than the number of samples, no sample is
left for training, groups are missing, or two splits share a group.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, NamedTuple

import numpy as np

from orca_cli.data.own_data import refuse_entry, refuse_rows
from orca_cli.exceptions import DataError
from orca_cli.seeding import numpy_generator

# Names of each split in names of arrays (x_train, x_val, ...) and folders, and in columns and
# arrays that mark the split of each row. The number of a split in this order is a mark too.
PART_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
# An integer such as 3.0, which is how pandas writes integers in a column with gaps.
_WHOLE = re.compile(r"^([+-]?[0-9]+)\.0*$")


class Split(NamedTuple):
    """Three disjoint sets of indices, each a sorted int64 array.

    The sets of validation and test may be empty.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def marked_rows(
    marks: np.ndarray, where: str, hint: str = "", for_training: bool = True
) -> dict[str, np.ndarray]:
    """Return split -> its rows, ascending, for each split that `marks` [n] contain.

    A mark is a word of PART_NAMES in upper or lower case, or 0, 1, 2 for train, validation, test.
    DataError for other marks, and if `for_training` is set but no row is marked as training. `hint`
    is appended to the list of allowed marks.
    """
    mark_texts = np.char.lower(np.char.strip(marks.astype(str)))
    marked: dict[str, np.ndarray] = {}
    # Every mark is wrong until a split claims it.
    is_wrong = np.ones(mark_texts.shape, dtype=bool)
    for number, (split_name, spellings) in enumerate(PART_NAMES.items()):
        is_marked = np.isin(mark_texts, [*spellings, str(number)])
        is_wrong &= ~is_marked
        if is_marked.any():
            marked[split_name] = np.flatnonzero(is_marked)
    refuse_entry(
        wrong=is_wrong,
        values=marks,
        what=f"is not the name of a split (number of such rows: {is_wrong.sum()})",
        where=where,
        hint=f"allowed: train, validation, test, or their numbers 0, 1, 2{hint}",
    )
    if for_training and "train" not in marked:
        raise DataError("has no training row", where=where, hint=f"mark rows with 'train'{hint}")
    return marked


def split(
    n_samples: int,
    *,
    validation: int | float,
    test: int | float,
    train: int | None = None,
    seed: int = 0,
    classes: np.ndarray | None = None,
    keys: Sequence[str] = ("task.train_size", "task.validation_size", "task.test_size"),
) -> Split:
    """Return disjoint sets of sample indices for training, validation and test.

    The samples are put into one random order, in which every consecutive part contains the classes
    in proportion. The test split is the beginning of this order, the validation split follows, and
    the training split is the end. So the test split depends on neither the validation size nor the
    training size, and a smaller training split is a part of a larger one. Every class has a
    training sample if there are at least as many training samples as classes.

    Args:
        n_samples: number of samples.
        validation, test: numbers of samples (int), or fractions of all samples below 1 (float); a
            fraction above 0 gives at least one sample.
        train: number of samples; None takes all that remain.
        seed: seed of the random order.
        classes: [n] class of each sample, to stratify by; None keeps the plain random order.
        keys: names of the settings that give the sizes, for messages.
    """
    n_test = _count(test, n_samples)
    n_validation = _count(validation, n_samples)
    validation_end = n_test + n_validation
    n_left = n_samples - validation_end
    # A smaller training split does not change the other splits; some samples are not used then.
    n_train = n_left if train is None else train
    if n_left < 1 or n_train > n_left:
        sizes = f"{n_test} for test, {n_validation} for validation"
        settings = ", ".join(keys)
        raise DataError(
            f"the sizes ({sizes}, {max(n_train, 1)} for training) add up to more than"
            f" the {n_samples} available samples",
            where=keys[0],
            hint=f"change {settings}",
        )
    # The name makes this draw independent of other draws with the same seed.
    random_order = numpy_generator(seed, "split").permutation(n_samples)
    if classes is not None:
        random_order = _spread(random_order, classes)
    train_start = n_samples - n_train
    return Split(
        train=np.sort(random_order[train_start:]),
        validation=np.sort(random_order[n_test:validation_end]),
        test=np.sort(random_order[:n_test]),
    )


def _count(size: int | float, n_samples: int) -> int:
    """Return a size as a number of samples; a float is a fraction of all samples.

    A fraction above 0 gives at least 1.
    """
    if isinstance(size, int):
        return size
    return max(int(size > 0), round(size * n_samples))


def _spread(random_order: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return a random order [n], changed so that each class is spread evenly over it."""
    # Samples are sorted by their rank within their class, as a fraction. The last sample of each
    # class has rank 1, so that the end of the order, which is for training, has every class.
    ranks = np.empty(len(random_order))
    for label in np.unique(classes):
        members = random_order[classes[random_order] == label]
        ranks[members] = np.arange(1, len(members) + 1) / len(members)
    # The sort is stable: samples of the same rank stay in the random order.
    return random_order[np.argsort(ranks[random_order], kind="stable")]


def folds(
    n_samples: int,
    count: int,
    *,
    seed: int = 0,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return the fold of each sample, [n] int64 in 0..count-1.

    The sizes of the folds differ by at most 1, and so do the numbers of samples of each class [n]
    in them. Samples of one group [n] are in one fold; then groups are counted instead of samples,
    and a group has the class that is most frequent in it. DataError if there are fewer samples, or
    groups, than folds.
    """
    # Complete units are dealt out, so that no group is divided between folds.
    units = merged(n_samples, classes, groups)
    if units.count < count:
        members = "training samples" if groups is None else "groups of samples"
        hint = ""
        if units.count > 1:
            hint = f"use train.folds={units.count} or less"
        raise DataError(
            f"{count} folds need at least {count} {members}, got {units.count}",
            where="train.folds",
            hint=hint,
        )
    order = numpy_generator(seed, "folds").permutation(units.count)
    if units.classes is not None:
        # The units are sorted by class and dealt out in turn. The sort is stable, so units of a
        # class stay in random order.
        order = order[np.argsort(units.classes[order], kind="stable")]
    fold_of_unit = np.empty(units.count, dtype=np.int64)
    fold_of_unit[order] = np.arange(units.count) % count
    return fold_of_unit[units.numbers]


@dataclass(frozen=True)
class Units:
    """The units of n samples, none of which is divided between splits; `merged` makes them."""

    numbers: np.ndarray  # [n], the unit of each sample, in 0..count-1
    count: int
    classes: np.ndarray | None  # [count], the class of each unit, numbered from 0


def merged(n_samples: int, classes: np.ndarray | None, groups: np.ndarray | None) -> Units:
    """Return the units of samples: their groups [n], or each sample if `groups` is None.

    The class of a group is the class [n] that is most frequent in it, or the lowest of several
    equally frequent classes. Without `classes`, units have no class.
    """
    if groups is None:
        unit_numbers = np.arange(n_samples)
    else:
        unit_numbers = np.unique(groups, return_inverse=True)[1]
    count = int(unit_numbers.max()) + 1
    if classes is None:
        return Units(numbers=unit_numbers, count=count, classes=None)
    class_numbers = np.unique(classes, return_inverse=True)[1]
    if groups is None:
        return Units(numbers=unit_numbers, count=count, classes=class_numbers)
    # Each pair of a unit and a class that occurs, and its frequency.
    (pair_units, pair_classes), pair_counts = np.unique(
        np.stack([unit_numbers, class_numbers]), axis=1, return_counts=True
    )
    # Sorted by unit, then by descending frequency, then by ascending class: the first pair of a
    # unit has the unit's class.
    order = np.lexsort((pair_classes, -pair_counts, pair_units))
    first_pairs = np.searchsorted(pair_units[order], np.arange(count))
    return Units(numbers=unit_numbers, count=count, classes=pair_classes[order][first_pairs])


def group_rows(
    columns: dict[str, tuple[np.ndarray, str]], rows: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Return file -> the group of each row, [n] int64, numbered over all files.

    Equal values are one group; 1 and 1.0 are the same group, also as texts. `columns` maps the file
    of each split to its values [n] and their origin. `rows` maps each split in the training file to
    its rows; None if all rows are for training. DataError for a row without a group, and for a
    group in two splits.
    """
    if not columns:
        return {}
    group_names: dict[str, np.ndarray] = {}  # file -> the name of the group of each row
    split_groups: dict[str, np.ndarray] = {}  # origin of a split -> the groups in it
    for file, (column, where) in columns.items():
        entries = column.astype(str).tolist()
        file_names = np.array([_WHOLE.sub(r"\1", entry) for entry in entries], dtype=str)
        # NaN and None become these texts above.
        refuse_rows(np.isin(file_names, ("", "nan", "None")), "group", where)
        group_names[file] = file_names
        file_rows = {file: np.arange(len(entries))}
        # Only the training file may contain rows of several splits.
        if file == "train" and rows:
            file_rows = rows
        for split_name, split_rows in file_rows.items():
            split_groups[f"{where} ({split_name})"] = np.unique(file_names[split_rows])
    _check_disjoint(split_groups)
    # Numbered over all files, so that a group has the same number in every file.
    all_names = np.concatenate(list(group_names.values()))
    group_numbers = np.unique(all_names, return_inverse=True)[1]
    file_ends = np.cumsum(list(map(len, group_names.values())))
    numbers_of_files = np.split(group_numbers, file_ends[:-1])
    return dict(zip(group_names, numbers_of_files, strict=True))


def _check_disjoint(groups: Mapping[str, np.ndarray]) -> None:
    """Raise DataError for a group that is in two splits.

    `groups` maps the origin of each split to the groups in it.
    """
    for where, compared in permutations(groups, 2):
        shared = np.intersect1d(groups[where], groups[compared])
        if len(shared) > 0:
            raise DataError(
                f"group '{shared[0]}' is also in {compared}"
                f" (number of shared groups: {len(shared)})",
                where=where,
                hint="put all rows of a group into one split",
            )


def hold_out(
    classes: np.ndarray,
    validation: Literal["stratified", "last"] = "stratified",
    validation_size: int | float = 0.1,
    train_size: int | None = None,
    train_on_validation: bool = False,
    split_seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a training split that are used for training and for validation, sorted.

    `classes` [N] has the class of each row. The other arguments are settings; see
    conf/task/cifar100.yaml. A size is a number of rows (int) or a fraction of N (float).
    """
    drawn = split(
        len(classes),
        validation=validation_size,
        test=0,
        train=train_size,
        seed=split_seed,
        classes=classes,
    )
    train = drawn.train
    held_out = drawn.validation
    if validation == "last":
        # The draw above decides only the number of rows that are held out: the last rows are taken.
        n_kept = len(classes) - len(held_out)
        held_out = np.arange(n_kept, len(classes))
        train = split(
            n_kept,
            validation=0,
            test=0,
            train=train_size,
            seed=split_seed,
            classes=classes[:n_kept],
        ).train
    if train_on_validation:
        train = np.union1d(train, held_out)
    return train, held_out
