"""Darcy flow: from the permeability of a medium to the pressure in it, a map to a map; generated.

The distribution is that of the Fourier neural operator's data (Li et al. 2021): a Gaussian field with covariance
proportional to (-Laplace + 9)^-2 and Neumann borders, thresholded at 0 to permeabilities 12 and 3, and
-div(a grad u) = 1 on the unit square with u = 0 on its border. Finite differences of second order on K x K nodes, solved
directly. Those data were also interpolated by splines between cell centres and nodes; that step is left out here, so the
border is exactly 0.

Shapes: K nodes per side, s = (K - 1) / stride + 1 of them kept, n samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from orca_cli import signals
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Kind, Reporter, Scale, TaskData
from orca_cli.seeding import numpy_generator
from orca_cli.tasks.generated import folder_of
from orca_cli.tasks.samples import ArraySamples

HIGH, LOW = 12.0, 3.0  # permeabilities
_ALPHA, _TAU = 2.0, 3.0  # smoothness and inverse length of the Gaussian field
_EPS = 1e-5  # added to deviations, in the units of what they divide, as in the reference's normaliser
_VERSION = 1


def load(
    cache_folder: Path,
    reporter: Reporter,
    kind: Kind = "dense",
    nodes: int = 421,
    stride: int = 5,
    num_train: int = 900,
    num_validation: int = 100,
    num_test: int = 100,
    data_seed: int = 0,
) -> TaskData:
    """Return x [n, 3, s, s] = (normalised permeability, coordinate along columns, along rows) and y [n, 1, s, s] = u.

    Permeabilities are normalised per pixel by mean and deviation of the training set; u is in physical units, and
    `target_scale` holds its mean and deviation per pixel.

    Args:
        cache_folder: where the fields are kept.
        reporter: is told of the generation.
        kind: "dense", nothing else.
        nodes: K, 5 or more; 421 in the paper.
        stride: every so many nodes are kept; divides K - 1.
        num_train: training samples, 2 or more; the first samples do not depend on their number.
        num_validation: validation samples.
        num_test: test samples.
        data_seed: seed of the generator; not the seed of the run.

    Raises:
        ConfigError: a parameter is out of range.
    """
    sizes = {"train": num_train, "validation": num_validation, "test": num_test}
    parameters = {"nodes": nodes, "stride": stride, "data_seed": data_seed, **{f"num_{k}": v for k, v in sizes.items()}}
    _check(kind, parameters)

    def make(folder: Path) -> None:
        with reporter.track("generating darcy", sum(sizes.values())) as advance:
            for part, size in sizes.items():
                fields, solutions = [], []
                for index in range(size):
                    signals.check()
                    high = gaussian_field(nodes, numpy_generator(data_seed, "darcy", part, index)) >= 0
                    solution = solve(np.where(high, HIGH, LOW))
                    fields.append(high[::stride, ::stride])
                    solutions.append(solution[::stride, ::stride].astype(np.float32))
                    advance()
                np.save(folder / f"{part}_high.npy", np.stack(fields))
                np.save(folder / f"{part}_u.npy", np.stack(solutions))

    folder = folder_of(cache_folder, "darcy", {"version": _VERSION, **parameters}, make, reporter)
    high, u = _read(folder, "train")
    permeability = _permeability(high)
    centre, spread = _per_pixel(permeability)
    mean, std = _per_pixel(u)

    def samples(part: str) -> ArraySamples:
        part_high, part_u = _read(folder, part)
        return ArraySamples(_inputs((_permeability(part_high) - centre) / spread), part_u[:, None])

    extent = (nodes - 1) // stride + 1
    return TaskData(
        kind="dense",
        input_shape=(3, extent, extent),
        num_outputs=1,
        train=samples("train"),
        validation=samples("validation"),
        open_test=lambda: samples("test"),
        synthetic=True,
        target_scale=Scale(torch.from_numpy(mean[None]), torch.from_numpy(std[None])),
        note=f"generated Darcy flow on {nodes} x {nodes} nodes, one in {stride} per axis kept, without the spline step",
    )


def gaussian_field(nodes: int, generator: np.random.Generator) -> np.ndarray:
    """Return one draw [K, K] of the Gaussian field, by an orthonormal inverse cosine transform of its coefficients."""
    from scipy.fft import idctn

    k = np.arange(nodes)
    frequency = np.pi**2 * (k[:, None] ** 2 + k**2)
    coefficients = nodes * _TAU ** (_ALPHA - 1) * (frequency + _TAU**2) ** (-_ALPHA / 2)
    coefficients = coefficients * generator.standard_normal((nodes, nodes))
    coefficients[0, 0] = 0
    return idctn(coefficients, norm="ortho")


def solve(permeability: np.ndarray) -> np.ndarray:
    """Return u [K, K] with -div(a grad u) = 1 and u = 0 on the border.

    Args:
        permeability: a [K, K] at the nodes, positive; between two nodes their arithmetic mean counts.
    """
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
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    u = np.zeros((nodes, nodes))
    u[1:-1, 1:-1] = factors.solve(np.ones(inner * inner)).reshape(inner, inner)
    return u


def _read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where the permeability is high [n, s, s] bool, and u [n, s, s] float32."""
    high, u = (np.load(folder / f"{part}_{name}.npy", allow_pickle=False) for name in ("high", "u"))
    return high, u


def _permeability(high: np.ndarray) -> np.ndarray:
    return np.where(high, np.float32(HIGH), np.float32(LOW))


def _per_pixel(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation [s, s] float32 over the samples, the deviation unbiased and positive."""
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64, ddof=1) + _EPS
    return mean.astype(np.float32), std.astype(np.float32)


def _inputs(normalised: np.ndarray) -> np.ndarray:
    axis = np.linspace(0, 1, normalised.shape[-1], dtype=np.float32)
    columns, rows = np.meshgrid(axis, axis)
    grids = (np.broadcast_to(grid, normalised.shape) for grid in (columns, rows))
    return np.stack([normalised, *grids], axis=1).astype(np.float32)


def _check(kind: str, values: dict[str, int]) -> None:
    if kind != "dense":
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint="darcy has kind=dense")
    least = {"nodes": 5, "num_train": 2, "data_seed": 0}
    for name, value in values.items():
        lowest = least.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ConfigError(
                f"{value!r} is out of range", where=f"task.{name}", hint=f"allowed: integers from {lowest} on"
            )
    if (values["nodes"] - 1) % values["stride"]:
        raise ConfigError(
            f"{values['stride']} does not divide task.nodes - 1 = {values['nodes'] - 1}",
            where="task.stride",
            hint="421 nodes go with stride 5, 85 with 2",
        )
