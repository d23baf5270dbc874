"""One table of the running jobs, drawn anew on a terminal; in a file, a line now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orca_cli import terminal
from orca_cli.launching.process import Ended

_MOST_ROWS = 20
_LINE_EVERY_S = 60.0


@dataclass(frozen=True)
class Row:
    """How far a job is; `left_s` are the seconds until its stage ends, None while unknown."""

    label: str
    settings: str
    host: str = ""
    stage: str = "waiting"
    step: int = 0
    steps: int = 0
    error: float | None = None
    left_s: float | None = None

    def cells(self) -> list[str]:
        """Return it as texts: job, where, stage, step, error, time left."""
        step = f"{self.step}/{self.steps}" if self.steps else ""
        error = "" if self.error is None else f"{self.error:.4g}"
        left = "" if self.left_s is None else f"{self.left_s:.0f} s"
        return [f"{self.label} {self.settings}".strip(), self.host, self.stage, step, error, left]


@dataclass
class Table:
    """What is shown of a sweep or a search.

    Args:
        total: how many jobs there are; 0 if that is not known.
        is_drawn: on a terminal, where nothing else is written meanwhile.
    """

    total: int
    is_drawn: bool = False
    _ended: Counter[str] = field(default_factory=Counter)
    _live: Live | None = None
    _next_line: float = field(default_factory=lambda: time.monotonic() + _LINE_EVERY_S)

    @contextmanager
    def shown(self) -> Iterator[Table]:
        """Draw it inside the block."""
        if not self.is_drawn:
            yield self
            return
        console = Console(file=sys.stderr, highlight=False)
        # No thread of its own: with one, jobs could not be forked.
        with Live(console=console, auto_refresh=False, transient=True, redirect_stderr=True) as self._live:
            yield self

    def end(self, end: Ended) -> None:
        """Count a job that has ended."""
        self._ended[str(end.report.get("state") or ("failed" if end.status is not None else "not started"))] += 1

    def show(self, rows: Sequence[Row], waiting: int) -> None:
        """Show the running jobs.

        Args:
            rows: of them.
            waiting: how many wait to be tried again, or for another process.
        """
        words = [f"{count} {state}" for state, count in self._ended.items()]
        words += [f"{len(rows)} running"] + [f"{waiting} to be looked at again"] * bool(waiting)
        text = f"{', '.join(words)}{f' of {self.total}' if self.total else ''}"
        if self._live is not None:
            headers = ("job", "where", "stage", "step", "error so far", "time left")
            drawn: list[RenderableType] = [
                terminal.table(headers, [row.cells() for row in rows[:_MOST_ROWS]]),
                Text(text),
            ]
            with suppress(OSError):  # a terminal that was closed
                self._live.update(Group(*drawn), refresh=True)
        elif rows and time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LINE_EVERY_S
            terminal.log.info(text)
            for row in rows[:_MOST_ROWS]:
                terminal.log.info("  ".join(cell for cell in row.cells() if cell))
