"""Tables of a page. What comes from run folders goes through `escaped`, and only through it, into the document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orca_cli.report.figures.strokes import escaped
from orca_cli.report.tables.layout import Entry, Layout
from orca_cli.report.tables.notes import clean

_NUMBER = re.compile(r"(?:\* )?([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")  # a star that a cell has earned is before it
_SETTINGS = ("settings", "with")  # columns with several of key=value


@dataclass(frozen=True)
class Cell:
    """HTML of one cell; `value` sorts it where the text itself would not, `look` is its class."""

    html: str
    value: float | None = None
    look: str = ""


def text(shown: object, look: str = "") -> Cell:
    """Return a cell with a text of any origin."""
    return Cell(escaped(clean("" if shown is None else str(shown))), look=look)


def heading(name: str, *, is_number: bool = False) -> Cell:
    """Return the header of a column; one of numbers is sorted by them."""
    return Cell(f"<span>{escaped(name)}</span>", look="n" if is_number else "")


def number(value: float | None, shown: str = "") -> Cell:
    """Return a cell with a number, or a dash for none."""
    if value is None:
        return Cell("–", look="n")
    return Cell(escaped(shown) if shown else f"{value:.4g}", value, "n")


def code(command: str) -> Cell:
    """Return a cell with a command, which a click selects whole."""
    return Cell(f"<code>{escaped(clean(command, longest=2000))}</code>" if command else "–", look="k")


def table(
    name: str,
    headers: Sequence[Cell],
    rows: Iterable[Sequence[Cell]],
    foot: Iterable[Sequence[Cell]] = (),
    caption: str = "",
) -> str:
    """Return a table whose body the page's script sorts by a click on a header; numbers where a header's look is n.

    Args:
        name: of the table in the document.
        headers: of the columns.
        rows: of the body; the first cell of each is its header.
        foot: rows that stay below whatever the body is sorted by.
        caption: HTML.
    """
    head = "".join(f'<th scope="col"{_class(cell)}><button type="button">{cell.html}</button></th>' for cell in headers)
    body = "".join(map(_row, rows))
    below = "".join(map(_row, foot))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table: {escaped(name)}"><table id="{escaped(name)}">'
        + (f"<caption>{caption}</caption>" if caption else "")
        + f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        + (f"<tfoot>{below}</tfoot>" if below else "")
        + "</table></div>"
    )


def _row(cells: Sequence[Cell]) -> str:
    first, *rest = cells
    return "".join([f'<tr><th scope="row"{_class(first)}>{first.html}</th>', *map(_cell, rest), "</tr>"])


def _cell(cell: Cell) -> str:
    sort = "" if cell.value is None else f' data-v="{cell.value:.6g}"'
    return f"<td{_class(cell)}{sort}>{cell.html}</td>"


def _class(cell: Cell) -> str:
    return f' class="{cell.look}"' if cell.look else ""


def of_layout(layout: Layout, name: str, methods: int, *, holes: bool = False) -> str:
    """Return a layout as a table: what names a row in one column, as far as rows differ in it; the rest said above.

    Args:
        layout: of the table.
        name: of the table in the document.
        methods: how many rows are sorted; those behind them (simple models, others' results) stay below.
        holes: an empty cell of a method is something that was not run.
    """
    if not layout.rows:
        return ""
    own = [names for names, _, _ in layout.rows[:methods]]
    shared = [len(own) > 1 and len({names[place] for names in own}) == 1 for place in range(len(layout.names))]
    if all(shared):
        shared[0] = False  # one of them has to name the rows
    common = [
        f"{key} {value}"
        for key, value, same in zip(layout.names, own[0] if own else [], shared, strict=False)
        if same and value
    ]
    labels = [key for key, same in zip(layout.names, shared, strict=True) if not same]
    headers = [heading(" · ".join(labels))]
    for lines, is_alarmed in zip(layout.columns, layout.alarmed, strict=True):
        headers.append(Cell(_header(lines, is_alarmed), look="n"))
    headers += [heading("rank", is_number=True)] if layout.ranked else []
    rows = []
    for place, (names, entries, rank) in enumerate(layout.rows):
        kept = [text for text, same in zip(names, shared, strict=True) if text and not (same and place < methods)]
        cells = [Cell(_method(kept, layout.names[-1] in _SETTINGS and place < methods and bool(names[-1])))]
        cells += [
            *(_entry(entry, holes and place < methods) for entry in entries),
            *([_rank(rank)] if layout.ranked else []),
        ]
        rows.append(cells)
    caption = f"All methods: {escaped(', '.join(common))}." if common else ""
    return table(name, headers, rows[:methods], rows[methods:], caption)


def _header(lines: Sequence[str], is_alarmed: bool) -> str:
    first, *rest = map(escaped, lines)
    looks = ["alarm" if is_alarmed and place == len(rest) else "" for place in range(1, len(rest) + 1)]
    return f"<span>{first}</span>" + "".join(
        f"<small{f' class={look}' if look else ''}>{line}</small>" for line, look in zip(rest, looks, strict=True)
    )


def _method(names: Sequence[str], has_settings: bool) -> str:
    *fields, settings = [*names, ""] if not has_settings else names
    below = "".join(f"<small>{escaped(one)}</small>" for one in settings.split(", ") if one)
    return escaped(" · ".join(fields)) + below


def _entry(entry: Entry, is_hole: bool) -> Cell:
    found = _NUMBER.match(entry.main)
    main = escaped(entry.main)
    if found is None:
        is_hole = is_hole and entry.main == "-" and not entry.rest
        html = '<a href="#holes">not run</a>' if is_hole else "\u2013" if main == "-" else main
        return Cell(html + _rest(entry), look="n hole" if is_hole else "n")
    html = f"<b>{main}</b>" if entry.best else main
    return Cell(html + _rest(entry), float(found[1]), "n best" if entry.best else "n")


def _rest(entry: Entry) -> str:
    return f"<small>{escaped(entry.rest)}</small>" if entry.rest else ""


def _rank(rank: str) -> Cell:
    found = _NUMBER.match(rank)
    return Cell(escaped(rank), float(found[1]) if found else None, "n")
