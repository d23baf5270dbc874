"""Batches are read by one thread, ahead of the computation that takes them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

T = TypeVar("T")

_AHEAD = 2  # batches that wait
_READING = threading.Lock()  # two feeds of one process share files, such as the splits of a task; one reads at a time


class Feed(Generic[T]):
    """The results of calls, in their order; made by a thread that is at most two results ahead.

    The results are those of the calls made one by one: what a call returns must not depend on the moment. An exception comes
    out when its turn has come, as if the call were made then, and ends the feed. Where no thread can be started, the calls
    are made when their results are taken. Close a feed that is not used up, or use it as a context.

    Args:
        calls: what to call; the thread takes them one after the other.
    """

    def __init__(self, calls: Iterable[Callable[[], T]]) -> None:
        self._shelf: _Shelf[T] = _Shelf()
        self._calls = iter(calls)
        self._error: BaseException | None = None  # after the last result; StopIteration at the end
        self._thread = threading.Thread(target=_fill, args=(self._shelf, self._calls), name="orca-feed", daemon=True)
        # A feed that is dropped unclosed must not leave its thread waiting for ever.
        weakref.finalize(self, self._shelf.close)
        try:
            self._thread.start()
            self._is_threaded = True
        except (RuntimeError, MemoryError):  # no room for its stack
            self._is_threaded = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if not self._is_threaded:
            call = next(self._calls)
            with _READING:
                return call()
        if self._error is None and not self._shelf.is_closed:
            result, self._error = self._shelf.results.get()
            self._shelf.room.release()
            if self._error is None:
                return cast("T", result)
        raise self._error or StopIteration

    def close(self) -> None:
        """Stop the thread; what it is reading is finished and dropped."""
        self._shelf.close()
        if self._is_threaded:
            self._thread.join()
        self._shelf.results = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class _Shelf(Generic[T]):
    """Where one thread puts results, with room for a few, and another takes them; an error is the last."""

    def __init__(self) -> None:
        self.results: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()
        self.room = threading.Semaphore(_AHEAD)
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        self.room.release()  # for a thread that waits


def _fill(shelf: _Shelf[T], calls: Iterator[Callable[[], T]]) -> None:
    try:
        while shelf.room.acquire() and not shelf.is_closed:
            call = next(calls)
            with _READING:
                result = call()
            shelf.results.put((result, None))
            del result, call  # or this thread would hold the memory of a batch that was taken
    except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who takes the result
        shelf.results.put((None, error))
