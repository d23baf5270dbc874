"""A report as one self-contained HTML page: one style sheet, one script, text; nothing from the network.

The policy in its head forbids everything but these two, which it knows by their hashes: whatever a run folder's names hold, a
browser runs nothing else and fetches nothing. The template escapes every text, and control characters are written out.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from orca_cli import __version__
from orca_cli.exceptions import DataError
from orca_cli.report.credits import CITATION
from orca_cli.report.figures import contents
from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.contents import Group, groups_of, title_of
from orca_cli.report.figures.svg import draw, style
from orca_cli.report.statistics import across
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.statistics.verdicts import layouts_of
from orca_cli.report.tables.layout import ALARM, MISSING, Entry, Layout, layout_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Table

_LONGEST = 2000  # characters of a text, such as a note
_MOST_RUNS = 1000  # that are listed


@dataclass(frozen=True)
class Block:
    """A part of a section: whatever is given, in this order. `summary` folds the charts."""

    text: str = ""
    charts: Sequence[Chart] = ()
    summary: str = ""
    layout: Layout | None = None
    name: str = ""  # of the layout's table in the document


def page(table: Table, comparison: Comparison | None, command: str, study: str) -> str:
    """Return the page, which names the command that made it, and its study if there is one.

    The same records give the same bytes.
    """
    groups = groups_of(table)
    built = (
        ("verdicts", "Verdicts", _verdicts(comparison, table)),
        ("results", "Results", _results(table)),
        ("across", "Over all tasks", _over_all_tasks(table)),
        ("curves", "Curves", _curves(table, groups)),
        ("runs", "Runs", _runs(table, groups)),
    )
    sections = [(name, heading, blocks) for name, heading, parts in built if (blocks := list(parts))]
    sheet, script = _file("style.css") + style(), _file("script.js")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_cleaned
    )
    return environment.from_string(_file("page.html")).render(
        policy=f"default-src 'none'; style-src '{_hash(sheet)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        sheet=Markup(sheet),
        script=Markup(script),
        draw=lambda chart: Markup(draw(chart, standalone=False)),  # it escapes its texts
        study=study,
        command=command,
        version=__version__,
        sections=sections,
        ALARM=ALARM,
        citation=CITATION.splitlines(),
    )


def _cleaned(value: Any) -> Any:
    return clean(value, longest=_LONGEST) if type(value) is str else value  # Markup is ours


def _file(name: str) -> str:
    return resources.files("orca_cli.report.page").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _verdicts(comparison: Comparison | None, table: Table) -> Iterator[Block]:
    """Yield the arms over all sets, then by set; nothing without a comparison."""
    if comparison is not None:
        first, second = layouts_of(comparison, table)
        yield Block(charts=list(contents.gains(comparison)), layout=first, name="gains")
        yield Block("Set by set", layout=replace(second, problems=[]), name="gains-by-set")


def _results(table: Table) -> Iterator[Block]:
    """Yield the table, with its runs that are not completed, and its figures."""
    yield Block(layout=layout_of(table), name="table-of-results")
    if charts := list(contents.errors(table)):
        yield Block(charts=charts)


def _over_all_tasks(table: Table) -> Iterator[Block]:
    """Yield profiles, ranks and pairs of the methods; nothing with fewer than two methods or tasks."""
    if len(table.columns) < 2:
        return
    try:
        overview = across.across(table)
    except DataError as error:
        yield Block(f"{error.what}; {error.hint}")
        return
    if len(overview.methods) < 2 or not overview.profiles:
        return
    yield Block(charts=list(contents.over_tasks(overview)))
    for place, layout in enumerate(across.layouts_of(overview, table), 1):
        yield Block(layout=replace(layout, problems=[]), name=f"across-{place}")


def _curves(table: Table, groups: Sequence[Group]) -> Iterator[Block]:
    """Yield the curves of each task."""
    by_column: dict[Column, list[Chart]] = defaultdict(list)
    for column, chart in contents.curves(groups, table):
        by_column[column].append(chart)
    if by_column and len(groups) > contents.MOST_CURVES:
        yield Block(f"Curves of {contents.MOST_CURVES} of {len(groups)} methods on tasks are drawn; --task chooses.")
    for column, charts in by_column.items():
        yield Block(charts=charts, summary=title_of(column, table.columns))


def _runs(table: Table, groups: Sequence[Group]) -> Iterator[Block]:
    """Yield a table of the completed runs: error, alignment, times, folder."""
    every = [(group, *pair) for group in groups for pair in zip(group.runs, group.scores, strict=True)]
    if not every:
        return
    rows = []
    for group, run, score in every[:_MOST_RUNS]:
        scale = group.column.scale
        distance = MISSING
        if score.before is not None and score.after is not None:
            distance = f"{score.before:.3g} > {score.after:.3g}"
        numbers = [value if value is None else scale * value for value in (score.value, score.validation)]
        numbers += [score.steps, score.times.get("align"), score.times.get("finetune")]
        texts = [MISSING if value is None else f"{value:.4g}" for value in numbers]
        entries = map(Entry, (str(run.seed), *texts, distance, run.path.name))
        rows.append(([f"{title_of(group.column, table.columns)}: {group.name}"], list(entries)))
    heads = ("seed", "error", "validation", "align steps", "align, s", "finetune, s", "distance", "folder")
    caption = "Every completed run. Errors in per cent where the task's is one. distance: before > after alignment."
    if len(rows) < len(every):
        caption += f" The first {len(rows)} of {len(every)} runs; --task, --metric and --where choose."
    yield Block(layout=Layout(["method"], [[head] for head in heads], rows, caption), name="table-of-runs")
