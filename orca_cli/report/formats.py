"""The report in each of its formats: for a terminal, Markdown, LaTeX, CSV, JSON and as a page."""

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import resources
from itertools import zip_longest

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from orca_cli import __version__, terminal
from orca_cli.report import gains, ranks
from orca_cli.report.collect import Record
from orca_cli.report.credits import CITATION
from orca_cli.report.layout import (
    ALARM,
    Entry,
    Layout,
    clean,
    counted_states,
    framed,
    layout_of,
    notes_of,
    seeds_text,
    verdicts_of,
)
from orca_cli.report.paired import Comparison
from orca_cli.report.ranks import Ranking
from orca_cli.report.table import Cell, Column, Table
from orca_cli.runs.settings import flat

FORMATS = ("table", "md", "csv", "json", "latex")
_PADDING = 2  # right of a column
_GAP = _PADDING + 1  # between two columns: room for a line, which this box leaves blank
_LONGEST_NAME = 32
_FILE_WIDTH = 140
_LONGEST = 2000  # characters of a text on the page, such as a note
# Underscores within words are not markup, and names of settings have many of them.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LATEX = str.maketrans(
    {
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
)


@dataclass(frozen=True)
class Page:
    """A report before it has a format.

    It shows the table, or in its place a comparison of arms in pairs or a ranking of all methods.
    `table` is always set, since every view shows some of its texts. At most one of the other two is
    set.
    """

    table: Table
    comparison: Comparison | None = None
    ranking: Ranking | None = None

    def text(self, form: str) -> str:
        """Return the report in one of FORMATS as the content of a file, ending with a newline."""
        if form == "json":
            return terminal.to_json(self.record())
        if form == "csv":
            return _csv(self._lines())
        if form == "md":
            return "\n".join(map(_markdown, self.layouts()))
        if form == "latex":
            return "\n".join(map(_latex, self.layouts()))
        # Plain text: a file has no colours, and its width does not depend on a terminal.
        console = Console(file=io.StringIO(), width=_FILE_WIDTH, color_system=None, highlight=False)
        with console.capture() as captured:
            console.print(*self.renderables(_FILE_WIDTH), sep="\n")
        # Tables pad their last column with blanks.
        lines = map(str.rstrip, captured.get().splitlines())
        return "".join(f"{line}\n" for line in lines)

    def renderables(self, width: int) -> list[RenderableType]:
        """Return the report for a terminal of `width` characters.

        Names from the disk are never read as markup.
        """
        shown: list[RenderableType] = []
        for layout in self.layouts():
            if shown:
                shown.append(Text(""))
            if layout.heading:
                shown += [Text(layout.heading, "bold"), Text("")]
            shown += rich_tables(layout, width)
            for alarm in layout.alarms:
                shown.append(Text(alarm, "bold red"))
            if layout.caption:
                shown.append(Text(layout.caption))
            for note in layout.notes:
                shown.append(Text(f"- {note}"))
            problems = counted_states(problem.state for problem in layout.problems)
            if problems:
                shown.append(Text(problems, "bold"))
        return shown

    def layouts(self) -> list[Layout]:
        """Return the tables as texts: two for a comparison, else one."""
        if self.comparison is not None:
            return framed(self.table, gains.layouts_of(self.comparison))
        if self.ranking is not None:
            return framed(self.table, [ranks.layout_of(self.ranking)])
        return framed(self.table, [layout_of(self.table)])

    def record(self) -> Record:
        """Return the report as a JSON-able record, errors as stored.

        `schema` increases when the form of the record changes.
        """
        rates = {"rates": self.table.heading, "remarks": self.table.remarks}
        if self.comparison is not None:
            return gains.record_of(self.comparison) | rates
        if self.ranking is not None:
            return {"schema": 5, **asdict(self.ranking)} | rates
        return _record(self.table) | rates

    def _lines(self) -> Iterator[Record]:
        """Yield the lines of a csv file.

        They are cells (without the values of single seeds) and references; or arms by data set and
        over all data sets; or methods.
        """
        record = self.record()
        if self.comparison is not None:
            yield from record["sets"]
            for arm in record["arms"]:
                # This text is in the column of the data sets' names.
                yield {"task": "all sets"} | arm
            yield from record["left_out"]
        elif self.ranking is not None:
            yield from record["standings"]
        else:
            columns = record["columns"]
            for row in record["rows"]:
                # The record was made for these lines alone, so it may be changed.
                cells = row.pop("cells")
                for column, cell in zip(columns, cells, strict=True):
                    # An empty record has no field in CSV, so that the values of seeds are left out.
                    yield {"row": "method"} | column | row | cell | {"values": {}}
            for name, references in record["references"].items():
                for column, reference in zip(columns, references, strict=True):
                    if reference is not None:
                        yield {"row": name} | column | reference


