"""The sections of a page that say how it came about: curves, times, every run, what is missing, the environment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from orca_cli.report.figures import of_report
from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.of_report import Group
from orca_cli.report.figures.strokes import escaped
from orca_cli.report.page.pieces import Cell, code, figures, filter_box, listing, number, text
from orca_cli.report.records import details as reading
from orca_cli.report.records.details import Details, Origin
from orca_cli.report.statistics.differences import mean_of
from orca_cli.report.tables.holes import holes_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Table, score_of

_MOST_ROWS = 1000  # of a table with a row for each run
_OPEN_TASKS = 3  # whose curves are shown without a click


def curves(table: Table, groups: Sequence[Group], details: Mapping[Path, Details]) -> str:
    """Return the curves of stages 2 and 3, task by task."""
    by_column: dict[Column, list[Chart]] = defaultdict(list)
    for column, chart in of_report.curves(groups, details, table):
        by_column[column].append(chart)
    drawn = "".join(
        f"<details{' open' if place < _OPEN_TASKS else ''}><summary>{escaped(of_report.title_of(column, table.columns))}"
        f"</summary>{figures(charts, captions=False)}</details>"
        for place, (column, charts) in enumerate(by_column.items())
    )
    if not drawn:
        return ""
    count = len(of_report.drawn(groups))
    rest = f"<p>Curves of {count} of {len(groups)} methods on tasks are drawn; --task and --where choose.</p>"
    return (
        "<p>Each line is the mean over a method's seeds, the band from the lowest to the highest. Dotted: the floor, "
        "the distance between two halves of the source data. Circle: the epoch that was kept, unless it is the last.</p>"
        + rest * (count < len(groups))
        + drawn
    )


def times(table: Table, groups: Sequence[Group], details: Mapping[Path, Details]) -> str:
    """Return the mean time of each stage by method and task, and the ratio of stages 2 and 3."""
    rows = []
    for group in groups:
        timed = [details[run.path] for run in group.runs if details[run.path].seconds]
        if not timed:
            continue
        times_of = {stage: [one.seconds[stage] for one in timed if stage in one.seconds] for stage in reading.STAGES}
        means = {stage: mean_of(seconds) if seconds else None for stage, seconds in times_of.items()}
        align, finetune = means["align"], means["finetune"]
        ratio = align / finetune if align is not None and finetune else None
        rows.append(
            [
                text(of_report.title_of(group.column, table.columns)),
                text(group.name),
                number(len(timed), str),
                *(number(means[stage], _seconds) for stage in reading.STAGES),
                number(ratio, "{:.2f}".format),
            ]
        )
    if not rows:
        return ""
    return (
        "<p>Wall time of each stage, mean over runs. What was taken from another run or from the cache took no time here.</p>"
        + figures(of_report.times(groups, details))
        + listing("table-of-times", ("task", "method", "runs", *reading.STAGES, "align / finetune"), rows)
    )


def _seconds(value: float) -> str:
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def runs(table: Table, groups: Sequence[Group], details: Mapping[Path, Details]) -> str:
    """Return a row for each completed run: error, what it chose, distance, time."""
    every = [(group, run) for group in groups for run in group.runs]
    rows = []
    for group, run in every[:_MOST_ROWS]:
        one = details[run.path]
        rows.append(
            [
                text(f"{of_report.title_of(group.column, table.columns)}: {group.name}"),
                number(run.seed, str),
                _error(score_of(run).value, group.column),
                _error(one.validation_error, group.column),
                number(one.steps, str),
                _distance(one),
                number(one.chosen, f"{one.chosen} ({clean(one.by)})"),
                number(one.seconds.get("align"), _seconds),
                number(one.seconds.get("finetune"), _seconds),
                number(one.test_reads, str),
                text(clean(", ".join(f"{key}={value}" for key, value in one.decided.items()), longest=200)),
                text(run.path.name),
            ]
        )
    if not rows:
        return ""
    heads = (
        *("method", "seed", "error", "validation", "align steps", "distance", "epoch", "align", "finetune"),
        *("test reads", "decided by the run", "folder"),
    )
    rest = len(every) - len(rows)
    more = f"<p>The first {len(rows)} of {len(every)} runs; --task, --metric and --where choose.</p>" if rest else ""
    return (
        "<p>Every completed run: its test error, what was kept of alignment and fine-tuning, and how often the test split was "
        "read. Errors in per cent where the task's is one. distance: before > after alignment (floor).</p>"
        + more
        + filter_box("table-of-runs", len(rows))
        + listing("table-of-runs", heads, rows)
    )


def _error(value: float | None, column: Column) -> Cell:
    if value is None or not column.percent:
        return number(value)
    return number(100 * value, "{:.2f}".format)


def _distance(one: Details) -> Cell:
    if one.before is None or one.after is None:
        return number(None)
    floor = "" if one.floor is None else f" ({one.floor:.3g})"
    return number(one.after, f"{one.before:.3g} > {one.after:.3g}{floor}")


def holes(table: Table, origin: Origin) -> str:
    """Return what is missing, and the command that fills each hole."""
    missing = holes_of(table, origin)
    if not missing:
        return "<p>Nothing: every method has every seed of its task, and every run is completed.</p>"
    rows = [
        [text(hole.what), text(hole.state), text(hole.reason, "w"), code(hole.command)] for hole in missing[:_MOST_ROWS]
    ]
    counts = Counter(hole.state for hole in missing)
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    more = f" The first {_MOST_ROWS} are listed." if len(missing) > _MOST_ROWS else ""
    intro = f"<p>{escaped(words)}.{more} A command repeats no completed run, and resumes an interrupted one.</p>"
    return intro + listing("table-of-holes", ("what", "state", "reason", "command that fills it"), rows)


def environment(groups: Sequence[Group]) -> str:
    """Return in what the runs were made: versions, device, machine."""
    every = [reading.environment(run) for group in groups for run in group.runs]
    counts = Counter(one for one in every if one is not None)
    unknown = every.count(None)
    names = dict.fromkeys(name for one in counts for name, _ in one.packages)
    rows = []
    for one, count in counts.most_common(20):
        packages = dict(one.packages)
        machine = f"{one.platform}, {one.processors} processors, {one.threads or 'default'} threads"
        versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
        first = (text(f"python {one.python}"), text(one.device or "-"))
        rows.append([*first, text(machine, "w"), text(versions, "w"), number(count, str)])
    if not rows:
        return ""
    note = "<p>The runs were made in different environments: equal seeds do not give equal bits.</p>"
    missing = f"<p>{unknown} runs do not say in what they were made.</p>"
    heads = ("python", "device", "machine", "packages", "runs")
    return note * (len(counts) > 1) + missing * (unknown > 0) + listing("table-of-environments", heads, rows)
