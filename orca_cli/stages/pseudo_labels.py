"""Pseudo-labels for targets that are not classes; distances with labels need them (paper A.3.4).

A pseudo-label is the number of a target's cluster.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from orca_cli import seeding
from orca_cli.data.blocks import in_turn
from orca_cli.data.untrusted.memory import release_pages
from orca_cli.interfaces import IGNORED_CLASS, Kind

# Maximum number of values for k-means at once (256 MiB in float32); more come in batches.
WHOLE_VALUES = 2**26
# Maximum number of values of a batch (64 MiB in float32).
BATCH_VALUES = 2**24
_RESTARTS = 10
_PASSES = 3


Labels = tuple[np.ndarray, np.ndarray]  # labels of training and validation samples, [n] and [m]


def class_labels(
    kind: Kind, train: np.ndarray, validation: np.ndarray, *, num_clusters: int, seed: int
) -> Labels:
    """Return a class for every training and validation sample, [n] and [m] int64.

    Clusters are fitted to the training targets. Targets of kind "classes" are returned as they are.
    If a target is one number, it is binned, so that all classes have about as many training
    samples. All other targets are clustered by k-means after the mean of the known values is
    subtracted: label sets as they are, real values divided by the deviation of their channel,
    classes at every position as indicators. Unknown targets count as the mean.

    Targets above 256 MiB (in float32) are clustered in batches, so that a memory map is never read
    as a whole.

    Args:
        kind: kind of the task.
        train, validation: targets, shaped as `interfaces.Batch.y`.
        num_clusters: number of classes; there may be fewer if samples are few or numbers equal.
        seed: seed of the clustering.
    """
    if kind == "classes":
        return np.asarray(train, dtype=np.int64), np.asarray(validation, dtype=np.int64)
    if kind == "values" and train.shape[1] == 1:
        return _bins(train[:, 0], validation[:, 0], num_clusters)
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    # scikit-learn takes seeds of 32 bits.
    random_state = seeding.derive(seed, "align", "pseudo_labels") % 2**32
    # k-means cannot make more clusters than there are samples.
    num_clusters = min(num_clusters, len(train))
    encoder = _encoder(kind, train)
    with warnings.catch_warnings():
        # Fewer distinct targets than clusters are fine here.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if len(train) * encoder.width <= WHOLE_VALUES:
            clusters = KMeans(num_clusters, n_init=_RESTARTS, random_state=random_state)
            clusters.fit(encoder.encode(train))
        else:
            clusters = MiniBatchKMeans(num_clusters, n_init=_RESTARTS, random_state=random_state)
            generator = seeding.numpy_generator(seed, "align", "pseudo_labels", "order")
            for _ in range(_PASSES):
                order = generator.permutation(len(train))  # a new order in every pass
                # k-means cannot begin with a batch of fewer samples than clusters.
                for rows in _batches(train, order, encoder.width, least_size=num_clusters):
                    # Ascending rows are read from a file faster.
                    clusters.partial_fit(encoder.encode(train[np.sort(rows)]))

        def nearest(targets: np.ndarray) -> np.ndarray:
            # Always in batches, since a split may be a memory map.
            batch_labels = []
            for rows in _batches(targets, np.arange(len(targets)), encoder.width):
                batch_labels.append(clusters.predict(encoder.encode(targets[rows])))
            return np.concatenate(batch_labels).astype(np.int64)

        return nearest(train), nearest(validation)


def shuffled(labels: Labels, seed: int) -> Labels:
    """Return the labels of both splits, permuted among the samples of each: a control."""
    permuted = []
    for split_name, split_labels in zip(("train", "validation"), labels, strict=True):
        generator = seeding.numpy_generator(seed, "align", "target_labels", split_name)
        permuted.append(split_labels[generator.permutation(len(split_labels))])
    train, validation = permuted
    return train, validation


def _bins(train: np.ndarray, validation: np.ndarray, num_bins: int) -> Labels:
    """Return the bin of every number, [n] and [m]; edges are quantiles of the training numbers.

    Unknown numbers are in the median's bin. Equal numbers share a bin, so there may be fewer bins
    than `num_bins`; every bin has a training sample.
    """
    known_numbers = np.sort(train[~np.isnan(train)])
    # An edge is itself one of the numbers (inverted_cdf), and belongs to the bin below it.
    levels = np.arange(1, num_bins) / num_bins
    bin_edges = np.unique(np.quantile(known_numbers, levels, method="inverted_cdf"))
    # The bin above an edge at the largest number would be empty.
    bin_edges = bin_edges[bin_edges < known_numbers[-1]]
    # The lower of the two middle numbers, so that the median is itself one of the numbers.
    median = known_numbers[(len(known_numbers) - 1) // 2]

    def binned(targets: np.ndarray) -> np.ndarray:
        complete_targets = np.where(np.isnan(targets), median, targets)
        return np.searchsorted(bin_edges, complete_targets, side="left").astype(np.int64)

    return binned(train), binned(validation)


@dataclass(frozen=True)
class _Encoder:
    """Encoder that turns targets into columns that k-means can compare.

    Args:
        num_classes: number of classes, whose numbers become indicators; None for real values.
        mean, scale: [width]; the mean of a column is subtracted, then it is divided by its scale.
    """

    num_classes: int | None
    mean: np.ndarray
    scale: np.ndarray

    @property
    def width(self) -> int:
        """Return the number of columns."""
        return len(self.mean)

    def encode(self, targets: np.ndarray) -> np.ndarray:
        """Return [n, width] float32; unknown values are 0."""
        standardised = (_columns(targets, self.num_classes) - self.mean) / self.scale
        return np.nan_to_num(standardised).astype(np.float32)


def _columns(targets: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Return targets as [n, width] in their dtype, classes as float32; NaN if unknown."""
    flat_targets = np.asarray(targets).reshape(len(targets), -1)
    if num_classes is None:
        return flat_targets
    is_of_class = flat_targets[:, :, None] == np.arange(num_classes)  # [n, positions, K]
    indicators = is_of_class.astype(np.float32)
    # NaN, so that unknown classes count as the mean, as unknown numbers do.
    indicators[flat_targets == IGNORED_CLASS] = np.nan
    return indicators.reshape(len(targets), -1)


