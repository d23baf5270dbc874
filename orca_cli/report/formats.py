"""The report in each of its formats but the page: for a terminal, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from orca_cli import terminal
from orca_cli.report import ranks, verdicts
from orca_cli.report.layout import ALARM, Entry, Layout, clean, layout_of, notes_of, seeds_text
from orca_cli.report.paired import Comparison
from orca_cli.report.ranks import Ranking
from orca_cli.report.table import Cell, Table
from orca_cli.runs.settings import flat

FORMATS = ("table", "md", "csv", "json", "latex")
_PADDING = 2  # right of a column
_GAP = _PADDING + 1  # between two columns: a place for a line, which this box leaves blank
_LONGEST_NAME = 32
_FILE_WIDTH = 140


def renderables(layout: Layout, width: int) -> list[RenderableType]:
    """Return what to print on a console of `width` characters; names from the disk are never read as markup."""
    shown: list[RenderableType] = []
    shown += [Text(layout.heading, style="bold"), Text("")] if layout.heading else []
    for places in _blocks(layout, width):
        shown += [_table(layout, places), Text("")]
    shown += [Text(alarm, style="bold red") for alarm in layout.alarms]
    shown += [Text(layout.caption)] if layout.caption else []
    shown += [Text(f"- {note}") for note in layout.notes]
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
        console.print(thing)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _blocks(layout: Layout, width: int) -> list[list[int]]:
    """Return the task columns in groups that fit side by side; the names of the methods are repeated for each."""
    if not layout.rows:
        return []
    names = zip(layout.names, *(names for names, _ in layout.rows), strict=True)
    room = free = width + _GAP - sum(map(_width, names))  # there is none after the last column
    blocks: list[list[int]] = [[]]
    for place, header in enumerate(layout.columns):
        entries = [entries[place] for _, entries in layout.rows]
        needed = _width([*header, *(text for entry in entries for text in (entry.main, entry.rest))])
        if blocks[-1] and needed > room:
            blocks.append([])
            room = free
        blocks[-1].append(place)
        room -= needed
    return blocks


def _width(texts: Iterable[str]) -> int:
    return min(max(map(cell_len, texts)), _LONGEST_NAME) + _GAP


def _table(layout: Layout, places: list[int]) -> RichTable:
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _PADDING, 0, 0), show_edge=False)
    for name in layout.names:
        table.add_column(Text(name), overflow="fold", max_width=_LONGEST_NAME, vertical="top")
    for place in places:
        task, *lines = layout.columns[place]
        header = Text(task, style="bold")
        for line in lines:
            header.append(f"\n{line}", style="bold red" if line == ALARM else "dim")
        table.add_column(header, justify="right", overflow="fold", max_width=_LONGEST_NAME)
    for names, entries in layout.rows:
        cells = []
        for entry in (entries[place] for place in places):
            rest = [(f"\n{entry.rest}", "not bold yellow")] if entry.rest else []
            cells.append(Text.assemble(entry.main, *rest, style="bold" if entry.best else ""))
        table.add_row(*map(Text, names), *cells)
    return table


_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LATEX = {
    **{char: f"\\{char}" for char in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\u00b1": r"$\pm$",
    # At the start of a row these would be read as arguments of the line break before them.
    **{char: f"{{{char}}}" for char in "[]*"},
}


@dataclass(frozen=True)
class Page:
    """The table, with a comparison of arms in pairs or a ranking of all methods over tasks; at most one of the two."""

    table: Table
    comparison: Comparison | None = None
    ranking: Ranking | None = None

    def text(self, form: str) -> str:
        """Return it in one of FORMATS as the content of a file, ending with a line break."""
        if form == "json":
            return terminal.to_json(self.record())
        if form == "csv":
            return _csv(self._lines())
        return "\n".join(map({"md": _markdown, "latex": _latex, "table": plain}[form], self.layouts()))

    def renderables(self, width: int) -> list[RenderableType]:
        """Return it for a terminal of `width` characters."""
        shown: list[RenderableType] = []
        for layout in self.layouts():
            shown += [*([Text("")] if shown else []), *renderables(layout, width)]
        return shown

    def layouts(self) -> list[Layout]:
        """Return its tables, as texts."""
        if self.comparison is not None:
            return verdicts.layouts_of(self.comparison, self.table)
        return [layout_of(self.table) if self.ranking is None else ranks.layout_of(self.ranking, self.table)]

    def record(self) -> dict[str, Any]:
        """Return it as a JSON-able record; `schema` counts up when its form changes."""
        rates = {"rates": self.table.heading, "remarks": self.table.remarks}
        if self.comparison is not None:
            return verdicts.record_of(self.comparison) | rates
        return (_record(self.table) if self.ranking is None else {"schema": 4, **asdict(self.ranking)}) | rates

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of a csv file: cells, or arms by set and over all sets, or methods."""
        if self.comparison is not None:
            record = self.record()
            yield from (*record["sets"], *({"task": "all sets"} | arm for arm in record["arms"]))
        elif self.ranking is not None:
            yield from self.record()["standings"]
        else:
            yield from _cell_lines(self.table)


