"""Examine opened data before a run does: shapes, classes, NaN and infinite values, overlaps between splits.

Whatever would end a run, or make its error meaningless, is a problem; what is merely worth knowing is a warning. The test
split is opened, but only compared and counted: nothing is chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from orca_cli import seeding, signals
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import IGNORED_CLASS, Batch, Reporter, Samples, SourceData, TaskData
from orca_cli.schema import Config
from orca_cli.stages.build import read_source, read_task
from orca_cli.tasks.shared.overlap import input_hashes
from orca_cli.tasks.shared.samples import blocks

_OVERLAP = 0.01  # share of a split's samples that are in another one from which on errors are too low to be believed
_BATCH_BYTES = 2**25


@dataclass
class Findings:
    """What is wrong, and what is worth knowing."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_task(config: Config, reporter: Reporter, samples: int) -> dict[str, Any]:
    """Open a task's data through its reader and examine all three splits.

    Args:
        config: composed, with the task.
        reporter: progress.
        samples: how many of each split are read at most, drawn with the run's seed.

    Returns:
        JSON-able: kind, shapes, per split counts, ranges and classes, overlaps, problems, warnings.

    Raises:
        DataError: the data are missing, or cannot be read.
    """
    task = read_task(config, reporter)
    found = Findings()
    opened: dict[str, Samples] = {"train": task.train, "validation": task.validation}
    try:
        opened["test"] = task.open_test()
    except OrcaError as error:
        found.problems.append(f"test: {error}")
    splits: dict[str, Any] = {}
    hashes: dict[str, list[bytes]] = {}
    for name, split in opened.items():
        if len(split) == 0:
            found.problems.append(f"{name}: the split is empty")
            continue
        rows = _rows(len(split), samples, config.seed, name)
        splits[name], hashes[name] = _look(task, name, split, rows, reporter, found)
    return {
        "kind": task.kind,
        "input_shape": list(task.input_shape),
        "num_outputs": task.num_outputs,
        "synthetic": task.synthetic,
        "note": task.note,
        "splits": splits,
        "overlaps": list(_overlaps(hashes, {name: splits[name]["n"] for name in hashes}, found)),
        **vars(found),
    }


def check_source(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Open a source's examples through its reader and examine all of them; a reader returns thousands at most.

    Raises:
        DataError: the data are missing, or cannot be read.
    """
    source: SourceData = read_source(config, reporter)
    found = Findings()
    n = len(source.inputs)
    record: dict[str, Any] = {"modality": source.modality, "n": n, "num_outputs": len(source.class_names)}
    if isinstance(source.inputs, np.ndarray):
        record["input_shape"] = list(source.inputs.shape[1:])
        record["inputs"] = inputs = _numbers(source.inputs)
        if inputs["nan"] or inputs["infinite"]:
            found.problems.append(f"{inputs['nan']} NaN and {inputs['infinite']} infinite numbers in the inputs")
        contents = [image.tobytes() for image in source.inputs]
    else:
        lengths = [len(text.split()) for text in source.inputs]
        record["words"] = {"min": min(lengths), "median": float(np.median(lengths)), "max": max(lengths)}
        contents = [text.encode() for text in source.inputs]
    record["repeated"] = n - len(set(contents))
    if n != len(source.labels):
        found.problems.append(f"{n} inputs and {len(source.labels)} labels")
    record["classes"] = _classes(source.labels, len(source.class_names), "labels", found)
    return record | vars(found)


def _rows(n: int, samples: int, seed: int, name: str) -> np.ndarray:
    if n <= samples:
        return np.arange(n)
    generator = seeding.numpy_generator(seed, "data-check", name)
    return np.sort(generator.choice(n, samples, replace=False))


def _look(
    task: TaskData, name: str, split: Samples, rows: np.ndarray, reporter: Reporter, found: Findings
) -> tuple[dict[str, Any], list[bytes]]:
    """Return what one split contains, and a hash of each sample that was read."""
    targets = split.targets()
    n = len(split)
    if len(targets) != n:
        found.problems.append(f"{name}: {n} samples and {len(targets)} targets")
    hashes: list[bytes] = []
    inputs, dense, ones = _Range(), _Range(), _Ones(task.num_outputs)
    for batch, wanted in _batches(task, split, rows, name, reporter):
        x, y = batch.x.numpy(), batch.y.numpy()
        if x.shape != (len(wanted), *task.input_shape):
            found.problems.append(f"{name}: inputs have shape {x.shape[1:]}, but the task announces {task.input_shape}")
            break
        inputs.add(x)
        if np.issubdtype(y.dtype, np.floating):
            dense.add(y)
            ones.add(y)
        listed = np.asarray(targets[wanted], dtype=y.dtype)
        if not np.array_equal(y, listed, equal_nan=np.issubdtype(y.dtype, np.floating)):
            found.problems.append(f"{name}: a batch has other targets than the list of targets")
            break
        hashes += input_hashes(batch)
    record: dict[str, Any] = {"n": n, "read": len(hashes), "inputs": inputs.record()}
    if inputs.nan or inputs.infinite:
        found.problems.append(f"{name}: {inputs.nan} NaN and {inputs.infinite} infinite numbers in the inputs")
    record["repeated"] = len(hashes) - len(set(hashes))
    ones.is_part = len(hashes) < n
    return record | _targets(task, name, targets, dense, ones, found), hashes


def _targets(
    task: TaskData, name: str, targets: np.ndarray, dense: _Range, ones: _Ones, found: Findings
) -> dict[str, Any]:
    """Return the range of the targets of one split if they are numbers, and how often each class occurs."""
    record: dict[str, Any] = {}
    if np.issubdtype(targets.dtype, np.floating):
        record["targets"] = dense.record()
        if dense.infinite:
            found.problems.append(f"{name}: {dense.infinite} infinite targets")
        if dense.count and dense.nan == dense.count:
            found.problems.append(f"{name}: no target is known, all are NaN")
    if task.kind == "labels":
        record["classes"] = _labels(targets, name, found)
    elif ones.counts is not None:
        # Classes missing from the samples that were read may be in the rest of the split.
        record["classes"] = _counted(ones.counts, name, "positive position", Findings() if ones.is_part else found)
    elif not np.issubdtype(targets.dtype, np.floating):
        record["classes"] = _classes(targets, task.num_outputs, name, found, may_ignore=task.kind == "dense")
    return record


def _batches(
    task: TaskData, split: Samples, rows: np.ndarray, name: str, reporter: Reporter
) -> Iterator[tuple[Batch, np.ndarray]]:
    size = max(1, min(256, _BATCH_BYTES // (4 * max(1, math.prod(task.input_shape)))))
    with reporter.track(f"reading {name}", len(rows)) as advance:
        for start in range(0, len(rows), size):
            signals.check()
            wanted = rows[start : start + size]
            yield split.batch(wanted), wanted
            advance(len(wanted))


class _Range:
    """Smallest and largest finite number of arrays, and how many are NaN or infinite."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.count = self.nan = self.infinite = 0

    def add(self, x: np.ndarray) -> None:
        finite = np.isfinite(x)
        self.count += x.size
        if finite.all():
            known = x
        else:
            known = x[finite]
            nan = int(np.isnan(x).sum())
            self.nan += nan
            self.infinite += x.size - known.size - nan
        if known.size:
            self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))

    def record(self) -> dict[str, Any]:
        known = self.low <= self.high
        return {
            "min": self.low if known else None,
            "max": self.high if known else None,
            "nan": self.nan,
            "infinite": self.infinite,
            "numbers": self.count,
        }