def _encoder(kind: Kind, train: np.ndarray) -> _Encoder:
    """Return the encoder for targets like these.

    Its mean and scale are computed from the known values of the training targets, which are read a
    batch at a time.
    """
    num_classes = None
    width = train[0].size
    column_dtype = train.dtype
    if not np.issubdtype(train.dtype, np.floating):
        num_classes = int(train.max(initial=0)) + 1
        width *= num_classes
        column_dtype = np.dtype(np.float32)

    def blocks() -> Iterator[np.ndarray]:
        # In float64: sums over a large split lose digits in float32.
        for rows in _batches(train, np.arange(len(train)), width):
            yield _columns(train[rows], num_classes).astype(np.float64)

    counts = np.zeros(width)  # number of known values
    totals = np.zeros(width)
    for block in blocks():
        counts += (~np.isnan(block)).sum(0)
        totals += np.nansum(block, axis=0)
    mean = (totals / np.maximum(counts, 1)).astype(column_dtype)
    scale = np.ones(width, column_dtype)
    # Indicators and labels are all 0 or 1, so they share a unit already.
    if num_classes is None and kind != "labels":
        # A second pass, around the mean: in sums of raw squares a small variance would vanish.
        squares = np.zeros(width)
        for block in blocks():
            squares += np.nansum((block - mean) ** 2, axis=0)
        # One deviation per channel: if a position hardly varies, its noise must not weigh as much
        # as content.
        num_channels = train.shape[1] if train.ndim > 1 else 1
        channel_counts = counts.reshape(num_channels, -1).sum(1)
        channel_squares = squares.reshape(num_channels, -1).sum(1)
        variance = channel_squares / np.maximum(channel_counts, 1)
        deviation = np.where(variance > 0, np.sqrt(variance), 1.0)
        scale = np.repeat(deviation, width // num_channels).astype(column_dtype)
    return _Encoder(num_classes=num_classes, mean=mean, scale=scale)


def _batches(
    targets: np.ndarray, order: np.ndarray, width: int, least_size: int = 1
) -> Iterator[np.ndarray]:
    """Yield indices of batches of bounded size; batches below `least_size` are left out."""
    batch_size = max(least_size, BATCH_VALUES // max(1, width))
    for rows in in_turn(order, batch_size):
        if len(rows) >= least_size:
            yield rows
            # The pages of a memory map would otherwise stay in memory.
            release_pages(targets)
