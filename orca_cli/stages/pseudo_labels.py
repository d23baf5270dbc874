"""Labels for targets that are not classes: cluster numbers of the targets (paper A.3.4)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from orca_cli import seeding, signals
from orca_cli.interfaces import Kind
from orca_cli.untrusted.memory import release_pages

_WHOLE_VALUES = 2**26  # values that k-means may see at once (256 MiB in float32); above, they come in batches
_BATCH_VALUES = 2**24
_RESTARTS = 10
_PASSES = 3


def class_labels(
    kind: Kind, train: np.ndarray, validation: np.ndarray, *, num_clusters: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a class for every training and validation sample; the clusters are those of the training targets.

    Targets above 256 MiB (in float32) are clustered in batches, so that a memory map is never read as a whole.

    Args:
        kind: for "classes" the targets themselves are returned.
        train: [n, ...], as Samples.targets gives them.
        validation: [m, ...].
        num_clusters: k; fewer where there are fewer samples.
        seed: of k-means.

    Returns:
        [n] and [m] int64 in 0..k-1.
    """
    if kind == "classes":
        return np.asarray(train, dtype=np.int64), np.asarray(validation, dtype=np.int64)
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    state = seeding.derive(seed, "align", "pseudo_labels") % 2**32
    k = min(num_clusters, len(train))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct targets than clusters is fine here
        if train.size <= _WHOLE_VALUES:
            means = KMeans(k, n_init=_RESTARTS, random_state=state).fit(_flat(train))
        else:
            means = MiniBatchKMeans(k, n_init=_RESTARTS, random_state=state)
            order = seeding.numpy_generator(seed, "align", "pseudo_labels", "order")
            for _ in range(_PASSES):
                for rows in _batches(train, order.permutation(len(train)), least=k):
                    means.partial_fit(_flat(train[np.sort(rows)]))
        found = [
            np.concatenate([means.predict(_flat(targets[rows])) for rows in _batches(targets, np.arange(len(targets)))])
            for targets in (train, validation)
        ]
    return found[0].astype(np.int64), found[1].astype(np.int64)


def _batches(targets: np.ndarray, order: np.ndarray, least: int = 1) -> Iterator[np.ndarray]:
    """Yield indices of batches of bounded size; batches with fewer than `least` samples are left out."""
    size = max(least, _BATCH_VALUES // max(1, targets[0].size))
    for start in range(0, len(order), size):
        signals.check()
        rows = order[start : start + size]
        if len(rows) >= least:
            yield rows
            release_pages(targets)


def _flat(targets: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(targets, dtype=np.float32).reshape(len(targets), -1))
