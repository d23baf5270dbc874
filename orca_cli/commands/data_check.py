"""`orca data check`: open data with the task's reader, and report their content and problems.

A problem would end a run, or make its error meaningless. The test split is opened as well, but only
to count and compare samples: no choice depends on it.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

import numpy as np

from orca_cli import seeding, signals, terminal
from orca_cli.commands.options import ALLOW_MODULE, CONFIG_DIR, Record, Verb, argument, number
from orca_cli.commands.summary import shape_text
from orca_cli.exceptions import DataError
from orca_cli.interfaces import IGNORED_CLASS, Reporter, Samples, TaskData
from orca_cli.terminal import Result, counted

# Largest number of classes whose counts are shown one by one.
_FEW = 12
# If another split has this share of a split's samples, errors are too low to trust.
_OVERLAP = 0.01
# Size of the inputs that are in memory at a time: 32 MiB.
_BATCH_BYTES = 2**25
_EXAMPLES = """\
examples:
  orca data check listops                              \
shapes, classes, NaN, ranges, and samples that two splits share
  orca data check listops task.num_train=50            check the data of a run with this setting
  orca data check arrays task.kind=classes task.train=my.npz
        your own arrays
  orca data check fsd50k --samples 500                 \
read the inputs of 500 samples per split, and all targets
  orca data check jsb task.path=~/jsb                  files in another folder

