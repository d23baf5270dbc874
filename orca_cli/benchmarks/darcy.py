"""Darcy flow: from the permeability of a medium to the pressure in it, a map to a map; generated, or read from files.

The distribution is that of the Fourier neural operator's data (Li et al. 2021): a Gaussian field with covariance
proportional to (-Laplace + 9)^-2 and Neumann borders, thresholded at 0 to permeabilities 12 and 3, and
-div(a grad u) = 1 on the unit square with u = 0 on its border. Finite differences of second order on K x K nodes, solved
directly. Those data were also interpolated by splines between cell centres and nodes; that step is left out here, so the
border is exactly 0.

The data themselves, piececonst_r421_N1024_smooth{1,2}.mat (MATLAB 5), hold coeff and sol, [1024, 421, 421]:
permeability and pressure. They take 3 GB unpacked, so one variable is read at a time, and what is kept goes into the cache.

Shapes: K nodes per side, s = (K - 1) / stride + 1 of them kept, n samples, N fields of a file.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge

from orca_cli import signals
from orca_cli.config.ranges import Count, Seed
from orca_cli.data.generated import folder_of
from orca_cli.data.own_data import check_rules, files_rule
from orca_cli.data.published import check_array, fault, file_identity, find, load_arrays
from orca_cli.data.samples import ArraySamples
from orca_cli.data.untrusted import matlab
from orca_cli.exceptions import DataError
from orca_cli.interfaces import Reporter, Scale, TaskData
from orca_cli.seeding import numpy_generator

FILES = (
    "piececonst_r421_N1024_smooth1.mat",
    "piececonst_r421_N1024_smooth2.mat",
)  # training and test
HIGH, LOW = 12.0, 3.0  # permeabilities
_ALPHA, _TAU = 2.0, 3.0  # smoothness and inverse length of the Gaussian field
_EPS = (
    1e-5  # added to deviations, in the units of what they divide, as in the reference's normaliser
)
_VERSION = 1
# What task.size stands for: nodes, stride, and samples per part.
SIZES = {
    "small": (85, 2, {"train": 300, "validation": 50, "test": 50}),
    "paper": (421, 5, {"train": 900, "validation": 100, "test": 100}),
}
_FILE_STRIDE = SIZES["paper"][1]


def load(
    data_folder: Path,
    cache_folder: Path,
    reporter: Reporter,
    origin: Literal["generated", "files"] = "generated",
    path: str | None = None,
    size: Literal["small", "paper"] = "small",
    num_train: Annotated[int, Ge(2)] | None = None,
    num_validation: Count | None = None,
    num_test: Count | None = None,
    train_on_validation: bool = False,
    data_seed: Seed = 0,
) -> TaskData:
    """Return x [n, 3, s, s] = (normalised permeability, coordinate along columns, along rows) and y [n, 1, s, s] = u.

    Permeabilities are normalised per pixel by mean and unbiased deviation + 1e-5 of the training set; u is in physical
    units, and `target_scale` holds its mean and deviation + 1e-5 per pixel. Training and validation are the first samples of
    ..._smooth1.mat in this order, test those of ..._smooth2.mat. The first generated samples do not depend on their number.
    """
    nodes, stride, counts = SIZES[size]
    given = {"train": num_train, "validation": num_validation, "test": num_test}
    counts = counts | {part: count for part, count in given.items() if count is not None}
    if origin == "files":
        files = find(
            data_folder, "darcy", FILES, path, hint="task.origin=generated makes the data instead"
        )
        read = partial(_read, counts, files, cache_folder, reporter)
    else:
        read = partial(_generated, nodes, stride, counts, data_seed, cache_folder, reporter)
    (permeability, u), validation = read("train"), read("validation")
    if train_on_validation:
        permeability, u = map(np.concatenate, zip((permeability, u), validation, strict=True))
    (centre, spread), (mean, std) = _per_pixel(permeability), _per_pixel(u)

    def samples(fields: np.ndarray, u: np.ndarray) -> ArraySamples:
        maps = (fields - centre) / spread
        axis = np.linspace(0, 1, maps.shape[-1], dtype=np.float32)
        grids = (np.broadcast_to(grid, maps.shape) for grid in np.meshgrid(axis, axis))
        return ArraySamples(np.stack([maps, *grids], axis=1).astype(np.float32), u[:, None])

    extent = u.shape[-1]
    return TaskData(
        kind="dense",
        input_shape=(3, extent, extent),
        num_outputs=1,
        train=samples(permeability, u),
        validation=samples(*validation),
        open_test=lambda: samples(*read("test")),
        synthetic=origin == "generated",
        size=size if origin == "generated" else "",
        target_scale=Scale(torch.from_numpy(mean[None]), torch.from_numpy(std[None])),
        note="" if origin == "files" else "generated without the spline step",
    )


def _generated(
    nodes: int,
    stride: int,
    counts: dict[str, int],
    data_seed: int,
    cache_folder: Path,
    reporter: Reporter,
    part: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return permeability and u of a part, [n, s, s] float32; all parts are generated, unless the cache has them."""

    def make(folder: Path) -> None:
        with reporter.track("generating darcy", sum(counts.values())) as advance:
            for part, count in counts.items():
                fields, solutions = [], []
                for index in range(count):
                    signals.check()
                    high = (
                        gaussian_field(nodes, numpy_generator(data_seed, "darcy", part, index)) >= 0
                    )
                    solution = solve(np.where(high, HIGH, LOW))
                    fields.append(high[::stride, ::stride])
                    solutions.append(solution[::stride, ::stride].astype(np.float32))
                    advance()
                np.save(folder / f"{part}_high.npy", np.stack(fields))
                np.save(folder / f"{part}_u.npy", np.stack(solutions))

    parameters: dict[str, int | float | str] = {
        "nodes": nodes,
        "stride": stride,
        "data_seed": data_seed,
    }
    parameters |= {"version": _VERSION, **{f"num_{name}": count for name, count in counts.items()}}
    high, u = load_arrays(
        folder_of(cache_folder, "darcy", parameters, make, reporter), [f"{part}_high", f"{part}_u"]
    )
    return np.where(high, np.float32(HIGH), np.float32(LOW)), u


