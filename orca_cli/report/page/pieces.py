"""What sections of a page are made of: tables, charts, notes, a box that filters rows.

What comes from run folders goes through `escaped`, and only through it, into the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.strokes import escaped
from orca_cli.report.figures.svg import draw
from orca_cli.report.tables.layout import Entry, Layout
from orca_cli.report.tables.notes import clean

_NUMBER = re.compile(r"(?:\* )?([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)")  # a star that a cell has earned is before it
_MOST_NOTES = 8  # shown without a click
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


def number(value: float | None, shown: str | Callable[[float], str] = "{:.4g}".format) -> Cell:
    """Return a cell with a number, shown as a text or as a function makes it; or a dash for none."""
    if value is None:
        return Cell("–", look="n")
    return Cell(escaped(shown if isinstance(shown, str) else shown(value)), value, "n")


def code(command: str) -> Cell:
    """Return a cell with a command, which a click selects whole."""
    return Cell(f"<code>{escaped(clean(command, longest=2000))}</code>" if command else "–", look="k")


def listing(name: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table with a row for each of one or more things; columns of numbers are sorted by them."""
    looks = ("n" if cell.look == "n" else "" for cell in rows[0])
    headers = [Cell(f"<span>{escaped(head)}</span>", look=look) for head, look in zip(heads, looks, strict=True)]
    return _table(name, headers, rows)


def _table(
    name: str,
    headers: Sequence[Cell],
    rows: Iterable[Sequence[Cell]],
    foot: Iterable[Sequence[Cell]] = (),
    caption: str = "",
) -> str:
    """Return a table whose body the page's script sorts by a click on a header; `foot` stays below, whatever the order."""
    head = "".join(f'<th scope="col"{_class(cell)}><button type="button">{cell.html}</button></th>' for cell in headers)
    below = "".join(map(_row, foot))
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table: {escaped(name)}"><table id="{escaped(name)}">'
        + (f"<caption>{caption}</caption>" if caption else "")
        + f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, rows))}</tbody>"
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


def explained(layout: Layout, name: str) -> str:
    """Return a layout as a table with its caption and its notes below."""
    table = layout_table(layout, name, len(layout.rows))
    return f'{table}<p class="faint">{escaped(layout.caption)}</p>{listed(layout.notes)}'


def layout_table(layout: Layout, name: str, methods: int, *, holes: bool = False) -> str:
    """Return a layout as a table: one column names a row by what differs between rows; the caption states what they share.

    Args:
        layout: of the table.
        name: of the table in the document.
        methods: how many rows are sorted; those behind them (simple models, others' results) stay below.
        holes: an empty cell of a method is something that was not run.
    """
    if not layout.rows:
        return ""
    method_names = [names for names, _, _ in layout.rows[:methods]]
    shared = [
        len(method_names) > 1 and len({names[place] for names in method_names}) == 1
        for place in range(len(layout.names))
    ]
    if all(shared):
        shared[0] = False  # one of them has to name the rows
    common = ", ".join(
        f"{key} {value}"
        for key, value, same in zip(layout.names, method_names[0] if method_names else [], shared, strict=False)
        if same and value
    )
    labels = [key for key, same in zip(layout.names, shared, strict=True) if not same]
    headers = [Cell(f"<span>{escaped(' · '.join(labels))}</span>")]
    headers += [Cell(_header(lines, place in layout.alarmed), look="n") for place, lines in enumerate(layout.columns)]
    headers += [Cell("<span>rank</span>", look="n")] if layout.ranked else []
    rows = []
    for place, (names, entries, rank) in enumerate(layout.rows):
        is_method = place < methods
        kept = [text for text, same in zip(names, shared, strict=True) if text and not (same and is_method)]
        first = Cell(_method(kept, layout.names[-1] in _SETTINGS and is_method and bool(names[-1])))
        rows.append([first, *(_entry(entry, holes and is_method) for entry in entries)])
        rows[-1] += [_rank(rank)] if layout.ranked else []
    caption = f"All methods: {escaped(common)}." if common else ""
    return _table(name, headers, rows[:methods], rows[methods:], caption)


def _header(lines: Sequence[str], is_alarmed: bool) -> str:
    first, *rest = map(escaped, lines)
    below = [f"<small>{line}</small>" for line in rest]
    if is_alarmed:
        below[-1] = f"<small class=alarm>{rest[-1]}</small>"
    return f"<span>{first}</span>{''.join(below)}"


def _method(names: Sequence[str], has_settings: bool) -> str:
    *fields, settings = [*names, ""] if not has_settings else names
    below = "".join(f"<small>{escaped(one)}</small>" for one in settings.split(", ") if one)
    return escaped(" · ".join(fields)) + below


def _entry(entry: Entry, is_hole: bool) -> Cell:
    match = _NUMBER.match(entry.main)
    main = escaped(entry.main)
    if match is None:
        is_hole = is_hole and entry.main == "-" and not entry.rest
        html = '<a href="#holes">not run</a>' if is_hole else "\u2013" if main == "-" else main
        return Cell(html + _rest(entry), look="n hole" if is_hole else "n")
    html = f"<b>{main}</b>" if entry.best else main
    return Cell(html + _rest(entry), float(match[1]), "n best" if entry.best else "n")


def _rest(entry: Entry) -> str:
    return f"<small>{escaped(entry.rest)}</small>" if entry.rest else ""


def _rank(rank: str) -> Cell:
    match = _NUMBER.match(rank)
    return Cell(escaped(rank), float(match[1]) if match else None, "n")


def figures(charts: Iterable[Chart], *, captions: bool = True, flowing: bool = False) -> str:
    """Return charts one below the other, or side by side where they flow; empty where there are none."""
    shown = "".join(
        f"<figure><h3>{escaped(chart.title)}</h3>{draw(chart, standalone=False)}"
        + (f"<figcaption>{escaped(chart.note)}</figcaption>" if captions and chart.note else "")
        + "</figure>"
        for chart in charts
    )
    return f'<div class="{"flow" if flowing else "charts"}">{shown}</div>' if shown else ""


def filter_box(name: str, rows: int) -> str:
    """Return a box that filters the rows of a table by words; empty where a look is enough."""
    if rows < 5:
        return ""
    label = f"show rows with all these words in {name}"
    box = f'<input type="search" data-for="{name}" aria-label="{label}" placeholder="filter rows">'
    return f'<div class="tools" hidden>{box}<output></output></div>'


def listed(notes: Sequence[str]) -> str:
    """Return notes as a list, folded where there are many; empty where there are none."""
    items = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    shown = f'<ul class="notes">{items}</ul>' if items else ""
    return shown if len(notes) <= _MOST_NOTES else f"<details><summary>{len(notes)} notes</summary>{shown}</details>"
