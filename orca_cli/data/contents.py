"""Samples with identical inputs: found by a hash of what the files hold, before anything is learned, or of samples as read."""

import hashlib
import math
from collections.abc import Iterable, Iterator

import numpy as np

from orca_cli import seeding, signals
from orca_cli.data.blocks import Ragged, in_turn, parts
from orca_cli.interfaces import Batch, Samples

MOST_BYTES = 2**31  # of inputs; reading and hashing as much takes some seconds
_FEW = 30  # distinct inputs
_MOST_SAMPLES = 20_000
_MOST_VALUES = 2**26  # of the inputs of a split (256 MiB in float32): what takes a second to hash
_BATCH_VALUES = 2**23


def hashes(contents: Iterable[bytes]) -> np.ndarray:
    """Return a hash of each content, [n] uint64; two of a million contents share one by chance once in 10^7 data sets."""
    digests = []
    for content in contents:
        signals.check()
        digests.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()))
    return np.array(digests, np.uint64)


def hashes_of_rows(x: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray | None:
    """Return a hash of each of the `rows` [n] of inputs, read in one pass, part by part; None of more than 2 GiB."""
    if len(rows) * x.dtype.itemsize * math.prod(x.shape[1:]) > MOST_BYTES:
        return None
    return hashes(one for part in parts(x, rows) for one in _bytes_of(*part))


def _bytes_of(x: np.ndarray, valid: np.ndarray | None) -> Iterator[bytes]:
    if x.dtype.kind == "f":
        x = x + x.dtype.type(0)  # -0.0 is 0.0
        x[np.isnan(x)] = np.nan  # of which there are many bit patterns
    masks = [None] * len(x) if valid is None else valid
    yield from (
        one.tobytes() + (b"" if mask is None else mask.tobytes())
        for one, mask in zip(x, masks, strict=True)
    )


def joined(groups: np.ndarray | None, contents: np.ndarray | None) -> tuple[np.ndarray | None, str]:
    """Return groups of samples that must stay together, because of their group or of identical inputs, and a note.

    Groups and hashes of inputs are [n]; None where samples stand alone, or are too many to compare. Nothing is joined where
    inputs repeat by nature: fewer than 30 of them, and fewer than half, are distinct, as in two columns of categories. The
    note is empty where no inputs are identical.
    """
    if contents is None:
        return groups, "too many inputs to be compared: identical ones may be in several splits"
    _, first, place, counts = np.unique(
        contents, return_index=True, return_inverse=True, return_counts=True
    )
    if not (repeated := int(counts[counts > 1].sum())):
        return groups, ""
    what = f"{repeated} samples have inputs that others have too"
    if len(first) < _FEW and 2 * len(first) < len(contents):
        return (
            groups,
            f"warning: {what}, only {len(first)} are distinct: identical ones are in several splits",
        )
    note = f"{what}: identical ones stay in one split"
    if groups is None:
        return first[place], note
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_values, group = np.unique(groups, return_inverse=True)
    links, size = np.ones(len(group), dtype=bool), len(group_values) + len(first)
    pairs = coo_array((links, (group, len(group_values) + place)), shape=(size, size))
    component = connected_components(pairs, directed=False)[1][: len(group_values)]
    _, least, place = np.unique(component, return_index=True, return_inverse=True)
    return group_values[least[place]][group], note


def input_hashes(batch: Batch) -> np.ndarray:
    """Return a hash of each input [C, *E], [B] uint64; padding belongs to it."""
    return hashes(_bytes_of(batch.x.numpy(), None if batch.valid is None else batch.valid.numpy()))


def count_shared(
    first: Samples, second: Samples, input_shape: tuple[int, ...], seed: int
) -> dict[str, int]:
    """Return how many samples (`of`) of a second split were read, and how many (`shared`) have inputs that the first has too.

    `complete` says whether both splits were read whole: up to 20,000 samples and 2^26 values. Of larger ones that many are
    drawn by the seed, so that more samples may be shared than are found.
    """
    seen, others = (_read(one, input_shape, seed) for one in (first, second))
    is_complete = len(seen) == len(first) and len(others) == len(second)
    return {"shared": int(np.isin(others, seen).sum()), "of": len(others), "complete": is_complete}


def contents(samples: Samples, input_shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a hash of each input, [n] uint64; None of splits that `count_shared` does not read whole."""
    digests = _read(samples, input_shape, None)
    return digests if len(digests) == len(samples) else None


def _read(samples: Samples, input_shape: tuple[int, ...], seed: int | None) -> np.ndarray:
    """Return a hash of each input of a split, of large ones of as many as are read, drawn by the seed; none without one."""
    values, rows = math.prod(input_shape), np.arange(len(samples))
    if len(rows) > (most := min(_MOST_SAMPLES, max(1, _MOST_VALUES // values))):
        drawn = 0 if seed is None else most
        rows = np.sort(
            seeding.numpy_generator(seed or 0, "overlap").choice(len(rows), drawn, replace=False)
        )
    size = max(1, min(256, _BATCH_VALUES // values))
    return np.concatenate(
        [
            np.empty(0, np.uint64),
            *(input_hashes(samples.batch(some)) for some in in_turn(rows, size)),
        ]
    )
