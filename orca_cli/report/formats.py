"""The report in each of its formats: for a terminal, Markdown, LaTeX, CSV, JSON and as a page."""

import base64
import csv
import functools
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import resources
from itertools import zip_longest
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from orca_cli import __version__, terminal
from orca_cli.report import gains, ranks
from orca_cli.report.credits import CITATION
from orca_cli.report.layout import (
    ALARM,
    Entry,
    Layout,
    clean,
    framed,
    layout_of,
    notes_of,
    seeds_text,
)
from orca_cli.report.paired import Comparison
from orca_cli.report.ranks import Ranking
from orca_cli.report.table import Cell, Column, Table
from orca_cli.runs.settings import flat

FORMATS = ("table", "md", "csv", "json", "latex")
_PADDING = 2  # right of a column
_GAP = _PADDING + 1  # between two columns: a place for a line, which this box leaves blank
_LONGEST_NAME, _FILE_WIDTH = 32, 140
_LONGEST = 2000  # characters of a text of the page, such as a note
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
    """A report before it has a format: the table, or in its place a comparison of arms in pairs or a ranking of all methods.

    The table is always there, for what every view shows; of the other two at most one is.
    """

    table: Table
    comparison: Comparison | None = None
    ranking: Ranking | None = None

    def text(self, form: str) -> str:
        """Return the report in one of FORMATS as the content of a file, ending with a line break."""
        if form == "json":
            return terminal.to_json(self.record())
        if form == "csv":
            return _csv(self._lines())
        if form != "table":
            return "\n".join(map(_markdown if form == "md" else _latex, self.layouts()))
        console = Console(file=io.StringIO(), width=_FILE_WIDTH, color_system=None, highlight=False)
        with console.capture() as captured:
            console.print(*self.renderables(_FILE_WIDTH), sep="\n")
        return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())

    def renderables(self, width: int) -> list[RenderableType]:
        """Return the report for a terminal of `width` characters; names from the disk are never read as markup."""
        shown: list[RenderableType] = []
        for layout in self.layouts():
            shown += [Text("")] if shown else []
            shown += [Text(layout.heading, "bold"), Text("")] if layout.heading else []
            for places in _blocks(layout, width):
                shown += [_table(layout, places), Text("")]
            shown += [Text(alarm, "bold red") for alarm in layout.alarms]
            shown += [
                Text(text)
                for text in (layout.caption, *(f"- {note}" for note in layout.notes))
                if text
            ]
            shown += [Text(""), Text("Not in the means:", "bold")] if layout.problems else []
            for state, reason, folder in layout.problems:
                shown.append(Text.assemble((state, "bold"), f"  {reason}\n  {folder}"))
        return shown

    def layouts(self) -> list[Layout]:
        """Return the tables as texts: two for a comparison, else one."""
        if self.comparison is not None:
            return framed(self.table, gains.layouts_of(self.comparison))
        return framed(
            self.table, [ranks.layout_of(self.ranking) if self.ranking else layout_of(self.table)]
        )

    def record(self) -> dict[str, Any]:
        """Return the report as a JSON-able record, errors as stored; `schema` counts up when its form changes."""
        rates = {"rates": self.table.heading, "remarks": self.table.remarks}
        if self.comparison is not None:
            return gains.record_of(self.comparison) | rates
        return (
            _record(self.table) if self.ranking is None else {"schema": 5, **asdict(self.ranking)}
        ) | rates

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of a csv file: cells and what stands below them, or arms by set and over all sets, or methods."""
        record = self.record()
        if self.comparison is not None:
            yield from record["sets"]
            yield from ({"task": "all sets"} | arm for arm in record["arms"])
            yield from record["left_out"]
        elif self.ranking is not None:
            yield from record["standings"]
        else:
            columns = record["columns"]
            for row in record["rows"]:
                for column, cell in zip(columns, row.pop("cells"), strict=True):
                    yield {"row": "method"} | column | row | cell | {"values": {}}
            for name, references in record["references"].items():
                pairs = zip(columns, references, strict=True)
                yield from (
                    {"row": name} | column | one for column, one in pairs if one is not None
                )


def _record(table: Table) -> dict[str, Any]:
    return {
        "schema": 4,
        "columns": [vars(column) for column in table.columns],
        "rows": [
            vars(row.method)
            | {"settings": dict(row.method.settings)}
            | {
                "cells": [
                    _cell(column, cell)
                    for column, cell in zip(table.columns, row.cells, strict=True)
                ]
            }
            for row in table.rows
        ],
        "references": {
            name: [one and vars(one) for one in row] for name, row in table.references.items()
        },
        "unfinished": [
            {
                "run": str(run.path),
                "state": run.state,
                "reason": run.reason,
                "task": run.task,
                "seed": run.seed,
            }
            for run in table.unfinished
        ],
        "broken": [{"run": str(entry.path), "reason": entry.reason} for entry in table.broken],
        "superseded": [str(run.path) for run in table.superseded],
        "notes": [*notes_of(table), *table.remarks],
    }


def _cell(column: Column, cell: Cell) -> dict[str, Any]:
    return {
        "task": column.task,
        "protocol": column.protocol,
        "data": column.data,
        "mean": cell.mean,
        "standard_deviation": cell.deviation,
        "n": len(cell.values),
        "seeds": seeds_text(cell.by_seed),
        "best": cell.best,
        "earned": cell.earned,
        "chosen": cell.choice,
        "missing": dict(cell.missing),
        "values": [
            {"seed": run.seed, "value": score.value, "n": score.n, "skipped": score.skipped}
            | {"alignment_steps": score.steps, "run": str(run.path)}
            for run, score in cell.scored
        ],
    }


def _csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return CSV with every field of any line; what is nested has a dotted name."""
    fields = [
        {_field(name): _field(value) for name, value in flat(dict(line)) if value != {}}
        for line in lines
    ]
    file = io.StringIO()
    names = list({name: None for line in fields for name in line})
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(fields)
    return file.getvalue()


