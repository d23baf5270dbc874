"""Samples with identical inputs, which are found by hashes of inputs in files or in read batches.

Inputs in files are hashed before anything is learned from them.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from itertools import chain, starmap

import numpy as np

from orca_cli import seeding, signals
from orca_cli.data.blocks import AnyArray, bytes_of_row, in_turn, masked_blocks
from orca_cli.interfaces import Samples

_MOST_BYTES = 2**31  # largest size of inputs; reading and hashing them takes some seconds
_FEW = 30  # with fewer distinct inputs, inputs may repeat by nature
_MOST_SAMPLES = 20_000
_MOST_VALUES = 2**26  # values in the inputs of a split (256 MiB in float32); hashed in a second
# Values that are read at once: 32 MiB in float32.
_BATCH_VALUES = 2**23


def hashes(contents: Iterable[bytes]) -> np.ndarray:
    """Return a hash of each content, [n] uint64.

    Among a million different contents, the probability that any two have the same hash is below
    10^-7.
    """
    digests = []
    for content in contents:
        signals.check()
        # 64 bits fit into one integer, so that NumPy can sort and compare the hashes.
        digest = hashlib.blake2b(content, digest_size=8).digest()
        digests.append(int.from_bytes(digest))
    return np.array(digests, np.uint64)


def hashes_of_rows(x: AnyArray, rows: np.ndarray) -> np.ndarray | None:
    """Return a hash of each of the `rows` [n] of inputs, which are read block by block in one pass.

    None if these rows have more than 2 GiB.
    """
    if len(rows) * bytes_of_row(x) > _MOST_BYTES:
        return None
    return hashes(chain.from_iterable(starmap(_bytes_of, masked_blocks(x, rows))))


def _bytes_of(x: np.ndarray, valid: np.ndarray | None) -> Iterator[bytes]:
    """Yield the bytes of each input [B, ...] and of its mask; equal numbers have equal bytes."""
    if x.dtype.kind == "f":
        x = x + x.dtype.type(0)  # -0.0 becomes 0.0
        x[np.isnan(x)] = np.nan  # NaN has many bit patterns; all become the same
    for row in range(len(x)):
        content = x[row].tobytes()
        if valid is not None:
            content += valid[row].tobytes()
        yield content


def joined(groups: np.ndarray | None, contents: np.ndarray | None) -> tuple[np.ndarray | None, str]:
    """Return groups of samples that share a group or an input, and a note.

    `groups` [n] is None if each sample is independent; `contents` [n] are hashes of inputs, None if
    the inputs are too large to compare. Samples are not joined if inputs repeat by nature, as in a
    table with two columns of categories: fewer than 30 inputs, and fewer than half, are distinct.
    The note is empty if all inputs are distinct.
    """
    if contents is None:
        return groups, "the inputs are too large to compare, so two splits may contain equal inputs"
    # For each distinct input, its first row and its number of rows; for each row, the position [n]
    # of its input among the distinct inputs.
    _, first_rows, positions, row_counts = np.unique(
        contents, return_index=True, return_inverse=True, return_counts=True
    )
    counts_of_repeated = row_counts[row_counts > 1]
    num_repeated = int(counts_of_repeated.sum())
    if num_repeated == 0:
        return groups, ""
    note = f"{num_repeated} samples have the same inputs as another sample"
    num_distinct = len(first_rows)
    if num_distinct < _FEW and 2 * num_distinct < len(contents):
        consequence = f"only {num_distinct} inputs are distinct, so the splits share inputs"
        return groups, f"warning: {note}; {consequence}"
    note = f"{note}; samples with the same inputs stay in one split"
    if groups is None:
        return first_rows[positions], note
    return _connected(groups, positions), note


def _connected(groups: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Return groups [n], in which all groups that share an input have the same name.

    `inputs` [n] numbers the distinct inputs. Groups and inputs are the nodes of a graph, and every
    sample is an edge between its group and its input.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_names, group_numbers = np.unique(groups, return_inverse=True)  # names ascend
    num_groups = len(group_names)
    num_inputs = int(inputs.max()) + 1
    num_nodes = num_groups + num_inputs
    # The first nodes are groups, the following nodes inputs.
    edges = (group_numbers, num_groups + inputs)
    has_edge = np.ones(len(groups), dtype=bool)
    graph = coo_array((has_edge, edges), shape=(num_nodes, num_nodes))
    _, components = connected_components(graph, directed=False)
    # A component has the name of its first group.
    _, first_groups, positions = np.unique(
        components[:num_groups], return_index=True, return_inverse=True
    )
    component_names = group_names[first_groups[positions]]  # name for each group
    return component_names[group_numbers]


def count_shared(
    earlier: Samples, later: Samples, input_shape: tuple[int, ...], seed: int
) -> dict[str, int]:
    """Return how many samples of the later split have inputs that the earlier split also has.

    This number is `shared`, out of the `of` samples of the later split that were read. `complete`
    is whether both splits were read completely, which needs at most 20,000 samples and 2^26 values.
    From a larger split, samples up to this limit are drawn with the seed; `shared` is a lower bound
    then.
    """
    earlier_hashes = _hashes_of_drawn(earlier, input_shape, seed)
    later_hashes = _hashes_of_drawn(later, input_shape, seed)
    is_shared = np.isin(later_hashes, earlier_hashes)
    is_complete = len(earlier_hashes) == len(earlier) and len(later_hashes) == len(later)
    return {"shared": int(is_shared.sum()), "of": len(later_hashes), "complete": is_complete}


def contents(samples: Samples, input_shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a hash of each input, [n] uint64.

    None for a split that `count_shared` would not read completely.
    """
    if len(samples) > _most_samples(input_shape):
        return None
    return _hashes_of_drawn(samples, input_shape, seed=0)  # all samples are read, so no draw


def _most_samples(input_shape: tuple[int, ...]) -> int:
    """Return the largest number of samples with which a split is read completely."""
    by_values = _MOST_VALUES // math.prod(input_shape)
    return min(_MOST_SAMPLES, max(1, by_values))


def _hashes_of_drawn(samples: Samples, input_shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a hash, uint64, of each input of a split, including its padding.

    If the split is too large to read completely, samples are drawn with the seed.
    """
    read_rows = np.arange(len(samples))
    most_samples = _most_samples(input_shape)
    if len(samples) > most_samples:
        generator = seeding.numpy_generator(seed, "overlap")
        read_rows = np.sort(generator.choice(len(samples), most_samples, replace=False))
    by_values = _BATCH_VALUES // math.prod(input_shape)
    batch_size = max(1, min(256, by_values))
    # `concatenate` needs at least one array, also for an empty split.
    digests = [np.empty(0, np.uint64)]
    for batch_rows in in_turn(read_rows, batch_size):
        batch = samples.batch(batch_rows)
        inputs = batch.x.numpy()
        valid = None if batch.valid is None else batch.valid.numpy()
        digests.append(hashes(_bytes_of(inputs, valid)))
    return np.concatenate(digests)
