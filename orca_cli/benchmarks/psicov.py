"""PSICOV: distances between the residues of a protein from its sequence features.

The files come from PDNET (Adhikari 2020). As in NAS-Bench-360 (Tu et al. 2022), the proteins of
DeepCov are for training and the 150 proteins of PSICOV for the test. The task is dense regression
in Angstrom. The folder has lists of proteins, and for each protein 57 feature maps and a distance
map.

Shapes: L residues of a protein, W positions per side of the window in which each protein is placed,
n proteins.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from orca_cli import storage
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import MapSamples
from orca_cli.data.published import check_array, entries, fault, find
from orca_cli.data.splits import split
from orca_cli.data.untrusted.first_bytes import read_text
from orca_cli.data.untrusted.pickle import unpickle
from orca_cli.exceptions import UnsafeError
from orca_cli.interfaces import Reporter, Scale, TaskData

_CHANNELS = 57
_RESIDUE_CHANNELS = 54  # two for each of 27 residue features; the other channels are for pairs
_PAD = 5  # positions on every side of a protein
_FARTHEST = 500.0  # Angstrom; a larger distance is an error in the file
_CLIP_TRAIN = 16.0  # Angstrom; upper bound on distances in training targets
_NEAREST = 1.0  # Angstrom; lower bound on distances
_LARGEST = 100.0  # limit on the absolute values of features
_MAX_BYTES = 2**28  # limit on the file of one protein
_MAX_LIST_BYTES = 2**24
_PAIRS = ("ccmpred", "freecon", "potential")  # features of pairs of residues
_COLLECTIONS = ("deepcov", "psicov")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FIRST_WORD = re.compile(r"^[^\S\n]*(\S+)", re.MULTILINE)  # the first word of a line
# Row and column at which a window begins in the padded map of L + 10 positions per side, both in
# 0..L + 10 - W.
Offsets = tuple[int, int]
_FIRST_WINDOW = (0, 0)


@dataclass(frozen=True)
class Form:
    """The way from a distance map to a target, and the window of a long protein.

    A target has W = `window` positions per side. `crop` is "diagonal", with the same offset for
    rows and columns, or "independent", with two offsets.
    """

    window: int
    crop: str
    clip: float  # upper bound on distances, Angstrom
    padded: float | None  # target outside the protein, Angstrom; None if padding has no target

    def draw(self, length: int, generator: np.random.Generator | None) -> Offsets:
        """Return the offsets of a random window of a protein with L residues.

        If the protein fits into the window, or without a generator, it is the first window.
        """
        slack = length + 2 * _PAD - self.window
        if slack <= 0 or generator is None:
            return _FIRST_WINDOW
        row = int(generator.integers(slack + 1))
        if self.crop == "diagonal":
            return row, row
        return row, int(generator.integers(slack + 1))

    def cut(self, block: np.ndarray, offsets: Offsets, outside: float = 0) -> np.ndarray:
        """Return a window [..., W, W] of a block [..., L, L], with `outside` around the block."""
        length = block.shape[-1]
        # Short proteins are padded up to the end of the window.
        padding_after = max(_PAD, self.window - length - _PAD)
        sides = (_PAD, padding_after)
        other_axes = [(0, 0) for _ in block.shape[:-2]]
        # [..., P, P] with P at least L + 10
        padded = np.pad(block, [*other_axes, sides, sides], constant_values=outside)
        row, column = offsets
        return padded[..., row : row + self.window, column : column + self.window]

    def target(self, distances: np.ndarray, offsets: Offsets) -> np.ndarray:
        """Return targets [W, W] float32, with NaN at positions without a target."""
        clipped = np.minimum(distances, np.float32(self.clip))
        outside = np.nan if self.padded is None else self.padded
        return self.cut(clipped, offsets, outside)


class Proteins(MapSamples):
    """Samples (see interfaces) of n proteins; the cache has the targets of their first windows.

    `collection` is deepcov or psicov. The record of a protein has its length, the SHA-256 of its
    files, and number, sum and sum of squares of the known distances in the first window.
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
        self.proteins = tuple(proteins)
        self.masked = form.padded is None
        self._form = form
        folder = root / collection
        self._features = [folder / "features" / f"{name}.pkl" for name in proteins]
        self._distances = [folder / "distance" / f"{name}-cb.npy" for name in proteins]
        super().__init__(
            cache,
            f"psicov-{collection}",
            reporter,
            count=len(proteins),
            shape=(_CHANNELS, form.window, form.window),
            files=[*self._features, *self._distances],
            # Without `crop`, since the cache has first windows, which do not depend on it.
            settings={
                "window": form.window,
                "clip": form.clip,
                "padded": -1.0 if form.padded is None else form.padded,
            },
            facts={"proteins": self.proteins, "form": asdict(form)},
        )

    def read_target(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the distances in the first window, [W, W], and the record.

        Raises DataError if none of the distances is known.
        """
        distances = read_distances(self._distances[index])
        target = self._form.target(distances, _FIRST_WINDOW)
        # In float64, because the sums are over up to 250,000 distances.
        is_known = ~np.isnan(target)
        known_distances = target[is_known].astype(np.float64)
        if not len(known_distances):
            raise fault("contains no known distance", self._distances[index])
        features_digest = storage.sha256_file(self._features[index])
        distances_digest = storage.sha256_file(self._distances[index])
        contents = bytes.fromhex(features_digest + distances_digest)
        squares = known_distances**2
        record = {
            "length": len(distances),
            "sha256": hashlib.sha256(contents).hexdigest(),
            "count": len(known_distances),
            "sum": float(known_distances.sum()),
            "squares": float(squares.sum()),
        }
        return target, record

    def read(
        self, index: int, augment: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the features in a window, the mask of the protein in the window, and the target.

        The target is None for the first window, whose target is in the cache. With `augment`, the
        window of a protein that does not fit into it is random.
        """
        length = self.records[index]["length"]
        features = read_features(self._features[index])  # [57, L, L]
        num_residues = features.shape[-1]
        if num_residues != length:
            message = f"has {num_residues} residues, expected {length}"
            raise fault(message, self._features[index])
        offsets = self._form.draw(length, augment)
        # [W, W]: features, mask and target are cut from the same window.
        is_protein = self._form.cut(np.ones((length, length), bool), offsets)
        target = None  # the target in the cache
        if offsets != _FIRST_WINDOW:
            target = self._form.target(read_distances(self._distances[index]), offsets)
        return self._form.cut(features, offsets), is_protein, target

    def scale(self) -> Scale:
        """Return mean and standard deviation of all known targets, one number each."""
        count = sum(record["count"] for record in self.records)
        mean = sum(record["sum"] for record in self.records) / count
        mean_square = sum(record["squares"] for record in self.records) / count
        variance = mean_square - mean**2
        # Rounding may make the variance negative; constant targets get the deviation 1.
        std = max(variance, 0.0) ** 0.5 or 1.0
        shape = (1, 1, 1)
        return Scale(mean=np.full(shape, mean, np.float32), std=np.full(shape, std, np.float32))


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    path: Annotated[
        str | None,
        "folder with deepcov.lst, psicov.lst, deepcov/ and psicov/; "
        "null: folder psicov of the data folder (paths.data)",
    ] = None,
    window: Annotated[
        int,
        Ge(2 * _PAD + 2),
        "number of positions per side of a sample's square maps: 12 or more; proteins with more "
        "residues than this number minus 10 are cropped",
    ] = 512,
    crop: Annotated[
        Literal["diagonal", "independent"],
        "crop of a protein that is too long. diagonal: the same random offset for rows and "
        "columns; independent: two random offsets",
    ] = "diagonal",
    pad_in_loss: Annotated[
        bool,
        "true: positions outside a protein count in the training loss, with target 16 Angstrom",
    ] = False,
    scale_targets: Annotated[
        bool,
        "true: the model's outputs are scaled by mean and standard deviation of the training "
        "targets",
    ] = True,
    num_validation: Annotated[Count, "number of DeepCov proteins for validation: 1 or more"] = 100,
    split_seed: Annotated[
        Seed, "seed of the draw of validation proteins, 0..2147483647; not the seed of the run"
    ] = 0,
    train_on_validation: Annotated[
        bool, "true: train on the validation proteins as well; if so, also set train.select=last"
    ] = False,
) -> TaskData:
    """Return features x [n, 57, W, W] and y [n, 1, W, W], distances in Angstrom.

    Distances are between C-beta atoms. A protein is at the top left of its window, 5 positions from
    the border, and x is 0 around it. If L + 10 > W, optimizer steps draw a window; validation, test
    and stage 2 use the first window. y is NaN outside the protein and for unknown distances; in
    training it is at most 16. Distances are written once to the cache, as float32 maps that take
    3.6 GB for DeepCov at W = 512. Half precision would be inaccurate by up to 0.004 Angstrom at 8
    Angstrom, the threshold of the task's error.

    With the same offset for rows and columns, a window compares one stretch of the chain with
    itself. With pad_in_loss, positions outside the protein have the target 16 in training, and the
    model does not know these positions. They never count in validation and test, since no distance
    outside the protein is within the error's threshold.
    """
    root, lists = _find_proteins(data_folder, path)
    # No protein of the test split is in training or validation.
    test_names = set(lists["psicov"])
    train_names = [name for name in lists["deepcov"] if name not in test_names]
    rows = split(
        len(train_names),
        validation=num_validation,
        test=0,
        seed=split_seed,
        keys=("task.num_validation",) * 3,
    )
    validation_names = [train_names[row] for row in rows.validation]
    if not train_on_validation:
        train_names = [train_names[row] for row in rows.train]
    clipped_form = Form(
        window=window,
        crop=crop,
        clip=_CLIP_TRAIN,
        padded=_CLIP_TRAIN if pad_in_loss else None,
    )
    # Validation and test use distances without the upper bound of training.
    full_form = Form(window=window, crop=crop, clip=_FARTHEST, padded=None)
    samples = partial(Proteins, root, cache=cache_folder, reporter=reporter)
    train = samples("deepcov", train_names, clipped_form)
    return TaskData(
        kind="dense",
        input_shape=(_CHANNELS, window, window),
        num_outputs=1,
        train=train,
        validation=samples("deepcov", validation_names, full_form),
        open_test=lambda: samples("psicov", lists["psicov"], full_form),
        target_scale=train.scale() if scale_targets else None,
    )


