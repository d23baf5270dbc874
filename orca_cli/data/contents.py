"""Samples with identical inputs: found by a hash of what the files hold, before anything is learned from the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from orca_cli import signals
from orca_cli.data.blocks import blocks

MOST_BYTES = 2**31  # of inputs; reading and hashing as much takes some seconds
_FEW = 30  # distinct inputs


def hashes(contents: Iterable[bytes]) -> np.ndarray:
    """Return a hash of each content, [n] uint64; two of a million contents share one by chance once in 10^7 data sets."""
    digests = (hashlib.blake2b(content, digest_size=8).digest() for content in contents)
    return np.fromiter((int.from_bytes(digest) for digest in digests), np.uint64)


def hashes_of_rows(x: np.ndarray, rows: np.ndarray, ends: np.ndarray | None, channels_last: bool) -> np.ndarray | None:
    """Return a hash of some samples [n] of inputs in one pass, block by block; None where there are more than 2 GiB.

    `ends` [N] says how many steps of a sequence count, on the last axis or, with channels last, the first; None takes all.
    """
    if len(rows) * x[:1].nbytes > MOST_BYTES:
        return None

    def contents() -> Iterator[bytes]:
        stored = (row for block in blocks(x, rows) for row in block)
        for number, row in zip(rows, stored, strict=True):
            signals.check()
            if ends is None:
                yield row.tobytes()
            else:
                one = row[: ends[number]] if channels_last else row[..., : ends[number]]
                yield f"{one.shape}".encode() + one.tobytes()

    return hashes(contents())


def joined(groups: np.ndarray | None, contents: np.ndarray | None) -> tuple[np.ndarray | None, str]:
    """Return groups of samples that must stay together, because of their group or of identical inputs, and a note.

    Groups and hashes of inputs are [n]; None where samples stand alone, or are too many to compare. Nothing is joined where
    inputs repeat by nature: fewer than 30 of them, and fewer than half, are distinct, as in two columns of categories.
    """
    if contents is None:
        return groups, "too many inputs to be compared: identical ones may be in several splits"
    _, first, place, counts = np.unique(contents, return_index=True, return_inverse=True, return_counts=True)
    if not (repeated := int(counts[counts > 1].sum())):
        return groups, ""
    what = f"{repeated} samples have inputs that others have too"
    if len(first) < _FEW and 2 * len(first) < len(contents):
        return groups, f"warning: {what}, only {len(first)} are distinct: identical ones are in several splits"
    note = f"{what}: identical ones stay in one split"
    if groups is None:
        return first[place], note
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_values, group = np.unique(groups, return_inverse=True)
    pairs = coo_array(
        (np.ones(len(group), dtype=bool), (group, len(group_values) + place)),
        shape=(len(group_values) + len(first),) * 2,
    )
    component = connected_components(pairs, directed=False)[1][: len(group_values)]
    least = np.full(component.max() + 1, len(group_values))
    np.minimum.at(least, component, np.arange(len(group_values)))
    return group_values[least[component]][group], note
