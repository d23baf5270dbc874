"""PDNET's files: lists of proteins, and for each protein 57 feature maps, a distance map, and the window for both.

Shapes: L residues, W positions per side of the window.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.data.published import check_array, entries, find, find_first
from orca_cli.data.untrusted import arrays
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import DataError, UnsafeError

CHANNELS = 57
PAD = 5  # positions on every side of a protein
FARTHEST = 500.0  # Angstrom; beyond it a distance is a fault of the file
_LARGEST = 100.0  # of the features' absolute values
_NEAREST = 1.0  # Angstrom, smaller distances are set to it
_MAX_BYTES = 256 * 2**20  # of one protein's file
_MAX_LIST_BYTES = 16 * 2**20
_PAIRS = ("ccmpred", "freecon", "potential")  # features of pairs of residues
_LISTS = {"deepcov": "deepcov.lst", "psicov": "psicov.lst"}
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Window:
    """Where a protein lies in its window of W = size: residue i in row i + 5 - row_offset, column i + 5 - column_offset.

    The offsets are those of the window in the padded map of L + 10 positions per side, in 0..L + 10 - W.
    """

    size: int
    row_offset: int = 0
    column_offset: int = 0

    def place(self, block: np.ndarray, canvas: np.ndarray) -> None:
        """Write what is seen of a block [..., L, L] into a canvas [..., W, W]."""
        length = block.shape[-1]
        rows, canvas_rows = self._spans(length, self.row_offset)
        columns, canvas_columns = self._spans(length, self.column_offset)
        canvas[..., canvas_rows, canvas_columns] = block[..., rows, columns]

    def _spans(self, length: int, offset: int) -> tuple[slice, slice]:
        start, stop = max(0, offset - PAD), min(length, offset - PAD + self.size)
        shift = PAD - offset
        return slice(start, stop), slice(start + shift, stop + shift)


def read_features(path: Path) -> np.ndarray:
    """Return the features of a protein, [57, L, L] float32.

    Secondary structure (3), profile (22), solvent accessibility and entropy are two channels each: feature of the column's
    residue, then of the row's. Then CCMpred, FreeContact and the statistical potential. NaN becomes 0.

    The file is a pickle of a dict with seq (L letters), ss [3, L], pssm [L, 22], sa [L], entropy [L], ccmpred, freecon and
    potential [L, L].

    Raises:
        DataError: a feature is missing, has another shape, or lies beyond +-100.
        UnsafeError: the pickle contains anything but arrays.
    """
    stored = unpickle(path, max_bytes=_MAX_BYTES)
    length = len(entries(stored, ["seq"], str(path))[0])
    shapes = {"ss": (3, length), "pssm": (length, 22), "sa": (length,), "entropy": (length,)}
    shapes |= dict.fromkeys(_PAIRS, (length, length))
    features = {name: _feature(stored.get(name), shape, name, path) for name, shape in shapes.items()}
    residues = np.vstack([features["ss"], features["pssm"].T, features["sa"], features["entropy"]])  # [27, L]
    maps = np.empty((CHANNELS, length, length), np.float32)
    pairs = 2 * len(residues)
    maps[0:pairs:2] = residues[:, None, :]
    maps[1:pairs:2] = residues[:, :, None]
    maps[pairs:] = np.stack([features[name] for name in _PAIRS])
    return maps


def read_distances(path: Path) -> np.ndarray:
    """Return the distances between C-beta atoms, [L, L] float32 in Angstrom, 1 or more; NaN where unknown.

    The diagonal is the mean of its two neighbours in a row, at the ends the one neighbour. The file is an .npy of a pickled
    tuple (L, sequence, map [L, L]).

    Raises:
        DataError: not such a tuple, another shape, fewer than 2 residues, or a distance that is infinite or above 500.
        UnsafeError: the pickle contains anything but arrays.
    """
    stored = arrays.load_object(path, max_bytes=_MAX_BYTES)
    parts = list(stored) if isinstance(stored, tuple | list) or np.shape(stored) == (3,) else []
    if len(parts) != 3 or not isinstance(parts[0], int | np.integer):
        raise DataError("does not hold a tuple of length, sequence and map", where=str(path))
    length = int(parts[0])
    if length < 2:
        raise DataError(f"a protein of {length} residues", where=str(path), hint="take it out of the list")
    distances = check_array(parts[2], (length, length), str(path), what="'distances'").astype(np.float32)
    if np.isinf(distances).any() or np.nanmax(distances, initial=0) > FARTHEST:
        raise DataError(f"holds distances above {FARTHEST:.0f} Angstrom", where=str(path))
    distances = np.maximum(distances, np.float32(_NEAREST))  # NaN stays NaN
    inner = np.arange(1, length - 1)
    distances[inner, inner] = (distances[inner, inner - 1] + distances[inner, inner + 1]) / 2
    distances[0, 0], distances[-1, -1] = distances[0, 1], distances[-1, -2]
    return distances


def _feature(values: object, shape: tuple[int, ...], name: str, path: Path) -> np.ndarray:
    """Return a feature as float32, checked, with 0 for NaN."""
    numbers = check_array(values, shape, str(path), what=f"'{name}'").astype(np.float32)
    np.nan_to_num(numbers, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)
    if numbers.size and np.abs(numbers).max() > _LARGEST:
        raise DataError(f"'{name}' has values beyond +-{_LARGEST:.0f}", where=str(path), hint="the file is damaged")
    return numbers


def find_proteins(data_folder: Path, path: str | None) -> tuple[Path, dict[str, list[str]]]:
    """Return the folder with the lists, and their ids by collection; all files that they name exist.

    The lists are in data_folder/psicov or `path`, or in protein/ below it.

    Raises:
        UnsafeError: an id leads out of the folder.
    """
    names = list(_LISTS.values())
    # The second form is that of protein.zip.
    id_files = find_first(data_folder, "psicov", [names, [f"protein/{name}" for name in names]], path)
    root = id_files[0].parent
    lists = {collection: _ids(file) for collection, file in zip(_LISTS, id_files, strict=True)}
    forms = ("{}/features/{}.pkl", "{}/distance/{}-cb.npy")
    files = [form.format(collection, name) for collection, ids in lists.items() for name in ids for form in forms]
    find(root, "psicov", files, str(root), hint="or take the protein out of its list")
    for file in files:
        if not (root / file).is_file():
            raise DataError("is not a file", where=str(root / file), hint="put the protein's file there, or unlist it")
    return root, lists


def _ids(path: Path) -> list[str]:
    """Return the first word of every line, without those that are repeated."""
    lines = read_text(path, _MAX_LIST_BYTES).splitlines()
    ids = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
    for name in ids:
        if not _ID.fullmatch(name):
            what = f"'{name[:40]}' is not the id of a protein"
            raise UnsafeError(what, where=str(path), hint="letters, digits, _ . -")
    if not ids:
        raise DataError("lists no protein", where=str(path), hint="one id per line")
    return ids