def _field(value: object) -> str:
    if isinstance(value, list | tuple):
        value = " ".join(map(str, value))
    if not isinstance(value, str):
        return "" if value is None else json.dumps(value)
    return terminal.for_spreadsheet(clean(value))


def _blocks(layout: Layout, width: int) -> list[list[int]]:
    """Return the task columns in groups that fit side by side; the names of the methods are repeated for each."""
    if not layout.rows:
        return []

    def needed(texts: Iterable[str]) -> int:
        return min(max(map(cell_len, texts)), _LONGEST_NAME) + _GAP

    names = zip(layout.names, *(names for names, _ in layout.rows), strict=True)
    room = free = width + _GAP - sum(map(needed, names))  # there is none after the last column
    blocks: list[list[int]] = [[]]
    for place, header in enumerate(layout.columns):
        entries = [entries[place] for _, entries in layout.rows]
        column = needed(
            [*header, *(text for entry in entries for text in (entry.main, entry.rest))]
        )
        if blocks[-1] and column > room:
            blocks.append([])
            room = free
        blocks[-1].append(place)
        room -= column
    return blocks


def _table(layout: Layout, places: list[int]) -> RichTable:
    table = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _PADDING, 0, 0), show_edge=False
    )
    for name in layout.names:
        table.add_column(Text(name), overflow="fold", max_width=_LONGEST_NAME, vertical="top")
    for place in places:
        task, *lines = layout.columns[place]
        looks = ((f"\n{line}", "bold red" if line == ALARM else "dim") for line in lines)
        header = Text.assemble((task, "bold"), *looks)
        table.add_column(header, justify="right", overflow="fold", max_width=_LONGEST_NAME)
    for names, entries in layout.rows:
        cells = []
        for entry in (entries[place] for place in places):
            rest = [(f"\n{entry.rest}", "not bold yellow")] if entry.rest else []
            cells.append(Text.assemble(entry.main, *rest, style="bold" if entry.best else ""))
        table.add_row(*map(Text, names), *cells)
    return table


