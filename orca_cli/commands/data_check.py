"""`orca data check`: open data through the task's own reader, and report what is there and what is wrong.

A problem would end a run, or make its error meaningless. The test split is opened as well, but only to count and compare:
nothing is chosen by it.
"""

import argparse
import math
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any

import numpy as np

from orca_cli import seeding, signals, terminal
from orca_cli.commands.options import ALLOW_MODULE, CONFIG_DIR, Verb, argument, number
from orca_cli.commands.summary import shape_text
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Reporter, Samples, TaskData
from orca_cli.terminal import Result, counted

_FEW = 12  # classes whose counts are shown one by one
_OVERLAP = (
    0.01  # with this share of a split's samples in another split, errors are too low to trust
)
_BATCH_BYTES = 2**25
_EXAMPLES = """\
examples:
  orca data check listops                              shapes, classes, NaN, ranges, overlaps between the splits
  orca data check listops task.num_train=50            with settings, as orca run takes them
  orca data check arrays task.kind=classes task.train=my.npz
  orca data check fsd50k --samples 500                 read fewer samples; targets are always counted in full
  orca data check jsb task.path=~/jsb                  files that are elsewhere

Exit code 11 if something is wrong: NaN or infinite inputs, invalid targets, an empty split, one per cent or more of a split
that is also in another one. orca data get NAME compares the files with their checksums."""


def execute(arguments: argparse.Namespace) -> Result:
    """Return what was found."""
    terminal.configure_logging()
    from orca_cli.config import compose
    from orca_cli.data.contents import count_shared
    from orca_cli.stages.build import read_task

    name = arguments.name.removeprefix("task=")
    with compose.session(arguments.config_dir) as session:
        config = session.compose([f"task={name}", *arguments.settings]).config
    reporter, problems = terminal.LogReporter(), list[str]()
    task = read_task(config, reporter)
    opened = {"train": task.train, "validation": task.validation, "test": task.open_test()}
    splits, overlaps = {}, []
    for part, split in opened.items():
        generator = seeding.numpy_generator(config.seed, "data-check", part)
        rows = np.sort(
            generator.choice(len(split), min(len(split), arguments.samples), replace=False)
        )
        if len(split):
            splits[part] = examine_split(task, part, split, rows, reporter, problems)
        else:
            problems.append(f"{part}: the split is empty")
    for first, second in combinations(splits, 2):
        overlap = count_shared(opened[first], opened[second], task.input_shape, config.seed)
        shared, read = overlap["shared"], overlap["of"]
        if shared >= max(1, _OVERLAP * read):
            problems.append(
                f"{shared} of {read} samples of {second} {'is' if shared == 1 else 'are'} also in {first}"
            )
        overlaps.append({"first": first, "second": second, "shared": shared, "of": read})
    about = {
        key: getattr(task, key)
        for key in ("kind", "input_shape", "num_outputs", "synthetic", "note")
    }
    record = {
        "schema": 1,
        "name": name,
        **about,
        "splits": splits,
        "overlaps": overlaps,
        "problems": problems,
    }
    failures = [DataError("; ".join(problems), where=name)] if problems else []
    return Result(record, [terminal.facts(_lines(record))], failures)


