"""What several runs share is computed once, by the first of them; and what decides the bits of a computation."""

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

_TENSORS, _RECORD = "tensors.safetensors", "record.json"


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
    """Return what a cache entry holds; where it is absent or damaged, compute and commit it.

    Of processes that want one entry, the first computes it and the others wait; InterruptionError where a signal ends the wait.

    Args:
        path: folder of the entry; its name must determine its content to the bit.
        compute: makes the content.
        keep: whether computed content may be stored for others; asked afterwards.
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
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path)


# Their computations enter a run's numbers.
_PACKAGES = ("transformers", "accelerate", "numpy", "scipy", "scikit-learn", "pot", "pandas")


def numerics(device: torch.device) -> dict[str, Any]:
    """Return name -> plain value of all that can change a bit of a run and is not one of its settings or data.

    What `precision=auto` comes to is another such fact, which a run adds: it depends on the body as well.
    """
    blas = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS")
    return {
        "program": program.digest(),
        "python": platform.python_version(),  # its documentation is a source
        "torch": torch.__version__,
        "torch_build": torch.version.git_version,
        **{package: version_of(package) for package in _PACKAGES},
        "threads": torch.get_num_threads(),
        "blas_threads": blas
        or str(os.cpu_count()),  # that numpy's and scipy's linear algebra may use
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def numerics_key(device: torch.device) -> str:
    """Return a text that differs where a computation on a device may give other bits; for the names of cache entries."""
    return "\n".join(f"{name}={value}" for name, value in numerics(device).items())
