"""Output for people: results on standard output, logs and progress on standard error.

On a terminal, progress is a bar with the remaining time; in a file, it is a line every 15 seconds.
"""

import json
import logging
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

from orca_cli.exceptions import OrcaError

log = logging.getLogger("orca_cli")
# Seconds between lines of progress in a file.
_LINE_EVERY_S = 15.0
# Characters per line of results in a file or a pipe, and the smallest number on a terminal.
_WIDE = 200
_NARROW = 20
# Indent of the meaning of a command, if the meaning is on the line below the command.
_MEANING_INDENT = " " * 8
# Prefix of every line that a job of a sweep prints, such as "[2/6] ".
_prefix = ""
_has_bars = True  # whether progress on a terminal is a bar
# Unicode categories: control, format (which can reverse the writing direction), surrogate, line
# separator, paragraph separator.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass
class Result:
    """The result of a command, which `render` prints."""

    # For other programs: JSON-able, with "schema".
    record: Mapping[str, Any]
    # For people: texts, which are printed unchanged, and Rich renderables.
    shown: Iterable[RenderableType] = ()
    # Printed after the result, one line each.
    failures: Sequence[OrcaError] = ()
    # Exit code of the process; if it is 0, the first failure's code replaces it.
    code: int = 0

    def __post_init__(self) -> None:
        if self.failures and not self.code:
            self.code = self.failures[0].code


def render(result: Result, *, as_json: bool = False) -> int:
    """Print a command's result as text or as JSON, then its failures; return the exit code."""
    if as_json:
        print_text(to_json(result.record))
    else:
        print_result(*result.shown)
    for failure in result.failures:
        print_error(f"orca: error: {failure}")
    return result.code


def to_json(record: Mapping[str, Any]) -> str:
    """Return a record as JSON, ASCII only."""
    # ASCII is the same in every encoding.
    return json.dumps(record, indent=2, allow_nan=False, default=str) + "\n"


def visible(text: str, kept: str = "") -> str:
    """Return a text of unknown origin in which characters that control a terminal are escaped.

    Such characters move the cursor, or hide or break a line. Characters in `kept` are not escaped.
    """
    characters = []
    for character in text:
        if unicodedata.category(character) in _HIDDEN and character not in kept:
            # For example \x1b: the character is readable and has no effect.
            character = character.encode("unicode_escape").decode("ascii")
        characters.append(character)
    return "".join(characters)


def for_spreadsheet(text: str) -> str:
    """Return a text of unknown origin for a csv file: escaped by `visible`, and never a formula.

    A text that a spreadsheet would evaluate gets an apostrophe in front.
    """
    text = visible(text)
    # A number may begin with a sign and is not a formula.
    try:
        float(text)
    except ValueError:
        if len(text) > 1 and text[0] in "=+-@":
            return f"'{text}"
    return text


def _make_visible(record: logging.LogRecord) -> bool:
    # The arguments are inserted first, since they may contain texts from files.
    record.msg = visible(record.getMessage(), kept="\t")
    record.args = ()
    return True


log.addFilter(_make_visible)


def stdout() -> Console:
    """Return the console of results, which respects NO_COLOR.

    It is as wide as the terminal, or 200 characters in a file or a pipe.
    """
    console = Console(file=sys.stdout, highlight=False)
    if console.is_terminal:
        return console
    # Without a terminal Rich would assume 80 columns and fold the table.
    return Console(file=sys.stdout, highlight=False, width=_WIDE)


