"""What decides the last bits of a computation on one machine: builds, threads, instruction set, device."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from orca_cli import __version__
from orca_cli.runs.environment import version_of

# Their computations enter a run's numbers.
_PACKAGES = ("transformers", "accelerate", "numpy", "scipy", "scikit-learn", "pot", "pandas")


def numerics(device: torch.device) -> dict[str, Any]:
    """Return name -> plain value of all that can change a bit of a run and is not one of its settings or data.

    What `precision=auto` comes to is another such fact, which a run adds: it depends on the body as well.
    """
    return {
        "orca": __version__,
        "python": platform.python_version(),  # its documentation is a source
        "torch": torch.__version__,
        "torch_build": torch.version.git_version,
        **{package: version_of(package) for package in _PACKAGES},
        "threads": torch.get_num_threads(),
        # How many threads numpy's and scipy's linear algebra may use.
        "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS")
        or os.environ.get("OMP_NUM_THREADS")
        or str(os.cpu_count()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def numerics_key(device: torch.device) -> str:
    """Return a text that differs where a computation on a device may give other bits; for the names of cache entries."""
    return "\n".join(f"{name}={value}" for name, value in numerics(device).items())
