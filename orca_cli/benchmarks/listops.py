"""ListOps: the value of a nested list expression, such as `[MAX 4 [SM 2 9 ] 3 ]` = 4; ten classes.

The grammar is that of the Long Range Arena (Tay et al. 2021; Nangia and Bowman 2018). At depths
1..max_depth-1 a node is an operator with probability 1/4 and otherwise a digit; at max_depth it is
a digit. Operators (MIN, MAX, MED, SM), arities (2..max_arity) and digits are uniform. MED is the
median without its fraction, SM the sum modulo 10. Expressions have no parentheses, and the closing
bracket is a token. An expression outside the allowed lengths is drawn again, and no expression
occurs twice.

The Long Range Arena's own files, basic_{train,val,test}.tsv, are tab-separated with the header
Source, Target; they have 96,000, 2,000 and 2,000 rows of 501..1,999 tokens. Their parentheses
around every argument, `( ( ( [MAX 3 ) 4 ) ] )`, carry no information and are dropped. The closing
bracket is kept, since only this token marks the end of an operator's arguments.

Shapes: n expressions of a split, S tokens in all expressions, L length of the input.
"""

import hashlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from orca_cli import signals
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.one_hot import OverLength, Sequences, end_to_end, longer_note
from orca_cli.data.published import fault, find, load_arrays
from orca_cli.data.untrusted.first_bytes import damage
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.seeding import numpy_generator

# The index of a token is its channel in the input. As in the paper's 17-channel input, `pad` and
# `unk` have their own channels, which are always zero: padding is a column of zeros, and no token
# is unknown.
VOCABULARY = ("pad", "unk", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
_CHANNELS = {token.encode(): channel for channel, token in enumerate(VOCABULARY) if channel > 1}
_DIGIT = VOCABULARY.index("0")
_MIN = VOCABULARY.index("[MIN")
_CLOSE = VOCABULARY.index("]")


def _median(values: Sequence[int]) -> int:
    # The median of an even number of values can end in .5; the fraction is cut off.
    return int(statistics.median(values))


def _sum_modulo_10(values: Sequence[int]) -> int:
    return sum(values) % 10


_Operator = Callable[[Sequence[int]], int]
# In the order of their channels, from _MIN on.
_OPERATORS: tuple[_Operator, ...] = (min, max, _median, _sum_modulo_10)
_OPERATOR_PROBABILITY = 0.25
# Uniform numbers per call; a call for each number would take most of the time.
_DRAWS = 2**16
_VERSION = 2
_FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
_MAX_LINE = 2**20  # bytes; the longest line of the real files has about 16,000
_ARRAYS = ("tokens", "ends", "values")  # arrays of a split in the cache


@dataclass(frozen=True)
class _Size:
    """The numbers behind a choice of task.size."""

    # Splits are generated in this order, so that a larger training set does not change the others.
    counts: Mapping[str, int]
    grammar: Mapping[str, int]  # arguments of `expressions`
    file_length: int  # tokens of the input if the expressions come from files


_BRANCHING = {"max_depth": 10, "max_arity": 10}
# "paper" has the number of expressions in the Long Range Arena's files with at most 1,024 tokens.
_SIZES = {
    "small": _Size(
        counts={"test": 500, "validation": 500, "train": 2000},
        grammar=_BRANCHING | {"min_length": 10, "max_length": 50},
        file_length=1024,
    ),
    "paper": _Size(
        counts={"test": 1118, "validation": 2000, "train": 53670},
        grammar=_BRANCHING | {"min_length": 501, "max_length": 1024},
        file_length=1024,
    ),
    "lra": _Size(
        counts={"test": 2000, "validation": 2000, "train": 96000},
        grammar=_BRANCHING | {"min_length": 501, "max_length": 1999},
        file_length=1999,
    ),
}


_samples = partial(Sequences.samples, name="listops", num_symbols=len(VOCABULARY))


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    origin: Annotated[
        Literal["generated", "files"],
        "generated: the program generates the expressions; "
        "files: the program reads the expressions from basic_train.tsv, basic_val.tsv and "
        "basic_test.tsv of lra_release/listops-1000",
    ] = "generated",
    size: Annotated[
        Literal["small", "paper", "lra"],
        "small, paper or lra: a preset for the lengths of the expressions. If the expressions are "
        "generated, the preset also sets num_train, num_validation and num_test where they are "
        "null",
    ] = "small",
    num_train: Annotated[
        Count | None,
        "number of training samples: 1 or more; with task.origin=files, the first rows are used. "
        "null: as task.size says or, with task.origin=files, all rows of the file",
    ] = None,
    num_validation: Annotated[
        Count | None,
        "number of validation samples: 1 or more; "
        "null: as task.size says or, with task.origin=files, all rows of the file",
    ] = None,
    num_test: Annotated[
        Count | None,
        "number of test samples: 1 or more; "
        "null: as task.size says or, with task.origin=files, all rows of the file",
    ] = None,
    data_seed: Annotated[Seed, "seed of the generator, 0..2147483647; not the seed of the run"] = 0,
    path: Annotated[
        str | None,
        "folder that contains the files or the folder lra_release; "
        "null: folder listops of the data folder (paths.data)",
    ] = None,
    test_file: Annotated[
        Literal["test", "val"],
        "file of the test split. test: the test file; val: the validation file, from which "
        "both the validation split and the test split are then read",
    ] = "test",
    over_length: Annotated[
        OverLength,
        "what to do with expressions that have more tokens than the model's input can hold. "
        "truncate: cut them, and keep them in their splits; drop: leave them out of all splits",
    ] = "truncate",
    mask_padding: Annotated[
        bool,
        "true: the mean over tokens leaves out the padding after an expression; "
        "false: the mean includes the padding",
    ] = True,
) -> TaskData:
    """Return expressions as one-hot columns [n, 17, L].

    Columns of zeros follow the end of an expression; with `mask_padding` they are marked as
    padding. L is 50 for small, 1,024 for paper and 1,999 for lra; from files, it is 1,024 for small
    as well. The part of a truncated expression usually does not determine its value (see
    one_hot.OverLength).
    """
    typed_counts = {"train": num_train, "validation": num_validation, "test": num_test}
    is_generated = origin == "generated"
    if is_generated:
        length = _SIZES[size].grammar["max_length"]
        counts = dict(_SIZES[size].counts)
        counts |= {split: count for split, count in typed_counts.items() if count is not None}
        chosen_size = replace(_SIZES[size], counts=counts)
        folder = _generated_folder(chosen_size, data_seed, cache_folder, reporter)
    else:
        length = _SIZES[size].file_length
        files = _find_files(data_folder, path, test_file)

    def read(split: str) -> Sequences:
        if is_generated:
            tokens, ends, values = load_arrays(folder, [f"{split}_{name}" for name in _ARRAYS])
        else:
            tokens, ends, values = _read_file(files[split], typed_counts[split])
        # Tokens of each expression, from the ends of all of them.
        lengths = np.diff(ends, prepend=0)  # [n]
        return Sequences(tokens=tokens, ends=ends, classes=values, longer=lengths > length)

    train = read("train")
    validation = read("validation")
    samples = partial(_samples, length=length, mask=mask_padding, over_length=over_length)
    return TaskData(
        kind="classes",
        input_shape=(len(VOCABULARY), length),
        num_outputs=10,
        train=samples(train),
        validation=samples(validation),
        open_test=lambda: samples(read("test")),
        synthetic=is_generated,
        size=size if is_generated else "",
        class_names=tuple("0123456789"),
        note=longer_note({"train": train, "validation": validation}, length, "tokens", over_length),
    )


