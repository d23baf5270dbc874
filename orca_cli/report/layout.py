"""The table as texts: what every format for people shows, before it is marked up.

Its notes are what a reader has to know before trusting it: one sentence for each thing that limits a comparison.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from orca_cli.report import conditions
from orca_cli.report.collect import Run
from orca_cli.report.differences import LARGEST_P, LEAST
from orca_cli.report.table import MISSING, UNFINISHED, Cell, Column, Row, Table, is_source_implied
from orca_cli.terminal import visible

ALARM = "CHOSEN ON TEST"  # a line above a column whose errors are too low; shown in red


@dataclass(frozen=True)
class Entry:
    """One cell: a text such as "12.6 ± 0.8 (3)", what that leaves out such as "+1 failed", and whether it is in bold with *."""

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
        rows: names and cells. Below the methods of a table are its references: others' results, the best simple model's, the
            best constant predictor's.
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


def clean(text: str, *, longest: int = 300) -> str:
    """Return text from the disk, cut to `longest` characters, with what moves a cursor, hides or breaks a line as escapes."""
    return visible(text if len(text) <= longest else f"{text[:longest]}...")


def number(value: float, decimals: int | None, sign: str = "") -> str:
    """Return a number with `decimals` decimals, or three significant digits if it is None; `sign="+"` marks gains."""
    return f"{value:{sign}z.3g}" if decimals is None else f"{value:{sign}z.{decimals}f}"


def p_text(value: float | None) -> str:
    """Return a p as it is shown; "-" for None."""
    return "-" if value is None else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def decimals_of(means: list[float]) -> int | None:
    """Return how many decimals give the smallest mean three significant digits; None below 0.0001 or from 1,000,000 on."""
    sizes = [abs(mean) for mean in means if mean] or [1.0]
    if min(sizes) < 1e-4 or max(sizes) >= 1e6:
        return None
    return max(0, 2 - math.floor(math.log10(min(sizes))))


def seeds_text(seeds: Iterable[int]) -> str:
    """Return integers in rising order, such as "0,1,2"."""
    return ",".join(map(str, sorted(seeds)))


def layout_of(table: Table) -> Layout:
    """Return a table's texts, with its notes; `framed` adds what every view of it shows."""
    formats = [
        _format(column, [row.cells[i] for row in table.rows])
        for i, column in enumerate(table.columns)
    ]
    methods = [row.method for row in table.rows]
    names = ["body", *([] if is_source_implied(methods) else ["source"]), "metric", "finetune"]
    names += ["settings"] if any(method.settings for method in methods) else []
    rows = []
    for row in table.rows:
        facts = vars(row.method) | {"settings": settings_text(row.method.settings)}
        entries = [_entry(cell, shown) for cell, shown in zip(row.cells, formats, strict=True)]
        rows.append(([clean(facts[name]) for name in names], entries))
    for label, references in table.references.items():
        entries = []
        for one, shown in zip(references, formats, strict=True):
            errors = dict.fromkeys(map(shown, (one.low, one.high))) if one else ["-"]
            entries.append(Entry(" to ".join(errors), clean(one.words) if one else ""))
        rows.append(([clean(label), *[""] * (len(names) - 1)], entries))
    caption = (
        "Test error, lower is better: mean ± sample standard deviation over seeds (number of seeds). Bold and *: "
        f"lower than every other method of the task, each by {LEAST} or more common seeds and p <= {LARGEST_P} (exact "
        "sign-flip test, Holm over the others)."
    )
    caption += " best baseline: of simple models on the same split." * (
        "best baseline" in table.references
    )
    caption += " trivial: the best constant predictor." * ("trivial" in table.references)
    columns, protocol = headers(table.columns)
    return Layout(names, columns, rows, (caption + protocol) * bool(rows), notes_of(table))


def framed(table: Table, layouts: Sequence[Layout]) -> list[Layout]:
    """Return views of a table with what every view shows: heading, remarks and alarms first, runs that means exclude last."""
    chosen = sorted(
        {
            f"{clean(one.task)} ({clean(one.protocol)})"
            for one in table.columns
            if one.chosen_on_test
        }
    )
    text = "these errors are too low and not comparable with others"
    alarms = [f"The test split chose the weights of {', '.join(chosen)}: {text}."] if chosen else []
    runs = sorted(table.unfinished, key=lambda run: UNFINISHED.index(run.state))
    problems = [(run.state, clean(run.reason), clean(str(run.path))) for run in runs]
    problems += [("broken", clean(entry.reason), clean(str(entry.path))) for entry in table.broken]
    first, *more = layouts
    notes = [clean(note, longest=2000) for note in (*first.notes, *table.remarks)]
    framed = [replace(first, notes=notes, alarms=alarms, heading=table.heading), *more]
    return [*framed[:-1], replace(framed[-1], problems=problems)]


