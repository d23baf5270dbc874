"""Entries of the cache: the first run that needs an entry computes it, other runs read it.

`numerics` lists everything that decides the bits of a computation; the names of entries depend on
this list.
"""

import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from orca_cli import signals, storage
from orca_cli.runs import program
from orca_cli.runs.environment import version_of
from orca_cli.terminal import log

_TENSORS = "tensors.safetensors"
_RECORD = "record.json"


@dataclass(frozen=True)
class Entry:
    """Content of a cache entry.

    Args:
        tensors: named tensors, on the CPU.
        record: plain values.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any] = field(default_factory=dict)


def cached(
    path: Path, compute: Callable[[], Entry], keep: Callable[[], bool] = lambda: True
) -> Entry:
    """Return the content of a cache entry; compute and commit it if it is absent or damaged.

    If several processes need the same entry, the first computes it and the others wait.

    Args:
        path: folder of the entry; its name must determine its content to the bit.
        compute: makes the content.
        keep: called after `compute`; returns whether its content may be stored for other runs.

    Raises:
        InterruptionError: a signal ends the wait.
    """
    waiting_for = "computes the same " + path.parent.name.replace("_", " ")
    with storage.cached(
        path, waiting_for=waiting_for, say=log.info, check=signals.check
    ) as is_whole:
        if is_whole:
            record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
            return Entry(storage.read_tensors(path / _TENSORS), record)
        entry = compute()
        # This run uses the content either way; `keep` only decides whether other runs may use it.
        if keep():
            # The manifest of a committed folder lets `storage.cached` notice a damaged entry later.
            with storage.commit_folder(path) as temporary:
                save_tensors(temporary / _TENSORS, entry.tensors)
                storage.write_json(temporary / _RECORD, entry.record)
        return entry


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; `storage.read_tensors` reads it."""
    contiguous = {}
    for name, tensor in tensors.items():
        on_cpu = tensor.detach().cpu()
        # safetensors refuses any other tensor.
        contiguous[name] = on_cpu.contiguous()
    save_file(contiguous, path)


# Packages on whose computations a run's numbers depend.
_PACKAGES = ("transformers", "accelerate", "numpy", "scipy", "scikit-learn", "pot", "pandas")


def numerics(device: torch.device) -> dict[str, Any]:
    """Return everything apart from settings and data that can change a bit of a run.

    A run adds the precision that `precision=auto` chose, since that depends on the body as well.
    """
    facts: dict[str, Any] = {
        "program": program.digest(),
        # Its version decides bits, and also data: the source stdlib_docs is its documentation.
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Two builds of the same version may use different kernels.
        "torch_build": torch.version.git_version,
    }
    for package in _PACKAGES:
        facts[package] = version_of(package)
    # The number of threads decides how sums are split; the instructions decide which kernels run.
    facts["threads"] = torch.get_num_threads()
    facts["blas_threads"] = _blas_threads()
    facts["instructions"] = torch.backends.cpu.get_cpu_capability()
    facts["machine"] = platform.machine()
    facts["device"] = device.type
    # Two models of GPU run different kernels, so "cuda" alone would say too little.
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    return facts


def _blas_threads() -> str:
    """Return how many threads the linear algebra of numpy and scipy may use."""
    # In the order in which OpenBLAS reads them.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        threads = os.environ.get(variable)
        if threads:
            return threads
    # Without either variable, OpenBLAS starts as many threads as there are cores.
    return str(os.cpu_count())


def numerics_key(device: torch.device) -> str:
    """Return `numerics` as a text for the names of cache entries.

    Two machines with the same text compute the same bits on this device.
    """
    return "\n".join(f"{name}={fact}" for name, fact in numerics(device).items())
