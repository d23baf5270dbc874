"""The user's own labelled recordings as a source for audio bodies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Interval

from orca_cli import storage
from orca_cli.benchmarks.sources.balance import draw, facts_digest
from orca_cli.benchmarks.sources.tones import RATE
from orca_cli.data.untrusted.arrays import read_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Examples, Reporter, SourceData

_MAX_BYTES = 2**30
_SHORTEST = 400  # values at RATE: what the input layers of audio bodies need
_FORM = "x [n, L]: int16, or real numbers in -1..1; y [n]: whole numbers or texts"


def load(
    size: Annotated[int, Ge(4)] | None,
    seed: int,
    reporter: Reporter,
    data_folder: Path,
    path: str | None = None,
    rate: Annotated[int, Interval(ge=4000, le=192_000)] = RATE,
) -> SourceData:
    """Return the sounds of an .npz file with x [n, L] and y [n], in -1..1 at 16,000 values a second.

    Args:
        size: balanced over the classes; None for all.
        path: the file, from the working folder or else from `data_folder`; None is recordings/recordings.npz there.
        rate: values a second in the file; resampled to 16,000 where it differs.

    Raises:
        DataError: the file is missing, damaged, has another form, or fewer than two classes have two recordings.
        UnsafeError: reading it would execute code, or it holds more than 1 GiB.
    """
    place = _file(data_folder, path)
    facts = (storage.sha256_file(place), size, seed, rate)

    def read() -> Examples:
        with reporter.track(f"reading {place.name}", 1) as advance:
            arrays = read_arrays(place, ["x", "y"], max_bytes=_MAX_BYTES)
            names, labels = _classes(arrays["y"], f"{place}[y]")
            x = _sounds(arrays["x"], len(labels), rate, f"{place}[x]")
            advance()
        chosen = draw(labels, size, seed)
        return Examples(_resampled(x[chosen], rate), labels[chosen], names)

    return SourceData("audio", facts_digest("recordings", *facts), read)


def _sounds(x: np.ndarray, count: int, rate: int, where: str) -> np.ndarray:
    """Return sounds [n, L] unchanged, after checking them."""
    if x.ndim != 2 or len(x) != count or x.dtype.kind not in "fi" or (x.dtype.kind == "i" and x.dtype != np.int16):
        what = f"sounds have shape {x.shape} and type {x.dtype}, with {count} labels"
        raise DataError(what, where=where, hint=f"expected: {_FORM}")
    if x.shape[1] * RATE < _SHORTEST * rate:
        what = f"sounds have {x.shape[1]} values, less than {1000 * _SHORTEST // RATE} ms"
        raise DataError(what, where=where, hint="give longer recordings, or their rate as source.rate")
    for start in range(0, len(x), 256):
        largest = np.abs(x[start : start + 256].astype(np.float64)).max(initial=0.0)
        if x.dtype.kind == "f" and not largest <= 1:  # NaN as well
            what = "holds numbers that are infinite or NaN" if not np.isfinite(largest) else f"holds {largest:g}"
            raise DataError(what, where=where, hint="divide by the largest value that is possible: -1..1 is taken")
    return x


def _resampled(x: np.ndarray, rate: int) -> np.ndarray:
    """Return sounds [n, L] float32 in -1..1 at RATE."""
    sounds = x.astype(np.float32) / np.float32(2**15) if x.dtype == np.int16 else x.astype(np.float32)
    if rate == RATE:
        return sounds
    from scipy.signal import resample_poly

    common = math.gcd(RATE, rate)
    return np.asarray(resample_poly(sounds, RATE // common, rate // common, axis=1).clip(-1, 1), dtype=np.float32)


def _classes(y: np.ndarray, where: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return names of the classes, and the class of each sample as a number."""
    if y.ndim != 1 or y.dtype.kind not in "iuU":
        raise DataError(f"labels have shape {y.shape} and type {y.dtype}", where=where, hint=f"expected: {_FORM}")
    names, labels = np.unique(y, return_inverse=True)
    return tuple(map(str, names)), labels.astype(np.int64)


def _file(data_folder: Path, path: str | None) -> Path:
    file = Path(path).expanduser() if path else Path("recordings", "recordings.npz")
    places = [file, data_folder / file] if path else [data_folder / file]
    if place := next((place for place in places if place.is_file()), None):
        return place
    where = f"source.path={path}" if path else str(data_folder / file)
    hint = f"give source.path=FILE.npz with {_FORM}; source=tones needs no file"
    raise DataError("no such file", where=where, hint=hint)
