"""The Long Range Arena's ListOps files: basic_train.tsv, basic_val.tsv and basic_test.tsv (Tay et al. 2021).

Tab-separated with the header Source, Target; 96,000, 2,000 and 2,000 rows of 501..1,999 tokens. An expression is written
with parentheses around every argument, `( ( ( [MAX 3 ) 4 ) ] )`. They carry no information and are dropped. The closing
bracket is kept: without it the arguments of an operator have no end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from orca_cli import signals
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter
from orca_cli.tasks.shared.one_hot import end_to_end
from orca_cli.tasks.shared.published import find_first

# Channel of a token in the input. `pad` and `unk` keep channels of their own, as in the paper's 17-channel input, and
# are always zero: padding is a column of zeros, and nothing is unknown.
VOCABULARY = ("pad", "unk", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
_CHANNELS = {token.encode(): channel for channel, token in enumerate(VOCABULARY) if channel > 1}
_NAMES = {"train": "basic_train.tsv", "validation": "basic_val.tsv", "test": "basic_test.tsv"}
_FOLDERS = ("", "listops-1000", "lra_release/listops-1000", "lra_release/lra_release/listops-1000")
_MAX_LINE = 2**20  # bytes; the longest real line has about 16,000


def reader(
    data_folder: Path, path: str | None, rows: Mapping[str, int | None], test_file: str, reporter: Reporter
) -> Callable[[str], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return a function from the name of a split to its expressions, as `read` gives them.

    Args:
        data_folder, path: the files are in data_folder/listops, or in `path`, or in the archive's own folder in it.
        rows: split -> how many of the first rows are read; None reads all.
        test_file: "test" or "val": which file is the test split.

    Raises:
        DataError: a file is missing; raised at once, not when its split is read.
    """
    names = _NAMES if test_file == "test" else _NAMES | {"test": _NAMES["validation"]}
    distinct = sorted(set(names.values()))
    options = [[str(Path(folder, name)) for name in distinct] for folder in _FOLDERS]
    found = find_first(data_folder, "listops", options, path, "task.origin=generated needs no files")
    by_name = dict(zip(distinct, found, strict=True))
    places = {split: by_name[name] for split, name in names.items()}
    return lambda split: read(places[split], rows[split], reporter)


def read(path: Path, rows: int | None, reporter: Reporter) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the expressions of a file, the first `rows` of them or all.

    Returns:
        tokens [sum of lengths] uint8, channels of VOCABULARY; ends [n] int64, where each expression ends in them;
        values [n] int64 in 0..9.

    Raises:
        DataError: another header, a word or value that ListOps does not have, or fewer rows than requested.
    """
    texts: list[bytes] = []
    values: list[int] = []
    number, done = 1, 0  # of the last line that was read; bytes since progress was shown
    try:
        with open(path, "rb") as file, reporter.track(f"reading {path.name}", path.stat().st_size) as advance:
            header = file.readline(_MAX_LINE)
            if [word.strip(b'"\r\n ') for word in header.split(b"\t")] != [b"Source", b"Target"]:
                raise _fault(path, 1, "the header is not Source and Target, separated by a tab")
            while rows is None or len(texts) < rows:
                line = file.readline(_MAX_LINE)
                if not line:
                    break
                number += 1
                if line.strip():
                    text, value = _row(path, number, line)
                    texts.append(text)
                    values.append(value)
                done += len(line)
                if number % 1000 == 0:
                    signals.check()
                    advance(done)
                    done = 0
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if not texts or (rows is not None and len(texts) < rows):
        asked = f", {rows} requested" if rows else ""
        what = f"has {len(texts)} rows{asked}"
        raise DataError(what, where=str(path), hint="get the file again, or ask for fewer rows")
    return *end_to_end(texts), np.array(values, np.int64)


def _row(path: Path, number: int, line: bytes) -> tuple[bytes, int]:
    source, tab, target = line.rstrip(b"\r\n").partition(b"\t")
    value = target.strip(b'" ')
    if not tab or len(value) != 1 or not value.isdigit():
        found = target[:20].decode(errors="replace")
        raise _fault(path, number, f"{found!r} is not a value; allowed: 0..9 after a tab")
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
