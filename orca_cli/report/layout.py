"""The table as texts that every format for people shows, before markup is added.

Its notes say, in one sentence each, what limits a comparison: a reader has to know that before
trusting the table.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from orca_cli.report import conditions
from orca_cli.report.collect import GROUPS, Broken, Run
from orca_cli.report.differences import LARGEST_P, LEAST
from orca_cli.report.table import (
    MISSING,
    UNFINISHED,
    Cell,
    Column,
    Reference,
    Row,
    Table,
    is_source_implied,
)
from orca_cli.terminal import visible

ALARM = "CHOSEN ON TEST"  # a line above a column whose errors are too low; shown in red
_LONGEST_NOTE = 2000  # characters
_ErrorText = Callable[[float | None], str]


@dataclass(frozen=True)
class Entry:
    """One cell of a layout.

    Args:
        text: such as "12.6 ± 0.8 (3)".
        rest: facts that the text leaves out, such as "+1 failed".
        best: whether it is shown in bold, with a star.
    """

    text: str
    rest: str = ""
    best: bool = False

    @property
    def main(self) -> str:
        """Return the text, with a star if it is the best."""
        return f"* {self.text}" if self.best else self.text


class Line(NamedTuple):
    """One row of a layout: the names of its method, and its cells."""

    names: list[str]
    entries: list[Entry]


class Problem(NamedTuple):
    """A run that is not completed or cannot be read."""

    state: str
    reason: str
    folder: str


@dataclass(frozen=True)
class Layout:
    """A table of cleaned texts.

    Args:
        names: headers of the columns that name a method.
        columns: headers of the tasks, as lines: task, error, marks.
        rows: the methods of a table, and below them its references: other people's results, the
            best baseline, the best constant predictor.
        caption: text below the table.
        notes: notes below the caption, one line each.
        problems: runs that are not completed or cannot be read.
        alarms: reasons why numbers are wrong; shown in red.
        heading: first line, above the table; empty for none.
    """

    names: list[str]
    columns: list[list[str]]
    rows: list[Line]
    caption: str
    notes: list[str]
    problems: list[Problem] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    heading: str = ""


def counted_states(states: Iterable[str]) -> str:
    """Return a line that counts the runs that no mean includes; empty if there are none."""
    counts = Counter(states)
    if not counts:
        return ""
    texts = [f"{count} {state}" for state, count in counts.items()]
    return f"Runs that are not part of any mean: {', '.join(texts)}; `orca runs list` says why."


def clean(text: str, *, longest: int = 300) -> str:
    """Return text from the disk, cut to `longest` characters.

    Characters that move a cursor, hide text or break a line are written as escapes.
    """
    if len(text) > longest:
        text = f"{text[:longest]}..."
    return visible(text)


def number_text(number: float, decimals: int | None, sign: str = "") -> str:
    """Return a number with `decimals` decimals, or three significant digits for None.

    `sign="+"` marks gains.
    """
    # z: a number that is rounded to 0 has no minus sign.
    if decimals is None:
        return f"{number:{sign}z.3g}"
    return f"{number:{sign}z.{decimals}f}"


def p_text(p: float | None) -> str:
    """Return a p for readers; "-" for None."""
    if p is None:
        return "-"
    if p < 0.1:
        return f"{p:.2g}"
    return f"{p:.2f}"


def decimals_of(means: list[float]) -> int | None:
    """Return how many decimals give the smallest mean three significant digits.

    None if a mean is below 0.0001 or at least 1,000,000 in size.
    """
    # A mean of 0 has no first digit to count from.
    nonzero_sizes = [abs(mean) for mean in means if mean] or [1.0]
    if min(nonzero_sizes) < 1e-4 or max(nonzero_sizes) >= 1e6:
        return None
    exponent = math.floor(math.log10(min(nonzero_sizes)))
    return max(0, 2 - exponent)


def seeds_text(seeds: Iterable[int]) -> str:
    """Return integers in rising order, such as "0,1,2"."""
    return ",".join(map(str, sorted(seeds)))


def settings_text(settings: Iterable[tuple[str, str]], separator: str = ", ") -> str:
    """Return settings as on the command line, such as "train.lr=0.001, train.epochs=3"."""
    return separator.join(f"{key}={text}" for key, text in settings)


def layout_of(table: Table) -> Layout:
    """Return a table's texts, with its notes; `framed` adds the texts that every view shows."""
    # One function for each column, so that all errors of a column have equally many decimals.
    error_texts = []
    for position, column in enumerate(table.columns):
        error_texts.append(_error_text(column, [row.cells[position] for row in table.rows]))
    methods = [row.method for row in table.rows]
    # A source that follows from the body, or settings that no method has, need no column.
    name_headers = list(GROUPS)
    if is_source_implied(methods):
        name_headers.remove("source")
    if any(method.settings for method in methods):
        name_headers.append("settings")
    rows = []
    # First the methods, then the references: errors of baselines and of other people.
    for row in table.rows:
        facts = vars(row.method) | {"settings": settings_text(row.method.settings)}
        method_names = [clean(facts[name]) for name in name_headers]
        entries = list(map(_entry, row.cells, error_texts))
        rows.append(Line(names=method_names, entries=entries))
    for label, references in table.references.items():
        entries = list(map(_reference_entry, references, error_texts))
        # A reference has a label in place of a method's names.
        blanks = [""] * (len(name_headers) - 1)
        rows.append(Line(names=[clean(label), *blanks], entries=entries))
    return Layout(
        names=name_headers,
        columns=headers(table.columns),
        rows=rows,
        caption=_caption(table) if rows else "",
        notes=notes_of(table),
    )


