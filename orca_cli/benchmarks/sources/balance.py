"""What all source readers share: a balanced draw of examples, and a digest of what determines them."""

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
    """Return a draw from texts and their classes, without classes that have a single text; class `last` comes last.

    The others are in the order of their names. `size`, `seed` and errors are those of `draw`; `where` is the origin of the
    texts.
    """
    counts = Counter(name for _, name in pairs)
    names = sorted(
        (name for name in counts if counts[name] > 1), key=lambda name: (name == last, name)
    )
    if len(names) < 2:
        what = f"{len(names)} classes have two texts or more; at least two are needed"
        raise DataError(what, where=where, hint="give another file; metric=none needs no source")
    number = {name: index for index, name in enumerate(names)}
    kept = [(text, number[name]) for text, name in pairs if name in number]
    labels = np.array([label for _, label in kept], dtype=np.int64)
    chosen = draw(labels, size, seed)
    return Examples([kept[i][0] for i in chosen], labels[chosen], tuple(names))


def unambiguous(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return texts and their classes, each pair once and in the given order, without texts that have several classes."""
    distinct = list(dict.fromkeys(pairs))
    counts = Counter(text for text, _ in distinct)
    return [(text, name) for text, name in distinct if counts[text] == 1]


def draw(labels: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """Return indices of `size` examples, ascending, with class sizes as equal as the data allow; all where there are no more.

    A class that has less than its share gives all it has, and the others make up for it; what does not divide evenly comes
    from the first classes. A class keeps its examples when `size` grows: the draw is the beginning of one random order per
    class. Labels are [n] integers in 0..k-1, and a size of None is all.

    Raises:
        ConfigError, DataError: `size` is below two per class; a class has fewer than two examples.
    """
    available = np.bincount(labels)
    poor = np.flatnonzero(available < 2)
    if len(available) < 2 or len(poor):
        what = (
            f"class {poor[0]} has {available[poor[0]]} examples"
            if len(poor)
            else "there is only one class"
        )
        raise DataError(
            what, where="source", hint="at least two classes with two examples each are needed"
        )
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    if size < 2 * len(available):
        what = f"{size} is less than two examples for each of {len(available)} classes"
        raise ConfigError(
            what, where="source.size", hint=f"use source.size={2 * len(available)} or more"
        )
    together = np.minimum(available, np.arange(size + 1)[:, None]).sum(
        axis=1
    )  # by the most that one class gives
    taken = np.minimum(available, np.flatnonzero(together <= size)[-1])
    taken[np.flatnonzero(taken < available)[: size - taken.sum()]] += 1
    picked = [
        seeding.numpy_generator(seed, "source", "draw", k).permutation(np.flatnonzero(labels == k))[
            :take
        ]
        for k, take in enumerate(taken)
    ]
    return np.sort(np.concatenate(picked))


def facts_digest(*facts: object) -> str:
    """Return a SHA-256 over the facts that determine a source's examples; arrays count by form and content."""
    digest = hashlib.sha256()
    for fact in facts:
        content = np.ascontiguousarray(fact) if isinstance(fact, np.ndarray) else str(fact).encode()
        header = (
            f"{content.dtype} {content.shape}"
            if isinstance(content, np.ndarray)
            else f"{len(content)}"
        )
        digest.update(f"{header}\n".encode())  # else "ab", "c" and "a", "bc" would be the same
        digest.update(content.data if isinstance(content, np.ndarray) else content)
    return digest.hexdigest()
