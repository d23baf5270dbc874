"""Everything people read: results on standard output, logs and progress on standard error.

On a terminal progress is a bar with the time left; in a file it is a plain line now and then.
"""

import functools
import json
import logging
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from orca_cli.exceptions import OrcaError

log = logging.getLogger("orca_cli")
_LINE_EVERY_S = 15.0
_prefix = ""  # of every line of a job of a sweep, such as "[2/6] "
_has_bars = True
# Control, format (also those that reverse the writing direction), surrogate, line and paragraph separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass
class Result:
    """What a command returns; `render` prints it."""

    record: Mapping[str, Any]  # for other programs: JSON-able, with "schema"
    shown: Iterable[
        RenderableType
    ] = ()  # for people: texts, printed as they are, and Rich renderables
    failures: Sequence[OrcaError] = ()  # printed after the result, one line each
    code: int = 0  # of the process; default: that of the first failure

    def __post_init__(self) -> None:
        if self.failures and not self.code:
            self.code = self.failures[0].code


def render(result: Result, *, as_json: bool = False) -> int:
    """Print a command's result as text or as JSON, then its failures; returns the exit code."""
    if as_json:
        print_text(to_json(result.record))
    else:
        print_result(*result.shown)
    for failure in result.failures:
        print_error(f"orca: error: {failure}")
    return result.code


def to_json(record: Mapping[str, Any]) -> str:
    """Return a record as JSON, ASCII only."""
    return json.dumps(record, indent=2, allow_nan=False, default=str) + "\n"


def visible(text: str, kept: str = "") -> str:
    """Return text of unknown origin with all that could move a cursor, hide or break a line as escapes, but for `kept`."""
    hidden = {char for char in text if unicodedata.category(char) in _HIDDEN and char not in kept}
    return "".join(
        char.encode("unicode_escape").decode("ascii") if char in hidden else char for char in text
    )


def for_spreadsheet(text: str) -> str:
    """Return a text of unknown origin for a csv file: visible, with an apostrophe before what a spreadsheet would compute."""
    text = visible(text)
    try:
        float(text)
    except ValueError:
        return f"'{text}" if len(text) > 1 and text[0] in "=+-@" else text
    return text


def _make_visible(record: logging.LogRecord) -> bool:
    record.msg, record.args = visible(record.getMessage(), kept="\t"), ()
    return True


log.addFilter(_make_visible)


def stdout() -> Console:
    """Return the console of results; it follows NO_COLOR and is as wide as the terminal, or 200 characters in a file."""
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=200)


def table(headers: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> RenderableType:
    """Return a table whose first column is not folded; texts are never read as markup. Empty headers are not shown."""
    drawn = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
        show_header=any(headers),
    )
    for place, header in enumerate(headers):
        drawn.add_column(
            header, overflow="fold", no_wrap=place == 0, style="cyan" if place == 0 else ""
        )
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return drawn


facts = functools.partial(
    table, ("", "")
)  # names and texts, as rows of two columns without a header


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as 1 run or 2 runs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent_or_number(value: float | None, percent: bool) -> str:
    """Return an error in per cent with two decimals, or with four significant digits; None is undefined."""
    if value is None:
        return "undefined"
    return f"{100 * value:.2f} %" if percent else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a time such as 40 s, 12 min, 3.5 h or 4 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


def size_text(size: int | None) -> str:
    """Return a size in powers of 1000, such as 1.5 kB; - if it is unknown."""
    for unit, power in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size is not None and size >= power:
            return f"{size / power:.{1 if size < 10 * power else 0}f} {unit}"
    return "-" if size is None else f"{size} B"


def print_result(*things: RenderableType) -> None:
    """Print results on standard output: Rich renderables, and texts without folding, each with a line break."""
    console = stdout()
    console.width = max(20, console.width - len(_prefix))
    is_drawn = console.is_terminal and not _prefix
    with nullcontext() if is_drawn else console.capture() as captured:
        for thing in things:
            console.print(_shown(thing), soft_wrap=isinstance(thing, str))
    if captured is not None:
        # Tables pad their last column with spaces: in a file or a pipe these are in the way.
        console.file.write(
            "".join(f"{_prefix}{line.rstrip()}\n" for line in captured.get().splitlines())
        )
        console.file.flush()


