"""What `orca report` shows, in every format: the table, or in its place a comparison of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import terminal
from orca_cli.report.rendering import console, formats
from orca_cli.report.statistics import across, across_layout, verdicts
from orca_cli.report.statistics.across import Across
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.tables.layout import PLUS_MINUS, Layout
from orca_cli.report.tables.table import Table


@dataclass(frozen=True)
class Page:
    """The table, with a comparison of arms in pairs or of all methods over tasks; at most one of the two."""

    table: Table
    comparison: Comparison | None = None
    across: Across | None = None

    def text(self, form: str) -> str:
        """Return it in one of `formats.FORMATS` as the content of a file."""
        if self.comparison is None and self.across is None:
            return formats.text_of(self.table, form)
        if form == "json":
            return terminal.to_json(self.record())
        if form != "csv":
            return formats.marked_up(self._layouts(), form)
        if self.comparison is not None:
            return formats.csv_of(verdicts.CSV_COLUMNS, verdicts.csv_lines(self.comparison))
        assert self.across is not None
        return formats.csv_of(across_layout.CSV_COLUMNS, across_layout.csv_lines(self.across))

    def renderables(self, width: int) -> list[RenderableType]:
        """Return it for a terminal of `width` characters whose encoding is that of standard output."""
        if self.comparison is None and self.across is None:
            return formats.terminal_of(self.table, width)
        shown: list[RenderableType] = []
        for layout in self._layouts(formats.sign()):
            shown += [*([Text("")] if shown else []), *console.renderables(layout, width)]
        return shown

    def _layouts(self, sign: str = PLUS_MINUS) -> list[Layout]:
        if self.comparison is not None:
            return verdicts.layouts_of(self.comparison, self.table, sign)
        assert self.across is not None
        return across_layout.layouts_of(self.across, self.table, sign)

    def record(self) -> dict[str, Any]:
        """Return it as a JSON-able record."""
        if self.comparison is not None:
            return verdicts.record_of(self.comparison)
        return formats.record_of(self.table) if self.across is None else across.record_of(self.across)