def _caption(table: Table) -> str:
    caption = (
        "Test error, lower is better: mean ± sample standard deviation over seeds (number of "
        "seeds). Bold and *: significantly lower than every other method of the task, with at "
        f"least {LEAST} shared seeds and p <= {LARGEST_P} (exact sign-flip test, Holm's correction "
        "for the number of other methods)."
    )
    if "best baseline" in table.references:
        caption += (
            " best baseline: lowest test error of a baseline, such as a random forest, on the same "
            "test split; a range if this error differs between runs."
        )
    if "trivial" in table.references:
        caption += " trivial: the best constant predictor."
    protocols = {clean(column.protocol) for column in table.columns}
    # Several protocols are marks above their columns.
    if len(protocols) == 1:
        caption += f" Protocol: {protocols.pop()} (see `orca list protocols`)."
    return caption


def framed(table: Table, layouts: Sequence[Layout]) -> list[Layout]:
    """Return views of a table, completed with the texts that a report always shows.

    The first view gets the heading, remarks and alarms; the last view gets the runs that no mean
    includes.
    """
    # Such errors are too low in every kind of view, so each report shows the alarm.
    chosen_on_test = set()
    for column in table.columns:
        if column.chosen_on_test:
            chosen_on_test.add(f"{clean(column.task)} ({clean(column.protocol)})")
    alarms = []
    if chosen_on_test:
        tasks = ", ".join(sorted(chosen_on_test))
        alarms.append(
            f"The model weights for {tasks} were chosen on the test split, so these errors are too "
            "low and not comparable with others."
        )
    # A single layout is both the first and the last.
    framed_layouts = list(layouts)
    cleaned_notes = [
        clean(note, longest=_LONGEST_NOTE) for note in (*layouts[0].notes, *table.remarks)
    ]
    framed_layouts[0] = replace(
        layouts[0], notes=cleaned_notes, alarms=alarms, heading=table.heading
    )
    problems = []
    # Failed runs come first, running ones last.
    unfinished = sorted(table.unfinished, key=lambda run: UNFINISHED.index(run.state))
    folders: list[Run | Broken] = [*unfinished, *table.broken]
    for run in folders:
        folder = clean(str(run.path))
        problems.append(Problem(state=run.state, reason=clean(run.reason), folder=folder))
    framed_layouts[-1] = replace(framed_layouts[-1], problems=problems)
    return framed_layouts


def _error_text(column: Column, cells: Sequence[Cell]) -> _ErrorText:
    """Return a function that formats a column's errors with equal decimals; "-" for None."""
    means = [cell.mean * column.scale for cell in cells if cell.mean is not None]
    decimals = decimals_of(means)

    def text(error: float | None) -> str:
        if error is None:
            return "-"
        return number_text(error * column.scale, decimals)

    return text


def _entry(cell: Cell, error_text: _ErrorText) -> Entry:
    """Return an entry such as "12.6 ± 0.8 (3)", and below it the runs that the mean leaves out.

    "-" replaces the mean if no seed has an error, and the deviation if only one seed has an error.
    """
    mean_text = "-"
    n_errors = len(cell.error_by_seed)
    if n_errors:
        mean_text = f"{error_text(cell.mean)} ± {error_text(cell.deviation)} ({n_errors})"
    remarks = []
    choice = clean(cell.choice)
    if choice:
        remarks.append(f"at {choice}")
    for reason in MISSING:
        n_missing = cell.missing[reason]
        if n_missing:
            remarks.append(f"+{n_missing} {reason}")
    n_unaligned = cell.unaligned
    if n_unaligned:
        remarks.append(f"{n_unaligned} of {len(cell.runs)} unaligned")
    return Entry(text=mean_text, rest=" ".join(remarks), best=cell.earned)


def _reference_entry(reference: Reference | None, error_text: _ErrorText) -> Entry:
    if reference is None:
        return Entry(text="-")
    lowest_text = error_text(reference.low)
    highest_text = error_text(reference.high)
    # Compared as shown, so that no range has equal ends.
    range_text = lowest_text if lowest_text == highest_text else f"{lowest_text} to {highest_text}"
    return Entry(text=range_text, rest=clean(reference.words))


