"""PSICOV: distances between the residues of a protein from its sequence features; PDNET's files (Adhikari 2020).

Trained on DeepCov's proteins, tested on PSICOV's 150, as NAS-Bench-360 (Tu et al. 2022) does. Dense regression in Angstrom.
The folder has lists of proteins, and for each protein 57 feature maps and a distance map.

Shapes: L residues of a protein, W positions per side of the window that all proteins are placed in, n proteins.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge

from orca_cli import storage
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import MapSamples
from orca_cli.data.published import check_array, entries, fault, find, refuse
from orca_cli.data.splits import split
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import UnsafeError
from orca_cli.interfaces import Reporter, Scale, TaskData

_CHANNELS = 57
_PAD = 5  # positions on every side of a protein
_FARTHEST = 500.0  # Angstrom; beyond it a distance is a fault of the file
_CLIP_TRAIN = 16.0  # Angstrom; larger distances are set to it in training targets
_LARGEST = 100.0  # of the features' absolute values
_NEAREST = 1.0  # Angstrom, smaller distances are set to it
_MAX_BYTES = 256 * 2**20  # of one protein's file
_MAX_LIST_BYTES = 16 * 2**20
_PAIRS = ("ccmpred", "freecon", "potential")  # features of pairs of residues
_COLLECTIONS = ("deepcov", "psicov")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# Row and column of a window in the padded map of L + 10 positions per side, in 0..L + 10 - W.
Offsets = tuple[int, int]
_FIRST = (0, 0)


@dataclass(frozen=True)
class Form:
    """How a distance map becomes a target of W x W positions, `window`, and which window of a long protein is seen.

    `crop` is diagonal, with one offset for rows and columns, or independent.
    """

    window: int
    crop: str
    clip: float  # distances above it are set to it, Angstrom
    padded: float | None  # target outside the protein, Angstrom; None where padding has no target

    def draw(self, length: int, generator: np.random.Generator | None) -> Offsets:
        """Return a window into a protein of L residues; the first one where it fits, or without a generator."""
        slack = length + 2 * _PAD - self.window
        if slack <= 0 or generator is None:
            return _FIRST
        row = int(generator.integers(slack + 1))
        return row, row if self.crop == "diagonal" else int(generator.integers(slack + 1))

    def seen(self, block: np.ndarray, offsets: Offsets, outside: float = 0) -> np.ndarray:
        """Return what a window [..., W, W] sees of a block [..., L, L] and of what is outside it."""
        (row, column), size = offsets, self.window
        around = [(0, 0)] * (block.ndim - 2) + [
            (_PAD, max(_PAD, size - block.shape[-1] - _PAD))
        ] * 2
        return np.pad(block, around, constant_values=outside)[
            ..., row : row + size, column : column + size
        ]

    def target(self, distances: np.ndarray, offsets: Offsets) -> np.ndarray:
        """Return [W, W] float32, NaN where there is no target."""
        outside = np.nan if self.padded is None else self.padded
        return self.seen(np.minimum(distances, np.float32(self.clip)), offsets, outside)


class Proteins(MapSamples):
    """Samples (see interfaces) of n proteins; the target in the cache is the first window of each.

    `collection` is deepcov or psicov. A record has the protein's length, the SHA-256 of its files, and number, sum and sum of
    squares of the known distances in that window.
    """

    def __init__(
        self,
        root: Path,
        collection: str,
        proteins: Sequence[str],
        form: Form,
        cache: Path,
        reporter: Reporter,
    ):
        self.proteins, self._form, self.masked = tuple(proteins), form, form.padded is None
        self._features = [root / collection / "features" / f"{name}.pkl" for name in proteins]
        self._distances = [root / collection / "distance" / f"{name}-cb.npy" for name in proteins]
        super().__init__(
            cache,
            f"psicov-{collection}",
            reporter,
            count=len(proteins),
            shape=(_CHANNELS, form.window, form.window),
            files=[*self._features, *self._distances],
            settings={
                "window": form.window,
                "clip": form.clip,
                "padded": -1.0 if form.padded is None else form.padded,
            },
            facts={"proteins": self.proteins, "form": asdict(form)},
        )

    def read_target(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the distances in the first window, [W, W], and the record; DataError where none is known."""
        distances = read_distances(self._distances[index])
        target = self._form.target(distances, _FIRST)
        known = target[~np.isnan(target)].astype(np.float64)
        refuse(not len(known), "no distance is known", self._distances[index])
        contents = "".join(
            storage.sha256_file(paths[index]) for paths in (self._features, self._distances)
        )
        return target, {
            "length": len(distances),
            "sha256": hashlib.sha256(bytes.fromhex(contents)).hexdigest(),
            "count": len(known),
            "sum": float(known.sum()),
            "squares": float((known**2).sum()),
        }

    def read(
        self, index: int, augment: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the features, the mask of what is protein, and the target of a window that is not the first; else None.

        With `augment`, windows of proteins that do not fit are drawn.
        """
        features, length = read_features(self._features[index]), self.records[index]["length"]
        refuse(
            features.shape[-1] != length,
            f"{features.shape[-1]} residues, not {length}",
            self._features[index],
        )
        offsets = self._form.draw(length, augment)
        inside = self._form.seen(np.ones((length, length), bool), offsets)
        target = (
            self._form.target(read_distances(self._distances[index]), offsets)
            if offsets != _FIRST
            else None
        )
        return self._form.seen(features, offsets), inside, target

    def scale(self) -> Scale:
        """Return mean and deviation of all known targets, one number each."""
        count, total, squares = (
            sum(record[name] for record in self.records) for name in ("count", "sum", "squares")
        )
        mean = total / count
        std = max(squares / count - mean**2, 0.0) ** 0.5 or 1.0
        return Scale(torch.full((1, 1, 1), mean), torch.full((1, 1, 1), std))


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: str | None = None,
    window: Annotated[int, Ge(2 * _PAD + 2)] = 512,
    crop: Literal["diagonal", "independent"] = "diagonal",
    pad_in_loss: bool = False,
    scale_targets: bool = True,
    num_validation: Count = 100,
    split_seed: Seed = 0,
    train_on_validation: bool = False,
) -> TaskData:
    """Return x [n, 57, W, W] and y [n, 1, W, W], distances between C-beta atoms in Angstrom.

    A protein lies at the top left of its window, 5 positions from the border; the rest of x is 0. Where L + 10 > W,
    optimizer steps draw a window; everything else sees the first one. y is NaN outside the protein and where a distance is
    unknown; in training it is 16 at most. Distances are read once, into float32 maps in the cache, 3.6 GB for DeepCov at W =
    512; half precision would be off by up to 0.004 Angstrom at 8 Angstrom, where the error of the task has its threshold.

    One offset for rows and columns keeps a window a map of one stretch of the chain against itself. With pad_in_loss
    training counts positions outside the protein, with target 16, and the model is not told which they are; never in
    validation and test, where no distance is within the error's threshold.
    """
    root, lists = _find_proteins(data_folder, path)
    proteins = [name for name in lists["deepcov"] if name not in set(lists["psicov"])]
    parts = split(
        len(proteins),
        validation=num_validation,
        test=0,
        seed=split_seed,
        keys=("task.num_validation",) * 3,
    )
    chosen = range(len(proteins)) if train_on_validation else parts.train
    whole = Form(window, crop, _FARTHEST, None)
    clipped = Form(window, crop, _CLIP_TRAIN, _CLIP_TRAIN if pad_in_loss else None)
    train = Proteins(
        root, "deepcov", [proteins[i] for i in chosen], clipped, cache_folder, reporter
    )
    return TaskData(
        kind="dense",
        input_shape=(_CHANNELS, window, window),
        num_outputs=1,
        train=train,
        validation=Proteins(
            root, "deepcov", [proteins[i] for i in parts.validation], whole, cache_folder, reporter
        ),
        open_test=lambda: Proteins(root, "psicov", lists["psicov"], whole, cache_folder, reporter),
        target_scale=train.scale() if scale_targets else None,
    )


def read_features(path: Path) -> np.ndarray:
    """Return the features of a protein, [57, L, L] float32.

    Secondary structure (3), profile (22), solvent accessibility and entropy are two channels each: feature of the column's
    residue, then of the row's. Then CCMpred, FreeContact and the statistical potential. NaN becomes 0. The file is a pickle of
    a dict with seq (L letters), ss [3, L], pssm [L, 22], sa [L], entropy [L], ccmpred, freecon and potential [L, L]. DataError
    for another form, and for values beyond 100 or -100.
    """
    stored = unpickle(path, max_bytes=_MAX_BYTES)
    length = len(entries(stored, ["seq"], str(path))[0])
    shapes = {"ss": (3, length), "pssm": (length, 22), "sa": (length,), "entropy": (length,)}
    shapes |= dict.fromkeys(_PAIRS, (length, length))
    features = []
    for name, shape in shapes.items():
        values = check_array(stored.get(name), shape, str(path), what=f"'{name}'").astype(
            np.float32
        )
        values[np.isnan(values)] = 0
        refuse(
            np.abs(values).max(initial=0) > _LARGEST,
            f"'{name}' has values beyond +-{_LARGEST:.0f}",
            path,
        )
        features.append(values.T if name == "pssm" else values)
    residues = np.vstack(features[:4])  # [27, L]
    maps = np.empty((_CHANNELS, length, length), np.float32)
    pairs = 2 * len(residues)
    maps[0:pairs:2], maps[1:pairs:2], maps[pairs:] = (
        residues[:, None, :],
        residues[:, :, None],
        features[4:],
    )
    return maps


def read_distances(path: Path) -> np.ndarray:
    """Return the distances between C-beta atoms, [L, L] float32 in Angstrom, 1 or more; NaN where unknown.

    The diagonal is the mean of its two neighbours in a row, at the ends the one neighbour. The file is an .npy of a pickled
    tuple (L, sequence, map [L, L]). DataError for another form, and for distances above 500 Angstrom.
    """
    stored = unpickle(path, max_bytes=_MAX_BYTES)
    parts = list(stored) if isinstance(stored, tuple | list) or np.shape(stored) == (3,) else []
    if len(parts) != 3 or not isinstance(parts[0], int | np.integer) or parts[0] < 2:
        raise fault("does not hold a tuple of length (2 or more), sequence and map", path)
    length = int(parts[0])
    distances = check_array(parts[2], (length, length), str(path), what="'distances'").astype(
        np.float32
    )
    if np.isinf(distances).any() or np.nanmax(distances, initial=0) > _FARTHEST:
        raise fault(f"holds distances above {_FARTHEST:.0f} Angstrom", path)
    distances = np.maximum(distances, np.float32(_NEAREST))  # NaN stays NaN
    inner = np.arange(1, length - 1)
    distances[inner, inner] = (distances[inner, inner - 1] + distances[inner, inner + 1]) / 2
    distances[0, 0], distances[-1, -1] = distances[0, 1], distances[-1, -2]
    return distances


def _find_proteins(data_folder: Path, path: str | None) -> tuple[Path, dict[str, list[str]]]:
    """Return the folder with the lists, and the first word of every line of each; the files that they name exist.

    The lists are in data_folder/psicov or `path`, or in protein/ below it, as in protein.zip.
    """
    names = [f"{collection}.lst" for collection in _COLLECTIONS]
    id_files = find(
        data_folder, "psicov", names, path, others=[[f"protein/{name}" for name in names]]
    )
    lists: dict[str, list[str]] = {}
    for collection, file in zip(_COLLECTIONS, id_files, strict=True):
        words = re.findall(r"^[^\S\n]*(\S+)", read_text(file, _MAX_LIST_BYTES), re.MULTILINE)
        lists[collection] = list(dict.fromkeys(words))
        if wrong := next((name for name in lists[collection] if not _ID.fullmatch(name)), None):
            raise UnsafeError(
                f"'{wrong[:40]}' is not the id of a protein",
                where=str(file),
                hint="letters, digits, _ . -",
            )
        refuse(not lists[collection], "lists no protein", file)
    root, forms = id_files[0].parent, ("{}/features/{}.pkl", "{}/distance/{}-cb.npy")
    files = [
        form.format(collection, name)
        for collection, ids in lists.items()
        for name in ids
        for form in forms
    ]
    find(root, "psicov", files, str(root), "or take the protein out of its list")
    return root, lists