def table(headers: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> RenderableType:
    """Return a table whose first column is not folded.

    Texts are never interpreted as markup. Empty headers are not shown.
    """
    drawn = Table(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="bold",
        show_header=any(headers),
    )
    for column, header in enumerate(headers):
        # Names in the first column are copied into commands, so they must not be broken.
        is_first = column == 0
        style = "cyan" if is_first else ""
        drawn.add_column(header, overflow="fold", no_wrap=is_first, style=style)
    for row in rows:
        cells = [cell if isinstance(cell, Text) else Text(cell) for cell in row]
        drawn.add_row(*cells)
    return drawn


def facts(rows: Iterable[Sequence[str | Text]]) -> RenderableType:
    """Return a table of names and texts, in two columns without a header."""
    return table(("", ""), rows)


def folded(text: str) -> str:
    """Return a help text, folded between words to lines that fit on the terminal.

    Paragraphs are filled. An indented line that is too long has a command, at least two blanks, and
    the command's meaning. The meaning continues below its own start or, if the command is long, on
    the lines below the command.
    """
    width = max(_NARROW, shutil.get_terminal_size().columns)
    paragraphs = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        if any(line.startswith(" ") for line in lines):
            paragraphs.append("\n".join(_folded_line(line, width) for line in lines))
        else:
            paragraphs.append(textwrap.fill(paragraph, width, break_on_hyphens=False))
    return "\n\n".join(paragraphs)


def _folded_line(line: str, width: int) -> str:
    columns = re.fullmatch(r"( +\S.*?)( {2,})(\S.*)", line)
    if len(line) <= width or columns is None:
        return line
    command, gap, meaning = columns.groups()
    start = f"{command}{gap}"
    indent = " " * len(start)
    if len(start) > width / 2:
        indent = _MEANING_INDENT
        start = f"{command}\n{indent}"
    lines = textwrap.wrap(meaning, width - len(indent), break_on_hyphens=False)
    return start + f"\n{indent}".join(lines)


def counted(number: int, noun: str) -> str:
    """Return a number and its noun, such as 1 run or 2 runs."""
    if number == 1:
        return f"{number} {noun}"
    return f"{number} {noun}s"


def percent_or_number(value: float | None, percent: bool) -> str:
    """Return an error in per cent with two decimals, or with four significant digits.

    None means an undefined error.
    """
    if value is None:
        return "undefined"
    if percent:
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Return a duration as text, such as 40 s, 12 min, 3.5 h or 4 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def size_text(size: int | None) -> str:
    """Return a size in bytes as text in powers of 1000, such as 1.5 kB; "-" for None."""
    if size is None:
        return "-"
    for unit, power in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= power:
            decimals = 1 if size < 10 * power else 0
            return f"{size / power:.{decimals}f} {unit}"
    return f"{size} B"


def print_result(*renderables: RenderableType) -> None:
    """Print Rich renderables and unfolded texts on standard output, each with a line break."""
    console = stdout()
    # The prefix, which is added to the lines later, needs space in each line.
    console.width = max(_NARROW, console.width - len(_prefix))
    # The output is captured, since a prefix has to be added to each line before it is printed.
    is_drawn = console.is_terminal and not _prefix
    with nullcontext() if is_drawn else console.capture() as captured:
        for renderable in renderables:
            console.print(_harmless(renderable), soft_wrap=isinstance(renderable, str))
    if captured is None:
        return
    # Tables pad their last column with spaces, which are of no use in a file or a pipe.
    output = captured.get()
    lines = [f"{_prefix}{line.rstrip()}\n" for line in output.splitlines()]
    console.file.write("".join(lines))
    console.file.flush()


def _harmless(renderable: RenderableType) -> RenderableType:
    """Return a text or table in which no text from a file can control the terminal."""
    if isinstance(renderable, str):
        return Text(visible(renderable.removesuffix("\n"), kept="\n\t"))
    if isinstance(renderable, Text):
        plain = visible(renderable.plain, kept="\n\t")
        if plain == renderable.plain:
            return renderable
        return Text(plain, style=renderable.style)
    if isinstance(renderable, Table):
        # Rich has no public access to the cells of a table.
        for column in renderable.columns:
            column._cells = [_harmless(cell) for cell in column._cells]
    return renderable


@contextmanager
def lost_output_allowed() -> Iterator[None]:
    """Continue work that has its records in files if standard output cannot be written.

    The remaining output of the block is lost. All later output is written to /dev/null. Any OSError
    in the block counts as lost output, so the block should only print.
    """
    try:
        yield
    # Rich turns a closed pipe into SystemExit.
    except (OSError, SystemExit) as error:
        # The descriptor itself is replaced, so that neither libraries nor Python's flush at exit
        # fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        is_closed = isinstance(error, (BrokenPipeError, SystemExit))
        reason = "the program that read the output has ended" if is_closed else error
        log.warning(
            f"standard output cannot be written any more ({reason}); the work continues, and its "
            "records are in the run's folder"
        )


def print_text(text: str) -> None:
    """Print a text for other programs unchanged on standard output."""
    sys.stdout.write(text)


def print_error(text: str) -> None:
    """Print an error on standard error, with control characters escaped.

    If it cannot be written, the exit code still reports the failure.
    """
    message = visible(text, kept="\n\t")
    with suppress(OSError, ValueError):
        print(f"{_prefix}{message}", file=sys.stderr, flush=True)  # noqa: T201


class LogReporter:
    """A `progress.Reporter` that writes for people and log files."""

    def say(self, text: str) -> None:
        """Log one line."""
        log.info(text)

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Callable[..., None]]:
        """Yield a function advance(steps=1, note="") that advances a bar or logs lines."""
        if _has_bars and sys.stderr.isatty():
            with _bar(description, total) as advance:
                yield advance
        else:
            yield _line_logger(description, total)


