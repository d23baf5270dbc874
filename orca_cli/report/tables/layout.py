"""The table as texts: what every format for people shows, before it is marked up."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from orca_cli.report.statistics.differences import LARGEST_P, LEAST
from orca_cli.report.tables.notes import clean, data_words, notes_of
from orca_cli.report.tables.table import MISSING, UNFINISHED, Cell, Column, Table

PLUS_MINUS = "\u00b1"
NOTHING = "-"
ALARM = "CHOSEN ON TEST"  # a line above a column whose errors are too low; shown in red
Format = Callable[[float], str]


@dataclass(frozen=True)
class Entry:
    """One cell: its mean with deviation and n, what that leaves out, and whether it has earned to be marked."""

    text: str
    rest: str = ""
    best: bool = False

    @property
    def main(self) -> str:
        """Return the text with its mark."""
        return f"* {self.text}" if self.best else self.text


@dataclass(frozen=True)
class Layout:
    """A table of cleaned texts.

    Args:
        names: headers of the columns that name a method.
        columns: headers of the tasks, as lines: task, error, marks.
        rows: names and cells; the last rows are the best simple model's and the best constant predictor's.
        caption: below it.
        notes: one line each.
        problems: state, reason and folder of runs that are not completed or cannot be read.
        alarms: what makes numbers wrong; shown in red.
        heading: the first line, above it; empty for none.
    """

    names: list[str]
    columns: list[list[str]]
    rows: list[tuple[list[str], list[Entry]]]
    caption: str = ""
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    heading: str = ""


def layout_of(table: Table) -> Layout:
    """Return a table's texts."""
    formats = [_format(column, table.cells(place)) for place, column in enumerate(table.columns)]
    methods = [row.method for row in table.rows]
    sources = Counter(body for body, _ in {(method.body, method.source) for method in methods})
    names = ["body", "metric", "finetune"]
    if any(count > 1 for count in sources.values()):  # a body has several
        names.insert(1, "source")
    if any(method.settings for method in methods):
        names.append("settings")
    rows = []
    for row in table.rows:
        cells = zip(row.cells, formats, strict=True)
        entries = [Entry(_mean(cell, shown), _remainder(cell), cell.earned) for cell, shown in cells]
        settings = ", ".join(f"{key}={value}" for key, value in row.method.settings)
        texts = vars(row.method) | {"settings": settings}
        rows.append(([clean(texts[name]) for name in names], entries))
    for label, references in table.references.items():
        entries = []
        for one, shown in zip(references, formats, strict=True):
            errors = dict.fromkeys(map(shown, (one.low, one.high))) if one else [NOTHING]
            entries.append(Entry(" to ".join(errors), clean(one.words) if one else ""))
        rows.append(([clean(label), *[""] * (len(names) - 1)], entries))
    protocols = sorted({column.protocol for column in table.columns})
    return Layout(
        names=names,
        columns=[header(column, len(protocols) > 1) for column in table.columns],
        rows=rows,
        caption=_caption(protocols, table) if rows else "",
        notes=[clean(note, longest=2000) for note in notes_of(table)],
        problems=excluded_runs(table),
        alarms=alarms_of(table),
        heading=table.heading,
    )


def decimals_of(means: list[float]) -> int | None:
    """Return how many decimals give the smallest mean three significant digits; None below 0.0001 or from 1,000,000 on."""
    sizes = [abs(mean) for mean in means if mean] or [1.0]
    if min(sizes) < 1e-4 or max(sizes) >= 1e6:
        return None
    return max(0, 2 - math.floor(math.log10(min(sizes))))


def _format(column: Column, cells: list[Cell]) -> Format:
    """Return how errors of a column are shown."""
    decimals = decimals_of([mean * column.scale for cell in cells if (mean := cell.mean) is not None])
    return lambda value: number(value * column.scale, decimals)


def p_text(value: float) -> str:
    """Return a p as it is shown."""
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def number(value: float, decimals: int | None, sign: str = "") -> str:
    """Return a number with fixed decimals, or with three significant digits for None; `sign`: + for one before gains too."""
    return f"{value:{sign}z.3g}" if decimals is None else f"{value:{sign}z.{decimals}f}"


def _mean(cell: Cell, shown: Format) -> str:
    """Return "12.6 ± 0.8 (3)"; "-" for no value, and for the deviation of one seed."""
    if cell.mean is None:
        return NOTHING
    deviation = NOTHING if cell.deviation is None else shown(cell.deviation)
    return f"{shown(cell.mean)} {PLUS_MINUS} {deviation} ({len(cell.values)})"


def _remainder(cell: Cell) -> str:
    """Return what a cell's mean leaves out, such as "+1 failed +2 running"."""
    words = [f"at {clean(cell.choice)}"] if cell.choice else []
    words += [f"+{cell.missing[reason]} {reason}" for reason in MISSING if cell.missing[reason]]
    words += [f"{cell.unaligned} of {len(cell.runs)} unaligned"] if cell.unaligned else []
    return " ".join(words)


def header(column: Column, with_protocol: bool) -> list[str]:
    """Return the lines above a column: task, error, marks."""
    error = clean(column.error_name) or "no result yet"
    marks = [clean(column.protocol)] if with_protocol else []
    marks += [", ".join(words)] if (words := data_words(column)) else []
    marks += [ALARM] if column.chosen_on_test else []
    return [clean(column.name), f"{error}, %" if column.percent else error, *marks]


def _caption(protocols: list[str], table: Table) -> str:
    texts = [f"Test error, lower is better: mean {PLUS_MINUS} sample standard deviation over seeds (number of seeds)."]
    if any(cell.earned for row in table.rows for cell in row.cells):
        texts.append(
            f"Bold and *: lower than every other method of the task, each by {LEAST} or more common seeds and p <= {LARGEST_P} "
            "(exact sign-flip test, Holm over the others)."
        )
    texts += ["best baseline: of simple models on the same split."] if "best baseline" in table.references else []
    texts += ["trivial: the best constant predictor."] if "trivial" in table.references else []
    texts += [f"Protocol: {clean(protocols[0])}."] if len(protocols) == 1 else []
    return " ".join(texts)


def alarms_of(table: Table) -> list[str]:
    """Return what makes numbers of a table wrong."""
    chosen = sorted({f"{clean(one.task)} ({clean(one.protocol)})" for one in table.columns if one.chosen_on_test})
    text = "these errors are too low and not comparable with others"
    return [f"The test split chose the weights of {', '.join(chosen)}: {text}."] if chosen else []


def excluded_runs(table: Table) -> list[tuple[str, str, str]]:
    """Return state, reason and folder of the runs that the means exclude."""
    runs = sorted(table.unfinished, key=lambda run: UNFINISHED.index(run.state))
    problems = [(run.state, clean(run.reason), clean(str(run.path))) for run in runs]
    return problems + [("broken", clean(entry.reason), clean(str(entry.path))) for entry in table.broken]
