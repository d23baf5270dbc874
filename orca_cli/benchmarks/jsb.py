"""JSB Chorales (Boulanger-Lewandowski et al. 2012): the next frame of a piece of music.

The frame is predicted from all frames before it. The file JSB_Chorales.mat has the variables
traindata, validdata and testdata with 229, 76 and 77 pieces. A piece is [frames, 88] of 0 and 1,
where 1 marks a sounding key of the piano. The task is dense, with 88 labels at every frame: frames
0..T-2 are inputs, frames 1..T-1 are targets.

Shapes: n pieces, T frames of a piece, L length of the input.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Interval

from orca_cli.data.published import check_array, fault, find
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import matlab
from orca_cli.interfaces import TaskData

_KEYS = 88
# Limit on the frames of a piece, since a damaged file could otherwise ask for an array of any size.
_MOST_FRAMES = 100_000


def load(
    data_folder: Path,
    path: Annotated[
        str | None, "folder with JSB_Chorales.mat; null: folder jsb of the data folder (paths.data)"
    ] = None,
    length: Annotated[
        Annotated[int, Interval(ge=1, le=_MOST_FRAMES)] | None,
        "number of frames of the input: 1..100000; longer pieces are cut. "
        "null: the number of frames that the longest piece needs (159)",
    ] = None,
    mask_padding: Annotated[bool, "true: the model knows which frames are padding"] = True,
    causal: Annotated[
        bool,
        "false: as in the published code, outputs see later frames, and therefore their own "
        "targets, so the model does not forecast",
    ] = True,
    train_on_validation: Annotated[
        bool, "true: train on the validation pieces as well; if so, also set train.select=last"
    ] = False,
) -> TaskData:
    """Return x [n, 88, L] and y [n, 88, L] of 0 and 1.

    y is one frame later than x, and NaN after the end of a piece. L is `length`. If `length` is
    None, L is the number of frames of the longest piece in all splits, minus one; the test pieces
    are read for this number only. Without `causal`, a bidirectional body sees frame t + 1, which is
    the target of frame t.
    """
    (file,) = find(data_folder, "jsb", ["JSB_Chorales.mat"], path)
    train = _read_pieces(file, "traindata")
    validation = _read_pieces(file, "validdata")
    pieces = [*train, *validation]
    # The longest piece may be a test piece; only the lengths of the test pieces are used.
    if length is None:
        pieces += _read_pieces(file, "testdata")
    longest = max(len(piece) for piece in pieces) - 1  # the last frame is a target only
    extent = length or longest
    notes = []
    if longest > extent:
        notes.append("pieces with more than task.length frames are cut")
    if not causal:
        notes.append("warning: the task is not causal, so every output sees its own target")
    learned = train
    if train_on_validation:
        learned = [*train, *validation]
    return TaskData(
        kind="dense",
        input_shape=(_KEYS, extent),
        num_outputs=_KEYS,
        train=_samples(learned, extent, mask_padding),
        validation=_samples(validation, extent, mask_padding),
        open_test=lambda: _samples(_read_pieces(file, "testdata"), extent, mask_padding),
        causal=causal,
        note="; ".join(notes),
    )


def _read_pieces(file: Path, variable: str) -> list[np.ndarray]:
    """Return the pieces of one split, each [T, 88] uint8 of 0 and 1."""
    where = f"{file}[{variable}]"
    cells = np.asarray(matlab.read(file, [variable])[variable])  # [1, n] of objects
    if cells.dtype != object or not cells.size:
        raise fault(
            f"has type {cells.dtype} and shape {cells.shape}, expected a row of MATLAB cells", where
        )
    pieces = []
    for index, cell in enumerate(cells.ravel()):
        piece = check_array(cell, ("frames", _KEYS), where, f"piece {index}", holds="binary")
        # The first frame is not a target, so a piece needs a second frame.
        if not 2 <= len(piece) <= _MOST_FRAMES:
            raise fault(
                f"piece {index} has {len(piece)} frames, expected 2 to {_MOST_FRAMES}", where
            )
        pieces.append(piece.astype(np.uint8))
    return pieces


def _samples(pieces: list[np.ndarray], extent: int, mask: bool) -> ArraySamples:
    """Return pieces as inputs and targets of L = `extent` frames; `mask` marks the padding."""
    # Inputs are bytes until they are batched. Targets are float32, because NaN means "no target".
    x = np.zeros((len(pieces), _KEYS, extent), np.uint8)
    y = np.full((len(pieces), _KEYS, extent), np.nan, np.float32)
    valid = np.zeros((len(pieces), extent), bool)
    for row, piece in enumerate(pieces):
        # The last frame has no successor, and a longer piece is cut.
        steps = min(len(piece) - 1, extent)
        # [T, 88] in the file, [88, L] for the model; the target of a frame is the next one.
        x[row, :, :steps] = piece[:steps].T
        y[row, :, :steps] = piece[1 : steps + 1].T
        valid[row, :steps] = True
    return ArraySamples(x, y, valid if mask else None)