def _record(table: Table) -> dict[str, Any]:
    return {
        "schema": 3,
        "columns": [vars(column) for column in table.columns],
        "rows": [
            {
                **vars(row.method),
                "settings": dict(row.method.settings),
                "cells": [
                    {"task": column.task, "protocol": column.protocol, "data": column.data} | _cell(cell)
                    for column, cell in zip(table.columns, row.cells, strict=True)
                ],
            }
            for row in table.rows
        ],
        "references": {name: [one and vars(one) for one in row] for name, row in table.references.items()},
        "unfinished": [
            {"run": str(run.path), "state": run.state, "reason": run.reason, "task": run.task, "seed": run.seed}
            for run in table.unfinished
        ],
        "broken": [{"run": str(entry.path), "reason": entry.reason} for entry in table.broken],
        "superseded": [str(run.path) for run in table.superseded],
        "notes": notes_of(table),
    }


def _cell(cell: Cell) -> dict[str, Any]:
    values: list[dict[str, Any]] = [
        {"seed": run.seed, "value": score.value, "n": score.n, "skipped": score.skipped, "seconds": score.seconds}
        | {"alignment_steps": score.steps, "run": str(run.path)}
        for run, score in zip(cell.runs, cell.scores, strict=True)
    ]
    return {
        "mean": cell.mean,
        "standard_deviation": cell.deviation,
        "n": len(cell.values),
        "seeds": seeds_text(cell.by_seed),
        "best": cell.best,
        "earned": cell.earned,
        "chosen": cell.choice,
        "missing": dict(cell.missing),
        "values": values,
    }


def _cell_lines(table: Table) -> Iterator[dict[str, Any]]:
    """Yield a line for each method and task, then for what stands below; errors are fractions where `percent` is true."""
    for row in table.rows:
        method = vars(row.method) | {"settings": dict(row.method.settings)}
        for column, cell in zip(table.columns, row.cells, strict=True):
            yield {"row": "method"} | vars(column) | method | _cell(cell) | {"values": {}}
    for name, references in table.references.items():
        for column, one in zip(table.columns, references, strict=True):
            if one is not None:
                yield {"row": name} | vars(column) | vars(one)


def _csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return CSV with every field of any line; what is nested has a dotted name."""
    fields = [{_field(name): _field(value) for name, value in flat(dict(line)) if value != {}} for line in lines]
    file = io.StringIO()
    names = dict.fromkeys(name for line in fields for name in line)
    writer = csv.DictWriter(file, [*names], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(fields)
    return file.getvalue()


def _field(value: object) -> str:
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    if not isinstance(value, str):
        return "" if value is None else json.dumps(value)
    return terminal.for_spreadsheet(clean(value))


def _markdown(layout: Layout) -> str:
    """Return a pipe table with the best results in bold, the caption, the notes and the problems."""
    lines = [f"**{_md(layout.heading)}**", ""] if layout.heading else []
    if layout.rows:
        head = [*map(_md, layout.names), *("<br>".join(map(_md, header)) for header in layout.columns)]
        rule = [*(":--" for _ in layout.names), *("--:" for _ in layout.columns)]
        body = _rows(layout, _md, lambda text: f"**{text}**")
        lines += [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)] + [""]
    lines += [line for alarm in layout.alarms for line in (f"**{_md(alarm)}**", "")]
    lines += [_md(layout.caption), ""] if layout.caption else []
    lines += [f"- {_md(note)}" for note in layout.notes]
    if layout.problems:
        lines += ["", "Not in the means:", ""]
        lines += [f"- {_md(state)}: {_md(reason)} ({_md(path)})" for state, reason, path in layout.problems]
    return "\n".join(lines).strip() + "\n"


def _latex(layout: Layout) -> str:
    r"""Return a tabular for the booktabs package with the best results in \textbf; notes are comments below it."""
    lines = [f"% {layout.heading}"] if layout.heading else []
    lines.append(r"% needs \usepackage{booktabs}")
    if layout.rows:
        lines += [rf"\begin{{tabular}}{{{'l' * len(layout.names)}{'r' * len(layout.columns)}}}", r"\toprule"]
        *levels, last = zip_longest(*(map(_tex, header) for header in layout.columns), fillvalue="")
        lines += [_tex_row([*("" for _ in layout.names), *level]) for level in levels]
        lines += [_tex_row([*map(_tex, layout.names), *last]), r"\midrule"]
        lines += [_tex_row(row) for row in _rows(layout, _tex, lambda text: rf"\textbf{{{text}}}")]
        lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\\[1ex] \textbf{{{_tex(alarm)}}}" for alarm in layout.alarms]
    lines += [f"% {line}" for line in (layout.caption, *layout.notes) if line]
    lines += [f"% {state}: {reason} ({path})" for state, reason, path in layout.problems]
    return "\n".join(lines) + "\n"


def _rows(layout: Layout, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[list[str]]:
    def cell(entry: Entry) -> str:
        main = bold(escape(entry.main)) if entry.best else escape(entry.main)
        return f"{main} {escape(entry.rest)}" if entry.rest else main

    return [[*map(escape, names), *map(cell, entries)] for names, entries in layout.rows]


def _md(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _tex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _tex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
