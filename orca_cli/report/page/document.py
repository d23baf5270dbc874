"""A report as one self-contained HTML page: no network, one style sheet and one script of its own, all else is text.

The policy in its head forbids everything but these two, which it knows by their hashes: whatever a run folder's names hold, a
browser runs nothing else and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable
from importlib import resources

from orca_cli import __version__
from orca_cli.report.credits import CITATION, credits_of
from orca_cli.report.figures import of_report
from orca_cli.report.figures.strokes import escaped, style
from orca_cli.report.page import records, results
from orca_cli.report.records.details import Details, Origin
from orca_cli.report.statistics.paired import Comparison
from orca_cli.report.tables.layout import alarms_of
from orca_cli.report.tables.notes import clean
from orca_cli.report.tables.table import Table


def page(table: Table, comparison: Comparison | None, command: str, origin: Origin) -> str:
    """Return the page; the same records give the same bytes.

    Args:
        table: of the runs.
        comparison: of its methods; None without --against.
        command: how the page was made, as it was typed.
        origin: of the runs.
    """
    groups = of_report.groups_of(table)
    details = of_report.read_all(groups)
    built = (
        ("verdicts", "Verdicts", results.verdicts(comparison, table)),
        ("results", "Results", results.results(table)),
        ("across", "Over all tasks", results.over_all_tasks(table)),
        ("baselines", "Simple models", results.baselines(table, groups, details)),
        ("curves", "Curves", records.curves(table, groups, details)),
        ("times", "Times", records.times(table, groups, details)),
        ("runs", "Runs", records.runs(table, groups, details)),
        ("holes", "What is missing", records.holes(table, origin)),
        ("environment", "Environment", records.environment(groups)),
    )
    sections = [section for section in built if section[2]]
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2>{html}</section>'
        for name, heading, html in sections
    )
    sheet, script = _file("style.css") + style(), _file("script.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(sheet)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"orca report: {origin.study}" if origin.study else "orca report"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<meta name="referrer" content="no-referrer"><title>{escaped(clean(title))}</title><style>{sheet}</style></head><body>'
        f'<header class="top">{_top(table, command, origin.study)}</header><nav aria-label="sections"><ul>{links}</ul></nav>'
        f"<main>{body}</main>{_footer(details.values())}<script>{script}</script></body></html>\n"
    )


def _file(name: str) -> str:
    return resources.files("orca_cli.report.page").joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _top(table: Table, command: str, study: str) -> str:
    runs = [run for row in table.rows for cell in row.cells for run in cell.runs]
    states = Counter(run.state for run in table.unfinished)
    tiles = {
        "completed runs": len(runs),
        "methods": len(table.rows),
        "tasks": len({column.name for column in table.columns}),
        "seeds": len({run.seed for run in runs}),
        "running": states["running"],
        "failed or stopped": sum(count for state, count in states.items() if state != "running"),
        "unreadable": len(table.broken),
    }
    kept = {name: count for name, count in tiles.items() if count or name in ("completed runs", "methods", "tasks")}
    shown = "".join(f"<div><dt>{name}</dt><dd>{count}</dd></div>" for name, count in kept.items())
    heading = f"Study {escaped(clean(study))}" if study else "Results of cross-modal transfer"
    alarms = "".join(f'<p class="alarm">{escaped(alarm)}</p>' for alarm in alarms_of(table))
    rates = f"<p><b>{escaped(table.heading)}</b></p>" if table.heading else ""
    newest = max((run.path.name[:10] for run in runs), default="")
    when = f" Newest run: {escaped(newest)}." if newest[:2] == "20" else ""
    return (
        f'<h1>{heading}</h1><p class="faint">Made by <code>{escaped(clean(command, longest=1000))}</code> '
        f"(orca {escaped(__version__)}).{when}</p>"
        f'<dl class="tiles">{shown}</dl>{alarms}{rates}'
    )


def _footer(details: Iterable[Details]) -> str:
    every = list(details)
    names = ([getattr(one, key) for one in every] for key in ("task", "source", "body"))
    entries = credits_of(*names)
    items = "".join(
        f"<li>{one.kind} {escaped(one.name)}: {escaped(one.licence or 'licence not stated')}"
        + (f', <a href="{escaped(one.address)}" rel="noreferrer">{escaped(one.address)}</a>' if one.address else "")
        + "</li>"
        for one in entries
    )
    data = f'<p>Data and checkpoints, under their own licences:</p><ul class="notes">{items}</ul>' if items else ""
    return (
        f"<footer><p>The method, to be cited as</p><pre>{escaped(CITATION)}</pre>{data}"
        f"<p>Made with orca {escaped(__version__)} (MIT licence). Numbers are those of the runs' records; nothing on this page "
        "was fetched from elsewhere.</p></footer>"
    )
