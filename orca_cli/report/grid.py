"""The table as texts: what every format for readers shows, before it is marked up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from orca_cli.report.cells import UNFINISHED, Column, Method
from orca_cli.report.notes import data_words, notes_of
from orca_cli.report.tables import Table
from orca_cli.report.text import MISSING, clean, decimals_of, mean_text, remainder_text, trivial_text

PLUS_MINUS = "\u00b1"


@dataclass(frozen=True)
class Entry:
    """One cell: its mean with deviation and n, what that does not contain, and whether it is the column's best."""

    main: str
    rest: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of cleaned texts.

    Args:
        names: headers of the columns that name a method.
        columns: headers of the tasks, as lines: task, error, marks.
        rows: the names of a method, its cells, its rank; the last row is that of the best constant predictor.
        ranked: whether any row has a rank.
        caption: what the numbers are.
        notes: what limits a comparison.
        alarms: what makes numbers wrong; shown in red.
        alarmed: of every column, whether its last header line is an alarm.
        problems: (state, reason, folder) of runs that are not completed and folders that could not be read.
    """

    names: list[str]
    columns: list[list[str]]
    rows: list[tuple[list[str], list[Entry], str]]
    ranked: bool
    caption: str
    notes: list[str]
    problems: list[tuple[str, str, str]]
    alarms: list[str]
    alarmed: list[bool]


def grid_of(table: Table, sign: str = PLUS_MINUS) -> Grid:
    """Return a table's texts; `sign` stands between mean and deviation."""
    scales = [100.0 if column.percent else 1.0 for column in table.columns]
    decimals = [_decimals(table, place, scale) for place, scale in enumerate(scales)]
    names = name_columns([row.method for row in table.rows])
    rows = []
    for row in table.rows:
        entries = [
            Entry(mean_text(cell, scale, digits, sign), remainder_text(cell), cell.best)
            for cell, scale, digits in zip(row.cells, scales, decimals, strict=True)
        ]
        rank = MISSING if row.rank is None else f"{row.rank:.2f}"
        rows.append(([_name(row.method, name) for name in names], entries, rank))
    if any(table.trivial):
        bounds = zip(table.trivial, scales, decimals, strict=True)
        entries = [Entry(trivial_text(*bound)) for bound in bounds]
        rows.append((["trivial", *("" for _ in names[1:])], entries, ""))
    protocols = sorted({column.protocol for column in table.columns})
    return Grid(
        names=names,
        columns=[_header(column, len(protocols) > 1) for column in table.columns],
        rows=rows,
        ranked=any(row.rank is not None for row in table.rows),
        caption=_caption(protocols, any(table.trivial), sign) if rows else "",
        notes=[clean(note, longest=2000) for note in notes_of(table)],
        problems=_problems(table),
        alarms=_alarms(table),
        alarmed=[column.chosen_on_test for column in table.columns],
    )


def name_columns(methods: list[Method]) -> list[str]:
    """Return what names a method here: the source only where one body has several, settings only where some differ."""
    sources = Counter(body for body, _ in {(method.body, method.source) for method in methods})
    names = ["body", "source", "metric", "finetune", "settings"]
    if all(count == 1 for count in sources.values()):
        names.remove("source")
    if not any(method.settings for method in methods):
        names.remove("settings")
    return names


def _name(method: Method, name: str) -> str:
    if name == "settings":
        return clean(", ".join(f"{key}={value}" for key, value in method.settings))
    return clean(str(getattr(method, name)))


def _decimals(table: Table, place: int, scale: float) -> int | None:
    means = [row.cells[place].mean for row in table.rows]
    return decimals_of([mean * scale for mean in means if mean is not None])


def _header(column: Column, with_protocol: bool) -> list[str]:
    error = clean(column.error_name) or "no result yet"
    marks = [clean(column.protocol)] if with_protocol else []
    marks += [", ".join(words)] if (words := data_words(column)) else []
    marks += ["CHOSEN ON TEST"] if column.chosen_on_test else []
    return [clean(column.task), f"{error}, %" if column.percent else error, *marks]


def _caption(protocols: list[str], with_trivial: bool, sign: str) -> str:
    protocol = f" Protocol: {clean(protocols[0])}." if len(protocols) == 1 else ""
    trivial = " trivial: the best constant predictor." if with_trivial else ""
    return (
        f"Test error, lower is better: mean {sign} sample standard deviation over seeds (number of seeds). "
        f"Bold: best of a task.{trivial}{protocol}"
    )


def _alarms(table: Table) -> list[str]:
    names = sorted(
        {f"{clean(column.task)} ({clean(column.protocol)})" for column in table.columns if column.chosen_on_test}
    )
    if not names:
        return []
    return [
        f"The test split chose the weights of {', '.join(names)}: these errors are too low and compare with no others."
    ]


def _problems(table: Table) -> list[tuple[str, str, str]]:
    runs = sorted(table.unfinished, key=lambda run: UNFINISHED.index(run.state))
    found = [(run.state, clean(run.reason), clean(str(run.path))) for run in runs]
    return found + [("broken", clean(entry.reason), clean(str(entry.path))) for entry in table.broken]
