"""Which points a draw of stage 2 takes: one rule for the source and for the target.

A draw has one or several samples of each side. A sample takes classes at random, and of each class
its share of the side's points. No two samples of a side have a point in common; apart from that
they are drawn independently and by the same law. So if source and target have the same
distribution, any two samples of a draw have the same distribution too, whichever sides they come
from.

Shares are never changed to fill a sample: if a class is too small, all samples of the draw are
smaller. A class with fewer points than a draw has samples is left out; if all classes are that
small, they count as one class.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator


def choose_classes(
    sizes: Mapping[int, int], samples: int, most_classes: int, generator: Generator
) -> list[np.ndarray]:
    """Return the classes of every sample in random order, drawn again for each sample.

    They are drawn from the classes that have a point for every sample or, if there are none, from
    all classes.

    Args:
        sizes: class -> number of its points.
        samples: number of samples.
        most_classes: maximum number of classes in a sample; 0: no limit, as in `Metric`.
        generator: generator of the draw.
    """
    # A class with fewer points than samples would leave some sample without any of them.
    large_classes = [label for label, size in sizes.items() if size >= samples]
    candidates = large_classes or list(sizes)
    limit = most_classes or None
    return [generator.permutation(candidates)[:limit] for _ in range(samples)]


@dataclass(frozen=True)
class Strata:
    """The points of one side by class.

    Args:
        members: class -> rows of the points that can be drawn.
        sizes: class -> number of points that the side has in it; `members` may have fewer.
        classes: classes of each sample, as `choose_classes` returns them.
    """

    members: dict[int, np.ndarray]
    sizes: dict[int, float]
    classes: Sequence[np.ndarray]

    @property
    def limit(self) -> int:
        """Return the largest size that all samples can have."""
        # Samples with a class in common divide its points among them.
        sharing = Counter(np.concatenate(self.classes).tolist())
        limits = []
        for labels in self.classes:
            sample_total = sum(self.sizes[label] for label in labels)
            for label in labels:
                # A class without points takes no share, and so sets no limit.
                if self.sizes[label]:
                    # The size at which the sample's share of this class takes all points that it
                    # may have.
                    class_share = len(self.members[label]) // sharing[label]
                    limits.append(class_share * sample_total / self.sizes[label])
        return int(min(limits, default=0))

    def draw(self, size: int, generator: Generator) -> np.ndarray:
        """Return the rows of every sample, [samples, size], in random order.

        Samples have `limit` points if that is below `size`. Each class of a sample gets its share
        by systematic sampling: exact in expectation, and never off by a whole point.
        """
        size = min(size, self.limit)
        # Each sample has its own start: with a common start, all would round up the same class.
        counts = [self._counts(labels, size, generator.random()) for labels in self.classes]
        pieces = []  # for each class, the rows of every sample
        for label, rows in self.members.items():
            # One draw for all samples, cut into a piece for each, so that no two share a point.
            sample_ends = np.cumsum([count.get(label, 0) for count in counts])  # [samples]
            drawn_rows = generator.choice(rows, size=sample_ends[-1], replace=False)
            pieces.append(np.split(drawn_rows, sample_ends[:-1]))
        samples = [np.concatenate(sample_pieces) for sample_pieces in zip(*pieces, strict=True)]
        return np.stack([generator.permutation(sample) for sample in samples])

    def _counts(self, labels: np.ndarray, size: int, start: float) -> dict[int, int]:
        """Return class -> number of points that a sample of these classes takes."""
        # Classes divide a line by their sizes; a comb of `size` teeth, moved by `start`, is laid on
        # it, and each class takes as many points as it has teeth.
        cumulative_sizes = np.cumsum([self.sizes[label] for label in labels])
        # `start` is in [0, 1), so the last end is `size` itself.
        class_ends = np.floor(cumulative_sizes * size / cumulative_sizes[-1] + start)
        counts = np.diff(class_ends, prepend=0).astype(int)
        return dict(zip(labels.tolist(), counts, strict=True))


def by_class(
    labels: np.ndarray, classes: Sequence[np.ndarray], fractions: Mapping[int, float] | None = None
) -> Strata:
    """Return the strata of the points with these labels [n].

    Args:
        labels: class of each point.
        classes: classes of each sample.
        fractions: class -> fraction of its points on this side that are among these; None: all.
    """
    members = {int(label): np.flatnonzero(labels == label) for label in np.unique(classes)}
    sizes: dict[int, float] = {label: len(rows) for label, rows in members.items()}
    if fractions is not None:
        # Scaled up to the whole side: reading only a part of a class does not change its share.
        sizes = {label: size / fractions[label] for label, size in sizes.items()}
    strata = Strata(members=members, sizes=sizes, classes=classes)
    if strata.limit:
        return strata
    # Otherwise samples would have no points: all points count as one class, 0.
    one_class = [np.zeros(1, dtype=np.int64) for _ in classes]
    return Strata(members={0: np.arange(len(labels))}, sizes={0: len(labels)}, classes=one_class)
