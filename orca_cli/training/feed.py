"""Batches are read by one thread, ahead of the computation that takes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
        self._calls = iter(calls)
        self._error: BaseException | None = None  # after the last result; StopIteration at the end
        self._results: deque[Future[T]] = deque()
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="orca-feed")
        self._read_ahead()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._error is not None:
            raise self._error
        try:
            result = self._read() if self._thread is None else self._results.popleft().result()
        except BaseException as error:
            self._error = error
            raise
        self._read_ahead()
        return result

    def close(self) -> None:
        """Stop the thread; what it is reading is finished and dropped."""
        self._error = self._error or StopIteration()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._results.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _read_ahead(self) -> None:
        try:
            while self._thread is not None and len(self._results) < _AHEAD:
                self._results.append(self._thread.submit(self._read))
        except (RuntimeError, MemoryError):  # no room for the thread's stack, which only the first call needs
            self._thread = None

    def _read(self) -> T:
        call = next(self._calls)
        with _READING:
            return call()