def _read(
    counts: dict[str, int], files: list[Path], cache_folder: Path, reporter: Reporter, part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return permeability and u of a part of the files, [n, s, s] float32; every fifth point is in the cache."""
    file = files[part == "test"]

    def make(folder: Path) -> None:
        shape: tuple[int | str, ...] = ("N", "s", "s")
        for name, variable in (("permeability", "coeff"), ("pressure", "sol")):
            what = f"'{variable}'"
            values = check_array(
                matlab.read(file, [variable])[variable], ("N", "K", "K"), str(file), what
            )
            if (values.shape[1] - 1) % _FILE_STRIDE:
                nodes = f"{what} has {values.shape[1]} nodes a side"
                raise fault(f"{nodes}; expected 421, or another multiple of 5 plus 1", file)
            kept = np.ascontiguousarray(values[:, ::_FILE_STRIDE, ::_FILE_STRIDE], dtype=np.float32)
            del values  # 1.5 GB, before the next variable is read
            np.save(
                folder / f"{name}.npy", check_array(kept, shape, str(file), what, holds="finite")
            )
            shape = kept.shape

    parameters = {"version": _VERSION, **file_identity(file), "stride": _FILE_STRIDE}
    folder = folder_of(cache_folder, "darcy_files", parameters, make, reporter)
    permeability, u = load_arrays(folder, ["permeability", "pressure"], mapped=True)
    start = counts["train"] if part == "validation" else 0
    stop = start + counts[part]
    if stop > len(u):
        what = f"{file.name} holds {len(u)} samples, {stop} requested"
        raise DataError(what, where=f"task.num_{part}", hint="lower it, or task.num_train")
    return np.array(permeability[start:stop]), np.array(u[start:stop])


def gaussian_field(nodes: int, generator: np.random.Generator) -> np.ndarray:
    """Return one draw [K, K] of the Gaussian field, by an orthonormal inverse cosine transform of its coefficients.

    The coefficient of cosines of i and j half-waves has a variance proportional to (pi^2 (i^2 + j^2) + 9)^-2. The constant has
    none, so every draw has mean 0.
    """
    from scipy.fft import idctn

    k = np.arange(nodes)
    frequency = np.pi**2 * (k[:, None] ** 2 + k**2)
    coefficients = nodes * _TAU ** (_ALPHA - 1) * (frequency + _TAU**2) ** (-_ALPHA / 2)
    coefficients = coefficients * generator.standard_normal((nodes, nodes))
    coefficients[0, 0] = 0
    return idctn(coefficients, norm="ortho")


def solve(permeability: np.ndarray) -> np.ndarray:
    """Return u [K, K] with -div(a grad u) = 1 and u = 0 on the border; a [K, K] counts between nodes by its arithmetic mean."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import splu

    a = permeability
    nodes = len(a)
    inner = nodes - 2
    down = (a[1:, 1:-1] + a[:-1, 1:-1]) / 2  # [K-1, K-2], faces between rows
    right = (a[1:-1, 1:] + a[1:-1, :-1]) / 2  # [K-2, K-1], faces between columns
    middle = (down[1:] + down[:-1] + right[:, 1:] + right[:, :-1]).ravel()
    below = -down[1:-1].ravel()
    beside = -right[:, 1:].copy()
    beside[:, -1] = 0  # the last node of a row has no neighbour in the next row
    beside = beside.ravel()[:-1]
    matrix = diags_array(
        [middle, below, below, beside, beside], offsets=[0, inner, -inner, 1, -1], format="csc"
    ) * float((nodes - 1) ** 2)
    # The matrix is symmetric and positive definite: no pivoting, and an ordering for symmetric patterns.
    factors = splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    u = np.zeros((nodes, nodes))
    u[1:-1, 1:-1] = factors.solve(np.ones(inner * inner)).reshape(inner, inner)
    return u


def _per_pixel(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation [s, s] float32 over the samples, the deviation unbiased and positive."""
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64, ddof=1) + _EPS
    return mean.astype(np.float32), std.astype(np.float32)


def check_settings(origin: str, path: str | None) -> None:
    """Refuse contradictory settings before anything is read; arguments as those of `load`."""
    check_rules(files_rule(origin, path))
