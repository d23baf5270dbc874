"""Records of an LMDB database, read by our own code: its pages are checked before use, so that a damaged file cannot crash.

Format of LMDB 0.9 (data version 1) on 64-bit little-endian machines: pages of `psize` bytes; pages 0 and 1 describe the
database, the one with the newer transaction holds; from its root a B+ tree of branch and leaf pages leads to the records,
and large values lie on pages of their own. Only the main database is read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from orca_cli.exceptions import DataError, UnsafeError
from orca_cli.untrusted.first_bytes import first_bytes

_MAGIC = 0xBEEFC0DE
_HEADER = 16  # bytes of a page's header
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG_DATA = 0x01  # flag of a record whose value lies on pages of its own
_PLAIN_TREE = 0  # flags of a database without duplicates, integer keys or reversed order
_NO_PAGE = 2**64 - 1
_MAX_DEPTH = 32
_MAX_VALUE = 2**28


@dataclass(frozen=True)
class _Meta:
    page_size: int
    flags: int
    depth: int
    entries: int
    root: int
    last_page: int
    transaction: int


class Records:
    """The records of an LMDB database, open for reading; use it as a context manager.

    Args:
        path: the folder that holds data.mdb, or the file itself.
        max_value: a larger value, in bytes, is refused.

    Raises:
        DataError: missing, cut off, damaged, or of another version.
    """

    def __init__(self, path: Path, max_value: int = _MAX_VALUE) -> None:
        self._path = path / "data.mdb" if path.is_dir() else path
        self._where, self._max_value = str(self._path), max_value
        first_bytes(self._path, self._where, "the data.mdb of an LMDB database is needed")
        self._file = os.open(self._path, os.O_RDONLY)
        try:
            self._size = os.fstat(self._file).st_size
            self._meta = self._newest()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def __len__(self) -> int:
        """Return the number of records."""
        return self._meta.entries

    def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None where there is none.

        Raises:
            DataError: the database is damaged.
            UnsafeError: the value is larger than allowed.
        """
        wanted, number = key.encode(), self._meta.root
        if number == _NO_PAGE:
            return None
        for _ in range(_MAX_DEPTH):
            page = self._page(number)
            flags = struct.unpack_from("<H", page, 10)[0]
            nodes = self._nodes(page, number)
            if flags & _LEAF:
                low = self._first_not_below(page, nodes, wanted, start=0)
                if low < len(nodes) and self._key(page, nodes[low]) == wanted:
                    return self._value(page, nodes[low])
                return None
            if not flags & _BRANCH or not nodes:
                raise self._damaged(f"page {number} is no page of a tree")
            # The first node of a branch has no key: it is below every other.
            low = self._first_not_below(page, nodes, wanted, start=1)
            if low == len(nodes) or self._key(page, nodes[low]) != wanted:
                low -= 1
            number = self._child(page, nodes[low])
        raise self._damaged("its tree has no end")

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Give all records in the order of their keys, which are taken as text.

        Raises:
            DataError: the database is damaged, or holds a key that is no text.
            UnsafeError: a value is larger than allowed.
        """
        ahead = [] if self._meta.root == _NO_PAGE else [(self._meta.root, 0)]
        given = 0
        while ahead:
            number, depth = ahead.pop()
            page = self._page(number)
            flags = struct.unpack_from("<H", page, 10)[0]
            nodes = self._nodes(page, number)
            if depth > _MAX_DEPTH or not flags & (_LEAF | _BRANCH):
                raise self._damaged(f"page {number} is no page of a tree")
            if flags & _BRANCH:
                ahead += [(self._child(page, node), depth + 1) for node in reversed(nodes)]
                if len(ahead) > self._meta.last_page + 1:
                    raise self._damaged("its tree has no end")
                continue
            for node in nodes:
                given += 1
                if given > self._meta.entries:
                    raise self._damaged(f"it has more than the {self._meta.entries} records that it declares")
                try:
                    key = self._key(page, node).decode()
                except UnicodeDecodeError as error:
                    raise self._damaged("a key is no text") from error
                yield key, self._value(page, node)
        if given != self._meta.entries:
            raise self._damaged(f"it has {given} of the {self._meta.entries} records that it declares")

    def _newest(self) -> _Meta:
        first = self._read_meta(0)
        second = self._read_meta(first.page_size)
        meta = max(first, second, key=lambda found: found.transaction)
        if meta.flags != _PLAIN_TREE:
            raise DataError("holds keys that are no plain text, or several values a key", where=self._where)
        if (meta.last_page + 1) * meta.page_size > self._size:
            raise DataError(
                f"is cut off: {(meta.last_page + 1) * meta.page_size:,} bytes are needed, {self._size:,} are there",
                where=self._where,
                hint="get the file again",
            )
        return meta

    def _read_meta(self, offset: int) -> _Meta:
        content = os.pread(self._file, 152, offset)
        if len(content) < 152 or struct.unpack_from("<I", content, 16)[0] != _MAGIC:
            raise DataError("is no LMDB database", where=self._where, hint="a data.mdb is needed; get the file again")
        version = struct.unpack_from("<I", content, 20)[0]
        if version != 1:
            raise DataError(f"has version {version} of LMDB's format, and 1 is read", where=self._where)
        page_size = struct.unpack_from("<I", content, 40)[0]
        flags, depth = struct.unpack_from("<HH", content, 40 + 48 + 4)
        entries, root, last_page, transaction = struct.unpack_from("<4Q", content, 40 + 48 + 32)
        if page_size not in [2**bits for bits in range(9, 17)] or not struct.unpack_from("<H", content, 10)[0] & _META:
            raise self._damaged(f"it declares pages of {page_size} bytes")
        return _Meta(page_size, flags, depth, entries, root, last_page, transaction)

    def _page(self, number: int) -> bytes:
        if not 2 <= number <= self._meta.last_page:
            raise self._damaged(f"it names page {number} of {self._meta.last_page + 1}")
        size = self._meta.page_size
        page = os.pread(self._file, size, number * size)
        if len(page) != size or struct.unpack_from("<Q", page)[0] != number:
            raise self._damaged(f"page {number} is not where it should be")
        return page

    def _nodes(self, page: bytes, number: int) -> tuple[int, ...]:
        """Return where the nodes of a page lie."""
        lower = struct.unpack_from("<H", page, 12)[0]
        count = (lower - _HEADER) // 2
        if not 0 <= count <= (len(page) - _HEADER) // 2:
            raise self._damaged(f"page {number} declares {count} nodes")
        nodes = struct.unpack_from(f"<{count}H", page, _HEADER)
        if any(not lower <= node <= len(page) - 8 for node in nodes):
            raise self._damaged(f"page {number} has nodes outside of it")
        return nodes

    def _key(self, page: bytes, node: int) -> bytes:
        size = struct.unpack_from("<H", page, node + 6)[0]
        if node + 8 + size > len(page):
            raise self._damaged("a key is cut off")
        return page[node + 8 : node + 8 + size]

    def _first_not_below(self, page: bytes, nodes: tuple[int, ...], wanted: bytes, start: int) -> int:
        low, high = start, len(nodes)
        while low < high:
            middle = (low + high) // 2
            if self._key(page, nodes[middle]) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def _child(self, page: bytes, node: int) -> int:
        low, high, flags = struct.unpack_from("<3H", page, node)
        return low | high << 16 | flags << 32

    def _value(self, page: bytes, node: int) -> bytes:
        low, high, flags, key_size = struct.unpack_from("<4H", page, node)
        size, start = low | high << 16, node + 8 + key_size
        if size > self._max_value:
            raise UnsafeError(f"a value has {size:,} bytes, at most {self._max_value:,} are read", where=self._where)
        if flags == 0:
            if start + size > len(page):
                raise self._damaged("a value is cut off")
            return page[start : start + size]
        if flags != _BIG_DATA or start + 8 > len(page):
            raise self._damaged("a record is no plain value")
        number = struct.unpack_from("<Q", page, start)[0]
        head = self._page(number)
        held = struct.unpack_from("<I", head, 12)[0] * self._meta.page_size - _HEADER
        if not struct.unpack_from("<H", head, 10)[0] & _OVERFLOW or size > held:
            raise self._damaged(f"page {number} does not hold the value that lies there")
        value = os.pread(self._file, size, number * self._meta.page_size + _HEADER)
        if len(value) != size:
            raise self._damaged("a value is cut off")
        return value

    def _damaged(self, what: str) -> DataError:
        return DataError(f"is a damaged database: {what}", where=self._where, hint="get the file again")