def examine_split(
    task: TaskData,
    name: str,
    split: Samples,
    rows: np.ndarray,
    reporter: Reporter,
    problems: list[str],
) -> dict[str, Any]:
    """Return what one split contains; of its inputs the given `rows` are read, ascending indices, of its targets all.

    Real-valued targets have a range, others counts by class. What is wrong is appended to `problems`, a line each.
    """
    from orca_cli.data.blocks import blocks

    size = max(1, min(256, _BATCH_BYTES // (4 * max(1, math.prod(task.input_shape)))))

    def inputs() -> Iterator[np.ndarray]:
        with reporter.track(f"reading {name}", len(rows)) as advance:
            for start in range(0, len(rows), size):
                signals.check()
                yield split.batch(rows[start : start + size]).x.numpy()
                advance(min(size, len(rows) - start))

    facts, targets, classes = _range(inputs()), split.targets(), task.num_outputs
    wrong = {
        f"{facts['nan']} NaN and {facts['infinite']} infinite numbers in the inputs": facts["nan"]
        + facts["infinite"]
    }
    parts = blocks(targets, np.arange(len(targets)))
    record: dict[str, Any] = {"n": len(targets), "inputs": facts, "read": len(rows)}
    if task.kind != "labels" and targets.dtype.kind == "f":
        ends = record["targets"] = _range(parts)
        wrong[f"{ends['infinite']} infinite targets"] = ends["infinite"]
        wrong["no target is known, all are NaN"] = ends["min"] is None
    else:
        counts, invalid = np.zeros(classes, dtype=np.int64), 0
        for part in parts:
            if task.kind == "labels":
                counts += (part == 1).sum(axis=(0, *range(2, part.ndim)))
                invalid += int((~np.isin(part, (0, 1)) & ~np.isnan(part)).sum())
                continue
            known = part[part != IGNORED_CLASS] if task.kind == "dense" else part.ravel()
            inside = known[(known >= 0) & (known < classes)]
            invalid += known.size - inside.size
            counts += np.bincount(inside.astype(np.int64), minlength=classes)
        allowed = (
            "neither 0 nor 1 nor NaN"
            if task.kind == "labels"
            else f"outside the classes 0..{classes - 1}"
        )
        wrong[f"{invalid} targets {allowed}"] = invalid
        wrong["no target is known"] = task.kind != "labels" and not counts.any()
        record["classes"] = {"counts": counts.tolist()}
    problems += [f"{name}: {text}" for text, is_wrong in wrong.items() if is_wrong]
    return record


def _range(arrays: Iterable[np.ndarray]) -> dict[str, Any]:
    """Return the smallest and largest finite number, and how many are NaN or infinite."""
    ends: list[float] = []
    nan = infinite = 0
    for x in arrays:
        nan, infinite = nan + int(np.isnan(x).sum()), infinite + int(np.isinf(x).sum())
        finite = x[np.isfinite(x)]
        ends += [float(finite.min()), float(finite.max())] if finite.size else []
    return {
        "min": min(ends, default=None),
        "max": max(ends, default=None),
        "nan": nan,
        "infinite": infinite,
    }


def _lines(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    synthetic = ", synthetic" * record["synthetic"]
    yield (
        record["name"],
        f"{record['kind']}, {shape_text(record['input_shape'])} to {record['num_outputs']}{synthetic}",
    )
    if record["note"]:
        yield "note", record["note"]
    for name, split in record["splits"].items():
        words = [counted(split["n"], "sample")]
        words += [
            f"{what} {numbers['min']:.4g} to {numbers['max']:.4g}, {numbers['nan']} NaN"
            for what in ("inputs", "targets")
            if (numbers := split.get(what)) is not None and numbers["min"] is not None
        ]
        if "classes" in split:
            counts = split["classes"]["counts"]
            some = (
                " ".join(map(str, counts))
                if len(counts) <= _FEW
                else f"{min(counts)} to {max(counts)}"
            )
            words.append(f"per class {some}")
        yield name, "; ".join(words)
    yield from [("WRONG", text) for text in record["problems"]] or [("", "no problems found")]


_SAMPLES = "read at most N samples of a split, drawn with the run's seed; default: 20000"
_ARGUMENTS = (
    argument("name", metavar="TASK", help="a task (orca data list)"),
    argument("settings", nargs="*", default=[], metavar="KEY=VALUE", help="settings of a run"),
    argument("--samples", type=number(int, 1), default=20_000, metavar="N", help=_SAMPLES),
    CONFIG_DIR,
    ALLOW_MODULE,
)
VERB = Verb(
    "open the data and look: shapes, classes, NaN, overlaps between splits",
    _EXAMPLES,
    _ARGUMENTS,
    execute,
)
