"""Labels for targets that are not classes, which distances with labels need: cluster numbers of the targets (paper A.3.4)."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from orca_cli import seeding, signals
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.interfaces import IGNORED_CLASS, Kind

WHOLE_VALUES = (
    2**26
)  # values that k-means may see at once (256 MiB in float32); above, they come in batches
BATCH_VALUES = 2**24
_RESTARTS = 10
_PASSES = 3


def class_labels(
    kind: Kind, train: np.ndarray, validation: np.ndarray, *, num_clusters: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a class for every training and validation sample, [n] and [m] int64; the clusters are those of training targets.

    Targets, shaped as `interfaces.Batch.y`, are returned as they are if of kind "classes". One number a sample is binned, so
    that every class has about as many training samples. Anything else is clustered by k-means after its mean over known targets
    is subtracted: label sets as they are, real values divided by the deviation of their channel, classes at every position as
    indicators. What is unknown counts as the mean. There are `num_clusters` classes, or fewer of few samples or equal numbers.
    Targets above 256 MiB (in float32) are clustered in batches, so that a memory map is never read as a whole.
    """
    if kind == "classes":
        return np.asarray(train, dtype=np.int64), np.asarray(validation, dtype=np.int64)
    if kind == "values" and train.shape[1] == 1:
        return _bins(train[:, 0], validation[:, 0], num_clusters)
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    state = seeding.derive(seed, "align", "pseudo_labels") % 2**32
    k = min(num_clusters, len(train))
    width, encode = _encoder(kind, train)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # fewer distinct targets than clusters is fine here
        if len(train) * width <= WHOLE_VALUES:
            means = KMeans(k, n_init=_RESTARTS, random_state=state).fit(encode(train))
        else:
            means = MiniBatchKMeans(k, n_init=_RESTARTS, random_state=state)
            order = seeding.numpy_generator(seed, "align", "pseudo_labels", "order")
            for _ in range(_PASSES):
                for rows in _batches(train, order.permutation(len(train)), width, least=k):
                    means.partial_fit(encode(train[np.sort(rows)]))
        labels = []
        for targets in (train, validation):
            batches = _batches(targets, np.arange(len(targets)), width)
            labels.append(
                np.concatenate([means.predict(encode(targets[rows])) for rows in batches])
            )
    return labels[0].astype(np.int64), labels[1].astype(np.int64)


def shuffled(labels: tuple[np.ndarray, np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of both splits, [n] and [m], permuted among the samples of each: a control."""
    train, validation = (
        split[seeding.numpy_generator(seed, "align", "target_labels", name).permutation(len(split))]
        for name, split in zip(("train", "validation"), labels, strict=True)
    )
    return train, validation


def _bins(train: np.ndarray, validation: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of every number; edges are quantiles of the training numbers. What is unknown is in the median's bin.

    Many equal numbers share a bin, so there may be fewer than `count`; none is empty in training.
    """
    known_values = np.sort(train[~np.isnan(train)])
    edges = np.unique(np.quantile(known_values, np.arange(1, count) / count, method="inverted_cdf"))
    edges = edges[edges < known_values[-1]]
    median = known_values[(len(known_values) - 1) // 2]
    bins = [
        np.searchsorted(edges, np.where(np.isnan(y), median, y), side="left")
        for y in (train, validation)
    ]
    return bins[0].astype(np.int64), bins[1].astype(np.int64)


def _encoder(kind: Kind, train: np.ndarray) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """Return how many columns are clustered, and what makes them of targets, [n, width] float32; unknown values are 0.

    What is subtracted and divided by is of the known values of the training targets, which are read a batch at a time.
    """
    classes = (
        0 if np.issubdtype(train.dtype, np.floating) else int(train.max(initial=0)) + 1
    )  # 0: real values
    width = train[0].size * max(classes, 1)

    def values(targets: np.ndarray) -> np.ndarray:
        """Return [n, width] in the dtype of the targets, of classes float32, with NaN where a target is unknown."""
        flat = np.asarray(targets).reshape(len(targets), -1)
        if not classes:
            return flat
        indicators = (flat[:, :, None] == np.arange(classes)).astype(np.float32)
        indicators[flat == IGNORED_CLASS] = np.nan
        return indicators.reshape(len(targets), -1)

    def summed(measure: Callable[[np.ndarray], np.ndarray]) -> Any:
        batches = _batches(train, np.arange(len(train)), width)
        return sum(measure(values(train[rows]).astype(np.float64)) for rows in batches)

    counts, total = summed(
        lambda known: np.stack([(~np.isnan(known)).sum(0), np.nansum(known, axis=0)])
    )
    dtype = np.float32 if classes else train.dtype
    mean, scale = (total / np.maximum(counts, 1)).astype(dtype), np.ones(width, dtype)
    if not classes and kind != "labels":
        squares = summed(lambda known: np.nansum((known - mean) ** 2, axis=0))
        # One deviation a channel: where a position hardly varies, noise must not weigh as much as content.
        channels = train.shape[1] if train.ndim > 1 else 1
        variance = squares.reshape(channels, -1).sum(1) / np.maximum(
            counts.reshape(channels, -1).sum(1), 1
        )
        deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
        scale = np.repeat(deviation, width // channels).astype(dtype)
    return width, lambda targets: np.nan_to_num((values(targets) - mean) / scale).astype(np.float32)


def _batches(
    targets: np.ndarray, order: np.ndarray, width: int, least: int = 1
) -> Iterator[np.ndarray]:
    """Yield indices of batches of bounded size; batches with fewer than `least` samples are left out."""
    size = max(least, BATCH_VALUES // max(1, width))
    for start in range(0, len(order), size):
        signals.check()
        rows = order[start : start + size]
        if len(rows) >= least:
            yield rows
            release_pages(targets)