def _generated_folder(size: _Size, seed: int, cache_folder: Path, reporter: Reporter) -> Path:
    """Return the folder of all splits; generate them unless the cache has them."""
    count_parameters = {f"num_{split}": count for split, count in size.counts.items()}
    return folder_of(
        cache_folder,
        "listops",
        # All parameters that decide the expressions, so that each combination has its own folder.
        parameters={"version": _VERSION, "data_seed": seed, **size.grammar, **count_parameters},
        make=partial(_generate, size, seed, reporter),
        reporter=reporter,
    )


def _generate(size: _Size, seed: int, reporter: Reporter, folder: Path) -> None:
    """Write SPLIT_tokens.npy, SPLIT_ends.npy and SPLIT_values.npy for each split."""
    # One source for all splits, so that no expression is in two splits.
    source = expressions(seed, **size.grammar)
    num_expressions = sum(size.counts.values())
    with reporter.track("generating listops", num_expressions) as advance:
        for split, count in size.counts.items():
            texts = []
            values = []
            for text, value in itertools.islice(source, count):
                signals.check()
                texts.append(text)
                values.append(value)
                advance()
            tokens, ends = end_to_end(texts)
            np.save(folder / f"{split}_tokens.npy", tokens)
            np.save(folder / f"{split}_ends.npy", ends)
            np.save(folder / f"{split}_values.npy", np.array(values, np.int64))


