"""Which rows of a table are for training, validation and test; rows of one group are never in two of them."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from orca_cli.exceptions import DataError
from orca_cli.tasks.shared.splits import check_fractions, split


def group_rows(values: dict[str, np.ndarray], where: dict[str, str]) -> dict[str, np.ndarray]:
    """Return the group of each row, split -> [n] int64, numbered over all splits.

    Args:
        values: split -> column [n] that says which rows belong together.
        where: split -> file or split and column, for messages.

    Raises:
        DataError: rows without a group, or a group in two splits that are given.
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
                    f"group '{shared[0]}' is in {where[other]} too ({len(shared)} are in both)",
                    where=where[part],
                    hint="rows that belong together have to be in one split",
                )
    place = np.unique(np.concatenate(list(texts.values())), return_inverse=True)[1].astype(np.int64)
    cuts = np.cumsum([len(names) for names in texts.values()])[:-1]
    return dict(zip(texts, np.split(place, cuts), strict=True))


def draw_rows(
    columns: dict[str, np.ndarray],
    target: str | None,
    groups: np.ndarray | None,
    given: Container[str],
    fractions: dict[str, float],
    seed: int,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the rows of the training data that each split takes, and what was drawn, in words.

    Args:
        columns: name -> column [n] of the training data.
        target: the column of classes to stratify by; None draws without.
        groups: [n] of rows that stay together; None where rows stand alone. Groups are stratified by their most frequent
            class, and fractions are of their number.
        given: the splits that are not drawn.
        fractions: validation, test -> part of the training data.
        seed: of the draw.

    Raises:
        ConfigError: a fraction or seed is out of range.
        DataError: nothing is left for training.
    """
    missing = [part for part in fractions if part not in given]
    total = len(next(iter(columns.values())))
    if not missing:
        return {"train": np.arange(total)}, []
    check_fractions(*(fractions[part] if part in missing else None for part in ("validation", "test")))
    place = np.arange(total) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(place.max()) + 1
    classes = None
    if target is not None:
        codes = np.unique(columns[target].astype(str), return_inverse=True)[1]
        classes = codes if groups is None else _most_frequent(codes, place, units)
    sizes = {part: float(fractions[part]) if part in missing else 0.0 for part in fractions}
    keys = ("task.train", "task.validation_fraction", "task.test_fraction")
    parts = split(units, validation=sizes["validation"], test=sizes["test"], seed=seed, classes=classes, keys=keys)
    rows = {part: np.flatnonzero(np.isin(place, getattr(parts, part))) for part in ("train", *missing)}
    how = [] if classes is None else ["stratified"]
    how += [] if groups is None else [f"{units} groups kept together"]
    return rows, [f"{' and '.join(missing)} drawn from the training rows ({', '.join([*how, f'split_seed={seed}'])})"]


def _most_frequent(codes: np.ndarray, place: np.ndarray, units: int) -> np.ndarray:
    """Return the class that most rows of each group have, the lowest of several, [units]."""
    pairs, counts = np.unique(np.stack([place, codes]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    first = np.searchsorted(pairs[0][order], np.arange(units))
    return pairs[1][order][first]
