"""Entries of the cache: the first run that needs one computes it, and the others read it.

`numerics` lists what decides the bits of a computation; the names of entries depend on it.
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
    """Return the content of a cache entry; where it is absent or damaged, compute and commit it.

    Of processes that want one entry, the first computes it and the others wait.

    Args:
        path: folder of the entry; its name must determine its content to the bit.
        compute: makes the content.
        keep: whether computed content may be stored for others; asked afterwards.

    Raises:
        InterruptionError: a signal ends the wait.
    """
    waiting_for = f"computes the same {path.parent.name.replace('_', ' ')}"
    with storage.cached(
        path, waiting_for=waiting_for, say=log.info, check=signals.check
    ) as is_whole:
        if is_whole:
            record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
            return Entry(storage.read_tensors(path / _TENSORS), record)
        entry = compute()
        if keep():
            with storage.commit_folder(path) as temporary:
                save_tensors(temporary / _TENSORS, entry.tensors)
                storage.write_json(temporary / _RECORD, entry.record)
        return entry


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; `storage.read_tensors` reads it."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, path)


# Their computations enter a run's numbers.
_PACKAGES = ("transformers", "accelerate", "numpy", "scipy", "scikit-learn", "pot", "pandas")


def numerics(device: torch.device) -> dict[str, Any]:
    """Return all facts but settings and data that can change a bit of a run, as plain values.

    The choice of `precision=auto` is another such fact, which a run adds: it depends on the body
    as well.
    """
    facts: dict[str, Any] = {
        "program": program.digest(),
        # The source stdlib_docs is Python's own documentation.
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_build": torch.version.git_version,
    }
    for package in _PACKAGES:
        facts[package] = version_of(package)
    # Sums are cut by the number of threads, and kernels chosen by the processor's instructions.
    facts["threads"] = torch.get_num_threads()
    facts["blas_threads"] = _blas_threads()
    facts["instructions"] = torch.backends.cpu.get_cpu_capability()
    facts["machine"] = platform.machine()
    facts["device"] = device.type
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    return facts


def _blas_threads() -> str:
    """Return how many threads the linear algebra of numpy and scipy may use."""
    # In the order in which OpenBLAS looks for them.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        threads = os.environ.get(variable)
        if threads:
            return threads
    return str(os.cpu_count())


def numerics_key(device: torch.device) -> str:
    """Return a text that differs where a computation on a device may give other bits.

    It is for the names of cache entries.
    """
    return "\n".join(f"{name}={fact}" for name, fact in numerics(device).items())
