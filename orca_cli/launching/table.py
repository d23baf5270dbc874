"""One table of the running jobs, drawn anew on a terminal; in a file, a line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orca_cli import terminal

_HEADERS = ("job", "where", "stage", "step", "error so far")
_MOST_ROWS = 20
_LINE_EVERY_S = 60.0


@dataclass
class Table:
    """What is shown of a sweep or a search.

    Args:
        total: how many jobs there are; 0 if that is not known.
        is_drawn: on a terminal, where nothing else is written meanwhile.
    """

    total: int
    is_drawn: bool = False
    ended: Counter[str] = field(default_factory=Counter)  # by state
    _live: Live | None = None
    _next_line: float = field(default_factory=lambda: time.monotonic() + _LINE_EVERY_S)

    @contextmanager
    def shown(self) -> Iterator[Table]:
        """Draw it inside the block."""
        if not self.is_drawn:
            yield self
            return
        handlers = [one for one in terminal.log.handlers if isinstance(one, logging.StreamHandler)]
        # No thread of its own: with one, jobs could not be forked.
        with Live(console=Console(file=sys.stderr, highlight=False), auto_refresh=False, transient=True) as self._live:
            before = [one.setStream(sys.stderr) for one in handlers]  # so that lines of the log stand above the table
            try:
                yield self
            finally:
                for one, stream in zip(handlers, before, strict=True):
                    one.setStream(stream)

    def show(self, rows: Sequence[Sequence[str]], waiting: int) -> None:
        """Show the running jobs.

        Args:
            rows: of them, with the cells of _HEADERS.
            waiting: how many wait to be tried again, or for another process.
        """
        words = [f"{count} {state}" for state, count in self.ended.items()] + [f"{len(rows)} running"]
        words += [f"{waiting} to be looked at again"] * bool(waiting)
        text = f"{', '.join(words)}{f' of {self.total}' if self.total else ''}"
        if self._live is not None:
            with suppress(OSError):  # a terminal that was closed
                drawn = Group(terminal.table(_HEADERS, rows[:_MOST_ROWS]), Text(text))
                self._live.update(drawn, refresh=True)
        elif rows and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            for line in (text, *("  ".join(filter(None, row)) for row in rows[:_MOST_ROWS])):
                terminal.log.info(line)
