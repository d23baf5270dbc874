"""What a run was made with: versions, machine, command; read without importing the packages."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

PACKAGES = (
    "orca-transfer",
    "torch",
    "transformers",
    "accelerate",
    "safetensors",
    "hydra-core",
    "omegaconf",
    "pot",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "rich",
)


def versions() -> dict[str, str | None]:
    """Return package -> installed version, None where it is absent."""
    return {package: version_of(package) for package in PACKAGES}


def version_of(package: str) -> str | None:
    """Return a package's installed version, None where it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Return the environment record of a run, JSON-able."""
    return {
        "schema": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": versions(),
        "command": sys.argv,
        "folder": os.getcwd(),
    }
