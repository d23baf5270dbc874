"""A report as one self-contained HTML page: no network, one style sheet and one script of its own, all else is text.

The policy in its head forbids everything but these two, which it knows by their hashes: whatever a run folder's names hold, a
browser runs nothing else and fetches nothing. The template escapes every text, and control characters are written out.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from orca_cli import __version__
from orca_cli.report.credits import CITATION, credits_of
from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.contents import groups_of
from orca_cli.report.figures.svg import draw, style
from orca_cli.report.page.sections import Section, sections
from orca_cli.report.records.collect import Run
from orca_cli.report.records.study_members import Origin
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.tables.layout import alarms_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table

_LONGEST = 2000  # characters of a text, such as a command
_ALWAYS = ("completed runs", "methods", "tasks")  # tiles that are shown with 0 too


def page(table: Table, comparison: Comparison | None, command: str, origin: Origin) -> str:
    """Return the page, which names the command that made it; the same records give the same bytes."""
    groups = groups_of(table)
    runs = [run for row in table.rows for cell in row.cells for run in cell.runs]
    newest = max((run.path.name[:10] for run in runs), default="")
    shown: list[Section] = sections(table, comparison, groups, origin)
    sheet, script = _file("style.css") + style(), _file("script.js")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_cleaned
    )
    return environment.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; style-src '{_hash(sheet)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        sheet=Markup(sheet),
        script=Markup(script),
        draw=_drawn,
        study=origin.study,
        command=command,
        version=__version__,
        newest=newest if newest.startswith("20") else "",
        tiles=_tiles(table, runs),
        alarms=alarms_of(table),
        rates=table.heading,
        sections=shown,
        citation=CITATION.splitlines(),
        credits=credits_of(*zip(*(run.conf_names for run in runs), strict=True)) if runs else [],
    )


def _cleaned(value: Any) -> Any:
    return clean(value, longest=_LONGEST) if type(value) is str else value  # Markup is ours


def _drawn(chart: Chart) -> Markup:
    return Markup(draw(chart, standalone=False))  # it escapes its texts


def _tiles(table: Table, runs: list[Run]) -> list[tuple[str, int]]:
    states = Counter(run.state for run in table.unfinished)
    tiles = {
        "completed runs": len(runs),
        "methods": len(table.rows),
        "tasks": len({column.name for column in table.columns}),
        "seeds": len({run.seed for run in runs}),
        "running": states["running"],
        "failed or stopped": states.total() - states["running"],
        "unreadable": len(table.broken),
    }
    return [(name, count) for name, count in tiles.items() if count or name in _ALWAYS]


def _file(name: str) -> str:
    return resources.files("orca_cli.report.page").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