def _find_proteins(data_folder: Path, path: str | None) -> tuple[Path, dict[str, list[str]]]:
    """Return the folder with the lists, and the proteins of each list.

    The lists are in data_folder/psicov or `path`, or, as in protein.zip, in protein/ below it.
    Raises DataError if a file of a protein does not exist.
    """
    list_names = [f"{collection}.lst" for collection in _COLLECTIONS]
    names_in_archive = [f"protein/{name}" for name in list_names]
    list_files = find(data_folder, "psicov", list_names, path, others=[names_in_archive])
    root = list_files[0].parent
    lists: dict[str, list[str]] = {}
    files = []  # files of all proteins
    for collection, list_file in zip(_COLLECTIONS, list_files, strict=True):
        lists[collection] = _read_list(list_file)
        for protein in lists[collection]:
            files.append(f"{collection}/features/{protein}.pkl")
            files.append(f"{collection}/distance/{protein}-cb.npy")
    find(root, "psicov", files, str(root), hint="or remove the protein from its list")
    return root, lists


def _read_list(file: Path) -> list[str]:
    """Return the distinct ids of a list, which are the first words of its lines.

    Raises UnsafeError for a word that is not an id and could lead out of the folder.
    """
    proteins = _FIRST_WORD.findall(read_text(file, _MAX_LIST_BYTES))
    for protein in proteins:
        if not _ID.fullmatch(protein):
            raise UnsafeError(
                f"'{protein[:40]}' is not the id of a protein",
                where=str(file),
                hint="use ids of letters, digits, _, . and -",
            )
    if not proteins:
        raise fault("lists no proteins", file)
    return list(dict.fromkeys(proteins))