class _Ones:
    """How often each of K outputs is 1 in targets [n, K, *E] or, for one output, [n, *E] of 0, 1 and NaN.

    `counts` [K] is None if nothing was added, or anything but such targets; `is_part` if they are not of a whole split.
    """

    def __init__(self, num_outputs: int) -> None:
        self._num_outputs, self._is_open = num_outputs, True
        self.counts: np.ndarray | None = None
        self.is_part = False

    def add(self, y: np.ndarray) -> None:
        is_one = y == 1
        has_outputs = self._num_outputs == 1 or (y.ndim > 1 and y.shape[1] == self._num_outputs)
        self._is_open &= bool(has_outputs and (is_one | (y == 0) | np.isnan(y)).all())
        if not self._is_open:
            self.counts = None
            return
        sums = is_one.reshape(len(y), self._num_outputs, -1).sum((0, 2))
        self.counts = sums if self.counts is None else self.counts + sums


def _numbers(x: np.ndarray) -> dict[str, Any]:
    found = _Range()
    found.add(x)
    return found.record()


def _classes(
    targets: np.ndarray, num_classes: int, name: str, found: Findings, may_ignore: bool = False
) -> dict[str, Any]:
    """Return how often each class occurs among integer targets of any shape; all targets are counted."""
    counts = np.zeros(num_classes, dtype=np.int64)
    ignored = outside = 0
    for block in blocks(targets, np.arange(len(targets))):
        ignored += int((block == IGNORED_CLASS).sum()) if may_ignore else 0
        inside = block[(block >= 0) & (block < num_classes)]
        outside += int(block.size - inside.size)
        counts += np.bincount(inside.astype(np.int64), minlength=num_classes)
    outside -= ignored
    if outside:
        found.problems.append(f"{name}: {outside} targets outside the classes 0..{num_classes - 1}")
    if not counts.any():
        found.problems.append(f"{name}: no target is known")
    return _counted(counts, name, "sample", found) | {"ignored": ignored}


def _labels(targets: np.ndarray, name: str, found: Findings) -> dict[str, Any]:
    """Return how often each of K labels is 1; values other than 0, 1 and NaN (missing) are a problem."""
    counts, wrong = np.zeros(targets.shape[1], dtype=np.int64), 0
    for block in blocks(targets, np.arange(len(targets))):
        counts += (block == 1).sum(0)
        wrong += int(((block != 0) & (block != 1) & ~np.isnan(block)).sum())
    if wrong:
        found.problems.append(f"{name}: {wrong} targets that are neither 0 nor 1 nor NaN")
    return _counted(counts, name, "positive sample", found)


def _counted(counts: np.ndarray, name: str, what: str, found: Findings) -> dict[str, Any]:
    empty = np.flatnonzero(counts == 0).tolist()
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        found.warnings.append(f"{name}: {len(empty)} of {len(counts)} classes have no {what} ({shown})")
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        "empty": empty,
        "counts": counts.tolist(),
    }


def _overlaps(hashes: dict[str, list[bytes]], sizes: dict[str, int], found: Findings) -> Iterator[dict[str, Any]]:
    """Compare the inputs of every two splits that were read."""
    for first, second in combinations(hashes, 2):
        known = set(hashes[first])
        shared = sum(digest in known for digest in hashes[second])
        read = len(hashes[second])
        is_complete = len(hashes[first]) == sizes[first] and read == sizes[second]
        if shared:
            which = "" if is_complete else " that were read"
            text = f"{shared} of {read} samples of {second}{which} are also in {first}"
            bucket = found.problems if shared >= _OVERLAP * read else found.warnings
            bucket.append(text)
        yield {"first": first, "second": second, "shared": shared, "of": read, "complete": is_complete}
