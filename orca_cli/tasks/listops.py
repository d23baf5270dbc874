"""ListOps: the value of a nested list expression, such as `[MAX 4 [SM 2 9 ] 3 ]` = 4; ten classes.

The grammar is that of the Long Range Arena (Tay et al. 2021; Nangia and Bowman 2018). At depths 1..max_depth-1 a node is
an operator with probability 1/4 and a digit else, at max_depth a digit. Operators (MIN, MAX, MED, SM), arities
(2..max_arity) and digits are uniform. MED is the median cut to an integer, SM the sum modulo 10. Parentheses are left
out, and the closing bracket is a token. Expressions of other than the allowed lengths are drawn again, and none occurs
twice.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from orca_cli import signals
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Batch, Kind, Reporter, TaskData
from orca_cli.seeding import numpy_generator
from orca_cli.tasks.generated import folder_of

# Channel of a token in the input. `pad` and `unk` keep channels of their own, as in the paper's 17-channel input, and
# are always zero: padding is a column of zeros, and nothing is unknown.
VOCABULARY = ("pad", "unk", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
_DIGIT = VOCABULARY.index("0")
_MIN, _MAX, _MED, _SM, _CLOSE = (VOCABULARY.index(token) for token in VOCABULARY[-5:])
_OPERATOR_PROBABILITY = 0.25
_VERSION = 2
# In the order of generation, so that a larger training set leaves the others as they are.
_SPLITS = ("test", "validation", "train")
_DRAWS = 2**16  # uniform numbers drawn at once; one call per number takes most of the time
_MAX_TRIES = 100_000  # draws in a row without a new expression


def load(
    cache_folder: Path,
    reporter: Reporter,
    kind: Kind = "classes",
    num_train: int = 2000,
    num_validation: int = 500,
    num_test: int = 500,
    max_depth: int = 10,
    max_arity: int = 10,
    min_length: int = 501,
    max_length: int = 1999,
    data_seed: int = 0,
) -> TaskData:
    """Return expressions as one-hot columns [n, 17, max_length], with the real tokens marked as valid.

    Args:
        cache_folder: where the expressions are kept.
        reporter: is told of the generation.
        kind: "classes", nothing else.
        num_train: training samples.
        num_validation: validation samples.
        num_test: test samples; which ones does not depend on the other sizes.
        max_depth: depth of the deepest digit; the root has depth 1.
        max_arity: the largest number of arguments, 2 or more.
        min_length: least number of tokens (a digit is one, an operator with its bracket two).
        max_length: largest number of tokens, and length of the input. The paper's input has 1,024 and leaves out what
            is longer.
        data_seed: seed of the generator; not the seed of the run.

    Raises:
        ConfigError: a parameter is out of range, or no such expressions can be found.
    """
    sizes = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
    grammar = {"max_depth": max_depth, "max_arity": max_arity, "min_length": min_length, "max_length": max_length}
    _check(kind, sizes | grammar | {"data_seed": data_seed})

    def make(folder: Path) -> None:
        _generate(folder, [sizes[f"num_{name}"] for name in _SPLITS], grammar, data_seed, reporter)

    folder = folder_of(
        cache_folder, "listops", {"version": _VERSION, "data_seed": data_seed, **sizes, **grammar}, make, reporter
    )
    return TaskData(
        kind="classes",
        input_shape=(len(VOCABULARY), max_length),
        num_outputs=10,
        train=_read(folder, "train", max_length),
        validation=_read(folder, "validation", max_length),
        open_test=lambda: _read(folder, "test", max_length),
        synthetic=True,
        class_names=tuple("0123456789"),
        note=f"generated ListOps expressions of {min_length}..{max_length} tokens, depth {max_depth}, arity {max_arity}",
    )


class ExpressionSamples:
    """Samples (see interfaces) over expressions stored end to end; one-hot columns are made batch by batch.

    Args:
        tokens: [sum of lengths] uint8, channels of VOCABULARY.
        ends: [n] int64, where each expression ends in `tokens`.
        values: [n] int64 in 0..9.
        max_length: length of the input.
    """

    def __init__(self, tokens: np.ndarray, ends: np.ndarray, values: np.ndarray, max_length: int) -> None:
        self._tokens, self._ends, self._values, self._max_length = tokens, ends, values, max_length

    def __len__(self) -> int:
        """Return n."""
        return len(self._ends)

    def batch(self, indices: np.ndarray, augment: np.random.Generator | None = None) -> Batch:
        """Return x [B, 17, max_length] of 0 and 1, y [B] and valid [B, max_length]."""
        x = np.zeros((len(indices), len(VOCABULARY), self._max_length), np.float32)
        valid = np.zeros((len(indices), self._max_length), bool)
        for row, index in enumerate(indices):
            start = self._ends[index - 1] if index else 0
            tokens = self._tokens[start : self._ends[index]]
            x[row, tokens, np.arange(len(tokens))] = 1
            valid[row, : len(tokens)] = True
        return Batch(torch.from_numpy(x), torch.from_numpy(self._values[np.asarray(indices)]), torch.from_numpy(valid))

    def targets(self) -> np.ndarray:
        """Return all values [n]."""
        return self._values

    def groups(self) -> None:
        """Expressions stand alone."""
        return

    def digest(self) -> str:
        """Return a SHA-256 over the expressions, their values and the length of the input."""
        digest = hashlib.sha256(f"listops {self._max_length} {len(self)}".encode())
        for array in (self._tokens, self._ends, self._values):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


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
                raise ConfigError(
                    f"{failures:,} draws in a row gave no new expression of {min_length}..{max_length} tokens",
                    where="task.min_length",
                    hint="allow more lengths, more depth (task.max_depth), or ask for fewer samples",
                )
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
                value = _value(operator, values)


def _value(operator: int, values: Sequence[int]) -> int:
    if operator == _MIN:
        return min(values)
    if operator == _MAX:
        return max(values)
    return int(statistics.median(values)) if operator == _MED else sum(values) % 10


def _generate(folder: Path, sizes: list[int], grammar: dict[str, int], seed: int, reporter: Reporter) -> None:
    source = expressions(seed, **grammar)
    with reporter.track("generating listops", sum(sizes)) as advance:
        for name, size in zip(_SPLITS, sizes, strict=True):
            texts, values = [], []
            for _ in range(size):
                signals.check()
                text, value = next(source)
                texts.append(text)
                values.append(value)
                advance()
            np.save(folder / f"{name}_tokens.npy", np.frombuffer(b"".join(texts), np.uint8))
            np.save(folder / f"{name}_ends.npy", np.cumsum([len(text) for text in texts], dtype=np.int64))
            np.save(folder / f"{name}_values.npy", np.array(values, np.int64))


def _read(folder: Path, split: str, max_length: int) -> ExpressionSamples:
    tokens, ends, values = (
        np.load(folder / f"{split}_{part}.npy", allow_pickle=False) for part in ("tokens", "ends", "values")
    )
    return ExpressionSamples(tokens, ends, values, max_length)


def _check(kind: str, values: dict[str, int]) -> None:
    if kind != "classes":
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint="listops has kind=classes")
    least = {"max_depth": 2, "max_arity": 2, "data_seed": 0}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least.get(name, 1):
            raise ConfigError(
                f"{value!r} is out of range",
                where=f"task.{name}",
                hint=f"allowed: integers, {least.get(name, 1)} or more",
            )
    if values["min_length"] > values["max_length"]:
        raise ConfigError(
            f"{values['min_length']} is above task.max_length={values['max_length']}",
            where="task.min_length",
            hint="allowed: min_length <= max_length",
        )
