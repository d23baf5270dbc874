"""Darcy flow: from a map of the permeability of a medium to a map of the pressure in it.

The maps are generated, or read from files. They have the distribution of the Fourier neural
operator's data (Li et al. 2021): a Gaussian field with covariance proportional to
(-Laplace + 9)^-2 and Neumann borders is thresholded at 0, which gives permeabilities a of 12 and 3.
The pressure u solves -div(a grad u) = 1 on the unit square with u = 0 on its border, by finite
differences of second order on K x K nodes and a direct solver. The published data were also
interpolated by splines between cell centres and nodes. Generated maps were not, so their border is
exactly 0.

The published files, piececonst_r421_N1024_smooth{1,2}.mat (MATLAB 5), contain the variables coeff
(permeability) and sol (pressure), each [1024, 421, 421]. Unpacked they take 3 GB, so the reader
reads one variable at a time and writes every fifth point of its maps to the cache.

Shapes: K nodes per side, of which s = (K - 1) / stride + 1 are kept; n samples; N fields of a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from orca_cli import signals
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.published import check_array, fault, file_identity, find, load_arrays
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import matlab
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Reporter, Scale, TaskData
from orca_cli.seeding import numpy_generator


@dataclass(frozen=True)
class Size:
    """The numbers behind a choice of task.size, for generated maps."""

    nodes: int  # K
    stride: int  # distance from one kept node to the next
    counts: Mapping[str, int]  # split -> number of samples


@dataclass(frozen=True)
class _Maps:
    """The samples of one split."""

    permeability: np.ndarray  # [n, s, s] float32
    pressure: np.ndarray  # [n, s, s] float32


# The file of training and the file of test.
FILES = ("piececonst_r421_N1024_smooth1.mat", "piececonst_r421_N1024_smooth2.mat")
# The two permeabilities.
HIGH = 12.0
LOW = 3.0
# Smoothness and inverse length of the Gaussian field.
_ALPHA = 2.0
_TAU = 3.0
# Added to standard deviations, in the units of the values, as in the reference's normaliser.
_EPS = 1e-5
_VERSION = 1
SIZES = {
    "small": Size(nodes=85, stride=2, counts={"train": 300, "validation": 50, "test": 50}),
    "paper": Size(nodes=421, stride=5, counts={"train": 900, "validation": 100, "test": 100}),
}
_FILE_STRIDE = 5
_WITHOUT_FILES = "or set task.origin=generated, which needs no files"


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    origin: Annotated[
        Literal["generated", "files"],
        "generated: the program generates the maps; "
        "files: the program reads the maps from the two .mat files that `orca data list darcy` "
        "names",
    ] = "generated",
    path: Annotated[
        str | None, "folder with the .mat files; null: folder darcy of the data folder (paths.data)"
    ] = None,
    size: Annotated[
        Literal["small", "paper"],
        "size of the grid and of the training, validation and test splits. small: every second of "
        "85 nodes per side, 300 + 50 + 50 samples; paper: every fifth of 421 nodes per side, "
        "900 + 100 + 100 samples",
    ] = "small",
    num_train: Annotated[
        Annotated[int, Ge(2)] | None,
        "number of training samples: 2 or more; null: as task.size says",
    ] = None,
    num_validation: Annotated[
        Count | None, "number of validation samples: 1 or more; null: as task.size says"
    ] = None,
    num_test: Annotated[
        Count | None, "number of test samples: 1 or more; null: as task.size says"
    ] = None,
    train_on_validation: Annotated[
        bool,
        "true: train on the validation samples as well (1,000 samples in all with "
        "task.size=paper); if so, also set train.select=last",
    ] = False,
    data_seed: Annotated[Seed, "seed of the generator, 0..2147483647; not the seed of the run"] = 0,
) -> TaskData:
    """Return permeabilities x [n, 3, s, s] and pressures y [n, 1, s, s].

    The channels of x are the normalised permeability and the coordinates along columns and along
    rows. Permeabilities are normalised per pixel by the mean and the unbiased deviation + 1e-5 of
    the training split. Pressures are in physical units, and `target_scale` has their mean and
    deviation + 1e-5 per pixel. Training uses the first samples of ..._smooth1.mat, validation the
    next ones, and test the first samples of ..._smooth2.mat. The values of the generated samples do
    not depend on their number.
    """
    typed_counts = {"train": num_train, "validation": num_validation, "test": num_test}
    counts = dict(SIZES[size].counts)
    counts |= {split: count for split, count in typed_counts.items() if count is not None}
    is_generated = origin == "generated"
    files: list[Path] = []
    if not is_generated:
        files = find(data_folder, "darcy", FILES, path, hint=_WITHOUT_FILES)

    # Every split checks the cache, which may have been emptied between training and test.
    def read(split: str) -> _Maps:
        if is_generated:
            chosen_size = replace(SIZES[size], counts=counts)
            folder = _generated_folder(chosen_size, data_seed, cache_folder, reporter)
            return _generated_maps(folder, split)
        train_file, test_file = files
        file = test_file if split == "test" else train_file
        folder = _unpacked_folder(file, cache_folder, reporter)
        return _unpacked_maps(folder, file.name, counts, split)

    learned = read("train")
    validation = read("validation")
    if train_on_validation:
        learned = _joined(learned, validation)
    pressure_mean, pressure_std = _per_pixel(learned.pressure)  # [s, s] each
    permeability_scale = _per_pixel(learned.permeability)
    target_scale = Scale(mean=pressure_mean[None], std=pressure_std[None])
    side = learned.pressure.shape[-1]
    return TaskData(
        kind="dense",
        input_shape=(3, side, side),
        num_outputs=1,
        train=_samples(learned, *permeability_scale),
        validation=_samples(validation, *permeability_scale),
        open_test=lambda: _samples(read("test"), *permeability_scale),
        synthetic=is_generated,
        size=size if is_generated else "",
        target_scale=target_scale,
        note="generated maps lack the published maps' spline interpolation" if is_generated else "",
    )


def _joined(learned: _Maps, validation: _Maps) -> _Maps:
    """Return the samples of both splits together."""
    return _Maps(
        permeability=np.concatenate([learned.permeability, validation.permeability]),
        pressure=np.concatenate([learned.pressure, validation.pressure]),
    )


def _per_pixel(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and unbiased, positive deviation, [s, s] float32 each, of maps [n, s, s]."""
    # In float64, because float32 would round the sums over 900 samples.
    mean = maps.mean(axis=0, dtype=np.float64)
    std = maps.std(axis=0, dtype=np.float64, ddof=1) + _EPS
    return mean.astype(np.float32), std.astype(np.float32)


