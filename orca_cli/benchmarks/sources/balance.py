"""Functions that all source readers share: a balanced draw of examples, and a digest of a source.

Shapes: n examples, k classes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from orca_cli import seeding
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Examples


def drawn_texts(
    pairs: Sequence[tuple[str, str]], size: int | None, seed: int, where: str, last: str = ""
) -> Examples:
    """Return a draw from texts and their classes, without classes that have a single text.

    Classes are sorted by name, except that class `last` comes last. `size`, `seed` and errors are
    as in `draw`; `where` is the origin of the texts, which errors name.
    """
    counts = Counter(name for _, name in pairs)
    class_names = []
    for name in sorted(counts):
        if counts[name] > 1 and name != last:
            class_names.append(name)
    if counts[last] > 1:
        class_names.append(last)
    if len(class_names) < 2:
        raise DataError(
            f"needs at least two classes with two texts each, but has only {len(class_names)}",
            where=where,
            hint="use another file, or metric=none, which needs no source",
        )
    label_of_class = {name: label for label, name in enumerate(class_names)}
    texts = []
    labels = []
    for text, name in pairs:
        if name in label_of_class:
            texts.append(text)
            labels.append(label_of_class[name])
    all_labels = np.array(labels, dtype=np.int64)
    chosen = draw(all_labels, size, seed)
    return Examples(
        inputs=[texts[row] for row in chosen],
        labels=all_labels[chosen],
        class_names=tuple(class_names),
    )


def unambiguous(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return texts and their classes, without texts that have several classes.

    A repeated pair is returned once, and the order does not change.
    """
    distinct = list(dict.fromkeys(pairs))  # a dictionary keeps the order
    counts = Counter(text for text, _ in distinct)
    return [(text, name) for text, name in distinct if counts[text] == 1]


def draw(labels: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """Return indices of `size` examples, ascending, with class sizes as equal as the data allow.

    All examples are used if `size` is None or at least n. A class that has fewer examples than its
    share contributes all of them, and the other classes contribute more. If `size` cannot be
    divided equally, the first classes contribute one more. Each class has its own random order and
    contributes the beginning of it, so its examples stay in the draw when `size` grows. Labels are
    [n] integers in 0..k-1.

    Raises:
        ConfigError: `size` is less than two examples per class.
        DataError: a class has fewer than two examples, or there is only one class.
    """
    available = np.bincount(labels)  # [k]
    hint = "use a source that has at least two classes with two examples each"
    for label, count in enumerate(available):
        if count < 2:
            message = f"class {label} has {count} examples, fewer than two"
            raise DataError(message, where="source", hint=hint)
    if len(available) < 2:
        raise DataError("has only one class", where="source", hint=hint)
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    smallest = 2 * len(available)
    if size < smallest:
        raise ConfigError(
            f"must be at least {smallest}, two examples for each of {len(available)} classes, got "
            f"{size}",
            where="source.size",
            hint=f"use source.size={smallest} or more",
        )
    # The share is the largest one with which all classes together give at most `size` examples.
    shares = np.arange(size + 1)
    counts_by_share = np.minimum(available, shares[:, None])  # [size + 1, k]
    totals = counts_by_share.sum(axis=1)  # [size + 1]
    share = np.flatnonzero(totals <= size)[-1]
    counts = np.minimum(available, share)  # [k]
    # The first classes that have more examples contribute one more each, until the sum is `size`.
    missing = size - counts.sum()
    with_more = np.flatnonzero(counts < available)
    counts[with_more[:missing]] += 1
    chosen = []
    for label, count in enumerate(counts):
        # One generator per class, so that its order does not depend on the other classes.
        generator = seeding.numpy_generator(seed, "source", "draw", label)
        order = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(order[:count])
    return np.sort(np.concatenate(chosen))


def facts_digest(*facts: object) -> str:
    """Return a SHA-256 over the facts that determine the examples of a source.

    The digest covers type, shape and content of an array, and the text of any other fact.
    """
    digest = hashlib.sha256()
    for fact in facts:
        content: bytes | memoryview
        if isinstance(fact, np.ndarray):
            # A hash needs the bytes of the array in one piece.
            array = np.ascontiguousarray(fact)
            header = f"{array.dtype} {array.shape}\n"
            content = array.data
        else:
            content = str(fact).encode()
            # Without the length, "ab", "c" and "a", "bc" would have the same digest.
            header = f"{len(content)}\n"
        digest.update(header.encode())
        digest.update(content)
    return digest.hexdigest()
