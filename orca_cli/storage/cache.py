"""Entries of a cache folder that processes share: the first one makes an entry, the others wait and take it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orca_cli.exceptions import ChecksumError
from orca_cli.storage.folders import quarantine, verify_folder
from orca_cli.storage.locks import lock


@contextmanager
def cached(
    path: Path,
    *,
    waiting_for: str,
    say: Callable[[str], None],
    warn: Callable[[str], None] | None = None,
    check: Callable[[], None],
    lock_path: Path | None = None,
    contents: bool = True,
) -> Iterator[bool]:
    """Lock a cache entry for the block and tell whether it is whole; where it is not, the block commits it.

    Other processes that want the entry wait. If the one at work ends early, the next one makes the entry. A damaged entry is
    moved aside.

    Args:
        path: folder of the entry; its name must determine its content.
        waiting_for: what another process does with the entry, such as "computes the same floors"; for messages.
        say: takes messages.
        warn: takes warnings; None has them said.
        check: called every second of the wait; ends it by raising.
        lock_path: file of the lock; None puts it beside the entry.
        contents: whether contents are verified; else only sizes are, which costs nothing for files of gigabytes.

    Raises:
        StorageError: the cache cannot be written.
    """
    announce = functools.cache(lambda: say(f"waiting for another process that {waiting_for}"))

    def wait() -> None:
        announce()
        check()

    lock_path = lock_path or path.with_name(f"{path.name}.lock")
    with lock(lock_path, timeout_s=math.inf, what=f"cache entry {path.name}", while_waiting=wait):
        is_whole = path.exists()
        if is_whole:
            try:
                verify_folder(path, contents=contents)
            except ChecksumError as error:
                text = f"damaged cache entry, making it again: {error}"
                say(f"warning: {text}") if warn is None else warn(text)
                quarantine(path)
                is_whole = False
        yield is_whole
