"""ListOps: the value of a nested list expression, such as `[MAX 4 [SM 2 9 ] 3 ]` = 4; ten classes.

The grammar is that of the Long Range Arena (Tay et al. 2021; Nangia and Bowman 2018). At depths 1..max_depth-1 a node is
an operator with probability 1/4 and a digit else, at max_depth a digit. Operators (MIN, MAX, MED, SM), arities
(2..max_arity) and digits are uniform. MED is the median cut to an integer, SM the sum modulo 10. Parentheses are left
out, and the closing bracket is a token. Expressions outside the allowed lengths are drawn again, and none occurs twice.

The Long Range Arena's own files, basic_{train,val,test}.tsv, are tab-separated with the header Source, Target; 96,000, 2,000
and 2,000 rows of 501..1,999 tokens. They have parentheses around every argument, `( ( ( [MAX 3 ) 4 ) ] )`, which carry no
information and are dropped. The closing bracket is kept: without it the arguments of an operator have no end.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from orca_cli import signals
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.one_hot import OverLength, Sequences, end_to_end, longer_note
from orca_cli.data.published import find_first, load_arrays, note
from orca_cli.data.settings import check_rules, files_rule
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.seeding import numpy_generator

# Channel of a token in the input. `pad` and `unk` keep channels of their own, as in the paper's 17-channel input, and
# are always zero: padding is a column of zeros, and nothing is unknown.
VOCABULARY = ("pad", "unk", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
_CHANNELS = {token.encode(): channel for channel, token in enumerate(VOCABULARY) if channel > 1}
_NAMES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
_FOLDERS = ("", "listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")
_MAX_LINE = 2**20  # bytes; the longest real line has about 16,000
_DIGIT = VOCABULARY.index("0")
_MIN, _MAX, _MED, _SM, _CLOSE = (VOCABULARY.index(token) for token in VOCABULARY[-5:])
_OPERATORS: dict[int, Callable[[Sequence[int]], int]] = {
    _MIN: min,
    _MAX: max,
    _MED: lambda values: int(statistics.median(values)),
    _SM: lambda values: sum(values) % 10,
}
_OPERATOR_PROBABILITY = 0.25
_VERSION = 2
# In the order of generation, so that a larger training set leaves the others as they are.
_SPLITS = ("test", "validation", "train")
_DRAWS = 2**16  # uniform numbers drawn at once; one call per number takes most of the time
_MAX_TRIES = 100_000  # draws in a row without a new expression
# What task.size stands for. "paper" has as many samples as the Long Range Arena's files have within 1,024 tokens.
SIZES = {
    "small": {"num_train": 2000, "num_validation": 500, "num_test": 500, "min_length": 10, "max_length": 50},
    "paper": {"num_train": 53670, "num_validation": 2000, "num_test": 1118, "min_length": 501, "max_length": 1024},
    "lra": {"num_train": 96000, "num_validation": 2000, "num_test": 2000, "min_length": 501, "max_length": 1999},
}
_FILE_LENGTHS = {"small": 1024, "paper": 1024, "lra": 1999}  # lengths of the input for expressions from files
_ARRAYS = ("tokens", "ends", "values")  # of a split, in the cache
# tokens [sum of lengths] uint8, channels of VOCABULARY; ends [n] int64 of each expression in them; values [n] int64 in 0..9
Expressions = tuple[np.ndarray, np.ndarray, np.ndarray]


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    kind: Literal["classes"] = "classes",
    origin: Literal["generated", "files"] = "generated",
    size: Literal["small", "paper", "lra"] = "small",
    num_train: Count | None = None,
    num_validation: Count | None = None,
    num_test: Count | None = None,
    max_depth: Annotated[int, Ge(2)] = 10,
    max_arity: Annotated[int, Ge(2)] = 10,
    min_length: Count | None = None,
    max_length: Count | None = None,
    data_seed: Seed = 0,
    path: str | None = None,
    test_file: Literal["test", "val"] = "test",
    input_length: Count | None = None,
    over_length: OverLength = "truncate",
    mask_padding: bool = True,
) -> TaskData:
    """Return expressions as one-hot columns [n, 17, input_length], with the real tokens marked as valid.

    conf/task/listops.yaml explains the settings. Truncated expressions mostly cannot be decided (see one_hot.OverLength).
    """
    num_samples = _without_none(num_train=num_train, num_validation=num_validation, num_test=num_test)
    sizes = SIZES[size] | num_samples | _without_none(min_length=min_length, max_length=max_length)
    shortest, longest = sizes.pop("min_length"), sizes.pop("max_length")
    length = input_length or (longest if origin == "generated" else _FILE_LENGTHS[size])
    if origin == "files":
        read = _reader(data_folder, path, num_samples, test_file, reporter)
        what = f"ListOps of the Long Range Arena, {test_file} file as test split"
    else:
        grammar = {"max_depth": max_depth, "max_arity": max_arity, "min_length": shortest, "max_length": longest}
        read = _generated(cache_folder, sizes, grammar, data_seed, reporter)
        what = f"generated ListOps expressions of {shortest}..{longest} tokens, depth {max_depth}, arity {max_arity}"

    def sequences(split: str) -> Sequences:
        tokens, ends, classes = read(split)
        return Sequences(tokens, ends, classes, np.diff(ends, prepend=0) > length)

    form = ("listops", len(VOCABULARY), length, mask_padding, over_length)
    train, validation = sequences("train"), sequences("validation")
    return TaskData(
        kind="classes",
        input_shape=(len(VOCABULARY), length),
        num_outputs=10,
        train=train.samples(*form),
        validation=validation.samples(*form),
        open_test=lambda: sequences("test").samples(*form, no_class=10),
        synthetic=origin == "generated",
        size=size if origin == "generated" else "",
        class_names=tuple("0123456789"),
        note=note(what, longer_note({"train": train, "validation": validation}, length, "tokens", over_length)),
    )


def expressions(
    seed: int, *, max_depth: int, max_arity: int, min_length: int, max_length: int
) -> Iterator[tuple[bytes, int]]:
    """Yield different expressions without end, as channels of VOCABULARY, each with its value.

    Raises:
        ConfigError: many draws in a row gave nothing new.
    """
    uniform = _uniform(seed)
    seen: set[bytes] = set()
    failures = 0
    while True:
        drawn = _draw(uniform, max_depth, max_arity, max_length)
        key = b"" if drawn is None or len(drawn[0]) < min_length else hashlib.sha256(drawn[0]).digest()
        if not key or key in seen:
            failures += 1
            if failures >= _MAX_TRIES:
                what = f"{failures:,} draws in a row gave no new expression of {min_length}..{max_length} tokens"
                hint = "allow more lengths or more depth (task.max_depth), or request fewer samples"
                raise ConfigError(what, where="task.min_length", hint=hint)
            if failures % 1000 == 0:
                signals.check()
            continue
        failures = 0
        seen.add(key)
        assert drawn is not None
        yield bytes(drawn[0]), drawn[1]


def _uniform(seed: int) -> Iterator[float]:
    generator = numpy_generator(seed, "listops")
    while True:
        yield from generator.random(_DRAWS).tolist()


def _draw(uniform: Iterator[float], max_depth: int, max_arity: int, max_length: int) -> tuple[bytearray, int] | None:
    """Return one tree in prefix order and its value; None where it is longer than allowed."""
    tokens = bytearray()
    open_lists: list[tuple[int, int, list[int]]] = []  # operator, arity, values so far
    length = 0  # counts the closing brackets that are still to come
    while True:
        value = -1
        if len(open_lists) + 1 < max_depth and next(uniform) < _OPERATOR_PROBABILITY:
            length += 2
            operator = _MIN + int(4 * next(uniform))
            open_lists.append((operator, 2 + int((max_arity - 1) * next(uniform)), []))
            tokens.append(operator)
        else:
            length += 1
            value = int(10 * next(uniform))
            tokens.append(_DIGIT + value)
        if length > max_length:
            return None
        while value >= 0:
            if not open_lists:
                return tokens, value
            operator, arity, values = open_lists[-1]
            values.append(value)
            value = -1
            if len(values) == arity:
                open_lists.pop()
                tokens.append(_CLOSE)
                value = _OPERATORS[operator](values)


def _generated(
    cache_folder: Path, sizes: dict[str, int], grammar: dict[str, int], data_seed: int, reporter: Reporter
) -> Callable[[str], Expressions]:
    """Return what reads a split of the expressions that these settings determine; they are made where they are missing."""

    def make(folder: Path) -> None:
        source = expressions(data_seed, **grammar)
        with reporter.track("generating listops", sum(sizes.values())) as advance:
            for split in _SPLITS:
                texts, values = [], []
                for _ in range(sizes[f"num_{split}"]):
                    signals.check()
                    text, value = next(source)
                    texts.append(text)
                    values.append(value)
                    advance()
                arrays = *end_to_end(texts), np.array(values, np.int64)
                for part, array in zip(_ARRAYS, arrays, strict=True):
                    np.save(folder / f"{split}_{part}.npy", array)

    parameters: dict[str, int | float | str] = {"version": _VERSION, "data_seed": data_seed, **sizes, **grammar}
    folder = folder_of(cache_folder, "listops", parameters, make, reporter)

    def read(split: str) -> Expressions:
        tokens, ends, values = load_arrays(folder, [f"{split}_{part}" for part in _ARRAYS])
        return tokens, ends, values

    return read


def _reader(
    data_folder: Path, path: str | None, num_samples: Mapping[str, int], test_file: str, reporter: Reporter
) -> Callable[[str], Expressions]:
    """Return what reads a split of the files; a missing file is refused at once, not when its split is read."""
    names = _NAMES if test_file == "test" else _NAMES | {"test": _NAMES["validation"]}
    distinct = sorted(set(names.values()))
    options = [[str(Path(folder, name)) for name in distinct] for folder in _FOLDERS]
    files = find_first(data_folder, "listops", options, path, "task.origin=generated needs no files")
    by_name = dict(zip(distinct, files, strict=True))
    places = {split: by_name[name] for split, name in names.items()}
    return lambda split: _read(places[split], num_samples.get(f"num_{split}"), reporter)


def _read(path: Path, rows: int | None, reporter: Reporter) -> Expressions:
    """Return the expressions of a file, the first `rows` of them or all."""
    texts: list[bytes] = []
    values: list[int] = []
    done = 0  # bytes since progress was shown
    try:
        with open(path, "rb") as file, reporter.track(f"reading {path.name}", path.stat().st_size) as advance:
            header = file.readline(_MAX_LINE)
            if [word.strip(b'"\r\n ') for word in header.split(b"\t")] != [b"Source", b"Target"]:
                raise _fault(path, 1, "the header is not Source and Target, separated by a tab")
            for number, line in enumerate(iter(partial(file.readline, _MAX_LINE), b""), start=2):
                if line.strip():
                    text, value = _row(path, number, line)
                    texts.append(text)
                    values.append(value)
                done += len(line)
                if number % 1000 == 0:
                    signals.check()
                    advance(done)
                    done = 0
                if len(texts) == rows:
                    break
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if not texts or (rows is not None and len(texts) < rows):
        requested = f", {rows} requested" if rows else ""
        what = f"has {len(texts)} rows{requested}"
        raise DataError(what, where=str(path), hint="get the file again, or ask for fewer rows")
    return *end_to_end(texts), np.array(values, np.int64)


def _row(path: Path, number: int, line: bytes) -> tuple[bytes, int]:
    source, tab, target = line.rstrip(b"\r\n").partition(b"\t")
    value = target.strip(b'" ')
    if not tab or len(value) != 1 or not value.isdigit():
        shown = target[:20].decode(errors="replace")
        raise _fault(path, number, f"{shown!r} is not a value; allowed: 0..9 after a tab")
    try:
        text = bytes(map(_CHANNELS.__getitem__, source.strip(b'"').translate(None, b"()").split()))
    except KeyError as error:
        word = bytes(error.args[0])[:20].decode(errors="replace")
        allowed = "digits, [MIN, [MAX, [MED, [SM and ]"
        raise _fault(path, number, f"{word!r} is not a word of ListOps; allowed: {allowed}") from error
    if not text:
        raise _fault(path, number, "the expression is empty")
    return text, int(value)


def _fault(path: Path, number: int, what: str) -> DataError:
    return DataError(what, where=f"{path}, line {number}", hint="put the file of lra_release/listops-1000 there again")


def _without_none(**settings: int | None) -> dict[str, int]:
    return {name: value for name, value in settings.items() if value is not None}


def check_settings(origin: str, path: str | None, size: str, min_length: int | None, max_length: int | None) -> None:
    """Refuse contradictory settings before anything is read; arguments as those of `load`."""
    values = SIZES[size] | _without_none(min_length=min_length, max_length=max_length)
    shortest, longest = values["min_length"], values["max_length"]
    what, hint = f"{shortest} is above task.max_length={longest}", "allowed: min_length <= max_length"
    check_rules(files_rule(origin, path), (shortest > longest, "min_length", what, hint))
