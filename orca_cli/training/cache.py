"""What several runs share is computed once, by the first of them: a verified folder of the cache for each key."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from orca_cli import signals, storage
from orca_cli.exceptions import ChecksumError
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

    The entry is locked meanwhile: other processes that want it wait, and read what the first one wrote. If that one ends
    early, the next one computes it.

    Args:
        path: folder of the entry; its name must determine its content to the bit.
        compute: makes the content.
        keep: whether computed content may be stored for others; asked afterwards.
    """
    what = path.parent.name.replace("_", " ")
    announce = functools.cache(lambda: log.info(f"waiting for another process that computes the same {what}"))

    def wait() -> None:
        announce()
        signals.check()

    with storage.lock(
        path.with_suffix(".lock"), timeout_s=math.inf, what=f"cache entry {path.name}", while_waiting=wait
    ):
        if path.exists():
            try:
                storage.verify_folder(path)
                record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
                return Entry(storage.read_tensors(path / _TENSORS), record)
            except ChecksumError as error:
                log.warning(f"damaged cache entry, computing it again: {error}")
                storage.quarantine(path)
        entry = compute()
        if keep():
            with storage.commit_folder(path) as temporary:
                tensors = {name: value.detach().cpu().contiguous() for name, value in entry.tensors.items()}
                save_file(tensors, temporary / _TENSORS)
                storage.write_json(temporary / _RECORD, entry.record)
        return entry
