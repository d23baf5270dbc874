"""The Fourier neural operator's Darcy flow files (Li et al. 2021): piececonst_r421_N1024_smooth{1,2}.mat.

Each holds coeff and sol, [1024, 421, 421]: permeability and pressure at 421 x 421 points. They take 3 GB unpacked, so one
variable is read at a time, and what is kept of it goes into the cache.

Shapes: N fields in a file, K points per side, s = (K - 1) / stride + 1 of them kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Reporter
from orca_cli.tasks.shared.generated import folder_of
from orca_cli.tasks.shared.published import check_array, file_identity, load_arrays
from orca_cli.untrusted import matlab

NAMES = ("piececonst_r421_N1024_smooth1.mat", "piececonst_r421_N1024_smooth2.mat")  # training and test
_VARIABLES = {"coeff": "permeability", "sol": "pressure"}
_VERSION = 1


def read_fields(
    path: Path, nodes: int | None, stride: int, cache_folder: Path, reporter: Reporter
) -> tuple[np.ndarray, np.ndarray]:
    """Return permeability and pressure of a file, both [N, s, s] float32, as memory maps of the cache.

    Args:
        path: .mat file, MATLAB 5 or HDF5 (7.3).
        nodes: K that is expected; None takes the file's.
        stride: of the points that are kept, per axis.
        cache_folder: where the kept points are stored; named by the file's path, size and modification time.
        reporter: shows progress.

    Raises:
        ConfigError: the file has another K, or the stride does not divide K - 1.
        DataError: a variable is missing, not a stack of square maps, or not finite.
    """
    parameters = {"version": _VERSION, **file_identity(path), "stride": stride}

    def make(folder: Path) -> None:
        kept: dict[str, np.ndarray] = {}
        with reporter.track(f"reading {path.name}", len(_VARIABLES)) as advance:
            for variable in _VARIABLES:
                kept[variable] = _thinned(path, variable, stride)
                advance()
        if kept["coeff"].shape != kept["sol"].shape:
            raise DataError(f"coeff is {kept['coeff'].shape}, sol is {kept['sol'].shape}", where=str(path))
        for variable, name in _VARIABLES.items():
            np.save(folder / f"{name}.npy", kept[variable])

    folder = folder_of(cache_folder, "darcy_files", parameters, make, reporter)
    permeability, pressure = load_arrays(folder, list(_VARIABLES.values()), mapped=True)
    held = (permeability.shape[-1] - 1) * stride + 1
    if nodes not in (None, held):
        what = f"{nodes} nodes requested, {path.name} has {held}"
        raise ConfigError(what, where="task.nodes", hint="use task.nodes=null")
    return permeability, pressure


def _thinned(path: Path, variable: str, stride: int) -> np.ndarray:
    """Return the kept points of one variable, [N, s, s] float32; the rest is dropped."""
    values = check_array(matlab.read(path, [variable])[variable], ("N", "K", "K"), str(path), what=f"'{variable}'")
    nodes = values.shape[1]
    if (nodes - 1) % stride or nodes <= stride:
        what = f"{stride} does not divide {nodes} - 1"
        raise ConfigError(what, where="task.stride", hint="421 nodes go with stride 5")
    kept = np.ascontiguousarray(values[:, ::stride, ::stride], dtype=np.float32)
    if not np.isfinite(kept).all():
        what = f"'{variable}' has values that are NaN or infinite"
        raise DataError(what, where=str(path), hint="`orca data get darcy` fetches it again")
    return kept
