"""Contents that a disk may have after a power failure: operations are recorded, and unforced writes are dropped.

A file's content is on the disk as it was at the file's last fsync. A folder's names are as they were at the folder's last
fsync, or already as they are now: an operating system may write names early, in any folder, and never has to.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# inode -> content of a file, or name -> inode of a folder
Tree = dict[int, bytes | dict[str, int]]


@dataclass
class Recorder:
    """All states that a disk can be in while some work is done below `root`, an empty folder, taken to be on the disk.

    `skip` is a predicate on paths whose fsync is omitted, as a faulty program would.
    """

    root: Path
    skip: Callable[[str], bool] = lambda path: False
    states: list[tuple[list[str], Tree]] = field(default_factory=list)
    skipped: int = 0
    _durable: Tree = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)
    _promises: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def promise(self, text: str) -> None:
        """Record a promise: every later state must contain what was reported as done."""
        self._promises.append(text)
        self._keep_states()

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Record the operations of the block."""
        self._durable[self.root.stat().st_ino] = {}
        names = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")
        originals = {name: getattr(os, name) for name in names}

        def wrapped(name: str) -> Callable:
            def call(*words, **more):
                if name == "fsync" and self._is_skipped(words[0]):
                    return None
                answer = originals[name](*words, **more)
                if name == "fsync":
                    self._force(words[0])
                self._keep_states()
                return answer

            return call

        for name in names:
            setattr(os, name, wrapped(name))
        try:
            self._keep_states()
            yield self
        finally:
            for name, original in originals.items():
                setattr(os, name, original)
            for descriptor in self._held.values():
                os.close(descriptor)

    def _is_skipped(self, descriptor: int) -> bool:
        skipped = self.skip(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.skipped += skipped
        return skipped

    def _force(self, descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        self._durable |= {number: node for number, node in self._tree().items() if number == inode}

    def _tree(self) -> Tree:
        """Return the present content below the root; a descriptor on each inode keeps its number from being used again."""
        tree: Tree = {}
        waiting = [str(self.root)]
        while waiting:
            path = waiting.pop()
            descriptor = os.open(path, os.O_RDONLY)
            inode = os.fstat(descriptor).st_ino
            if self._held.setdefault(inode, descriptor) != descriptor:
                os.close(descriptor)
            if stat.S_ISDIR(os.stat(path).st_mode):
                names = os.listdir(path)
                tree[inode] = {name: os.stat(f"{path}/{name}").st_ino for name in names}
                waiting += [f"{path}/{name}" for name in names]
            else:
                tree[inode] = Path(path).read_bytes()
        return tree

    def _keep_states(self) -> None:
        now = self._tree()
        folders = [inode for inode, node in (now | self._durable).items() if isinstance(node, dict)]
        for early in ([], folders, *([inode] for inode in folders)):
            state: Tree = {}
            for inode in now.keys() | self._durable.keys():
                node = now.get(inode, self._durable.get(inode))
                if isinstance(node, dict):
                    on_disk = (
                        node if inode in early and inode in now else self._durable.get(inode, {})
                    )
                    state[inode] = dict(on_disk)
                else:
                    state[inode] = self._durable.get(inode, b"")
            key = repr((len(self._promises), sorted((i, repr(n)) for i, n in state.items())))
            if key not in self._seen:
                self._seen.add(key)
                self.states.append((list(self._promises), state))

    def restore(self, state: Tree, target: Path) -> None:
        """Fill an empty folder with the content of a disk."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        waiting = [(self.root.stat().st_ino, target)]
        while waiting:
            inode, folder = waiting.pop()
            for name, child in state[inode].items():
                node = state.get(child, b"")
                if isinstance(node, dict):
                    (folder / name).mkdir()
                    waiting.append((child, folder / name))
                else:
                    (folder / name).write_bytes(node)
