"""The environment of a run: versions, machine, command; read without importing the packages."""

import functools
import os
import platform
import sys
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from orca_cli.exceptions import UnavailableError
from orca_cli.runs import program

# Their versions are recorded in env.json of every run.
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


@functools.cache
def version_of(package: str) -> str | None:
    """Return a package's installed version; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> list[Requirement]:
    """Return the program's requirements without extras; none for a source tree."""
    try:
        requirement_lines = metadata.requires("orca-transfer") or []
    except metadata.PackageNotFoundError:
        return []
    required = []
    for requirement in map(Requirement, requirement_lines):
        # The marker of an extra's requirement is false if no extra is named.
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            required.append(requirement)
    return required


def unmet_requirements() -> list[str]:
    """Return the program's requirements that this machine does not meet.

    Each is a text such as "numpy 1.26.4 (needed: <3,>=2.0)".
    """
    required = requirements()
    if not required:
        return []
    # The limits of Python are in a separate field; they are checked like those of a package.
    python_limits = metadata.metadata("orca-transfer")["Requires-Python"]
    python = Requirement(f"python{python_limits or ''}")
    unmet = []
    for requirement in [*required, python]:
        name = requirement.name
        limits = requirement.specifier
        installed = platform.python_version() if name == "python" else version_of(name)
        if installed is None or not limits.contains(installed, prereleases=True):
            unmet.append(f"{name} {installed or 'is missing'} (needed: {limits or 'any version'})")
    return unmet


def check_requirements() -> None:
    """Raise UnavailableError if a package, or Python itself, is missing, too old or too new.

    No package is imported.
    """
    unmet = ", ".join(unmet_requirements())
    if unmet:
        raise UnavailableError(
            f"the program's requirements are not met: {unmet}",
            where="installation",
            hint="run `pip install --upgrade orca-transfer` in a separate environment",
        )


def environment() -> dict[str, Any]:
    """Return the environment record of a run, JSON-able."""
    return {
        "schema": 1,
        "program": program.record(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": {package: version_of(package) for package in PACKAGES},
        "command": sys.argv,
        "folder": os.getcwd(),
    }
