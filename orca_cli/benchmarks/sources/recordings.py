"""The user's own labelled recordings as a source for audio bodies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from orca_cli import storage
from orca_cli.benchmarks.sources.balance import draw, facts_digest, find_file
from orca_cli.data.untrusted.arrays import read_arrays
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Examples, SourceData

_MAX_BYTES = 2**30
_SHORTEST = 400  # values: what the input layers of audio bodies need
_FORM = "x [n, L] at 16,000 values a second: int16, or real numbers in -1..1; y [n]: whole numbers or texts"


def load(size: Annotated[int, Ge(4)] | None, seed: int, data_folder: Path, path: str | None = None) -> SourceData:
    """Return the sounds of an .npz file with x [n, L] and y [n], in -1..1 at 16,000 values a second.

    Args:
        size: balanced over the classes; None for all.
        path: the file, from the working folder or else from `data_folder`; None is recordings/recordings.npz there.

    Raises:
        DataError: the file is missing, damaged, has another form, or fewer than two classes have two recordings.
        UnsafeError: reading it would execute code, or it holds more than 1 GiB.
    """
    hint = f"give source.path=FILE.npz with {_FORM}; source=tones needs no file"
    place = find_file(data_folder, "recordings", ["recordings.npz"], path, hint)

    def read() -> Examples:
        arrays = read_arrays(place, ["x", "y"], max_bytes=_MAX_BYTES)
        x, y = arrays["x"], arrays["y"]
        is_label, is_sound = y.ndim == 1 and y.dtype.kind in "iuU", x.dtype.kind == "f" or x.dtype == np.int16
        if not is_label or not is_sound or x.ndim != 2 or len(x) != len(y) or x.shape[1] < _SHORTEST:
            what = f"x is {x.dtype} {x.shape}, y is {y.dtype} {y.shape}"
            raise DataError(what, where=str(place), hint=f"expected: {_FORM}, with L of {_SHORTEST} or more")
        if x.dtype.kind == "f" and not -1 <= x.min(initial=0) <= x.max(initial=0) <= 1:  # NaN as well
            what = "holds numbers beyond -1..1, or NaN"
            raise DataError(what, where=f"{place}[x]", hint="divide by the largest value that is possible")
        names, labels = np.unique(y, return_inverse=True)
        labels = labels.astype(np.int64)
        chosen = draw(labels, size, seed)
        sounds = x[chosen].astype(np.float32)  # only what is drawn, for memory
        if x.dtype == np.int16:
            sounds /= np.float32(2**15)
        return Examples(sounds, labels[chosen], tuple(map(str, names)))

    return SourceData("audio", facts_digest("recordings", storage.sha256_file(place), size, seed), read)