def headers(columns: Sequence[Column]) -> list[list[str]]:
    """Return the lines above each column: task, error, marks.

    Protocols are marks if there are several; otherwise the caption names the protocol.
    """
    protocols = {clean(column.protocol) for column in columns}
    header_lines = []
    for column in columns:
        error_line = clean(column.error_name) or "no result yet"
        if column.percent:
            error_line += ", %"
        marks = []
        if len(protocols) > 1:
            marks.append(clean(column.protocol))
        remarks = ("synthetic" if column.synthetic else "", clean(column.size))
        marks.append(", ".join(filter(None, remarks)))
        if column.chosen_on_test:
            marks.append(ALARM)
        header_lines.append([clean(column.name), error_line, *filter(None, marks)])
    return header_lines


def column_names(columns: Sequence[Column]) -> list[str]:
    """Return each column's task, with its other lines if other columns have the same task."""
    counts = Counter(clean(column.name) for column in columns)
    full_names = []
    for name, *marks in headers(columns):
        if counts[name] > 1:
            name = f"{name} ({', '.join(marks)})"
        full_names.append(name)
    return full_names


def verdicts_of(table: Table) -> Iterator[tuple[str, str]]:
    """Yield name and verdict of each run in the table: a sentence that compares it with baselines.

    Runs without a verdict are skipped.
    """
    for position, name in enumerate(column_names(table.columns)):
        for row in table.rows:
            for run, score in row.cells[position].scored:
                if score.verdict:
                    yield f"{name}, {row.method}, seed {run.seed}", score.verdict


def notes_of(table: Table) -> list[str]:
    """Return the limits of a table's comparisons, in one sentence each.

    The table's remarks are left out. Names from the disk are not cleaned yet.
    """
    # Columns with the same note share a line.
    names_by_note = defaultdict(list)
    for position, name in enumerate(column_names(table.columns)):
        cells = [(row, row.cells[position]) for row in table.rows]
        for note in _notes_of_column(cells):
            names_by_note[note].append(name)
    notes = []
    for note, names in names_by_note.items():
        notes.append(f"{', '.join(names)}: {note}")
    if table.superseded:
        notes.append(
            "number of older attempts, which are not part of any mean, since only the newest "
            f"completed run of an experiment counts: {len(table.superseded)}"
        )
    return notes


def _notes_of_column(cells: list[tuple[Row, Cell]]) -> Iterator[str]:
    """Yield a column's limits: settings that no row names, unequal conditions, unscored items."""
    variants = []
    named_settings: set[tuple[str, str]] = set()
    skipped = set()
    for row, cell in cells:
        for run, score in cell.scored:
            variants.append(run.variant.items())
            skipped.add(score.skipped)
            # A method without a completed run in this column names none of the column's runs.
            named_settings.update(row.method.settings)
    if variants:
        shared_settings = set(variants[0]).intersection(*variants)
        # A reader cannot see settings that all runs share, since no row names them.
        unnamed_settings = shared_settings - named_settings
        if unnamed_settings:
            yield f"all runs with {settings_text(sorted(unnamed_settings))}"
    yield from _unlike_seeds(cells)
    yield from _unlike(cells)
    # Numbers of items, not seeds; 0 if a run could score all items.
    if any(skipped):
        yield f"errors leave out items that could not be scored ({seeds_text(skipped)} per run)"
    for row, cell in cells:
        for run in cell.hidden:
            yield (
                f"{row.method}, seed {run.seed}: several runs have equal settings but differ in "
                "something else, such as a changed YAML or data file; only the newest run counts; "
                f"left out: {run.path}"
            )


def _unlike_seeds(cells: list[tuple[Row, Cell]]) -> Iterator[str]:
    """Yield a note on the methods whose seeds differ from those of most methods."""
    seeds_of_methods = []
    counts: Counter[str] = Counter()
    for row, cell in cells:
        if cell.error_by_seed:
            seeds = seeds_text(cell.error_by_seed)
            seeds_of_methods.append((row.method, seeds))
            counts[seeds] += 1
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        exceptions = []
        for method, seeds in seeds_of_methods:
            # Only methods that differ from most others are named.
            if seeds != usual:
                exceptions.append(f"{method} ({seeds})")
        yield f"methods have different seeds: {usual}, except {'; '.join(exceptions)}"


def _unlike(cells: list[tuple[Row, Cell]]) -> Iterator[str]:
    """Yield notes on means over runs that differ in facts, and on facts in which methods differ."""
    noted = set()
    runs_of_all: list[Run] = []
    for row, cell in cells:
        runs_of_all += cell.tested
        for name, seeds_by_fact in conditions.mixed(cell.tested).items():
            noted.add(name)
            facts = [
                f"{conditions.shown(fact)} (seed {seeds_text(seeds)})"
                for fact, seeds in seeds_by_fact.items()
            ]
            yield f"{row.method} is a mean over runs that differ in {name}: {', '.join(facts)}"
    # A fact in which runs of one method differ was noted above; it also differs between methods.
    differing = conditions.mixed(runs_of_all).keys() - noted
    if differing:
        names = " and ".join(sorted(differing))
        yield (
            f"methods differ in {names}, and no setting explains why; bold and * compare only "
            "runs without this difference"
        )
