"""The report on a terminal: Rich tables that fit its width, with as many tasks side by side as fit."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from orca_cli.report.tables.layout import Entry, Layout

_PADDING = 2  # between two columns
_LONGEST_NAME = 32
_FILE_WIDTH = 140


def renderables(layout: Layout, width: int) -> list[RenderableType]:
    """Return what to print on a console of `width` characters; names from the disk are never read as markup."""
    shown: list[RenderableType] = []
    width = max(width, 40)
    if 2 * _names_width(layout) > width:
        layout = _with_one_name(layout)
    for places in _blocks(layout, width):
        shown += [_table(layout, places), Text("")]
    shown += [Text(alarm, style="bold red") for alarm in layout.alarms]
    if layout.caption:
        shown.append(Text(layout.caption))
    for note in layout.notes:
        said, *commands = note.split("\n")
        shown += [Text(f"- {said}{':' if commands else ''}"), *(f"    {command}" for command in commands)]
    if layout.problems:
        shown += [Text(""), Text("Not in the means:", style="bold")]
    for state, reason, folder in layout.problems:
        shown.append(Text.assemble((state, "bold"), f"  {reason}\n  {folder}"))
    return shown


def plain(layout: Layout) -> str:
    """Return the report as it is printed, without colours, for a file."""
    file = io.StringIO()
    console = Console(file=file, width=_FILE_WIDTH, color_system=None, highlight=False)
    for thing in renderables(layout, _FILE_WIDTH):
        console.print(Text(thing) if isinstance(thing, str) else thing, soft_wrap=isinstance(thing, str))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


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
    room = free = width - _names_width(layout) - (_width(["rank"]) if layout.ranked else 0)
    blocks: list[list[int]] = [[]]
    for place, header in enumerate(layout.columns):
        entries = [entries[place] for _, entries, _ in layout.rows]
        needed = _width([*header, *(text for entry in entries for text in (entry.main, entry.rest))])
        if blocks[-1] and needed > room:
            blocks.append([])
            room = free
        blocks[-1].append(place)
        room -= needed
    return blocks


def _names_width(layout: Layout) -> int:
    texts = zip(layout.names, *(names for names, _, _ in layout.rows), strict=True)
    return sum(_width([line for text in column for line in text.split("\n")]) for column in texts)


def _width(texts: Iterable[str]) -> int:
    return min(max(map(len, texts)), _LONGEST_NAME) + _PADDING


def _table(layout: Layout, places: list[int]) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _PADDING, 0, 0), show_edge=False)
    for name in layout.names:
        table.add_column(Text(name), overflow="fold", max_width=_LONGEST_NAME, vertical="top")
    for place in places:
        task, *lines = layout.columns[place]
        header = Text(task, style="bold")
        for level, line in enumerate(lines, 1):
            alarm = place in layout.alarmed and level == len(lines)
            header.append(f"\n{line}", style="bold red" if alarm else "dim")
        table.add_column(header, justify="right", overflow="fold", max_width=_LONGEST_NAME)
    ranked = layout.ranked and places[-1] == len(layout.columns) - 1
    if ranked:
        table.add_column(Text("rank"), justify="right")
    for place, (names, entries, rank) in enumerate(layout.rows):
        is_simple = place >= len(layout.rows) - 2 and names[0] in ("best baseline", "trivial")
        cells = [*(Text(name) for name in names), *(_entry(entries[place]) for place in places)]
        table.add_row(*cells, *([Text(rank)] if ranked else []), style="dim" if is_simple else "")
    return table


def _entry(entry: Entry) -> Text:
    rest = [(f"\n{entry.rest}", "not bold yellow")] if entry.rest else []
    return Text.assemble(entry.main, *rest, style="bold" if entry.best else "")