def _samples(maps: _Maps, mean: np.ndarray, std: np.ndarray) -> ArraySamples:
    """Return samples with permeabilities that are normalised by mean and deviation [s, s]."""
    normalised = (maps.permeability - mean) / std  # [n, s, s]
    # Coordinates from 0 to 1 along both axes, the same for all samples.
    axis = np.linspace(0, 1, normalised.shape[-1], dtype=np.float32)
    along_columns, along_rows = np.meshgrid(axis, axis)  # [s, s] each
    x = np.stack(
        [
            normalised,
            np.broadcast_to(along_columns, normalised.shape),
            np.broadcast_to(along_rows, normalised.shape),
        ],
        axis=1,
    )  # [n, 3, s, s]
    return ArraySamples(x.astype(np.float32), maps.pressure[:, None])


def _generated_folder(size: Size, data_seed: int, cache_folder: Path, reporter: Reporter) -> Path:
    """Return the folder of all splits; generate them unless the cache has them."""
    # Counts are parameters too, because an array in the cache contains all samples of a split.
    count_parameters = {f"num_{split}": count for split, count in size.counts.items()}
    return folder_of(
        cache_folder,
        "darcy",
        parameters={
            "nodes": size.nodes,
            "stride": size.stride,
            "data_seed": data_seed,
            "version": _VERSION,
            **count_parameters,
        },
        make=partial(_generate, size, data_seed, reporter),
        reporter=reporter,
    )


