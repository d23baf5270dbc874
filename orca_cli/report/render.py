"""One table in five formats; the choice of the format is made here and nowhere else."""

from __future__ import annotations

from rich.console import RenderableType

from orca_cli.report import console, markup, records
from orca_cli.report.grid import PLUS_MINUS, grid_of
from orca_cli.report.tables import Table

FORMATS = ("table", "md", "csv", "json", "latex")


def text_of(table: Table, form: str) -> str:
    """Return a table in one of FORMATS as the content of a file, ending with a line break."""
    if form == "csv":
        return records.csv_text(table)
    if form == "json":
        return records.json_text(table)
    grid = grid_of(table)
    if form == "md":
        return markup.markdown(grid)
    return markup.latex(grid) if form == "latex" else console.plain(grid)


def terminal_of(table: Table, width: int) -> list[RenderableType]:
    """Return a table for a terminal of `width` characters whose encoding is that of standard output."""
    sign = PLUS_MINUS if console.can_write(PLUS_MINUS) else "+-"
    return console.renderables(grid_of(table, sign), width)
