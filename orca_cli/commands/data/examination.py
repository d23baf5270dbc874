"""Examine data before a run does: shapes, classes, NaN and infinite values, overlaps between splits.

A problem would end a run, or make its error meaningless; a warning is worth knowing. The test split is opened as well, but only
to count and compare: nothing is chosen by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from orca_cli import seeding, signals
from orca_cli.config.schema import Config
from orca_cli.data.blocks import blocks
from orca_cli.data.samples import input_hashes
from orca_cli.exceptions import OrcaError
from orca_cli.interfaces import IGNORED_CLASS, Reporter, Samples, TaskData
from orca_cli.stages.build import read_source, read_task

_OVERLAP = 0.01  # with this share of a split's samples in another split, errors are too low to trust
_BATCH_BYTES = 2**25


@dataclass
class Findings:
    """What is wrong, and what is worth knowing."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_task(config: Config, reporter: Reporter, samples: int) -> dict[str, Any]:
    """Open a task's data through its reader and examine at most `samples` of each split, drawn with the run's seed.

    Returns:
        JSON-able: kind, shapes, per split counts, ranges and classes, overlaps, problems, warnings.

    Raises:
        DataError: the data are missing, or cannot be read.
    """
    task = read_task(config, reporter)
    findings = Findings()
    opened: dict[str, Samples] = {"train": task.train, "validation": task.validation}
    try:
        opened["test"] = task.open_test()
    except OrcaError as error:
        findings.problems.append(f"test: {error}")
    splits: dict[str, Any] = {}
    hashes: dict[str, list[bytes]] = {}
    for name, split in opened.items():
        if len(split) == 0:
            findings.problems.append(f"{name}: the split is empty")
            continue
        rows = np.arange(len(split))
        if len(rows) > samples:
            generator = seeding.numpy_generator(config.seed, "data-check", name)
            rows = np.sort(generator.choice(len(rows), samples, replace=False))
        splits[name], hashes[name] = examine_split(task, name, split, rows, reporter, findings)
    overlaps = [_overlap(*pair, splits, hashes, findings) for pair in combinations(hashes, 2)]
    shapes = {"kind": task.kind, "input_shape": list(task.input_shape), "num_outputs": task.num_outputs}
    about = {"synthetic": task.synthetic, "note": task.note, "splits": splits, "overlaps": overlaps}
    return {**shapes, **about, **vars(findings)}


