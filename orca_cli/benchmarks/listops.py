"""ListOps: the value of a nested list expression, such as `[MAX 4 [SM 2 9 ] 3 ]` = 4; ten classes.

The grammar is that of the Long Range Arena (Tay et al. 2021; Nangia and Bowman 2018). At depths 1..max_depth-1 a node is
an operator with probability 1/4 and a digit else, at max_depth a digit. Operators (MIN, MAX, MED, SM), arities
(2..max_arity) and digits are uniform. MED is the median cut to an integer, SM the sum modulo 10. Parentheses are left
out, and the closing bracket is a token. Expressions outside the allowed lengths are drawn again, and none occurs twice.

The Long Range Arena's own files, basic_{train,val,test}.tsv, are tab-separated with the header Source, Target; 96,000, 2,000
and 2,000 rows of 501..1,999 tokens. They have parentheses around every argument, `( ( ( [MAX 3 ) 4 ) ] )`, which carry no
information and are dropped. The closing bracket is kept: without it the arguments of an operator have no end.
"""

import hashlib
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli import signals
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.one_hot import OverLength, Sequences, end_to_end, longer_note
from orca_cli.data.own_data import check_rules, files_rule
from orca_cli.data.published import fault, find, load_arrays, refuse
from orca_cli.data.untrusted.first_bytes import damage
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.seeding import numpy_generator

# Channel of a token in the input. `pad` and `unk` keep channels of their own, as in the paper's 17-channel input, and
# are always zero: padding is a column of zeros, and nothing is unknown.
VOCABULARY = ("pad", "unk", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
_CHANNELS = {token.encode(): channel for channel, token in enumerate(VOCABULARY) if channel > 1}
_DIGIT, _MIN, _CLOSE = (VOCABULARY.index(token) for token in ("0", "[MIN", "]"))
_OPERATORS: tuple[Callable[[Sequence[int]], int], ...] = (  # from channel _MIN on
    min,
    max,
    lambda values: int(statistics.median(values)),
    lambda values: sum(values) % 10,
)
_OPERATOR_PROBABILITY = 0.25
_DRAWS = 2**16  # uniform numbers drawn at once; one call per number takes most of the time
_VERSION = 2
_FILES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
_MAX_LINE = 2**20  # bytes; the longest real line has about 16,000
# What task.size stands for: numbers of samples, tokens of generated expressions, and tokens of the input for files. "paper"
# has as many samples as the Long Range Arena's files have within 1,024 tokens. Splits are in the order of generation, so
# that a larger training set leaves the others as they are.
_SIZES = {
    "small": ({"test": 500, "validation": 500, "train": 2000}, (10, 50), 1024),
    "paper": ({"test": 1118, "validation": 2000, "train": 53670}, (501, 1024), 1024),
    "lra": ({"test": 2000, "validation": 2000, "train": 96000}, (501, 1999), 1999),
}
_ARRAYS = ("tokens", "ends", "values")  # of a split, in the cache


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    origin: Literal["generated", "files"] = "generated",
    size: Literal["small", "paper", "lra"] = "small",
    num_train: Count | None = None,
    num_validation: Count | None = None,
    num_test: Count | None = None,
    data_seed: Seed = 0,
    path: str | None = None,
    test_file: Literal["test", "val"] = "test",
    over_length: OverLength = "truncate",
    mask_padding: bool = True,
) -> TaskData:
    """Return expressions as one-hot columns [n, 17, L]; columns of zeros after their ends are marked as padding, or not.

    L is 50, 1,024 or 1,999 for small, paper and lra; from files it is 1,024 for small too. Truncated expressions mostly cannot
    be decided (see one_hot.OverLength).
    """
    counts, (shortest, longest), length = _SIZES[size]
    given = {"train": num_train, "validation": num_validation, "test": num_test}
    if origin == "files":
        names = [
            _FILES["validation" if (split, test_file) == ("test", "val") else split]
            for split in given
        ]
        packed, hint = (
            [f"lra_release/listops-1000/{name}" for name in names],
            "task.origin=generated needs no files",
        )
        files = dict(
            zip(
                given, find(data_folder, "listops", names, path, hint, others=[packed]), strict=True
            )
        )
    else:
        length, counts = (
            longest,
            counts | {split: count for split, count in given.items() if count is not None},
        )
        grammar = {"max_depth": 10, "max_arity": 10, "min_length": shortest, "max_length": longest}
        folder = _generated(cache_folder, counts, grammar, data_seed, reporter)

    def sequences(split: str) -> Sequences:
        made = [f"{split}_{part}" for part in _ARRAYS]
        tokens, ends, classes = (
            _read(files[split], given[split]) if origin == "files" else load_arrays(folder, made)
        )
        return Sequences(tokens, ends, classes, np.diff(ends, prepend=0) > length)

    form = ("listops", len(VOCABULARY), length, mask_padding, over_length)
    train, validation = sequences("train"), sequences("validation")
    return TaskData(
        kind="classes",
        input_shape=(len(VOCABULARY), length),
        num_outputs=10,
        train=train.samples(*form),
        validation=validation.samples(*form),
        open_test=lambda: sequences("test").samples(*form),
        synthetic=origin == "generated",
        size=size if origin == "generated" else "",
        class_names=tuple("0123456789"),
        note=longer_note({"train": train, "validation": validation}, length, "tokens", over_length),
    )