def _generated_maps(folder: Path, split: str) -> _Maps:
    """Return the maps of a split from the folder of generated maps."""
    is_high, pressure = load_arrays(folder, [f"{split}_high", f"{split}_u"])
    # The cache has booleans, since they take a quarter of the size of float32.
    permeability = np.where(is_high, np.float32(HIGH), np.float32(LOW))
    return _Maps(permeability=permeability, pressure=pressure)


def _generate(size: Size, data_seed: int, reporter: Reporter, folder: Path) -> None:
    """Write SPLIT_high.npy (whether the permeability is high) and SPLIT_u.npy (the pressure).

    Both are [n, s, s], bool and float32. Each split has such a pair of files.
    """
    stride = size.stride
    num_samples = sum(size.counts.values())
    with reporter.track("generating darcy", num_samples) as advance:
        for split, count in size.counts.items():
            coarse_fields = []
            coarse_pressures = []
            for index in range(count):
                signals.check()
                # One generator per sample, so that a sample does not depend on their number.
                generator = numpy_generator(data_seed, "darcy", split, index)
                is_high = gaussian_field(size.nodes, generator) >= 0
                pressure = solve(np.where(is_high, HIGH, LOW))
                coarse_pressure = pressure[::stride, ::stride]
                coarse_fields.append(is_high[::stride, ::stride])
                # A copy, since a view would keep the whole solution in memory, 1.4 MB per sample.
                coarse_pressures.append(coarse_pressure.astype(np.float32))
                advance()
            np.save(folder / f"{split}_high.npy", np.stack(coarse_fields))
            np.save(folder / f"{split}_u.npy", np.stack(coarse_pressures))


def _unpacked_folder(file: Path, cache_folder: Path, reporter: Reporter) -> Path:
    """Return the folder in the cache with every fifth point of all maps of a file."""
    return folder_of(
        cache_folder,
        "darcy_files",
        parameters={"version": _VERSION, **file_identity(file), "stride": _FILE_STRIDE},
        make=partial(_unpack, file),
        reporter=reporter,
    )


def _unpacked_maps(folder: Path, file_name: str, counts: Mapping[str, int], split: str) -> _Maps:
    """Return the maps of a split from the folder of its file; DataError if they are too few."""
    permeability, pressure = load_arrays(folder, ["permeability", "pressure"], mapped=True)
    # Validation follows training in the same file.
    start = counts["train"] if split == "validation" else 0
    stop = start + counts[split]
    if stop > len(pressure):
        raise DataError(
            f"needs {stop} samples of '{file_name}', which has {len(pressure)}",
            where=f"task.num_{split}",
            hint="lower this setting or task.num_train",
        )
    # Copies of the mapped arrays, [n, s, s], since they are normalised as a whole.
    return _Maps(
        permeability=np.array(permeability[start:stop]),
        pressure=np.array(pressure[start:stop]),
    )


def _unpack(file: Path, folder: Path) -> None:
    """Write every fifth point of a file to permeability.npy and pressure.npy, [N, s, s] float32."""
    permeability = _read_variable(file, "coeff", ("N", "s", "s"))
    np.save(folder / "permeability.npy", permeability)
    # The pressures need the same shape as the permeabilities.
    pressure = _read_variable(file, "sol", permeability.shape)
    np.save(folder / "pressure.npy", pressure)


