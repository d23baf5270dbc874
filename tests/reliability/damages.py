"""Ways to damage a file, by its path. The file is written anew, so that hard links keep the old content."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]


def rewrite(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def replaced(content: bytes) -> Damage:
    """Return a damage that replaces the content."""
    return lambda path: rewrite(path, content)


def changed(change: Callable[[bytes], bytes]) -> Damage:
    """Return a damage that changes the content."""
    return lambda path: rewrite(path, change(path.read_bytes()))


def cut(share: float) -> Damage:
    """Return a damage that keeps only the first part of the content."""
    return changed(lambda content: content[: int(len(content) * share)])


def folder(path: Path) -> None:
    """Put a folder in the file's place."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inner").write_text("x")


def loop(path: Path) -> None:
    """Put a link to itself in the file's place."""
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    """Put a pipe, which nobody writes to, in the file's place."""
    path.unlink()
    os.mkfifo(path)


def flipped(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    rewrite(path, bytes(content))