def _format(column: Column, cells: Sequence[Cell]) -> Callable[[float | None], str]:
    """Return how errors of a column are shown; "-" for None."""
    decimals = decimals_of(
        [mean * column.scale for cell in cells if (mean := cell.mean) is not None]
    )
    return lambda value: "-" if value is None else number(value * column.scale, decimals)


def _entry(cell: Cell, shown: Callable[[float | None], str]) -> Entry:
    """Return "12.6 ± 0.8 (3)", with "-" for no mean, or the deviation of one seed, and below "+1 failed +2 running"."""
    text = (
        f"{shown(cell.mean)} ± {shown(cell.deviation)} ({len(cell.values)})" if cell.values else "-"
    )
    rest = [f"at {clean(cell.choice)}"] if cell.choice else []
    rest += [f"+{cell.missing[reason]} {reason}" for reason in MISSING if cell.missing[reason]]
    rest += [f"{cell.unaligned} of {len(cell.runs)} unaligned"] if cell.unaligned else []
    return Entry(text, " ".join(rest), cell.earned)


def headers(columns: Sequence[Column]) -> tuple[list[list[str]], str]:
    """Return the lines above each column: task, error, marks; and a sentence on the protocol where it is the same for all."""
    protocols = {clean(column.protocol) for column in columns}
    lines = []
    for one in columns:
        error = f"{clean(one.error_name) or 'no result yet'}{', %' if one.percent else ''}"
        data = ", ".join(filter(None, ("synthetic" * one.synthetic, clean(one.size))))
        marks = (clean(one.protocol) * (len(protocols) > 1), data, ALARM * one.chosen_on_test)
        lines.append([clean(one.name), error, *filter(None, marks)])
    return lines, f" Protocol: {protocols.pop()}." if len(protocols) == 1 else ""


def column_names(columns: Sequence[Column]) -> list[str]:
    """Return each column's task, with the other lines above it if other columns have the same task."""
    counts = Counter(clean(column.name) for column in columns)
    return [
        name if counts[name] == 1 else f"{name} ({', '.join(lines)})"
        for name, *lines in headers(columns)[0]
    ]


def settings_text(settings: Iterable[tuple[str, str]], separator: str = ", ") -> str:
    """Return settings as they are typed."""
    return separator.join(f"{key}={value}" for key, value in settings)


def notes_of(table: Table) -> list[str]:
    """Return what limits the comparisons of a table, a sentence each; its remarks are left out, names are not cleaned yet."""
    names_by_note: dict[str, list[str]] = defaultdict(list)
    for place, name in enumerate(column_names(table.columns)):
        for note in _of_column([(row, row.cells[place]) for row in table.rows]):
            names_by_note[note].append(name)
    notes = [f"{', '.join(names)}: {note}" for note, names in names_by_note.items()]
    if count := len(table.superseded):
        notes.append(
            f"older attempts that do not count (only an experiment's newest completed run does): {count}"
        )
    return notes


def _of_column(cells: list[tuple[Row, Cell]]) -> Iterator[str]:
    """Yield how a column's runs differ, what they share although no row says it, and what their errors are worth."""
    runs = [run for _, cell in cells for run in cell.runs]
    common = set.intersection(*(set(run.variant.items()) for run in runs)) if runs else set()
    if hidden := common - {
        setting for row, cell in cells if cell.runs for setting in row.method.settings
    }:
        yield f"all runs with {settings_text(sorted(hidden))}"
    seeds = [(str(row.method), seeds_text(cell.by_seed)) for row, cell in cells if cell.values]
    counts = Counter(text for _, text in seeds)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        others = "; ".join(f"{method} ({text})" for method, text in seeds if text != usual)
        yield f"methods have different seeds: {usual}, but {others}"
    yield from _unlike([(str(row.method), cell.tested) for row, cell in cells])
    if any(skipped := {score.skipped for _, cell in cells for _, score in cell.scored}):
        yield f"errors leave out items that could not be scored ({seeds_text(skipped)} per run)"
    for row, run in ((row, run) for row, cell in cells for run in cell.hidden):
        yield (
            f"{row.method}, seed {run.seed}: runs differ in something that no setting shows (such as a changed YAML or data "
            f"file); the newest counts, not {run.path}"
        )


def _unlike(methods: Sequence[tuple[str, Sequence[Run]]]) -> Iterator[str]:
    """Yield which methods are means over runs that are not alike, and in what else the runs of several methods are not."""
    noted: set[str] = set()
    for method, runs in methods:
        for name, seeds_by_fact in conditions.mixed(runs).items():
            noted.add(name)
            facts = [
                f"{conditions.shown(fact)} (seed {seeds_text(seeds_by_fact[fact])})"
                for fact in seeds_by_fact
            ]
            yield f"{method} is a mean over runs that differ in {name}: {', '.join(facts)}"
    differing = conditions.mixed([run for _, runs in methods for run in runs]).keys() - noted
    if differing:
        names = " and ".join(sorted(differing))
        yield f"methods differ in {names}, though none of their settings does; such runs earn no mark"