def _markdown(layout: Layout) -> str:
    """Return a pipe table with the best results in bold, the caption, the notes and the problems."""
    escape = functools.partial(_MARKDOWN.sub, r"\\\g<0>")
    lines = [f"**{escape(layout.heading)}**", ""] if layout.heading else []
    if layout.rows:
        head = [
            *map(escape, layout.names),
            *("<br>".join(map(escape, header)) for header in layout.columns),
        ]
        rule = [*(":--" for _ in layout.names), *("--:" for _ in layout.columns)]
        lines += [
            f"| {' | '.join(cells)} |" for cells in (head, rule, *_rows(layout, escape, "**{}**"))
        ] + [""]
    lines += [line for alarm in layout.alarms for line in (f"**{escape(alarm)}**", "")]
    lines += [escape(layout.caption), ""] if layout.caption else []
    lines += [f"- {escape(note)}" for note in layout.notes]
    lines += ["", "Not in the means:", ""] if layout.problems else []
    lines += [
        f"- {escape(state)}: {escape(reason)} ({escape(path)})"
        for state, reason, path in layout.problems
    ]
    return "\n".join(lines).strip() + "\n"


def _latex(layout: Layout) -> str:
    r"""Return a tabular for the booktabs package with the best results in \textbf; notes are comments below it."""

    def escape(text: str) -> str:
        return "".join(_LATEX.get(char, char) for char in text)

    lines = [f"% {layout.heading}"] if layout.heading else []
    lines.append(r"% needs \usepackage{booktabs}")
    if layout.rows:
        lines += [
            rf"\begin{{tabular}}{{{'l' * len(layout.names)}{'r' * len(layout.columns)}}}",
            r"\toprule",
        ]
        *levels, last = zip_longest(
            *(map(escape, header) for header in layout.columns), fillvalue=""
        )
        head = [[*("" for _ in layout.names), *level] for level in levels] + [
            [*map(escape, layout.names), *last]
        ]
        body = _rows(layout, escape, r"\textbf{{{}}}")
        lines += [" & ".join(row) + r" \\" for row in (*head, *body)]
        lines.insert(-len(body), r"\midrule")
        lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\\[1ex] \textbf{{{escape(alarm)}}}" for alarm in layout.alarms]
    lines += [f"% {line}" for line in (layout.caption, *layout.notes) if line]
    lines += [f"% {state}: {reason} ({path})" for state, reason, path in layout.problems]
    return "\n".join(lines) + "\n"


def _rows(layout: Layout, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    def cell(entry: Entry) -> str:
        main = bold.format(escape(entry.main)) if entry.best else escape(entry.main)
        return f"{main} {escape(entry.rest)}" if entry.rest else main

    return [[*map(escape, names), *map(cell, entries)] for names, entries in layout.rows]


def page_of(view: Page, command: str, study: str) -> str:
    """Return the report as one self-contained HTML page: one style sheet, one script, text; nothing from the network.

    The policy in its head forbids everything but the style sheet and the script, by their hashes: whatever a run folder's names
    hold, a browser runs nothing else and fetches nothing. The template escapes all texts, and control characters are written
    out. The same records give the same bytes.

    `command` is what made the page, as typed; `study` is empty for none. Without matplotlib there are no figures.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from orca_cli.report import figures  # imports numpy

    def content(name: str) -> tuple[Markup, str]:
        text = resources.files("orca_cli.report").joinpath(name).read_text("utf-8")
        return Markup(
            text
        ), f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

    names = ("Gains", "Gains by set") if view.comparison else ("Ranks",) if view.ranking else ()
    tables = dict(
        zip(names, (replace(layout, problems=[]) for layout in view.layouts()), strict=False)
    )
    (sheet, sheet_hash), (script, script_hash) = content("style.css"), content("script.js")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.finalize = lambda value: (
        clean(value, longest=_LONGEST) if type(value) is str else value
    )  # not Markup
    return environment.from_string(content("page.html")[0]).render(
        policy=f"default-src 'none'; style-src '{sheet_hash}'; script-src '{script_hash}'; "
        "base-uri 'none'; form-action 'none'",
        sheet=sheet,
        script=script,
        draw=lambda chart: Markup(figures.inline(chart)),  # its texts are escaped
        study=study,
        command=command,
        version=__version__,
        tables=tables | {"Results": Page(view.table).layouts()[0]},
        charts=list(figures.all_charts(view.table, view.comparison))
        if figures.is_available()
        else None,
        ALARM=ALARM,
        citation=CITATION.splitlines(),
    )
