"""The sections of a page that say what came out: verdicts, errors, methods over all tasks, simple models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orca_cli.exceptions import DataError
from orca_cli.report.figures import of_report
from orca_cli.report.figures.of_report import Group
from orca_cli.report.figures.strokes import escaped
from orca_cli.report.page.pieces import (
    Cell,
    code,
    explained,
    figures,
    filter_box,
    layout_table,
    listed,
    listing,
    number,
    text,
)
from orca_cli.report.records.details import Baseline, Details
from orca_cli.report.statistics import across_layout
from orca_cli.report.statistics.across import across
from orca_cli.report.statistics.differences import mean_of
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.statistics.verdicts import claim_of, layouts_of
from orca_cli.report.tables.layout import layout_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Table, score_of


def verdicts(comparison: Comparison | None, table: Table) -> str:
    """Return a sentence for each arm, its gains, and every set by itself; empty without a comparison."""
    if comparison is None:
        return ""
    axis, baseline = escaped(clean(comparison.axis)), escaped(clean(comparison.baseline))
    claims = []
    for one in comparison.overall:
        claim = claim_of(one, comparison)
        detail = escaped(clean(claim.detail.lstrip(", "), longest=1000))
        commands = "".join(f"<small>{code(command).html}</small>" for command in claim.commands)
        claims.append(
            f'<li class="{claim.verdict.replace(" ", "-")}"><b>{claim.verdict}</b> '
            f"<strong>{escaped(clean(claim.arm))}</strong> {detail}{commands}</li>"
        )
    first, second = layouts_of(comparison, table)
    first = replace(first, notes=first.notes[len(comparison.overall) :])  # without the sentences
    return (
        f"<p>Against <b>{axis}={baseline}</b>, in pairs of equal seed and settings. A mean gain within "
        f'±{comparison.margin:g} counts as none.</p><ul class="claims">{"".join(claims)}</ul>'
        + figures(of_report.gains(comparison), flowing=True)
        + explained(first, "gains")
        + "<h3>Set by set</h3>"
        + explained(second, "gains-by-set")
    )


def results(table: Table) -> str:
    """Return the table of errors with its notes and figures."""
    layout = layout_of(table)
    if not layout.rows:
        return ""
    return (
        f"<p>{escaped(layout.caption)}</p>"
        + filter_box("table-of-results", len(table.rows))
        + layout_table(layout, "table-of-results", len(table.rows), holes=True)
        + listed(layout.notes)
        + figures(of_report.errors(table), flowing=True)
    )


def over_all_tasks(table: Table) -> str:
    """Return profiles, ranks and pairs of the methods; nothing with fewer than two methods or tasks."""
    if len(table.columns) < 2:
        return ""
    try:
        overview = across(table)
    except DataError as error:
        return f"<p>{escaped(clean(f'{error.what}; {error.hint}'))}</p>"
    if len(overview.methods) < 2 or not overview.profiles:
        return ""
    layouts = enumerate(across_layout.layouts_of(overview, table), 1)
    tables = (explained(layout, f"across-{place}") for place, layout in layouts)
    return figures(of_report.over_tasks(overview), flowing=True) + "".join(tables)


def baselines(table: Table, groups: Sequence[Group], details: Mapping[Path, Details]) -> str:
    """Return errors and seconds of simple models by task, and how often the runs are better."""
    rows = []
    for column in table.columns:
        runs = [run for group in groups if group.column == column for run in group.runs]
        measured: dict[str, list[tuple[Baseline, float | None]]] = defaultdict(list)
        for run in runs:
            for baseline in details[run.path].baselines:
                measured[baseline.name].append((baseline, score_of(run).value))
        scale = 100.0 if column.percent else 1.0
        errors = [scale * value for run in runs if (value := score_of(run).value) is not None]
        title = of_report.title_of(column, table.columns)
        for name, pairs in sorted(measured.items()):
            values = [scale * baseline.error for baseline, _ in pairs]
            seconds = [baseline.seconds for baseline, _ in pairs if baseline.seconds is not None]
            is_better = [value < baseline.error for baseline, value in pairs if value is not None]
            better = f"{sum(is_better)} of {len(is_better)}"
            rows.append(
                [
                    text(title),
                    text(name),
                    _errors(values, column),
                    number(mean_of(seconds) if seconds else None),
                    _errors(errors, column),
                    number(mean_of(is_better) if is_better else None, better),
                    text(_usual(baseline.about for baseline, _ in pairs), "w"),
                ]
            )
    if not rows:
        return ""
    heads = ("task", "simple model", "its error", "its seconds", "runs' errors", "runs that are better", "settings")
    return (
        "<p>Simple models on the same split of the same data, fitted beside the runs. Errors: lowest to highest over runs; per "
        "cent where the task's error is one.</p>" + listing("table-of-baselines", heads, rows)
    )


def _errors(values: Sequence[float], column: Column) -> Cell:
    """Return a cell with the range of some errors; they are sorted by their mean."""
    if not values:
        return number(None)
    first, last = (f"{value:.2f}" if column.percent else f"{value:.4g}" for value in (min(values), max(values)))
    return number(mean_of(values), first if first == last else f"{first} to {last}")


def _usual(texts: Iterable[str]) -> str:
    counted = Counter(filter(None, texts)).most_common(1)
    return counted[0][0] if counted else ""