The exit code is 11 if the data have a problem: NaN or infinite inputs, invalid targets, an empty \
split, or a split that shares one per cent or more of its samples with another split. `orca get \
task=NAME` compares the files with their checksums."""


def execute(arguments: argparse.Namespace) -> Result:
    """Return the content of the splits, and their problems."""
    terminal.configure_logging()
    from orca_cli.config import compose
    from orca_cli.stages.build import read_task

    # The task may also be given as for `orca run`: task=NAME.
    name = arguments.name.removeprefix("task=")
    with compose.session(arguments.config_dir) as session:
        # Composed the way `orca run` does, so that the data are those that a run would read.
        composed = session.compose([f"task={name}", *arguments.settings])
    reporter = terminal.LogReporter()
    task = read_task(composed.config, reporter)
    # In this order: a sample that two splits share is reported for the later split.
    opened = {"train": task.train, "validation": task.validation, "test": task.open_test()}
    splits: dict[str, Record] = {}
    filled = {}
    problems = []
    for split_name, samples in opened.items():
        if len(samples) == 0:
            problems.append(f"{split_name}: the split is empty")
            continue
        # Empty splits have neither ranges nor overlaps.
        filled[split_name] = samples
        splits[split_name], split_problems = examine_split(
            task,
            split_name,
            samples,
            rows=_drawn_rows(len(samples), arguments.samples, composed.config.seed, split_name),
            reporter=reporter,
        )
        problems += [f"{split_name}: {problem}" for problem in split_problems]
    overlaps = _overlaps(task, filled, composed.config.seed)
    problems += _overlap_problems(overlaps)
    record = {
        "schema": 1,
        "name": name,
        "kind": task.kind,
        "input_shape": task.input_shape,
        "num_outputs": task.num_outputs,
        "synthetic": task.synthetic,
        "note": task.note,
        "splits": splits,
        "overlaps": overlaps,
        "problems": problems,
    }
    # All problems in one failure, which is printed after the record and decides the exit code.
    failures = [DataError("; ".join(problems), where=name)] if problems else []
    return Result(record, [terminal.facts(_lines(record))], failures)


def _drawn_rows(n_samples: int, limit: int, seed: int, split_name: str) -> np.ndarray:
    """Return ascending indices of at most `limit` samples of a split, drawn with the seed."""
    # A generator for each split: the number of samples in one split does not change the draws from
    # the others.
    generator = seeding.numpy_generator(seed, "data-check", split_name)
    return np.sort(generator.choice(n_samples, min(n_samples, limit), replace=False))


def _overlaps(task: TaskData, splits: Mapping[str, Samples], seed: int) -> list[Record]:
    """Return, for each pair of splits, how many samples of the second are also in the first.

    `of` is the number of samples of the second split that were read.
    """
    from orca_cli.data.contents import count_shared

    overlaps = []
    for earlier, later in combinations(splits, 2):
        counts = count_shared(splits[earlier], splits[later], task.input_shape, seed)
        overlaps.append(
            {"first": earlier, "second": later, "shared": counts["shared"], "of": counts["of"]}
        )
    return overlaps


def _overlap_problems(overlaps: Iterable[Record]) -> Iterator[str]:
    """Yield a line for each pair of splits that share too many samples."""
    for overlap in overlaps:
        if overlap["shared"] >= max(1, _OVERLAP * overlap["of"]):
            verb = "is" if overlap["shared"] == 1 else "are"
            yield (
                f"{overlap['shared']} of {overlap['of']} samples of the split {overlap['second']} "
                f"{verb} also in the split {overlap['first']}"
            )


def examine_split(
    task: TaskData, name: str, samples: Samples, *, rows: np.ndarray, reporter: Reporter
) -> tuple[Record, list[str]]:
    """Return the content of one split, and a line for each problem.

    For real-valued targets the content has a range, for other targets the counts by class.

    Args:
        task: task that the split belongs to.
        name: train, validation or test.
        samples: samples of the split.
        rows: ascending indices of the samples whose inputs are read; all targets are read.
        reporter: shows the progress of reading.
    """
    from orca_cli.data.blocks import blocks

    # Inputs are float32. A sample may be larger than a whole block.
    sample_bytes = 4 * max(1, math.prod(task.input_shape))
    batch_size = max(1, min(256, _BATCH_BYTES // sample_bytes))

    def batches() -> Iterator[np.ndarray]:
        """Yield the inputs of the rows in blocks, [b, *input_shape]."""
        with reporter.track(f"reading {name}", len(rows)) as advance:
            for start in range(0, len(rows), batch_size):
                signals.check()
                batch_rows = rows[start : start + batch_size]
                batch = samples.batch(batch_rows)
                yield batch.x.numpy()
                advance(len(batch_rows))

    # Blocks are read one by one, so that a large split is never completely in memory.
    input_range = _range(batches())
    targets = samples.targets()
    record: Record = {"n": len(targets), "inputs": input_range, "read": len(rows)}
    problems = []
    nan_count = input_range["nan"]
    infinite_count = input_range["infinite"]
    if nan_count or infinite_count:
        problems.append(f"the inputs contain {nan_count} NaN and {infinite_count} infinite values")
    target_blocks = blocks(targets, np.arange(len(targets)))
    # Labels are floats as well, since unknown labels are NaN, but they are counted below.
    if task.kind != "labels" and targets.dtype.kind == "f":
        target_range = _range(target_blocks)
        record["targets"] = target_range
        if target_range["infinite"]:
            problems.append(f"the targets contain {target_range['infinite']} infinite values")
        # NaN marks an unknown target. Some targets may be unknown, but not all.
        if target_range["min"] is None:
            problems.append("all targets are NaN, which means unknown")
        return record, problems
    counts, invalid = _count(target_blocks, task)
    record["classes"] = {"counts": counts.tolist()}
    has_labels = task.kind == "labels"
    if invalid and has_labels:
        problems.append(f"{invalid} targets are not 0, 1 or NaN")
    elif invalid:
        highest_class = task.num_outputs - 1
        problems.append(f"{invalid} targets are not classes between 0 and {highest_class}")
    # A split without any label may be valid.
    if not has_labels and not counts.any():
        problems.append("no target has a valid class")
    return record, problems


def _count(blocks: Iterable[np.ndarray], task: TaskData) -> tuple[np.ndarray, int]:
    """Return the number of targets of each class or label, [K] int64, and of invalid targets.

    Blocks of classes are [b], of maps and sequences [b, ...], and of labels [b, K, ...] with NaN
    for an unknown label.
    """
    counts = np.zeros(task.num_outputs, dtype=np.int64)
    invalid = 0
    for block in blocks:
        if task.kind == "labels":
            # Summed over samples and positions: [b, K, ...] -> [K].
            summed_axes = (0, *range(2, block.ndim))
            counts += (block == 1).sum(axis=summed_axes)
            is_valid = np.isin(block, (0, 1)) | np.isnan(block)
            invalid += int((~is_valid).sum())
            continue
        # [b, ...] -> [n], including the positions of maps and sequences.
        classes = block.ravel()
        if task.kind == "dense":
            # Positions without a class are not invalid.
            classes = classes[classes != IGNORED_CLASS]
        valid = classes[(classes >= 0) & (classes < task.num_outputs)]
        invalid += classes.size - valid.size
        # [n] -> [K]; a class without targets counts 0.
        counts += np.bincount(valid.astype(np.int64), minlength=task.num_outputs)
    return counts, invalid


def _range(blocks: Iterable[np.ndarray]) -> Record:
    """Return the smallest and largest finite number, and the counts of NaN and infinite ones."""
    ends: list[float] = []
    nan_count = 0
    infinite_count = 0
    for block in blocks:
        nan_count += int(np.isnan(block).sum())
        infinite_count += int(np.isinf(block).sum())
        finite = block[np.isfinite(block)]
        # A block without a finite number has no minimum.
        if finite.size:
            ends += [float(finite.min()), float(finite.max())]
    # None if no number is finite.
    lowest = min(ends, default=None)
    highest = max(ends, default=None)
    return {"min": lowest, "max": highest, "nan": nan_count, "infinite": infinite_count}


def _lines(record: Record) -> Iterator[tuple[str, str]]:
    """Yield the facts and problems for people, as names and texts."""
    shapes = f"input {shape_text(record['input_shape'])}, outputs: {record['num_outputs']}"
    about = f"{record['kind']}, {shapes}"
    if record["synthetic"]:
        about += ", synthetic"
    yield record["name"], about
    if record["note"]:
        yield "note", record["note"]
    for name, split in record["splits"].items():
        yield name, "; ".join(_split_texts(split))
    for problem in record["problems"]:
        yield "WRONG", problem
    if not record["problems"]:
        yield "", "no problems found"


def _split_texts(split: Record) -> Iterator[str]:
    yield counted(split["n"], "sample")
    for name in ("inputs", "targets"):
        ends = split.get(name)
        if ends is not None and ends["min"] is not None:
            yield f"{name} {ends['min']:.4g} to {ends['max']:.4g}, {ends['nan']} NaN"
    if "classes" in split:
        counts = split["classes"]["counts"]
        counts_text = f"{min(counts)} to {max(counts)}"
        if len(counts) <= _FEW:
            counts_text = " ".join(map(str, counts))
        yield f"samples per class: {counts_text}"


VERB = Verb(
    about="check the data of a task: shapes, classes, NaN, and samples that two splits share",
    examples=_EXAMPLES,
    arguments=(
        argument("name", metavar="TASK", help="name of a task; `orca data list` shows all tasks"),
        argument("settings", nargs="*", metavar="KEY=VALUE", help="settings, as for `orca run`"),
        argument(
            "--samples",
            type=number(int, lowest=1),
            default=20_000,
            metavar="N",
            help="read the inputs of at most N samples per split, drawn with the setting `seed`; "
            "default: 20000",
        ),
        CONFIG_DIR,
        ALLOW_MODULE,
    ),
    execute=execute,
)
