"""The sections of a page that say how it came about: curves, times, every run, what is missing, the environment."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from orca_cli.report.figures import of_report
from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.of_report import Group
from orca_cli.report.figures.strokes import escaped
from orca_cli.report.figures.svg import sparkline
from orca_cli.report.page.pieces import figures, filter_box, mean
from orca_cli.report.page.tables import Cell, code, heading, number, table, text
from orca_cli.report.records import details as reading
from orca_cli.report.records.details import Details
from orca_cli.report.records.origin import Origin
from orca_cli.report.tables.holes import holes_of
from orca_cli.report.tables.layout import number as shown_number
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Column, Table, score_of

_MOST_ROWS = 1000  # of a table with a row for each run
_OPEN_TASKS = 3  # whose curves are shown without a click


def curves(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
    """Return the curves of stages 2 and 3, task by task."""
    by_column: dict[Column, list[Chart]] = defaultdict(list)
    for column, chart in of_report.curves(groups, found, given):
        by_column[column].append(chart)
    drawn = "".join(
        f"<details{' open' if place < _OPEN_TASKS else ''}><summary>{escaped(of_report.title_of(column, given.columns))}"
        f"</summary>{figures(charts, captions=False)}</details>"
        for place, (column, charts) in enumerate(by_column.items())
    )
    if not drawn:
        return ""
    rest = of_report.left_out(groups)
    text_ = (
        f"<p>Curves of {len(groups) - rest} of {len(groups)} methods on tasks are drawn; --task and --where choose.</p>"
    )
    return (
        "<p>Each line is the mean over a method's seeds, the band from the lowest to the highest. Dotted: the floor, "
        "the distance between two halves of the source data. Circle: the epoch that was kept, unless it is the last.</p>"
        + text_ * (rest > 0)
        + drawn
    )


def times(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
    """Return the mean time of each stage by method and task, and the ratio of stages 2 and 3."""
    rows = []
    for group in groups:
        own = [found[run.path] for run in group.runs if found[run.path].seconds]
        if not own:
            continue
        means = {
            stage: mean([one.seconds[stage] for one in own if stage in one.seconds])
            for stage in reading.STAGES
            if any(stage in one.seconds for one in own)
        }
        align, finetune = means.get("align"), means.get("finetune")
        ratio = align / finetune if align is not None and finetune else None
        cells = [
            text(of_report.title_of(group.column, given.columns)),
            text(group.name),
            number(len(own), str(len(own))),
        ]
        cells += [number(means.get(stage), _seconds(means.get(stage))) for stage in reading.STAGES]
        rows.append([*cells, number(ratio, "" if ratio is None else f"{ratio:.2f}")])
    if not rows:
        return ""
    heads = ("task", "method", "runs", *reading.STAGES, "align / finetune")
    headers = [heading(name, is_number=place > 1) for place, name in enumerate(heads)]
    return (
        "<p>Wall time of each stage, mean over runs. What was taken from another run or from the cache took no time here.</p>"
        + figures(of_report.times(groups, found))
        + table("table-of-times", headers, rows)
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def runs(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
    """Return a row for each completed run: error, what it chose, distance, time."""
    every = [(group, run) for group in groups for run in group.runs]
    rows = []
    for place, (group, run) in enumerate(every[:_MOST_ROWS]):
        one, value = found[run.path], score_of(run).value
        curve, title = _learning(one)
        rows.append(
            [
                text(f"{of_report.title_of(group.column, given.columns)}: {group.name}"),
                number(run.seed, str(run.seed)),
                _error(value, group.column),
                _error(one.validation_error, group.column),
                Cell(sparkline(curve, title) if place < of_report.MOST_SPARKS else ""),
                number(one.steps, "" if one.steps is None else str(one.steps)),
                _distance(one),
                number(one.chosen, "" if one.chosen is None else f"{one.chosen} ({clean(one.by)})"),
                number(one.seconds.get("align"), _seconds(one.seconds.get("align"))),
                number(one.seconds.get("finetune"), _seconds(one.seconds.get("finetune"))),
                number(one.test_reads, "" if one.test_reads is None else str(one.test_reads)),
                text(clean(", ".join(f"{key}={value}" for key, value in one.decided.items()), longest=200)),
                text(run.path.name),
            ]
        )
    if not rows:
        return ""
    heads = (
        *("method", "seed", "error", "validation", "learning", "align steps", "distance", "epoch", "align", "finetune"),
        *("test reads", "decided by the run", "folder"),
    )
    words = {"method", "learning", "decided by the run", "folder"}
    headers = [heading(name, is_number=name not in words) for name in heads]
    rest = len(every) - len(rows)
    more = f"<p>The first {len(rows)} of {len(every)} runs; --task, --metric and --where choose.</p>" if rest else ""
    return (
        "<p>Every completed run: its test error, what was kept of alignment and fine-tuning, and how often the test split was "
        "read. Errors in per cent where the task's is one. distance: before > after alignment (floor).</p>"
        + more
        + filter_box("table-of-runs", len(rows))
        + table("table-of-runs", headers, rows)
    )


def _learning(one: Details) -> tuple[list[float], str]:
    """Return the values of the curve that shows learning best, and what they are; a loss falls by orders of magnitude."""
    if one.validation:
        return [y for _, y in one.validation], "validation error, epoch by epoch"
    losses = [y for _, y in one.loss]
    if losses and min(losses) > 0:
        return [math.log(loss) for loss in losses], "training loss, epoch by epoch, log scale"
    return losses, "training loss, epoch by epoch"


def _error(value: float | None, column: Column) -> Cell:
    if value is None or not column.percent:
        return number(value)
    return number(100 * value, f"{100 * value:.2f}")


def _distance(one: Details) -> Cell:
    if one.before is None or one.after is None:
        return number(None)
    floor = "" if one.floor is None else f" ({shown_number(one.floor[0], None)})"
    return number(one.after, f"{shown_number(one.before, None)} > {shown_number(one.after, None)}{floor}")


def holes(given: Table, origin: Origin) -> str:
    """Return what is missing, and the command that fills each hole."""
    found = holes_of(given, origin)
    if not found:
        return "<p>Nothing: every method has every seed of its task, and every run is completed.</p>"
    rows = [
        [text(hole.what), text(hole.state), text(hole.reason, "w"), code(hole.command)] for hole in found[:_MOST_ROWS]
    ]
    headers = [heading(name) for name in ("what", "state", "reason", "command that fills it")]
    counts = Counter(hole.state for hole in found)
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    more = f" The first {_MOST_ROWS} are listed." if len(found) > _MOST_ROWS else ""
    intro = f"<p>{escaped(words)}.{more} A command repeats no completed run, and resumes an interrupted one.</p>"
    return intro + table("table-of-holes", headers, rows)


def environment(groups: Sequence[Group]) -> str:
    """Return in what the runs were made: versions, device, machine."""
    counts: Counter[reading.Environment] = Counter()
    unknown = 0
    for group in groups:
        for run in group.runs:
            one = reading.environment(run)
            if one is None:
                unknown += 1
            else:
                counts[one] += 1
    if not counts:
        return ""
    every = [dict(one.packages) for one in counts]
    names = list(dict.fromkeys(name for packages in every for name in packages))
    rows = []
    for one, count in counts.most_common(20):
        packages = dict(one.packages)
        machine = f"{one.platform}, {one.processors} processors, {one.threads or 'default'} threads"
        versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
        cells = (f"python {one.python}", one.device or "-", machine, versions)
        rows.append([*(text(cell, "w" if place > 1 else "") for place, cell in enumerate(cells))])
        rows[-1].append(number(count, str(count)))
    headers = [heading(name, is_number=name == "runs") for name in ("python", "device", "machine", "packages", "runs")]
    note = (
        "<p>The runs were made in different environments: equal seeds do not give equal bits.</p>"
        if len(counts) > 1
        else ""
    )
    missing = f"<p>{unknown} runs do not say in what they were made.</p>" if unknown else ""
    return note + missing + table("table-of-environments", headers, rows)