def _record(table: Table) -> Record:
    rows = []
    for row in table.rows:
        method_facts = vars(row.method) | {"settings": dict(row.method.settings)}
        rows.append(method_facts | {"cells": list(map(_cell, table.columns, row.cells))})
    references = {}
    for label, row_of_references in table.references.items():
        references[label] = [reference and vars(reference) for reference in row_of_references]
    unfinished = [
        {
            "run": str(run.path),
            "state": run.state,
            "reason": run.reason,
            "task": run.task,
            "seed": run.seed,
        }
        for run in table.unfinished
    ]
    broken = [{"run": str(folder.path), "reason": folder.reason} for folder in table.broken]
    return {
        "schema": 4,
        "columns": list(map(vars, table.columns)),
        "rows": rows,
        "references": references,
        "unfinished": unfinished,
        "broken": broken,
        "superseded": [str(run.path) for run in table.superseded],
        "notes": [*notes_of(table), *table.remarks],
    }


def _cell(column: Column, cell: Cell) -> Record:
    values = [
        {
            "seed": run.seed,
            "value": score.value,
            "n": score.n,
            "skipped": score.skipped,
            "alignment_steps": score.steps,
            "run": str(run.path),
        }
        for run, score in cell.scored
    ]
    return {
        "task": column.task,
        "protocol": column.protocol,
        "data": column.data,
        "mean": cell.mean,
        "standard_deviation": cell.deviation,
        "n": len(cell.error_by_seed),
        "seeds": seeds_text(cell.error_by_seed),
        "best": cell.best,
        "earned": cell.earned,
        "chosen": cell.choice,
        "missing": dict(cell.missing),
        "values": values,
    }


def _csv(records: Iterable[Record]) -> str:
    """Return CSV with every field of any line; fields of nested records have dotted names."""
    rows = []
    field_names: dict[str, None] = {}  # in the order in which records first have them
    for record in records:
        fields = {}
        for field_name, content in flat(record):
            if content != {}:
                # Names of fields come from the disk too, such as keys of settings.
                fields[_field(field_name)] = _field(content)
        rows.append(fields)
        field_names |= dict.fromkeys(fields)
    csv_file = io.StringIO()
    writer = csv.DictWriter(csv_file, list(field_names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return csv_file.getvalue()


def _field(field: object) -> str:
    # A list is a single field, with blanks between its parts.
    if isinstance(field, list | tuple):
        field = " ".join(map(str, field))
    if isinstance(field, str):
        return terminal.for_spreadsheet(clean(field))
    if field is None:
        return ""
    # Numbers with all digits, and true and false as in JSON.
    return json.dumps(field)


def rich_tables(layout: Layout, width: int) -> Iterator[RenderableType]:
    """Yield a layout's table, and an empty line.

    A table that is wider than the terminal becomes several, each with the names of the methods.
    """
    for columns in _blocks(layout, width):
        yield _rich_table(layout, columns)
        yield Text("")


def _blocks(layout: Layout, width: int) -> list[list[int]]:
    """Return the task columns, by position, in groups that fit side by side.

    The names of the methods are repeated for each group.
    """
    if not layout.rows:
        return []
    free_width = width + _GAP  # there is no gap after the last column
    for position, header in enumerate(layout.names):
        texts = [header]
        for row in layout.rows:
            texts.append(row.names[position])
        free_width -= _width(texts)
    blocks: list[list[int]] = [[]]
    width_left = free_width
    for position, lines in enumerate(layout.columns):
        texts = list(lines)
        for row in layout.rows:
            entry = row.entries[position]
            texts += [entry.main, entry.rest]
        needed_width = _width(texts)
        # A column that fits nowhere is alone in its group.
        if blocks[-1] and needed_width > width_left:
            blocks.append([])
            width_left = free_width
        blocks[-1].append(position)
        width_left -= needed_width
    return blocks


def _width(texts: Iterable[str]) -> int:
    """Return how many characters a column needs on a terminal, with the gap after it."""
    return min(max(map(cell_len, texts)), _LONGEST_NAME) + _GAP


def _rich_table(layout: Layout, columns: list[int]) -> RichTable:
    rich_table = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _PADDING, 0, 0), show_edge=False
    )
    # Long texts are folded and never cut, so that each is shown in full.
    for name in layout.names:
        rich_table.add_column(Text(name), overflow="fold", max_width=_LONGEST_NAME, vertical="top")
    for position in columns:
        task, *marks = layout.columns[position]
        header = Text.assemble((task, "bold"))
        for mark in marks:
            style = "bold red" if mark == ALARM else "dim"
            header.append(f"\n{mark}", style)
        rich_table.add_column(header, justify="right", overflow="fold", max_width=_LONGEST_NAME)
    for row in layout.rows:
        cells = []
        for position in columns:
            entry = row.entries[position]
            cell_text = Text(entry.main, "bold" if entry.best else "")
            if entry.rest:
                cell_text.append(f"\n{entry.rest}", "not bold yellow")
            cells.append(cell_text)
        rich_table.add_row(*map(Text, row.names), *cells)
    return rich_table


