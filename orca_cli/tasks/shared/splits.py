"""Seeded, disjoint splits into test, validation and train: stratified where there are classes, groups kept together."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.seeding import numpy_generator


@dataclass(frozen=True)
class Split:
    """Indices of three disjoint parts, each sorted.

    Args:
        train: [n_train] int64.
        validation: [n_validation] int64.
        test: [n_test] int64.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(
    n: int,
    *,
    validation: int | float,
    test: int | float,
    train: int | None = None,
    seed: int = 0,
    classes: np.ndarray | None = None,
    keys: tuple[str, str, str] = ("task.train_size", "task.validation_size", "task.test_size"),
) -> Split:
    """Return disjoint index sets; the test set depends on neither the validation nor the training size.

    The samples are put into one random order in which every stretch holds each class in proportion. Test takes its
    start, validation what follows, and train its end. So a smaller training set is a part of a larger one, and every
    class has a training sample where there are as many training samples as classes.

    Args:
        n: number of samples.
        validation: a number of samples (int), or a fraction of n in 0..1 (float); 0 makes an empty set.
        test: the same.
        train: number of samples; None takes the rest.
        seed: of the order.
        classes: [n] class of each sample; None draws without stratifying.
        keys: settings of the train, validation and test size, for messages.

    Raises:
        ConfigError: a size is negative, a fraction is not in 0..1, or the seed is no integer from 0 on.
        DataError: the sizes add up to more than n, or nothing is left for train.
    """
    check_seed(seed)
    check_train(train, keys[0])
    n_test = _count(test, n, keys[2])
    n_validation = _count(validation, n, keys[1])
    rest = n - n_test - n_validation
    n_train = rest if train is None else train
    if rest < 1 or n_train > rest:
        wanted = f"{n_test} for test, {n_validation} for validation and {max(n_train, 1)} for training"
        raise DataError(
            f"{wanted} are more than the {n} samples that there are",
            where=keys[0],
            hint=f"lower {', '.join(dict.fromkeys(keys))}",
        )
    order = _order(n, seed, classes)
    return Split(np.sort(order[n - n_train :]), np.sort(order[n_test : n_test + n_validation]), np.sort(order[:n_test]))


def check_seed(seed: int, key: str = "task.split_seed") -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: no integer from 0 on.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"{seed!r} is out of range", where=key, hint="allowed: integers from 0 on")


def check_train(train: int | None, key: str = "task.train_size") -> None:
    """Refuse what is no size of a training split; None is one.

    Raises:
        ConfigError: no integer from 1 on.
    """
    if train is not None and (isinstance(train, bool) or not isinstance(train, int) or train < 1):
        raise ConfigError(f"{train!r} is not a number of samples", where=key, hint="allowed: 1 or more")


