"""Batches are read by one thread, ahead of the computation that takes them."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

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
        if self._is_threaded:
            return self._shelf.take()
        call = next(self._calls)
        with _READING:
            return call()

    def close(self) -> None:
        """Stop the thread; what it is reading is finished and dropped."""
        self._shelf.close()
        if self._is_threaded:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class _Shelf(Generic[T]):
    """Where one thread puts results and another takes them; it has room for a few."""

    def __init__(self) -> None:
        self._results: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None  # after the last result; StopIteration at the end
        self._is_closed = False

    def take(self) -> T:
        with self._changed:
            # The wait is short so that a signal's handler, which runs in the main thread alone, is not kept waiting.
            while not (self._results or self._error or self._is_closed):
                self._changed.wait(0.2)
            if self._results:
                self._changed.notify_all()
                return self._results.popleft()
            raise self._error or StopIteration

    def wait_for_room(self) -> bool:
        """Wait until one more result may be made; returns False once the shelf is closed."""
        with self._changed:
            while len(self._results) >= _AHEAD and not self._is_closed:
                self._changed.wait()
            return not self._is_closed

    def put(self, result: T) -> None:
        with self._changed:
            self._results.append(result)
            self._changed.notify_all()

    def end(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._results.clear()
            self._changed.notify_all()


def _fill(shelf: _Shelf[T], calls: Iterator[Callable[[], T]]) -> None:
    try:
        while shelf.wait_for_room():
            call = next(calls)
            with _READING:
                result = call()
            shelf.put(result)
            del result, call  # or this thread would hold the memory of a batch that was taken
    except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the one who takes the result
        shelf.end(error)