def read_features(path: Path) -> np.ndarray:
    """Return the features of a protein, [57, L, L] float32.

    The features of residues are secondary structure (3), profile (22), solvent accessibility and
    entropy. Each of them has two channels: the feature of the column's residue, followed by that of
    the row's residue. The features of pairs are CCMpred, FreeContact and the statistical potential.
    NaN becomes 0. The file is a pickle of a dict with seq (L letters), ss [3, L], pssm [L, 22], sa
    [L], entropy [L], and ccmpred, freecon and potential [L, L]. Raises DataError for another form,
    and for values beyond 100 or -100.
    """
    stored = unpickle(path, max_bytes=_MAX_BYTES)
    (sequence,) = entries(stored, ["seq"], str(path))
    length = len(sequence)
    shapes = {"ss": (3, length), "pssm": (length, 22), "sa": (length,), "entropy": (length,)}
    shapes |= dict.fromkeys(_PAIRS, (length, length))
    features = {}
    for name, shape in shapes.items():
        features[name] = _checked_feature(stored.get(name), shape, path, name)
    # Features of single residues, [27, L]: a row for each feature, a column for each residue.
    residues = np.vstack([features["ss"], features["pssm"].T, features["sa"], features["entropy"]])
    maps = np.empty((_CHANNELS, length, length), np.float32)
    maps[0:_RESIDUE_CHANNELS:2] = residues[:, None, :]  # features of the column's residue
    maps[1:_RESIDUE_CHANNELS:2] = residues[:, :, None]  # features of the row's residue
    maps[_RESIDUE_CHANNELS:] = [features[name] for name in _PAIRS]
    return maps