def expressions(
    seed: int, *, max_depth: int, max_arity: int, min_length: int, max_length: int
) -> Iterator[tuple[bytes, int]]:
    """Yield distinct expressions, as channels of VOCABULARY, each with its value in 0..9.

    The iterator never ends: when no further expression exists, it searches for ever.

    Args:
        max_depth: depth at which every node is a digit; the whole expression has depth 1.
        max_arity: largest number of arguments of an operator, 2 or more.
        min_length, max_length: bounds on the number of tokens, including closing brackets.
    """
    # An endless sequence of uniform numbers, as Python floats.
    generator = numpy_generator(seed, "listops")
    blocks = (generator.random(_DRAWS) for _ in itertools.count())
    uniform = itertools.chain.from_iterable(block.tolist() for block in blocks)
    tokens = bytearray()

    def draw_node(depth: int) -> int:
        """Append a random node to `tokens` and return its value.

        Raises OverflowError above `max_length`.
        """
        if depth >= max_depth or next(uniform) >= _OPERATOR_PROBABILITY:
            digit = int(10 * next(uniform))
            tokens.append(_DIGIT + digit)
            # Each of the depth - 1 operators around a node needs a closing bracket.
            if len(tokens) + depth - 1 > max_length:
                raise OverflowError
            return digit
        # The order of the draws decides the expressions: operator, arity, then arguments.
        operator = int(len(_OPERATORS) * next(uniform))
        arity = 2 + int((max_arity - 1) * next(uniform))
        tokens.append(_MIN + operator)
        # The node itself needs a closing bracket too.
        if len(tokens) + depth > max_length:
            raise OverflowError
        values = [draw_node(depth + 1) for _ in range(arity)]
        tokens.append(_CLOSE)
        return _OPERATORS[operator](values)

    digests: set[bytes] = set()  # digests of the expressions that were yielded
    while True:
        tokens.clear()
        try:
            value = draw_node(1)
        except OverflowError:
            continue  # the expression is too long, so the next one is drawn
        # A digest takes 32 bytes, an expression up to 2,000.
        digest = hashlib.sha256(tokens).digest()
        if len(tokens) >= min_length and digest not in digests:
            digests.add(digest)
            yield bytes(tokens), value


def _find_files(data_folder: Path, path: str | None, test_file: str) -> dict[str, Path]:
    """Return split -> file; `test_file` names the file of the test split, test or val."""
    names = dict(_FILES)
    if test_file == "val":
        names["test"] = names["validation"]
    in_folder = list(names.values())
    in_archive = [f"lra_release/listops-1000/{name}" for name in in_folder]
    files = find(
        data_folder,
        "listops",
        in_folder,
        path,
        hint="or set task.origin=generated, which needs no files",
        others=[in_archive],
    )
    return dict(zip(names, files, strict=True))


def _read_file(file: Path, count: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return tokens [S], ends [n] and values [n] of the first `count` rows of a file.

    A `count` of None means all rows. Raises DataError for fewer rows, and for rows of another form.
    """
    # Only the requested rows are read.
    rows = list(itertools.islice(_rows(file), count))
    requested = count or 1
    if len(rows) < requested:
        raise fault(f"has {len(rows)} rows, fewer than the {requested} requested", file)
    tokens, ends = end_to_end([text for text, _ in rows])
    values = [value for _, value in rows]
    return tokens, ends, np.array(values, np.int64)


def _rows(file: Path) -> Iterator[tuple[bytes, int]]:
    """Yield expression (channels of VOCABULARY) and value of each row of a file."""
    with damage(str(file), "table"), open(file, "rb") as stream:
        header = stream.readline(_MAX_LINE)
        if header.split() != [b"Source", b"Target"]:
            raise fault("must begin with the header Source, tab, Target", file)
        # Lines are cut at the limit, so that a file without line ends does not fill the memory.
        lines = iter(partial(stream.readline, _MAX_LINE), b"")
        for number, line in enumerate(lines, start=2):
            if number % 1000 == 0:
                signals.check()
            source, _, target = line.strip().partition(b"\t")
            if not source:
                continue  # a blank line
            where = f"{file}, line {number}"
            if len(target) != 1 or not target.isdigit():
                shown = target[:20].decode(errors="replace")
                raise fault(f"must end in a tab and a digit (the value), got {shown!r}", where)
            yield _parse(source, where), int(target)


def _parse(source: bytes, where: str) -> bytes:
    """Return an expression as channels of VOCABULARY, without its parentheses."""
    symbols = source.translate(None, b"()").split()
    # A source with only parentheses has no symbols, and is refused.
    for symbol in symbols or [source]:
        if symbol not in _CHANNELS:
            shown = symbol[:20].decode(errors="replace")
            raise fault(
                f"unknown symbol {shown!r}; allowed: digits, [MIN, [MAX, [MED, [SM, ]",
                where,
            )
    return bytes(_CHANNELS[symbol] for symbol in symbols)


def check_settings(origin: str, path: str | None) -> None:
    """Refuse contradictory settings before any data are read; arguments as in `load`."""
    if path is not None and origin != "files":
        raise ConfigError(
            f"does not apply to task.origin={origin}",
            where="task.path",
            hint="remove it, or set task.origin=files",
        )
