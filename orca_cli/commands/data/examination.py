"""Examine data before a run does: shapes, classes, NaN and infinite values, overlaps between splits.

A problem would end a run, or make its error meaningless. The test split is opened as well, but only to count and compare:
nothing is chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np

from orca_cli import seeding, signals
from orca_cli.config.schema import Config
from orca_cli.data.blocks import blocks
from orca_cli.data.samples import input_hashes
from orca_cli.exceptions import DataError, OrcaError
from orca_cli.interfaces import IGNORED_CLASS, Reporter, Samples, TaskData
from orca_cli.stages.build import read_source, read_task

_OVERLAP = 0.01  # with this share of a split's samples in another split, errors are too low to trust
_BATCH_BYTES = 2**25


def check_task(config: Config, reporter: Reporter, samples: int, problems: list[str]) -> dict[str, Any]:
    """Open a task's data through its reader and examine at most `samples` of each split, drawn with the run's seed.

    Args:
        config: the settings of a run.
        reporter: shows progress.
        samples: the most that are read of a split; targets are counted in full.
        problems: gets a line for everything that is wrong.

    Returns:
        JSON-able: kind, shapes, per split counts, ranges and classes, overlaps.

    Raises:
        DataError: the data are missing, or cannot be read.
    """
    task = read_task(config, reporter)
    opened: dict[str, Samples] = {"train": task.train, "validation": task.validation}
    try:
        opened["test"] = task.open_test()
    except OrcaError as error:
        problems.append(f"test: {error}")
    splits: dict[str, Any] = {}
    hashes: dict[str, list[bytes]] = {}
    for name, split in opened.items():
        if len(split) == 0:
            problems.append(f"{name}: the split is empty")
            continue
        rows = np.arange(len(split))
        if len(rows) > samples:
            generator = seeding.numpy_generator(config.seed, "data-check", name)
            rows = np.sort(generator.choice(len(rows), samples, replace=False))
        splits[name], hashes[name] = examine_split(task, name, split, rows, reporter, problems)
    overlaps = []
    for first, second in combinations(hashes, 2):
        known, read = set(hashes[first]), len(hashes[second])
        shared = sum(digest in known for digest in hashes[second])
        if shared >= max(1, _OVERLAP * read):
            problems.append(f"{shared} of {read} samples of {second} {'is' if shared == 1 else 'are'} also in {first}")
        overlaps.append({"first": first, "second": second, "shared": shared, "of": read})
    shapes = {"kind": task.kind, "input_shape": list(task.input_shape), "num_outputs": task.num_outputs}
    return {**shapes, "synthetic": task.synthetic, "note": task.note, "splits": splits, "overlaps": overlaps}


def check_source(config: Config, reporter: Reporter, problems: list[str]) -> dict[str, Any]:
    """Open a source's examples through its reader and examine all of them; a reader returns thousands at most.

    Raises:
        DataError: the data are missing, or cannot be read.
    """
    source = read_source(config, config.seed, reporter)
    inputs, labels, names = source.examples.inputs, source.examples.labels, source.examples.class_names
    split: dict[str, Any] = {"n": len(inputs)}
    shape: list[int] = []
    if isinstance(inputs, np.ndarray):
        shape, split["inputs"] = list(inputs.shape[1:]), _range([inputs], "all", problems)
    if len(inputs) != len(labels):
        problems.append(f"all: {len(inputs)} inputs and {len(labels)} labels")
    split["classes"] = _classes(labels, len(names), "all", problems)
    return {"kind": source.modality, "input_shape": shape, "num_outputs": len(names), "splits": {"all": split}}


def examine_split(
    task: TaskData, name: str, split: Samples, rows: np.ndarray, reporter: Reporter, problems: list[str]
) -> tuple[dict[str, Any], list[bytes]]:
    """Return what the given rows of one split contain, and a hash of each sample that was read."""
    targets, n = split.targets(), len(split)
    if len(targets) != n:
        problems.append(f"{name}: {n} samples and {len(targets)} targets")
    hashes: list[bytes] = []
    differing = 0  # batches
    size = max(1, min(256, _BATCH_BYTES // (4 * max(1, math.prod(task.input_shape)))))

    def inputs() -> Iterator[np.ndarray]:
        nonlocal differing
        with reporter.track(f"reading {name}", len(rows)) as advance:
            for start in range(0, len(rows), size):
                signals.check()
                indices = rows[start : start + size]
                batch = split.batch(indices)
                shape, y = tuple(batch.x.shape[1:]), batch.y.numpy()
                if shape != tuple(task.input_shape):
                    raise DataError(f"inputs of shape {shape}, but the task announces {task.input_shape}", where=name)
                expected = np.asarray(targets[indices], dtype=y.dtype)
                differing += not np.array_equal(y, expected, equal_nan=np.issubdtype(y.dtype, np.floating))
                hashes.extend(input_hashes(batch))
                advance(len(batch.x))
                yield batch.x.numpy()

    record: dict[str, Any] = {"n": n, "inputs": _range(inputs(), name, problems), "read": len(hashes)}
    if differing:
        problems.append(f"{name}: batches have other targets than the list of targets")
    if not np.issubdtype(targets.dtype, np.floating):
        record["classes"] = _classes(targets, task.num_outputs, name, problems, may_ignore=task.kind == "dense")
        return record, hashes
    record["targets"] = _range(blocks(targets, np.arange(n)), name, problems, are_targets=True)
    if task.kind == "labels":
        counts, wrong = np.zeros(task.num_outputs, dtype=np.int64), 0
        for block in blocks(targets, np.arange(n)):
            counts += (block == 1).sum(axis=(0, *range(2, block.ndim)))
            wrong += int((~np.isin(block, (0, 1)) & ~np.isnan(block)).sum())
        if wrong:
            problems.append(f"{name}: {wrong} targets that are neither 0 nor 1 nor NaN")
        record["classes"] = {"counts": counts.tolist()}
    return record, hashes


def _range(
    arrays: Iterable[np.ndarray], name: str, problems: list[str], *, are_targets: bool = False
) -> dict[str, Any]:
    """Return the smallest and largest finite number, and how many are NaN (an unknown target) or infinite."""
    low, high, count, nan, infinite = math.inf, -math.inf, 0, 0, 0
    for x in arrays:
        finite = x[np.isfinite(x)]
        count += x.size
        nan += int(np.isnan(x).sum())
        infinite += int(np.isinf(x).sum())
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if are_targets and nan == count:
        problems.append(f"{name}: no target is known, all are NaN")
    if infinite or (nan and not are_targets):
        what = "targets" if are_targets else "inputs"
        problems.append(f"{name}: {nan} NaN and {infinite} infinite numbers in the {what}")
    ends = {"min": low, "max": high} if low <= high else {"min": None, "max": None}
    return {**ends, "nan": nan, "infinite": infinite}


def _classes(
    targets: np.ndarray, num_classes: int, name: str, problems: list[str], *, may_ignore: bool = False
) -> dict[str, Any]:
    """Return how often each class occurs among integer targets of any shape; all targets are counted."""
    counts, outside = np.zeros(num_classes, dtype=np.int64), 0
    for block in blocks(targets, np.arange(len(targets))):
        known = block[block != IGNORED_CLASS] if may_ignore else block
        inside = known[(known >= 0) & (known < num_classes)]
        outside += int(known.size - inside.size)
        counts += np.bincount(inside.astype(np.int64), minlength=num_classes)
    if outside:
        problems.append(f"{name}: {outside} targets outside the classes 0..{num_classes - 1}")
    if not counts.any():
        problems.append(f"{name}: no target is known")
    return {"counts": counts.tolist()}