@contextmanager
def _bar(description: str, total: int) -> Iterator[Callable[..., None]]:
    """Yield a function that advances a progress bar on the terminal."""
    # On standard error, since standard output is for results.
    console = Console(file=sys.stderr, highlight=False)
    columns: list[str | ProgressColumn] = [*Progress.get_default_columns()]
    columns.append("{task.fields[note]}")
    # The bar disappears at its end, since the log then has a line about the result.
    progress = Progress(*columns, console=console, transient=True)
    progress.start()
    try:
        title = escape(f"{_prefix}{visible(description)}")
        task = progress.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            progress.advance(task, steps)
            if note:
                progress.update(task, note=escape(visible(note)))

        yield advance
    finally:
        # An error of a closed terminal must not hide the error that ended the work.
        with suppress(OSError):
            progress.stop()


def _line_logger(description: str, total: int) -> Callable[..., None]:
    """Return a function that logs progress as a plain line every `_LINE_EVERY_S` seconds."""
    last_line = time.monotonic()
    steps_done = 0

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal steps_done, last_line
        steps_done += steps
        is_due = time.monotonic() - last_line >= _LINE_EVERY_S
        # The last step has no line, since the result follows at once.
        if is_due and steps_done < total:
            last_line = time.monotonic()
            text = f"{description}: {steps_done}/{total}"
            if note:
                text = f"{text}  {note}"
            log.info(text)

    return advance


def warn_once(handler: logging.Handler, destination: str) -> None:
    """Ignore a handler after its first failure, such as a full disk, so that the work continues.

    The other handlers log one warning, which names the destination.
    """

    def failed(record: logging.LogRecord) -> None:
        handler.handleError = lambda record: None  # type: ignore[method-assign]
        error = sys.exc_info()[1]
        log.warning(f"{destination} cannot be written, but the work continues: {error}")

    handler.handleError = failed  # type: ignore[method-assign]


def configure_logging(*, quiet: bool = False, prefix: str = "", bars: bool = True) -> None:
    """Send the program's log to standard error, one plain line per message.

    Earlier handlers are removed.

    Args:
        quiet: whether to log warnings only.
        prefix: start of every line, including those of results and errors, which distinguishes jobs
            on the same terminal.
        bars: whether progress is a bar on a terminal.
    """
    global _prefix, _has_bars
    _prefix = prefix
    _has_bars = bars
    # A failure to write the log is not a failure of the work.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    warn_once(handler, "standard error")
    # A percent sign in the prefix would be interpreted as a field of the format.
    escaped_prefix = prefix.replace("%", "%%")
    handler.setFormatter(logging.Formatter(f"{escaped_prefix}%(message)s"))
    log.handlers = [handler]
    # A handler of the root logger, such as a library's, would print every line again.
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)
