"""The interface by which long work reports its progress; `terminal.LogReporter` prints it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Reporter(Protocol):
    """Receives messages and progress."""

    def say(self, text: str) -> None:
        """Log one line."""

    def track(self, description: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        """Return a context manager that yields a function `advance(steps=1, note="")`.

        `total` is the number of steps.
        """


class Silent:
    """A reporter that ignores all messages and progress."""

    def say(self, text: str) -> None:
        """Ignore the line."""

    def track(self, description: str, total: int) -> AbstractContextManager[Callable[..., None]]:
        """Return a function that does nothing."""
        return nullcontext(lambda steps=1, note="": None)