def _checked_feature(stored: object, shape: Sequence[int], path: Path, name: str) -> np.ndarray:
    """Return a feature of this shape as float32, with 0 in place of NaN."""
    checked = check_array(stored, shape, str(path), f"'{name}'")
    feature = checked.astype(np.float32)
    feature[np.isnan(feature)] = 0
    largest = np.abs(feature).max(initial=0)
    if largest > _LARGEST:
        raise fault(f"'{name}' has values above {_LARGEST:.0f} or below -{_LARGEST:.0f}", path)
    return feature


def read_distances(path: Path) -> np.ndarray:
    """Return the distances between C-beta atoms, [L, L] float32 in Angstrom, at least 1.

    Unknown distances are NaN. A value on the diagonal is the mean of its two neighbours in the row;
    at the ends, it is the only neighbour. The file is an .npy file of a pickled tuple (L, sequence,
    map [L, L]). Raises DataError for another form, and for distances above 500 Angstrom.
    """
    stored = unpickle(path, max_bytes=_MAX_BYTES)
    members = []
    # NumPy stores a tuple as an array of objects.
    if isinstance(stored, tuple | list) or np.shape(stored) == (3,):
        members = list(stored)
    is_triple = len(members) == 3 and isinstance(members[0], int | np.integer)
    if not is_triple or members[0] < 2:
        raise fault("must contain a tuple (length, sequence, map) with length at least 2", path)
    length = int(members[0])
    distances = check_array(members[2], (length, length), str(path), "'distances'")
    distances = distances.astype(np.float32)
    has_infinite = np.isinf(distances).any()
    if has_infinite or np.nanmax(distances, initial=0) > _FARTHEST:
        raise fault(f"contains distances above {_FARTHEST:.0f} Angstrom", path)
    distances = np.maximum(distances, np.float32(_NEAREST))  # NaN stays NaN
    # As in the published code, which does not use the diagonal of the files.
    inner = np.arange(1, length - 1)
    before = distances[inner, inner - 1]
    after = distances[inner, inner + 1]
    distances[inner, inner] = (before + after) / 2
    distances[0, 0] = distances[0, 1]
    distances[-1, -1] = distances[-1, -2]
    return distances
