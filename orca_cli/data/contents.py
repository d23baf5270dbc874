"""Samples with identical inputs, found by hashes of what the files hold or of samples as read.

Files are hashed before anything is learned from them.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from itertools import chain, starmap

import numpy as np

from orca_cli import seeding, signals
from orca_cli.data.blocks import AnyArray, bytes_of_row, in_turn, masked_blocks
from orca_cli.interfaces import Samples

_MOST_BYTES = 2**31  # of inputs; reading and hashing as much takes some seconds
_FEW = 30  # distinct inputs
_MOST_SAMPLES = 20_000
_MOST_VALUES = 2**26  # of the inputs of a split (256 MiB in float32): what takes a second to hash
# Of the inputs that are read at once: 32 MiB in float32.
_BATCH_VALUES = 2**23


def hashes(contents: Iterable[bytes]) -> np.ndarray:
    """Return a hash of each content, [n] uint64.

    Two of a million contents share one by chance once in 10^7 data sets.
    """
    digests = []
    for content in contents:
        signals.check()
        # 64 bits fit into one integer, so that NumPy can sort and compare the hashes.
        digest = hashlib.blake2b(content, digest_size=8).digest()
        digests.append(int.from_bytes(digest))
    return np.array(digests, np.uint64)


def hashes_of_rows(x: AnyArray, rows: np.ndarray) -> np.ndarray | None:
    """Return a hash of each of the `rows` [n] of inputs, read block by block in one pass.

    None of more than 2 GiB.
    """
    if len(rows) * bytes_of_row(x) > _MOST_BYTES:
        return None
    return hashes(chain.from_iterable(starmap(_bytes_of, masked_blocks(x, rows))))


def _bytes_of(x: np.ndarray, valid: np.ndarray | None) -> Iterator[bytes]:
    """Yield the bytes of each input [B, ...] and of its mask; equal numbers have equal bytes."""
    if x.dtype.kind == "f":
        x = x + x.dtype.type(0)  # -0.0 becomes 0.0
        x[np.isnan(x)] = np.nan  # of its many bit patterns, one
    for row in range(len(x)):
        content = x[row].tobytes()
        if valid is not None:
            content += valid[row].tobytes()
        yield content


def joined(groups: np.ndarray | None, contents: np.ndarray | None) -> tuple[np.ndarray | None, str]:
    """Return groups of samples that must stay together for their group or their inputs, and a note.

    Groups and hashes of inputs are [n]; None where samples stand alone, or are too many to compare.
    Nothing is joined where inputs repeat by nature: fewer than 30 of them, and fewer than half, are
    distinct, as in two columns of categories. The note is empty where no inputs are identical.
    """
    if contents is None:
        return groups, "too many inputs to be compared: identical ones may be in several splits"
    # Of each distinct input its first row and its number of rows; of each row the position [n] of
    # its input among them.
    _, first_rows, positions, row_counts = np.unique(
        contents, return_index=True, return_inverse=True, return_counts=True
    )
    counts_of_repeated = row_counts[row_counts > 1]
    num_repeated = int(counts_of_repeated.sum())
    if num_repeated == 0:
        return groups, ""
    note = f"{num_repeated} samples have inputs that others have too"
    num_distinct = len(first_rows)
    if num_distinct < _FEW and 2 * num_distinct < len(contents):
        consequence = f"only {num_distinct} are distinct: identical ones are in several splits"
        return groups, f"warning: {note}, {consequence}"
    note = f"{note}: identical ones stay in one split"
    if groups is None:
        return first_rows[positions], note
    return _connected(groups, positions), note


def _connected(groups: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return groups [n], with one name for those that share an input.

    `inputs` [n] are numbers of distinct inputs. Groups and inputs are the nodes of a graph in which
    every sample is an edge.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_names, group_numbers = np.unique(groups, return_inverse=True)  # names ascend
    num_groups = len(group_names)
    num_inputs = int(inputs.max()) + 1
    num_nodes = num_groups + num_inputs
    # Groups are the first nodes, and inputs follow them.
    edges = (group_numbers, num_groups + inputs)
    has_edge = np.ones(len(groups), dtype=bool)
    graph = coo_array((has_edge, edges), shape=(num_nodes, num_nodes))
    _, components = connected_components(graph, directed=False)
    # A component has the name of its first group.
    _, first_groups, positions = np.unique(
        components[:num_groups], return_index=True, return_inverse=True
    )
    component_names = group_names[first_groups[positions]]  # of each group
    return component_names[group_numbers]


def count_shared(
    earlier: Samples, later: Samples, input_shape: tuple[int, ...], seed: int
) -> dict[str, int]:
    """Return how many inputs of the later split the earlier split has too (`shared`).

    `of` is the number of samples of the later split that were read. `complete` says whether both
    splits were read whole: up to 20,000 samples and 2^26 values. Of larger ones that many are drawn
    by the seed, so that more samples may be shared than are found.
    """
    earlier_hashes = _hashes_of_drawn(earlier, input_shape, seed)
    later_hashes = _hashes_of_drawn(later, input_shape, seed)
    is_shared = np.isin(later_hashes, earlier_hashes)
    is_complete = len(earlier_hashes) == len(earlier) and len(later_hashes) == len(later)
    return {"shared": int(is_shared.sum()), "of": len(later_hashes), "complete": is_complete}


def contents(samples: Samples, input_shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a hash of each input, [n] uint64.

    None of splits that `count_shared` does not read whole.
    """
    if len(samples) > _most_samples(input_shape):
        return None
    return _hashes_of_drawn(samples, input_shape, seed=0)  # all are read, none is drawn


def _most_samples(input_shape: tuple[int, ...]) -> int:
    """Return the number of samples up to which a split is read whole."""
    by_values = _MOST_VALUES // math.prod(input_shape)
    return min(_MOST_SAMPLES, max(1, by_values))


def _hashes_of_drawn(samples: Samples, input_shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a hash of each input of a split, uint64; padding belongs to it.

    Of a split that is not read whole, the samples are drawn by the seed.
    """
    read_rows = np.arange(len(samples))
    most_samples = _most_samples(input_shape)
    if len(samples) > most_samples:
        generator = seeding.numpy_generator(seed, "overlap")
        read_rows = np.sort(generator.choice(len(samples), most_samples, replace=False))
    by_values = _BATCH_VALUES // math.prod(input_shape)
    batch_size = max(1, min(256, by_values))
    # An empty split has an empty array, which `concatenate` needs.
    digests = [np.empty(0, np.uint64)]
    for batch_rows in in_turn(read_rows, batch_size):
        batch = samples.batch(batch_rows)
        inputs = batch.x.numpy()
        valid = None if batch.valid is None else batch.valid.numpy()
        digests.append(hashes(_bytes_of(inputs, valid)))
    return np.concatenate(digests)
