"""The sections of a page that say what came out: verdicts, errors, methods over all tasks, simple models."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from orca_cli.exceptions import DataError
from orca_cli.report.figures import of_report
from orca_cli.report.figures.of_report import Group
from orca_cli.report.figures.over_tasks import over_tasks
from orca_cli.report.figures.strokes import escaped
from orca_cli.report.page.pieces import figures, filter_box, listed, mean
from orca_cli.report.page.tables import code, heading, number, of_layout, table, text
from orca_cli.report.records.details import Baseline, Details
from orca_cli.report.statistics import across_layout
from orca_cli.report.statistics.across import across
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.statistics.verdicts import claim_of, layouts_of
from orca_cli.report.tables.layout import layout_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table, score_of


def verdicts(comparison: Comparison | None, given: Table) -> str:
    """Return a sentence for each arm, its gains, and every set by itself; empty without a comparison."""
    if comparison is None:
        return ""
    axis, baseline = escaped(clean(comparison.axis)), escaped(clean(comparison.baseline))
    claims = []
    for one in comparison.overall:
        claim = claim_of(one, comparison)
        said = escaped(clean(claim.said.lstrip(", "), longest=1000))
        commands = "".join(f"<small>{code(command).html}</small>" for command in claim.commands)
        claims.append(
            f'<li class="{claim.verdict.replace(" ", "-")}"><b>{claim.verdict}</b> '
            f"<strong>{escaped(clean(claim.arm))}</strong> {said}{commands}</li>"
        )
    first, second = layouts_of(comparison, given)
    more = first.notes[len(comparison.overall) :]
    return (
        f"<p>Against <b>{axis}={baseline}</b>, in pairs of equal seed and settings. A mean gain within "
        f'±{comparison.margin:g} counts as none.</p><ul class="claims">{"".join(claims)}</ul>'
        + figures(of_report.gains(comparison), flowing=True)
        + of_layout(first, "gains", len(first.rows))
        + f'<p class="faint">{escaped(first.caption)}</p>'
        + listed(more)
        + "<h3>Set by set</h3>"
        + of_layout(second, "gains-by-set", len(second.rows))
        + f'<p class="faint">{escaped(second.caption)}</p>'
        + listed(second.notes)
    )


def results(given: Table) -> str:
    """Return the table of errors with its notes and figures."""
    layout = layout_of(given)
    if not layout.rows:
        return ""
    return (
        f"<p>{escaped(layout.caption)}</p>"
        + filter_box("table-of-results", len(given.rows))
        + of_layout(layout, "table-of-results", len(given.rows), holes=True)
        + listed(layout.notes)
        + figures(of_report.errors(given), flowing=True)
    )


def over_all_tasks(given: Table) -> str:
    """Return profiles, ranks and pairs of the methods; nothing with fewer than two methods or tasks."""
    if len(given.columns) < 2:
        return ""
    try:
        found = across(given)
    except DataError as error:
        return f"<p>{escaped(clean(f'{error.what}; {error.hint}'))}</p>"
    if len(found.methods) < 2 or not found.profiles:
        return ""
    tables = "".join(
        of_layout(layout, f"across-{place}", len(layout.rows))
        + f'<p class="faint">{escaped(layout.caption)}</p>'
        + listed(layout.notes)
        for place, layout in enumerate(across_layout.layouts_of(found, given), 1)
    )
    return figures(over_tasks(found), flowing=True) + tables


def baselines(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
    """Return errors and seconds of simple models by task, and how often the runs are better."""
    rows = []
    for column in given.columns:
        own = [found[run.path] for group in groups if group.column == column for run in group.runs]
        measured: dict[str, list[Baseline]] = defaultdict(list)
        for one in own:
            for baseline in one.baselines:
                measured[baseline.name].append(baseline)
        scale = 100.0 if column.percent else 1.0
        runs = [score_of(run).value for group in groups if group.column == column for run in group.runs]
        errors = [scale * value for value in runs if value is not None]
        title = of_report.title_of(column, given.columns)
        for name, baselines in sorted(measured.items()):
            values = [scale * baseline.error for baseline in baselines]
            seconds = [baseline.seconds for baseline in baselines if baseline.seconds is not None]
            pairs = [
                (value, baseline.error)
                for group in groups
                if group.column == column
                for run in group.runs
                for baseline in found[run.path].baselines
                if baseline.name == name and (value := score_of(run).value) is not None
            ]
            better = sum(mine < theirs for mine, theirs in pairs)
            rows.append(
                [
                    text(title),
                    text(name),
                    number(mean(values), _range(values, column.percent)),
                    number(mean(seconds) if seconds else None),
                    number(mean(errors) if errors else None, _range(errors, column.percent) if errors else ""),
                    number(better / len(pairs) if pairs else None, f"{better} of {len(pairs)}" if pairs else ""),
                    text(_usual(baseline.about for baseline in baselines), "w"),
                ]
            )
    if not rows:
        return ""
    heads = ("task", "simple model", "its error", "its seconds", "runs' errors", "runs that are better", "settings")
    looks = ("", "", "n", "n", "n", "n", "")
    headers = [heading(name, is_number=look == "n") for name, look in zip(heads, looks, strict=True)]
    return (
        "<p>Simple models on the same split of the same data, fitted beside the runs. Errors: lowest to highest over runs; per "
        "cent where the task's error is one.</p>" + table("table-of-baselines", headers, rows)
    )


def _range(values: Sequence[float], is_percent: bool) -> str:
    first, last = (f"{value:.2f}" if is_percent else f"{value:.4g}" for value in (min(values), max(values)))
    return first if first == last else f"{first} to {last}"


def _usual(texts: Iterable[str]) -> str:
    counted = Counter(filter(None, texts)).most_common(1)
    return counted[0][0] if counted else ""