def _read_variable(file: Path, variable: str, shape: Sequence[int | str]) -> np.ndarray:
    """Return every fifth row and column of the maps in a variable, [N, s, s] float32.

    Raises DataError unless the maps are finite and have this shape. The whole variable takes 1.5 GB
    of memory, which is free again when this function returns.
    """
    quoted = f"'{variable}'"
    stored = matlab.read(file, [variable])[variable]
    maps = check_array(stored, ("N", "K", "K"), str(file), quoted)
    nodes = maps.shape[1]
    if (nodes - 1) % _FILE_STRIDE:
        raise fault(
            f"{quoted} has {nodes} nodes per side, expected 421 or another multiple of 5 plus 1",
            file,
        )
    coarse = np.ascontiguousarray(maps[:, ::_FILE_STRIDE, ::_FILE_STRIDE], dtype=np.float32)
    return check_array(coarse, shape, str(file), quoted, holds="finite")


def gaussian_field(nodes: int, generator: np.random.Generator) -> np.ndarray:
    """Return one draw [K, K] of the Gaussian field.

    It is the orthonormal inverse cosine transform of independent coefficients. The coefficient of i
    and j half-waves has a variance proportional to (pi^2 (i^2 + j^2) + 9)^-2. The constant
    coefficient is 0, so every draw has the mean 0.
    """
    from scipy.fft import idctn

    squares = np.arange(nodes) ** 2  # squared numbers of half-waves
    frequency = np.pi**2 * (squares[:, None] + squares)  # [K, K]
    deviation = nodes * _TAU ** (_ALPHA - 1) * (frequency + _TAU**2) ** (-_ALPHA / 2)
    coefficients = deviation * generator.standard_normal((nodes, nodes))
    coefficients[0, 0] = 0  # the constant coefficient
    return idctn(coefficients, norm="ortho")


def solve(permeability: np.ndarray) -> np.ndarray:
    """Return u [K, K] with -div(a grad u) = 1 and u = 0 on the border.

    Between two nodes, the permeability a [K, K] is their arithmetic mean.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    a = permeability
    nodes = len(a)
    inner = nodes - 2  # nodes per side that are not on the border; their pressures are unknown
    # Permeability of the faces between an inner node and the next node, below and to the right.
    inner_columns = a[:, 1:-1]
    inner_rows = a[1:-1]
    down = (inner_columns[1:] + inner_columns[:-1]) / 2  # [K-1, K-2]
    right = (inner_rows[:, 1:] + inner_rows[:, :-1]) / 2  # [K-2, K-1]
    # The matrix has a row for each inner node: the diagonal has the sum over the node's four faces,
    # and the column of each neighbour has minus the face between them.
    diagonal = down[1:] + down[:-1]
    diagonal = diagonal + right[:, 1:] + right[:, :-1]
    below = -down[1:-1]  # border nodes are known, so their faces are left out
    below = below.ravel()
    beside = -right[:, 1:]
    beside[:, -1] = 0  # the last node of a row has no neighbour in the next row
    beside = beside.ravel()[:-1]
    # Nodes are numbered row by row, so the number of the node below is larger by `inner`.
    stencil = diags_array(
        [diagonal.ravel(), below, below, beside, beside],
        offsets=[0, inner, -inner, 1, -1],
        format="csc",
    )
    matrix = stencil * float((nodes - 1) ** 2)  # divided by the square of the nodes' distance
    # The matrix is symmetric and positive definite, so the solver needs no pivoting and can use an
    # ordering for symmetric patterns.
    factors = splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    solution = factors.solve(np.ones(inner * inner))
    u = np.zeros((nodes, nodes))  # the border stays 0
    u[1:-1, 1:-1] = solution.reshape(inner, inner)
    return u


def check_settings(origin: str, path: str | None) -> None:
    """Refuse contradictory settings before any data are read; arguments as in `load`."""
    if path is not None and origin != "files":
        raise ConfigError(
            f"does not apply to task.origin={origin}",
            where="task.path",
            hint="remove it, or set task.origin=files",
        )
