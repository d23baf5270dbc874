"""A report as one self-contained HTML page: no network, one style sheet and one script of its own, all else is text.

The policy in its head forbids everything but these two, which it knows by their hashes: whatever a run folder's names hold, a
browser runs nothing else and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from orca_cli import __version__
from orca_cli.report.credits import CITATION, credits_of
from orca_cli.report.figures import of_report
from orca_cli.report.figures.of_report import Group
from orca_cli.report.figures.strokes import escaped, style
from orca_cli.report.page import records, results
from orca_cli.report.records.details import Details
from orca_cli.report.records.origin import Origin
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.tables.layout import layout_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table


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
        ("verdicts", "Verdicts", results.verdicts(content.comparison, content.table)),
        ("results", "Results", results.results(content.table)),
        ("across", "Over all tasks", results.over_all_tasks(content.table)),
        ("baselines", "Simple models", results.baselines(content.table, groups, found)),
        ("curves", "Curves", records.curves(content.table, groups, found)),
        ("times", "Times", records.times(content.table, groups, found)),
        ("runs", "Runs", records.runs(content.table, groups, found)),
        ("holes", "What is missing", records.holes(content.table, content.origin)),
        ("environment", "Environment", records.environment(groups)),
    )
    return (section for section in built if section[2])


def _top(content: Content, groups: Sequence[Group]) -> str:
    given, runs = content.table, [run for group in groups for run in group.runs]
    states = Counter(run.state for run in given.unfinished)
    tiles = {
        "completed runs": len(runs),
        "methods": len(given.rows),
        "tasks": len({column.name for column in given.columns}),
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