def check_source(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Open a source's examples through its reader and examine all of them; a reader returns thousands at most.

    Raises:
        DataError: the data are missing, or cannot be read.
    """
    source = read_source(config, config.seed, reporter)
    examples = source.examples
    findings = Findings()
    n = len(examples.inputs)
    record: dict[str, Any] = {"modality": source.modality, "n": n, "num_outputs": len(examples.class_names)}
    if isinstance(examples.inputs, np.ndarray):
        record["input_shape"] = list(examples.inputs.shape[1:])
        inputs = _Range()
        inputs.add(examples.inputs)
        record["inputs"] = inputs.input_record("", findings)
        contents = [image.tobytes() for image in examples.inputs]
    else:
        lengths = [len(text.split()) for text in examples.inputs]
        record["words"] = {"min": min(lengths), "median": float(np.median(lengths)), "max": max(lengths)}
        contents = [text.encode() for text in examples.inputs]
    record["repeated"] = n - len(set(contents))
    if n != len(examples.labels):
        findings.problems.append(f"{n} inputs and {len(examples.labels)} labels")
    record["classes"] = _classes(examples.labels, len(examples.class_names), "labels", findings)
    return record | vars(findings)


def examine_split(
    task: TaskData, name: str, split: Samples, rows: np.ndarray, reporter: Reporter, findings: Findings
) -> tuple[dict[str, Any], list[bytes]]:
    """Return what the given rows of one split contain, and a hash of each sample that was read."""
    targets = split.targets()
    n = len(split)
    if len(targets) != n:
        findings.problems.append(f"{name}: {n} samples and {len(targets)} targets")
    hashes: list[bytes] = []
    inputs, dense = _Range(), _Range()
    size = max(1, min(256, _BATCH_BYTES // (4 * max(1, math.prod(task.input_shape)))))
    with reporter.track(f"reading {name}", len(rows)) as advance:
        for start in range(0, len(rows), size):
            signals.check()
            indices = rows[start : start + size]
            batch = split.batch(indices)
            x, y = batch.x.numpy(), batch.y.numpy()
            if x.shape != (len(indices), *task.input_shape):
                text = f"inputs have shape {x.shape[1:]}, but the task announces {task.input_shape}"
                findings.problems.append(f"{name}: {text}")
                break
            inputs.add(x)
            is_real = np.issubdtype(y.dtype, np.floating)
            if is_real:
                dense.add(y)
            if not np.array_equal(y, np.asarray(targets[indices], dtype=y.dtype), equal_nan=is_real):
                findings.problems.append(f"{name}: a batch has other targets than the list of targets")
                break
            hashes += input_hashes(batch)
            advance(len(indices))
    record: dict[str, Any] = {"n": n, "read": len(hashes), "inputs": inputs.input_record(f"{name}: ", findings)}
    record["repeated"] = len(hashes) - len(set(hashes))
    is_real = np.issubdtype(targets.dtype, np.floating)
    if is_real:
        record["targets"] = dense.record()
        if dense.infinite:
            findings.problems.append(f"{name}: {dense.infinite} infinite targets")
        if dense.count and dense.nan == dense.count:
            findings.problems.append(f"{name}: no target is known, all are NaN")
    if (classes := _class_counts(task, targets, name, findings)) is not None:
        record["classes"] = classes
    return record, hashes


@dataclass
class _Range:
    """Smallest and largest finite number of arrays, and how many are NaN or infinite."""

    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    nan: int = 0
    infinite: int = 0

    def add(self, x: np.ndarray) -> None:
        finite = x[np.isfinite(x)]
        nan = int(np.isnan(x).sum())
        self.count += x.size
        self.nan += nan
        self.infinite += x.size - finite.size - nan
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    def record(self) -> dict[str, Any]:
        low, high = (self.low, self.high) if self.low <= self.high else (None, None)
        return {"min": low, "max": high, "nan": self.nan, "infinite": self.infinite, "numbers": self.count}

    def input_record(self, where: str, findings: Findings) -> dict[str, Any]:
        if self.nan or self.infinite:
            findings.problems.append(f"{where}{self.nan} NaN and {self.infinite} infinite numbers in the inputs")
        return self.record()


def _classes(
    targets: np.ndarray, num_classes: int, name: str, findings: Findings, may_ignore: bool = False
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
        findings.problems.append(f"{name}: {outside} targets outside the classes 0..{num_classes - 1}")
    if not counts.any():
        findings.problems.append(f"{name}: no target is known")
    return _counted(counts, name, "sample", findings) | {"ignored": ignored}


def _class_counts(task: TaskData, targets: np.ndarray, name: str, findings: Findings) -> dict[str, Any] | None:
    """Return how often each class, label or binary output occurs in a split; None for other real values."""
    if not np.issubdtype(targets.dtype, np.floating):
        return _classes(targets, task.num_outputs, name, findings, may_ignore=task.kind == "dense")
    counts, wrong = _ones(targets, task.num_outputs, may_differ=task.kind != "labels")
    if task.kind == "labels":
        if wrong:
            findings.problems.append(f"{name}: {wrong} targets that are neither 0 nor 1 nor NaN")
        return _counted(counts, name, "positive sample", findings)
    return None if wrong else _counted(counts, name, "positive position", findings)


def _ones(targets: np.ndarray, num_outputs: int, *, may_differ: bool) -> tuple[np.ndarray, int]:
    """Return how often each of K outputs is 1, and how many targets are neither 0 nor 1 nor NaN.

    Args:
        targets: real, [n, K, *E] or, for one output, [n, *E].
        may_differ: other targets are expected, so that reading stops at the first block with one.
    """
    counts, wrong = np.zeros(num_outputs, dtype=np.int64), 0
    if num_outputs > 1 and targets.shape[1:2] != (num_outputs,):
        return counts, targets.size
    for block in blocks(targets, np.arange(len(targets))):
        is_one = block == 1
        counts += is_one.reshape(len(block), num_outputs, -1).sum((0, 2))
        wrong += int((~is_one & (block != 0) & ~np.isnan(block)).sum())
        if wrong and may_differ:
            break
    return counts, wrong


def _counted(counts: np.ndarray, name: str, what: str, findings: Findings) -> dict[str, Any]:
    empty = np.flatnonzero(counts == 0).tolist()
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        findings.warnings.append(f"{name}: {len(empty)} of {len(counts)} classes have no {what} ({shown})")
    spread = {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())}
    return {**spread, "empty": empty, "counts": counts.tolist()}


def _overlap(
    first: str, second: str, splits: dict[str, Any], hashes: dict[str, list[bytes]], findings: Findings
) -> dict[str, Any]:
    """Compare the inputs of two splits that were read."""
    first_hashes, read = set(hashes[first]), len(hashes[second])
    shared = sum(digest in first_hashes for digest in hashes[second])
    is_complete = all(len(hashes[name]) == splits[name]["n"] for name in (first, second))
    if shared:
        which = "" if is_complete else " that were read"
        bucket = findings.problems if shared >= _OVERLAP * read else findings.warnings
        bucket.append(f"{shared} of {read} samples of {second}{which} are also in {first}")
    return {"first": first, "second": second, "shared": shared, "of": read, "complete": is_complete}
