"""What several runs share is computed once, by the first of them: a verified folder of the cache for each key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from orca_cli import signals, storage
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


def cached(path: Path, compute: Callable[[], Entry], keep: Callable[[], bool] = lambda: True) -> Entry:
    """Return what a cache entry holds; where it is absent or damaged, compute and commit it.

    Args:
        path: folder of the entry; its name must determine its content to the bit.
        compute: makes the content.
        keep: whether computed content may be stored for others; asked afterwards.
    """
    waiting_for = f"computes the same {path.parent.name.replace('_', ' ')}"
    with storage.cached(path, waiting_for=waiting_for, say=log.info, warn=log.warning, check=signals.check) as is_whole:
        if is_whole:
            record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
            return Entry(storage.read_tensors(path / _TENSORS), record)
        entry = compute()
        if keep():
            with storage.commit_folder(path) as temporary:
                tensors = {name: value.detach().cpu().contiguous() for name, value in entry.tensors.items()}
                save_file(tensors, temporary / _TENSORS)
                storage.write_json(temporary / _RECORD, entry.record)
        return entry