def _markdown(layout: Layout) -> str:
    """Return a pipe table with the best results in bold, then caption, notes and problems."""

    def escape(text: str) -> str:
        return _MARKDOWN.sub(r"\\\g<0>", text)

    lines = []
    if layout.heading:
        lines += [f"**{escape(layout.heading)}**", ""]
    if layout.rows:
        # <br> is added after the text is escaped, which would escape it too.
        header_cells = []
        for text in (*layout.names, *map("\n".join, layout.columns)):
            header_cells.append(escape(text).replace("\n", "<br>"))
        # Names to the left, numbers to the right.
        rule = [":--"] * len(layout.names) + ["--:"] * len(layout.columns)
        for cells in (header_cells, rule, *_rows(layout, escape, "**{}**")):
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    for alarm in layout.alarms:
        lines += [f"**{escape(alarm)}**", ""]
    if layout.caption:
        lines += [escape(layout.caption), ""]
    for note in layout.notes:
        lines.append(f"- {escape(note)}")
    if layout.problems:
        lines += ["", "Runs that are not part of any mean:", ""]
    for problem in layout.problems:
        state, reason, folder = map(escape, problem)
        lines.append(f"- {state}: {reason} ({folder})")
    return "\n".join(lines).strip() + "\n"


def _latex(layout: Layout) -> str:
    r"""Return a tabular for the booktabs package with the best results in \textbf.

    Notes are comments below it.
    """

    def escape(text: str) -> str:
        return text.translate(_LATEX)

    lines = []
    if layout.heading:
        lines.append(f"% {layout.heading}")
    lines.append(r"% needs \usepackage{booktabs}")
    if layout.rows:
        n_names = len(layout.names)
        alignment = "l" * n_names + "r" * len(layout.columns)
        header = []
        # A line of the header for each line above a column; the names are on the last.
        for level in zip_longest(*layout.columns, fillvalue=""):
            header.append([""] * n_names + list(map(escape, level)))
        header[-1][:n_names] = map(escape, layout.names)
        lines += [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
        lines += map(_latex_row, header)
        lines.append(r"\midrule")
        lines += map(_latex_row, _rows(layout, escape, r"\textbf{{{}}}"))
        lines += [r"\bottomrule", r"\end{tabular}"]
    for alarm in layout.alarms:
        # Printed and not a comment, since a reader has to know that errors are too low.
        lines.append(rf"\\[1ex] \textbf{{{escape(alarm)}}}")
    for note in filter(None, (layout.caption, *layout.notes)):
        # No text has a line break, which would end the comment: `clean` has escaped it.
        lines.append(f"% {note}")
    for state, reason, folder in layout.problems:
        lines.append(f"% {state}: {reason} ({folder})")
    return "\n".join(lines) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _rows(layout: Layout, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    """Return the cells of a layout's rows, escaped, with the best results in bold."""

    def cell(entry: Entry) -> str:
        text = escape(entry.main)
        if entry.best:
            text = bold.format(text)
        if entry.rest:
            text = f"{text} {escape(entry.rest)}"
        return text

    rows = []
    for row in layout.rows:
        rows.append([*map(escape, row.names), *map(cell, row.entries)])
    return rows


def page_of(view: Page, command: str, study: str) -> str:
    """Return the report as one self-contained HTML page.

    It consists of one style sheet, one script and text, and loads nothing from the network. The
    policy in its head forbids everything except this style sheet and this script, which it knows by
    their hashes: whatever the names in a run folder contain, a browser runs nothing else and
    fetches nothing. The template escapes all texts, and control characters are written out. The
    same records give the same bytes.

    `command` is the command line that made the page; `study` is empty for none. Without matplotlib
    the page has no figures.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from orca_cli.report import figures  # imports numpy

    names: tuple[str, ...] = ()
    if view.comparison is not None:
        names = ("Gains", "Gains by data set")
    elif view.ranking is not None:
        names = ("Ranks",)
    tables = {}
    # Without a comparison or a ranking, the results below are the only table.
    for name, layout in zip(names, view.layouts(), strict=False):
        tables[name] = replace(layout, problems=[])  # the table of results has them
    tables["Results"] = Page(view.table).layouts()[0]
    # None: figures cannot be drawn. An empty list: there is nothing to draw.
    charts = None
    if figures.is_available():
        charts = list(figures.all_charts(view.table, view.comparison))
    sheet = _packaged("style.css")
    script = _packaged("script.js")
    # A misspelt name in the template is an error, not an empty text.
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    # Only texts: style sheet, script and figures are Markup, a subclass of str.
    environment.finalize = lambda content: (
        clean(content, longest=_LONGEST) if type(content) is str else content
    )
    return environment.from_string(_packaged("page.html")).render(
        policy=f"default-src 'none'; style-src '{_digest(sheet)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'",
        sheet=Markup(sheet),
        script=Markup(script),
        # SVG, so it is not escaped again.
        draw=lambda chart: Markup(figures.inline(chart)),  # its texts are escaped
        study=study,
        command=command,
        version=__version__,
        tables=tables,
        verdicts=[*verdicts_of(view.table)],
        charts=charts,
        ALARM=ALARM,
        citation=CITATION.splitlines(),
    )


def _packaged(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files("orca_cli.report").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    """Return the hash of a style sheet or script as a page's policy states it."""
    # A browser hashes the exact text between the tags.
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
