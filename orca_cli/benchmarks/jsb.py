"""JSB Chorales (Boulanger-Lewandowski et al. 2012): the next frame of a piece of music from all frames before it.

One file, JSB_Chorales.mat, with traindata, validdata and testdata: 229, 76 and 77 pieces, each [frames, 88] of 0 and 1, the
keys of a piano that sound. Dense, with 88 labels at every frame: input frames 0..T-2, target frames 1..T-1.

Shapes: n pieces, T frames of a piece, L length of the input.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Interval

from orca_cli.data.published import check_array, fault, find, note, refuse
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import matlab
from orca_cli.interfaces import TaskData

_KEYS = 88
_MOST_FRAMES = 100_000  # of a piece: a damaged file must not make an array of any size


def load(
    data_folder: Path,
    path: str | None = None,
    length: Annotated[int, Interval(ge=1, le=_MOST_FRAMES)] | None = None,
    mask_padding: bool = True,
    causal: bool = True,
    train_on_validation: bool = False,
) -> TaskData:
    """Return x [n, 88, L] and y [n, 88, L] of 0 and 1, y one frame later than x and NaN after a piece's end.

    L is `length`, or else one less than the frames of the longest piece of all splits, so that the test pieces are read with
    the others. Without `causal` a bidirectional body sees frame t + 1, which is the target of frame t.
    """
    (file,) = find(data_folder, "jsb", ["JSB_Chorales.mat"], path)
    train, validation = (_pieces(file, f"{part}data") for part in ("train", "valid"))
    others = [] if length else _pieces(file, "testdata")
    longest = max(map(len, [*train, *validation, *others])) - 1
    extent = length or longest
    return TaskData(
        kind="dense",
        input_shape=(_KEYS, extent),
        num_outputs=_KEYS,
        train=_samples(
            [*train, *validation] if train_on_validation else train, extent, mask_padding
        ),
        validation=_samples(validation, extent, mask_padding),
        open_test=lambda: _samples(_pieces(file, "testdata"), extent, mask_padding),
        causal=causal,
        note=note(
            "longer pieces are cut" if longest > extent else "",
            "" if causal else "warning: not causal, so every output sees its own target",
        ),
    )


def _pieces(file: Path, part: str) -> list[np.ndarray]:
    """Return the pieces of one split, each [T, 88] uint8 of 0 and 1."""
    cells = np.asarray(matlab.read(file, [part])[part])
    where = f"{file}[{part}]"
    refuse(
        cells.dtype != object or not cells.size,
        f"{cells.dtype} {cells.shape}; expected a row of cells",
        where,
    )
    pieces = []
    for index, cell in enumerate(cells.ravel()):
        piece = check_array(cell, ("frames", _KEYS), where, f"piece {index}", holds="binary")
        if not 2 <= len(piece) <= _MOST_FRAMES:
            raise fault(
                f"piece {index} has {len(piece)} frames, expected 2 to {_MOST_FRAMES}", where
            )
        pieces.append(piece.astype(np.uint8))
    return pieces


def _samples(pieces: list[np.ndarray], extent: int, mask: bool) -> ArraySamples:
    x = np.zeros((len(pieces), _KEYS, extent), np.uint8)
    y = np.full((len(pieces), _KEYS, extent), np.nan, np.float32)
    valid = np.zeros((len(pieces), extent), bool)
    for row, piece in enumerate(pieces):
        steps = min(len(piece) - 1, extent)
        x[row, :, :steps] = piece[:steps].T
        y[row, :, :steps] = piece[1 : steps + 1].T
        valid[row, :steps] = True
    return ArraySamples(x, y, valid if mask else None)
