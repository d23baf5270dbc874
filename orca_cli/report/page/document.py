"""A report as one self-contained HTML page: no network, one style sheet and one script of its own, all else is text.

The policy in its head forbids everything but these two, which it knows by their hashes: whatever a run folder's names hold, a
browser runs nothing else and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from orca_cli import __version__
from orca_cli.report import across_layout
from orca_cli.report import details as reading
from orca_cli.report.across import across
from orca_cli.report.credits import CITATION, credits_of
from orca_cli.report.details import Details
from orca_cli.report.figures import of_report
from orca_cli.report.figures.charts import Chart
from orca_cli.report.figures.of_report import Group
from orca_cli.report.figures.over_tasks import over_tasks
from orca_cli.report.figures.svg import draw, escaped, sparkline, style
from orca_cli.report.holes import holes_of
from orca_cli.report.layout import layout_of
from orca_cli.report.layout import number as shown_number
from orca_cli.report.notes import clean
from orca_cli.report.origin import Origin
from orca_cli.report.page.tables import Cell, code, heading, number, of_layout, table, text
from orca_cli.report.paired import Comparison
from orca_cli.report.table import Column, Table, score_of
from orca_cli.report.verdicts import claim, layouts_of

_MOST_ROWS = 1000  # of a table with a row for each run
_OPEN_TASKS = 3  # whose curves are shown without a click
_MOST_NOTES = 8  # shown without a click
_VERDICTS = ("helps", "harms", "no effect", "undecided")


@dataclass(frozen=True)
class Content:
    """What a page is about.

    Args:
        table: of the runs.
        comparison: of its methods; None without --against.
        command: how the page was made, as it was typed.
        origin: of the runs.
    """

    table: Table
    comparison: Comparison | None = None
    command: str = "orca report"
    origin: Origin = Origin()


def page(content: Content) -> str:
    """Return the page; the same records give the same bytes."""
    groups = of_report.groups_of(content.table)
    found = of_report.read_all(groups)
    sections = list(_sections(content, groups, found))
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2>{html}</section>'
        for name, heading, html in sections
    )
    own, script = _file("style.css") + style(), _file("script.js")
    policy = f"default-src 'none'; style-src '{_hash(own)}'; script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    title = f"orca report: {content.origin.study}" if content.origin.study else "orca report"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<meta name="referrer" content="no-referrer"><title>{escaped(clean(title))}</title><style>{own}</style></head><body>'
        f'<header class="top">{_top(content, groups)}</header><nav aria-label="sections"><ul>{links}</ul></nav>'
        f"<main>{body}</main>{_footer(found.values())}<script>{script}</script></body></html>\n"
    )


def _file(name: str) -> str:
    return resources.files("orca_cli.report.page").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _sections(
    content: Content, groups: Sequence[Group], found: Mapping[Path, Details]
) -> Iterator[tuple[str, str, str]]:
    """Yield name, heading and HTML of every section that has something to show."""
    built = (
        ("verdicts", "Verdicts", _verdicts(content)),
        ("results", "Results", _results(content.table)),
        ("across", "Over all tasks", _across(content.table)),
        ("baselines", "Simple models", _baselines(content.table, groups, found)),
        ("curves", "Curves", _curves(content.table, groups, found)),
        ("times", "Times", _times(content.table, groups, found)),
        ("runs", "Runs", _runs(content.table, groups, found)),
        ("holes", "What is missing", _holes(content)),
        ("environment", "Environment", _environment(groups)),
    )
    return (section for section in built if section[2])


def _top(content: Content, groups: Sequence[Group]) -> str:
    given, runs = content.table, [run for group in groups for run in group.runs]
    states = Counter(run.state for run in given.unfinished)
    tiles = {
        "completed runs": len(runs),
        "methods": len(given.rows),
        "tasks": len({column.task for column in given.columns}),
        "seeds": len({run.seed for run in runs}),
        "running": states["running"],
        "failed or stopped": sum(count for state, count in states.items() if state != "running"),
        "unreadable": len(given.broken),
    }
    kept = {name: count for name, count in tiles.items() if count or name in ("completed runs", "methods", "tasks")}
    shown = "".join(f"<div><dt>{name}</dt><dd>{count}</dd></div>" for name, count in kept.items())
    heading = (
        f"Study {escaped(clean(content.origin.study))}" if content.origin.study else "Results of cross-modal transfer"
    )
    alarms = "".join(f'<p class="alarm">{escaped(alarm)}</p>' for alarm in layout_of(given).alarms)
    newest = max((run.path.name[:10] for run in runs), default="")
    when = f" Newest run: {escaped(newest)}." if newest[:2] == "20" else ""
    return (
        f'<h1>{heading}</h1><p class="faint">Made by <code>{escaped(clean(content.command, longest=1000))}</code> '
        f"(orca {escaped(__version__)}).{when}</p>"
        f'<dl class="tiles">{shown}</dl>{alarms}'
    )


def _verdicts(content: Content) -> str:
    comparison = content.comparison
    if comparison is None:
        return ""
    axis, baseline = escaped(clean(comparison.axis)), escaped(clean(comparison.baseline))
    claims = []
    for one in comparison.overall:
        said, *commands = claim(one, comparison)
        name, _, rest = said.partition(": ")
        verdict = next((word for word in _VERDICTS if rest.startswith(word)), "undecided")
        rest = rest.removeprefix(verdict).lstrip(", ")
        claims.append(
            f'<li class="{verdict.replace(" ", "-")}"><b>{verdict}</b> <strong>{escaped(clean(name))}</strong> '
            f"{escaped(clean(rest, longest=1000))}{''.join(f'<small>{code(one).html}</small>' for one in commands)}</li>"
        )
    first, second = layouts_of(comparison, content.table)
    more = first.notes[len(comparison.overall) :]
    return (
        f"<p>Against <b>{axis}={baseline}</b>, in pairs of equal seed and settings. A mean gain within "
        f'±{comparison.margin:g} counts as none.</p><ul class="claims">{"".join(claims)}</ul>'
        + _figures(of_report.gains(comparison), flowing=True)
        + of_layout(first, "gains", len(first.rows))
        + f'<p class="faint">{escaped(first.caption)}</p>'
        + _list(more)
        + "<h3>Set by set</h3>"
        + of_layout(second, "gains-by-set", len(second.rows))
        + f'<p class="faint">{escaped(second.caption)}</p>'
        + _list(second.notes)
    )


def _results(given: Table) -> str:
    layout = layout_of(given)
    if not layout.rows:
        return ""
    return (
        f"<p>{escaped(layout.caption)}</p>"
        + _filter("table-of-results", len(given.rows))
        + of_layout(layout, "table-of-results", len(given.rows), holes=True)
        + _list(layout.notes)
        + _figures(of_report.errors(given), flowing=True)
    )


def _across(given: Table) -> str:
    """Return profiles, ranks and pairs of the methods; nothing with fewer than two methods or tasks."""
    found = across(given)
    if len(found.methods) < 2 or len(found.columns) < 2 or not found.profiles:
        return ""
    tables = "".join(
        of_layout(layout, f"across-{place}", len(layout.rows))
        + f'<p class="faint">{escaped(layout.caption)}</p>'
        + _list(layout.notes)
        for place, layout in enumerate(across_layout.layouts_of(found, given), 1)
    )
    return _figures(over_tasks(found), flowing=True) + tables


def _baselines(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
    """Return errors and seconds of simple models by task, and how often the runs are better."""
    rows = []
    for column in given.columns:
        own = [found[run.path] for group in groups if group.column == column for run in group.runs]
        measured: dict[str, list[reading.Baseline]] = defaultdict(list)
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
                    number(_mean(values), _range(values, column.percent)),
                    number(_mean(seconds) if seconds else None),
                    number(_mean(errors) if errors else None, _range(errors, column.percent) if errors else ""),
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


def _curves(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
    by_column: dict[Column, list[Chart]] = defaultdict(list)
    for column, chart in of_report.curves(groups, found, given):
        by_column[column].append(chart)
    drawn = "".join(
        f"<details{' open' if place < _OPEN_TASKS else ''}><summary>{escaped(of_report.title_of(column, given.columns))}"
        f"</summary>{_figures(charts, captions=False)}</details>"
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


def _times(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
    rows = []
    for group in groups:
        own = [found[run.path] for run in group.runs if found[run.path].seconds]
        if not own:
            continue
        means = {
            stage: _mean([one.seconds[stage] for one in own if stage in one.seconds])
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
        + _figures(of_report.times(groups, found))
        + table("table-of-times", headers, rows)
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    if value < 100:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def _runs(given: Table, groups: Sequence[Group], found: Mapping[Path, Details]) -> str:
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
        + _filter("table-of-runs", len(rows))
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


def _holes(content: Content) -> str:
    found = holes_of(content.table, content.origin)
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


def _environment(groups: Sequence[Group]) -> str:
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


def _footer(found: Iterable[Details]) -> str:
    every = list(found)
    names = ([getattr(one, key) for one in every] for key in ("task", "source", "body"))
    credits_ = credits_of(*names)
    items = "".join(
        f"<li>{one.kind} {escaped(one.name)}: {escaped(one.licence or 'licence not stated')}"
        + (f', <a href="{escaped(one.address)}" rel="noreferrer">{escaped(one.address)}</a>' if one.address else "")
        + "</li>"
        for one in credits_
    )
    data = f'<p>Data and checkpoints, under their own licences:</p><ul class="notes">{items}</ul>' if items else ""
    return (
        f"<footer><p>The method, to be cited as</p><pre>{escaped(CITATION)}</pre>{data}"
        f"<p>Made with orca {escaped(__version__)} (MIT licence). Numbers are those of the runs' records; nothing on this page "
        "was fetched from elsewhere.</p></footer>"
    )


def _figures(charts: Iterable[Chart], *, captions: bool = True, flowing: bool = False) -> str:
    shown = "".join(
        f"<figure><h3>{escaped(chart.title)}</h3>{draw(chart, standalone=False)}"
        + (f"<figcaption>{escaped(chart.note)}</figcaption>" if captions and chart.note else "")
        + "</figure>"
        for chart in charts
    )
    return f'<div class="{"flow" if flowing else "charts"}">{shown}</div>' if shown else ""


def _filter(name: str, rows: int) -> str:
    if rows < 5:
        return ""
    label = f"show rows with all these words in {name}"
    box = f'<input type="search" data-for="{name}" aria-label="{label}" placeholder="filter rows">'
    return f'<div class="tools" hidden>{box}<output></output></div>'


def _list(notes: Sequence[str]) -> str:
    items = [f"<li>{escaped(note)}</li>" for note in notes]
    if len(items) <= _MOST_NOTES:
        return f'<ul class="notes">{"".join(items)}</ul>' if items else ""
    return f'<details><summary>{len(items)} notes</summary><ul class="notes">{"".join(items)}</ul></details>'


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
