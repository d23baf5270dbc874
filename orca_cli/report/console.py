"""The report on a terminal: Rich tables that fit its width, with as many tasks side by side as fit."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from orca_cli.report.layout import Entry, Layout

_PADDING = 2  # between two columns
_RANK_WIDTH = len("rank") + _PADDING
_LEAST_WIDTH = 40
_LONGEST_NAME = 32
_FILE_WIDTH = 140


def renderables(layout: Layout, width: int) -> list[RenderableType]:
    """Return what to print on a console of `width` characters; names from the disk are never read as markup."""
    shown: list[RenderableType] = []
    width = max(width, _LEAST_WIDTH)
    if 2 * _names_width(layout) > width:
        layout = _with_one_name(layout)
    for places in _blocks(layout, width):
        shown += [_table(layout, places), Text("")]
    shown += [Text(alarm, style="bold red") for alarm in layout.alarms]
    if layout.caption:
        shown.append(Text(layout.caption))
    shown += [Text(f"- {note}") for note in layout.notes]
    if layout.problems:
        shown += [Text(""), Text("Not in the means:", style="bold")]
    for state, reason, folder in layout.problems:
        text = Text()
        text.append(state, style="bold")
        text.append(f"  {reason}\n  {folder}")
        shown.append(text)
    return shown


def plain(layout: Layout) -> str:
    """Return the report as it is printed, without colours, for a file."""
    console = Console(file=io.StringIO(), width=_FILE_WIDTH, color_system=None, highlight=False)
    for thing in renderables(layout, _FILE_WIDTH):
        console.print(thing)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def can_write(text: str) -> bool:
    """Return whether standard output's encoding has all characters of a text."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _with_one_name(layout: Layout) -> Layout:
    """Return the layout with one column for a method's name, its settings on a line below."""
    below = "settings" in layout.names
    rows = []
    for names, entries, rank in layout.rows:
        first = " ".join(name for name in (names[:-1] if below else names) if name)
        rows.append(([f"{first}\n  {names[-1]}" if below and names[-1] else first], entries, rank))
    return replace(layout, names=["method"], rows=rows)


def _blocks(layout: Layout, width: int) -> list[list[int]]:
    """Return the task columns in groups that fit side by side; the names of the methods are repeated for each."""
    if not layout.rows:
        return []
    free = width - _names_width(layout) - (_RANK_WIDTH if layout.ranked else 0)
    blocks: list[list[int]] = [[]]
    room = free
    for place in range(len(layout.columns)):
        needed = _entry_width(layout, place) + _PADDING
        if blocks[-1] and needed > room:
            blocks.append([])
            room = free
        blocks[-1].append(place)
        room -= needed
    return blocks


def _names_width(layout: Layout) -> int:
    return sum(_name_width(layout, place) + _PADDING for place in range(len(layout.names)))


def _name_width(layout: Layout, place: int) -> int:
    texts = [layout.names[place], *(line for names, _, _ in layout.rows for line in names[place].split("\n"))]
    return min(max(map(len, texts)), _LONGEST_NAME)


def _entry_width(layout: Layout, place: int) -> int:
    texts = list(layout.columns[place])
    for _, entries, _ in layout.rows:
        texts += [entries[place].main, entries[place].rest]
    return min(max(map(len, texts)), _LONGEST_NAME)


def _table(layout: Layout, places: list[int]) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _PADDING, 0, 0), show_edge=False)
    for name in layout.names:
        table.add_column(Text(name), overflow="fold", max_width=_LONGEST_NAME, vertical="top")
    for place in places:
        task, *lines = layout.columns[place]
        header = Text(task, style="bold")
        for level, line in enumerate(lines, 1):
            alarm = layout.alarmed[place] and level == len(lines)
            header.append(f"\n{line}", style="bold red" if alarm else "dim")
        table.add_column(header, justify="right", overflow="fold", max_width=_LONGEST_NAME)
    ranked = layout.ranked and places[-1] == len(layout.columns) - 1
    if ranked:
        table.add_column(Text("rank"), justify="right")
    for place, (names, entries, rank) in enumerate(layout.rows):
        is_trivial = place == len(layout.rows) - 1 and names[0] == "trivial"
        cells = [*(Text(name) for name in names), *(_entry(entries[place]) for place in places)]
        table.add_row(*cells, *([Text(rank)] if ranked else []), style="dim" if is_trivial else "")
    return table


def _entry(entry: Entry) -> Text:
    text = Text(entry.main, style="bold" if entry.best else "")
    if entry.rest:
        text.append(f"\n{entry.rest}", style="not bold yellow")
    return text
