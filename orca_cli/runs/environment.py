"""What a run was made with: versions, machine, command; read without importing the packages."""

from __future__ import annotations

import operator
import os
import platform
import re
import sys
from importlib import metadata
from typing import Any

from orca_cli.exceptions import UnavailableError

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*\(?([<>=!~0-9.,\s]*)")
_SIGNS = {">=": operator.ge, "<": operator.lt}  # those of pyproject.toml
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


def unmet_requirements() -> list[str]:
    """Return what this machine lacks of what the program's own package requires, such as "numpy 1.26.4 (needed: <3,>=2.0)"."""
    try:
        own = metadata.distribution("orca-transfer")
    except metadata.PackageNotFoundError:  # run from a source tree
        return []
    needed = [_REQUIREMENT.match(line) for line in own.requires or [] if "extra ==" not in line]
    pairs = [(found[1], version_of(found[1]), found[2]) for found in needed if found]
    pairs.append(("python", platform.python_version(), own.metadata["Requires-Python"] or ""))
    return [
        f"{name} {version or 'is missing'} (needed: {limits or 'any version'})"
        for name, version, limits in pairs
        if version is None or not _within(version, limits)
    ]


def check_requirements() -> None:
    """Refuse a machine whose packages are not of the versions that the program is made for, without importing them.

    Raises:
        UnavailableError: a package or Python itself is missing, too old or too new.
    """
    unmet = unmet_requirements()
    if unmet:
        raise UnavailableError(
            f"{', '.join(unmet)}: not what this program works with",
            where="installation",
            hint="pip install --upgrade orca-transfer, in an environment of its own",
        )


def _within(version: str, limits: str) -> bool:
    """Compare by numbers alone: builds before a release, such as 2.6.0a0, count as it."""
    for limit in filter(None, limits.replace(" ", "").split(",")):
        sign, bound = limit.rstrip("0123456789."), _numbers(limit.lstrip("<>=!~"))
        have = _numbers(version)
        length = max(len(have), len(bound))
        have, bound = (numbers + (0,) * (length - len(numbers)) for numbers in (have, bound))
        if not _SIGNS[sign](have, bound):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


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
