"""`orca data check`: open data through the task's own reader, and report what is there and what is wrong.

A problem would end a run, or make its error meaningless. The test split is opened as well, but only to count and compare:
nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np

from orca_cli import seeding, signals, terminal
from orca_cli.commands.data import add_names, select
from orca_cli.commands.options import add_allow_module, number
from orca_cli.config.catalogue import DataSet
from orca_cli.exceptions import DataError, OrcaError
from orca_cli.interfaces import IGNORED_CLASS, Reporter, Samples, TaskData
from orca_cli.terminal import Result, counted

_FEW = 12  # classes whose counts are shown one by one
_OVERLAP = 0.01  # with this share of a split's samples in another split, errors are too low to trust
_BATCH_BYTES = 2**25
EXAMPLES = """\
examples:
  orca data check listops                              shapes, classes, NaN, ranges, overlaps between the splits
  orca data check listops task.num_train=50            with settings, as orca run takes them
  orca data check arrays task.kind=classes task.train=my.npz
  orca data check source=cifar10 task=deepsea          task= or source= if both have the name
  orca data check fsd50k --samples 500                 read fewer samples; targets are always counted in full
  orca data check jsb task.path=~/jsb                  files that are elsewhere

Exit code 11 if something is wrong: NaN or infinite inputs, invalid targets, an empty split, one per cent or more of a split
that is also in another one. orca data get NAME --offline compares the files with their checksums."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Open data through the task's own reader and look; nothing is trained, no file is changed."
    add_names(parser, "+", "tasks or sources; KEY=VALUE are settings of a run")
    text = "read at most N samples of a split, drawn with the run's seed; default: 20000"
    parser.add_argument("--samples", type=number(int, 1), default=20_000, metavar="N", help=text)
    add_allow_module(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return what was found."""
    chosen = select(arguments.names, arguments.config_dir, takes_settings=True, needs_name=True)
    terminal.configure_logging()
    records: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    tasks = {entry.name for entry in chosen.entries if entry.group == "task"}
    for entry in chosen.entries:
        # A task and a source may have the same name: the task is meant, unless the word says source=.
        if entry.group == "source" and entry.name in tasks and f"source={entry.name}" not in arguments.names:
            continue
        try:
            record = _check(entry, chosen.settings, arguments)
        except OrcaError as error:
            failures.append(type(error)(error.what, where=error.where or entry.name, hint=error.hint))
            continue
        records.append(record)
        if problems := record["problems"]:
            failures.append(DataError("; ".join(problems), where=entry.name))
        # Now: the result is lost if the next one is interrupted.
        terminal.log.info(f"{entry.name}: {counted(len(problems), 'problem')} found")
    shown = [terminal.facts(_lines(record)) for record in records]
    return Result({"schema": 1, "data_sets": records}, shown, failures)


def _check(entry: DataSet, settings: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Open a data set through its reader and examine it.

    Raises:
        DataError: the data are missing, or cannot be read.
    """
    from orca_cli.config import compose
    from orca_cli.stages.build import read_source, read_task

    with compose.session(arguments.config_dir) as session:
        config = session.compose([f"{entry.group}={entry.name}", *settings]).config
    reporter, problems = terminal.LogReporter(), list[str]()
    record: dict[str, Any] = {"name": entry.name, "group": entry.group}
    if entry.group == "source":
        source = read_source(config, config.seed, reporter)
        inputs, names = source.examples.inputs, source.examples.class_names
        arrays = [inputs] if isinstance(inputs, np.ndarray) else []  # or texts
        shape = [*arrays[0].shape[1:]] if arrays else []
        record |= {"kind": source.modality, "input_shape": shape, "num_outputs": len(names)}
        split = _examined("all", arrays, source.examples.labels, "classes", len(names), problems)
        return record | {"splits": {"all": split}, "overlaps": [], "problems": problems}
    task = read_task(config, reporter)
    record |= {"kind": task.kind, "input_shape": [*task.input_shape], "num_outputs": task.num_outputs}
    record |= {"synthetic": task.synthetic, "note": task.note}
    splits: dict[str, Any] = {}
    hashes: dict[str, list[bytes]] = {}
    for name, samples in {"train": task.train, "validation": task.validation, "test": task.open_test()}.items():
        if len(samples):
            splits[name], hashes[name] = examine_split(
                task, name, samples, arguments.samples, config.seed, reporter, problems
            )
        else:
            problems.append(f"{name}: the split is empty")
    overlaps = []
    for first, second in combinations(hashes, 2):
        known, read = set(hashes[first]), len(hashes[second])
        shared = sum(digest in known for digest in hashes[second])
        if shared >= max(1, _OVERLAP * read):
            problems.append(f"{shared} of {read} samples of {second} {'is' if shared == 1 else 'are'} also in {first}")
        overlaps.append({"first": first, "second": second, "shared": shared, "of": read})
    return record | {"splits": splits, "overlaps": overlaps, "problems": problems}


def examine_split(
    task: TaskData, name: str, split: Samples, most: int, seed: int, reporter: Reporter, problems: list[str]
) -> tuple[dict[str, Any], list[bytes]]:
    """Return what one split contains, and a hash of each sample that was read: at most so many; all targets are counted."""
    from orca_cli.data.samples import input_hashes

    rows = np.arange(len(split))
    if len(rows) > most:
        rows = np.sort(seeding.numpy_generator(seed, "data-check", name).choice(len(rows), most, replace=False))
    hashes: list[bytes] = []
    size = max(1, min(256, _BATCH_BYTES // (4 * max(1, math.prod(task.input_shape)))))

    def inputs() -> Iterator[np.ndarray]:
        with reporter.track(f"reading {name}", len(rows)) as advance:
            for start in range(0, len(rows), size):
                signals.check()
                batch = split.batch(rows[start : start + size])
                hashes.extend(input_hashes(batch))
                advance(len(batch.x))
                yield batch.x.numpy()

    record = _examined(name, inputs(), split.targets(), task.kind, task.num_outputs, problems)
    return record | {"read": len(hashes)}, hashes


def _examined(
    name: str, inputs: Iterable[np.ndarray], targets: np.ndarray, kind: str, num_outputs: int, problems: list[str]
) -> dict[str, Any]:
    """Return counts and ranges of inputs and targets; numbers are ranged, classes and labels counted."""
    from orca_cli.data.blocks import blocks

    found = _range(inputs)
    if found["nan"] or found["infinite"]:
        problems.append(f"{name}: {found['nan']} NaN and {found['infinite']} infinite numbers in the inputs")
    parts = blocks(targets, np.arange(len(targets)))
    record: dict[str, Any] = {"n": len(targets), "inputs": found}
    if kind != "labels" and np.issubdtype(targets.dtype, np.floating):
        record["targets"] = _range(parts)
        if record["targets"]["infinite"]:
            problems.append(f"{name}: {record['targets']['infinite']} infinite targets")
        if record["targets"]["min"] is None:
            problems.append(f"{name}: no target is known, all are NaN")
        return record
    counts, wrong = np.zeros(num_outputs, dtype=np.int64), 0
    for part in parts:
        if kind == "labels":
            counts += (part == 1).sum(axis=(0, *range(2, part.ndim)))
            wrong += int((~np.isin(part, (0, 1)) & ~np.isnan(part)).sum())
        else:
            known = part[part != IGNORED_CLASS] if kind == "dense" else part.ravel()
            inside = known[(known >= 0) & (known < num_outputs)]
            wrong += known.size - inside.size
            counts += np.bincount(inside.astype(np.int64), minlength=num_outputs)
    if wrong:
        allowed = "neither 0 nor 1 nor NaN" if kind == "labels" else f"outside the classes 0..{num_outputs - 1}"
        problems.append(f"{name}: {wrong} targets {allowed}")
    if kind != "labels" and not counts.any():
        problems.append(f"{name}: no target is known")
    return record | {"classes": {"counts": counts.tolist()}}


def _range(arrays: Iterable[np.ndarray]) -> dict[str, Any]:
    """Return the smallest and largest finite number, and how many are NaN or infinite."""
    ends: list[float] = []
    nan = infinite = 0
    for x in arrays:
        finite = x[np.isfinite(x)]
        missing = int(np.isnan(x).sum())
        nan, infinite = nan + missing, infinite + x.size - finite.size - missing
        ends += [float(finite.min()), float(finite.max())] if finite.size else []
    return {"min": min(ends, default=None), "max": max(ends, default=None), "nan": nan, "infinite": infinite}


def _lines(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    shape = " x ".join(map(str, record["input_shape"])) or "texts"
    synthetic = ", synthetic" if record.get("synthetic") else ""
    yield record["name"], f"{record['group']}: {record['kind']}, {shape} to {record['num_outputs']}{synthetic}"
    if record.get("note"):
        yield "note", record["note"]
    for name, split in record["splits"].items():
        words = [counted(split["n"], "sample")]
        for what in ("inputs", "targets"):
            if (numbers := split.get(what)) is not None and numbers["min"] is not None:
                words.append(f"{what} {numbers['min']:.4g} to {numbers['max']:.4g}, {numbers['nan']} NaN")
        if "classes" in split:
            counts = split["classes"]["counts"]
            few = len(counts) <= _FEW
            words.append(f"per class {' '.join(map(str, counts)) if few else f'{min(counts)} to {max(counts)}'}")
        yield name, "; ".join(words)
    yield from (
        ("overlap", "{shared} of {of} in {second} also in {first}".format(**one))
        for one in record["overlaps"]
        if one["shared"]
    )
    yield from (("WRONG", text) for text in record["problems"])
    if not record["problems"]:
        yield "", "no problems found"