def check_size(size: int | float, key: str) -> None:
    """Refuse what is neither a number of samples, 0 or more, nor a fraction, at least 0 and below 1.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(size, bool) or not isinstance(size, (int, float)):
        raise ConfigError(f"{size!r} is not a number", where=key, hint="give a number of samples or a fraction")
    if isinstance(size, int) and size < 0:
        raise ConfigError(f"{size} is out of range", where=key, hint="allowed: 0 or more")
    if isinstance(size, float) and not 0 <= size < 1:
        raise ConfigError(f"{size} is out of range", where=key, hint="allowed: a fraction, at least 0 and below 1")


def check_fractions(validation: float | None, test: float | None) -> None:
    """Refuse parts that cannot be drawn from the training data for validation and test; None is not drawn.

    Raises:
        ConfigError: a part is not above 0 and below 1, or nothing is left for training.
    """
    for part, fraction in (("validation", validation), ("test", test)):
        known = isinstance(fraction, (int, float)) and not isinstance(fraction, bool)
        if fraction is not None and not (known and 0 < fraction < 1):
            where = f"task.{part}_fraction"
            raise ConfigError(f"{fraction!r} is out of range", where=where, hint="allowed: above 0 and below 1")
    if validation is not None and test is not None and validation + test >= 1:
        raise ConfigError(
            f"{validation} and task.test_fraction={test} leave nothing for training",
            where="task.validation_fraction",
            hint="allowed: a sum below 1",
        )


def _order(n: int, seed: int, classes: np.ndarray | None) -> np.ndarray:
    generator = numpy_generator(seed, "split")
    order = generator.permutation(n)
    if classes is None:
        return order
    # A sample's place among those of its class, as a fraction, spreads every class evenly over the order. The last of
    # each class has place 1, so that the end of the order, train, has them all.
    place = np.empty(n)
    for value in np.unique(classes):
        members = order[classes[order] == value]
        place[members] = np.arange(1, len(members) + 1) / len(members)
    # The sort is stable: samples with the same place stay in the random order.
    return order[np.argsort(place[order], kind="stable")]


def _count(size: int | float, n: int, key: str) -> int:
    check_size(size, key)
    if isinstance(size, int):
        return size
    return max(1, round(size * n)) if size else 0


def draw(
    total: int,
    given: Container[str],
    fractions: dict[str, float],
    seed: int,
    classes: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows of the training data that each split takes, and a note on what was drawn.

    Args:
        total: n, rows of the training data.
        given: the splits that have data of their own and are not drawn.
        fractions: validation, test -> part of the training data (of the groups, where there are any).
        seed: of the draw.
        classes: [n] to stratify by; None draws without. A group counts as its most frequent class.
        groups: [n], the group of each row; rows of a group are never in two splits. None where rows stand alone.

    Raises:
        DataError: nothing is left for training.
    """
    missing = [part for part in fractions if part not in given]
    if not missing:
        return {"train": np.arange(total)}, []
    place = np.arange(total) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(place.max()) + 1
    if classes is not None:
        classes = np.unique(classes, return_inverse=True)[1]
        classes = classes if groups is None else _most_frequent(classes, place, units)
    sizes = {part: float(fractions[part]) if part in missing else 0.0 for part in fractions}
    keys = ("task.train", "task.validation_fraction", "task.test_fraction")
    parts = split(units, validation=sizes["validation"], test=sizes["test"], seed=seed, classes=classes, keys=keys)
    rows = {part: np.flatnonzero(np.isin(place, getattr(parts, part))) for part in ("train", *missing)}
    how = [] if classes is None else ["stratified"]
    how += [] if units == total else [f"{units} groups kept together"]
    return rows, [f"{' and '.join(missing)} drawn from the training data ({', '.join([*how, f'split_seed={seed}'])})"]


def _most_frequent(codes: np.ndarray, place: np.ndarray, units: int) -> np.ndarray:
    """Return the class that most rows of each group have, the lowest of several, [units]."""
    pairs, counts = np.unique(np.stack([place, codes]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    first = np.searchsorted(pairs[0][order], np.arange(units))
    return pairs[1][order][first]


def group_rows(values: dict[str, np.ndarray], where: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the group of each row, split -> [n] int64, numbered over all splits.

    Args:
        values: split -> column [n] that says which rows belong together.
        where: split -> file or split and column, for messages.

    Raises:
        DataError: rows without a group, or a group in two of the splits.
    """
    texts = {part: column.astype(str) for part, column in values.items()}
    for part, names in texts.items():
        nameless = np.isin(names, ("", "nan", "None"))
        if nameless.any():
            raise DataError(
                f"{int(nameless.sum())} rows have no group, the first is row {int(nameless.argmax()) + 1}",
                where=where[part],
            )
        for other in texts:
            shared = np.intersect1d(names, texts[other])
            if other != part and len(shared):
                raise DataError(
                    f"group '{shared[0]}' is also in {where[other]} ({len(shared)} are in both)",
                    where=where[part],
                    hint="rows that belong together must be in one split",
                )
    place = np.unique(np.concatenate(list(texts.values())), return_inverse=True)[1].astype(np.int64)
    cuts = np.cumsum([len(names) for names in texts.values()])[:-1]
    return dict(zip(texts, np.split(place, cuts), strict=True))