def _shown(thing: RenderableType) -> RenderableType:
    """Return a text or table whose names from files cannot command the terminal."""
    if isinstance(thing, str):
        return Text(visible(thing.removesuffix("\n"), kept="\n\t"))
    if isinstance(thing, Text) and thing.plain != visible(thing.plain, kept="\n\t"):
        return Text(visible(thing.plain, kept="\n\t"), style=thing.style)
    if isinstance(thing, Table):
        for column in thing.columns:
            column._cells = [_shown(cell) for cell in column._cells]
    return thing


@contextmanager
def lost_output_allowed() -> Iterator[None]:
    """Continue work whose records are in files when standard output is a closed pipe or a full disk.

    What the block has not printed by then is lost, and so is all later output: it goes to /dev/null. Any OSError in the block
    counts as lost output, so that it should only print.
    """
    try:
        yield
    except (OSError, SystemExit) as error:  # rich turns a closed pipe into SystemExit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = "nobody reads it" if isinstance(error, (BrokenPipeError, SystemExit)) else error
        log.warning(
            f"standard output is lost ({reason}); the work goes on, and its records are in the run's folder"
        )


def print_text(text: str) -> None:
    """Print text for other programs on standard output unchanged."""
    sys.stdout.write(text)


def print_error(text: str) -> None:
    """Print an error on standard error, control characters escaped; if nobody reads it, there is still the exit code."""
    shown = visible(text, kept="\n\t")
    with suppress(OSError, ValueError):
        print(f"{_prefix}{shown}", file=sys.stderr, flush=True)  # noqa: T201


class LogReporter:
    """A `progress.Reporter` for people and log files."""

    def say(self, text: str) -> None:
        """Log one line."""
        log.info(text)

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[..., None]]:
        """Provide a function advance(steps=1, note="") that moves a bar, or logs a line now and then."""
        if not (_has_bars and sys.stderr.isatty()):
            last, done = time.monotonic(), 0

            def log_advance(steps: int = 1, note: str = "") -> None:
                nonlocal done, last
                done += steps
                if time.monotonic() - last >= _LINE_EVERY_S and done < total:
                    last = time.monotonic()
                    log.info(f"{description}: {done}/{total}{'  ' + note if note else ''}")

            yield log_advance
            return
        console = Console(file=sys.stderr, highlight=False)
        progress = Progress(
            *Progress.get_default_columns(), "{task.fields[note]}", console=console, transient=True
        )
        progress.start()
        try:
            task = progress.add_task(
                escape(f"{_prefix}{visible(description)}"), total=total, note=""
            )

            def advance(steps: int = 1, note: str = "") -> None:
                progress.advance(task, steps)
                if note:
                    progress.update(task, note=escape(visible(note)))

            yield advance
        finally:
            with suppress(OSError):  # a terminal that was closed must not hide why the work ends
                progress.stop()


def warn_once(handler: logging.Handler, what: str) -> None:
    """Go on when a handler cannot write its log, such as on a full disk, and warn once through the other handlers."""

    def failed(record: logging.LogRecord) -> None:
        handler.handleError = lambda record: None  # type: ignore[method-assign]
        log.warning(f"{what} is lost, the work goes on: {sys.exc_info()[1]}")

    handler.handleError = failed  # type: ignore[method-assign]


def configure_logging(*, quiet: bool = False, prefix: str = "", bars: bool = True) -> None:
    """Send the program's log to standard error, one plain line per message; earlier handlers are dropped.

    Args:
        quiet: log warnings only.
        prefix: starts every line, also of results and errors, where several processes write to one terminal.
        bars: whether progress is a bar on a terminal.
    """
    global _prefix, _has_bars
    _prefix, _has_bars = prefix, bars
    logging.raiseExceptions = (
        False  # a log that can no longer be written is not a failure of the work
    )
    handler = logging.StreamHandler(sys.stderr)
    warn_once(handler, "standard error")
    handler.setFormatter(logging.Formatter(f"{prefix.replace('%', '%%')}%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)