def expressions(
    seed: int, *, max_depth: int, max_arity: int, min_length: int, max_length: int
) -> Iterator[tuple[bytes, int]]:
    """Yield different expressions without end, as channels of VOCABULARY, each with its value in 0..9.

    Where none is left, the search for the next one does not end.

    Args:
        max_depth: depth at which every node is a digit; the whole expression has depth 1.
        max_arity: the most arguments of an operator, 2 or more.
        min_length, max_length: tokens, closing brackets included.
    """
    generator = numpy_generator(seed, "listops")
    uniform = itertools.chain.from_iterable(
        generator.random(_DRAWS).tolist() for _ in itertools.count()
    )
    seen: set[bytes] = set()
    tokens = bytearray()

    def value(depth: int) -> int:
        """Draw what stands at a place of this depth; OverflowError where there is no room, for closing brackets either."""
        is_list = depth < max_depth and next(uniform) < _OPERATOR_PROBABILITY
        drawn = int((len(_OPERATORS) if is_list else 10) * next(uniform))
        arity = 2 + int((max_arity - 1) * next(uniform)) if is_list else 0
        tokens.append(drawn + (_MIN if is_list else _DIGIT))
        if len(tokens) + (depth if is_list else depth - 1) > max_length:
            raise OverflowError
        if not is_list:
            return drawn
        values = [value(depth + 1) for _ in range(arity)]
        tokens.append(_CLOSE)
        return _OPERATORS[drawn](values)

    while True:
        tokens.clear()
        with suppress(OverflowError):
            result, key = value(1), hashlib.sha256(tokens).digest()
            if len(tokens) >= min_length and key not in seen:
                seen.add(key)
                yield bytes(tokens), result


def _generated(
    cache_folder: Path,
    counts: dict[str, int],
    grammar: dict[str, int],
    data_seed: int,
    reporter: Reporter,
) -> Path:
    """Return the folder of the expressions that these settings determine; they are made where they are missing."""

    def make(folder: Path) -> None:
        source = expressions(data_seed, **grammar)
        with reporter.track("generating listops", sum(counts.values())) as advance:
            for split, count in counts.items():
                drawn = []
                for one in itertools.islice(source, count):
                    signals.check()
                    drawn.append(one)
                    advance()
                texts, values = zip(*drawn, strict=True)
                for part, array in zip(
                    _ARRAYS, (*end_to_end(texts), np.array(values, np.int64)), strict=True
                ):
                    np.save(folder / f"{split}_{part}.npy", array)

    parameters: dict[str, int | float | str] = {
        "version": _VERSION,
        "data_seed": data_seed,
        **grammar,
    }
    parameters |= {f"num_{split}": count for split, count in counts.items()}
    return folder_of(cache_folder, "listops", parameters, make, reporter)


def _read(path: Path, rows: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the expressions of a file, the first `rows` of them or all: see `Sequences`, with their values in 0..9."""
    texts: list[bytes] = []
    values: list[int] = []
    with damage(str(path), "table"), open(path, "rb") as file:
        if file.readline(_MAX_LINE).split() != [b"Source", b"Target"]:
            raise fault("the header is not Source and Target, separated by a tab", path)
        for number, line in enumerate(iter(partial(file.readline, _MAX_LINE), b""), start=2):
            if number % 1000 == 0:
                signals.check()
            source, _, target = line.strip().partition(b"\t")
            words, where = source.translate(None, b"()").split(), f"{path}, line {number}"
            if not source:
                continue
            if not (len(target) == 1 and target.isdigit()):
                raise fault(
                    f"{target[:20].decode(errors='replace')!r} is not a value; allowed: 0..9 after a tab",
                    where,
                )
            if wrong := [word for word in words or [source] if word not in _CHANNELS]:
                what = f"{wrong[0][:20].decode(errors='replace')!r} is not a word of ListOps"
                raise fault(f"{what}; allowed: digits, [MIN, [MAX, [MED, [SM and ]", where)
            texts.append(bytes(_CHANNELS[word] for word in words))
            values.append(int(target))
            if len(texts) == rows:
                break
    refuse(len(texts) < (rows or 1), f"has {len(texts)} rows, {rows or 1} requested", path)
    return *end_to_end(texts), np.array(values, np.int64)


def check_settings(origin: str, path: str | None) -> None:
    """Refuse contradictory settings before anything is read; arguments as those of `load`."""
    check_rules(files_rule(origin, path))
