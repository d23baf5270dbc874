"""What a reader has to know before trusting a table: one sentence for each thing that limits a comparison."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from orca_cli.report.records.collect import mixed_test_sets
from orca_cli.report.statistics.differences import LARGEST_P, LEAST
from orca_cli.report.tables.table import Cell, Column, Row, Table
from orca_cli.terminal import visible


def clean(text: str, *, longest: int = 300) -> str:
    """Return text from the disk with everything that could move a cursor, hide or break a line written as an escape."""
    return visible(text if len(text) <= longest else f"{text[:longest]}...")


def notes_of(table: Table) -> list[str]:
    """Return the notes of a table, with names as they are on the disk."""
    notes = []
    counts = [[n for cell in table.cells(place) if (n := len(cell.values))] for place in range(len(table.columns))]
    compared = [n for column_counts in counts if len(column_counts) > 1 for n in column_counts]
    if few := sum(n < LEAST for n in compared):
        where = f"in {few} of {len(compared)} cells that have others to compare with"
        notes.append(f"fewer than {LEAST} seeds {where}: so few cannot show a difference (p <= {LARGEST_P})")
    names_by_note: dict[str, list[str]] = defaultdict(list)
    for place, name in enumerate(column_names(table.columns)):
        for note in _of_column([(row, row.cells[place]) for row in table.rows]):
            names_by_note[note].append(name)
    notes += [f"{', '.join(names)}: {note}" for note, names in names_by_note.items()]
    if count := len(table.superseded):
        notes.append(f"older attempts that do not count (only an experiment's newest completed run does): {count}")
    return [*notes, *table.remarks]


def column_names(columns: Sequence[Column]) -> list[str]:
    """Return each column's task, with protocol and error if other columns have the same task."""
    counts = Counter(column.name for column in columns)
    words = ((one.protocol, *data_words(one), one.error_name or "no result") for one in columns)
    return [
        one.name if counts[one.name] == 1 else f"{one.name} ({' '.join(column_words)})"
        for one, column_words in zip(columns, words, strict=True)
    ]


def data_words(column: Column) -> list[str]:
    """Return words for the data of a column: synthetic, and their size."""
    return [*(["synthetic"] if column.synthetic else []), *([clean(column.size)] if column.size else [])]


def seeds_text(seeds: Iterable[int]) -> str:
    """Return integers in rising order, such as "0,1,2"."""
    return ",".join(map(str, sorted(seeds)))


def _of_column(cells: list[tuple[Row, Cell]]) -> Iterator[str]:
    """Yield how a column's runs differ, what they share although no row says it, and what their errors are worth."""
    runs = [run for _, cell in cells for run in cell.runs]
    common = set.intersection(*(set(run.variant.items()) for run in runs)) if runs else set()
    hidden = common - {setting for row, cell in cells if cell.runs for setting in row.method.settings}
    if hidden:
        yield f"all runs with {', '.join(f'{key}={value}' for key, value in sorted(hidden))}"
    seeds = [(str(row.method), seeds_text(cell.by_seed)) for row, cell in cells if cell.values]
    counts = Counter(text for _, text in seeds)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        others = "; ".join(f"{method} ({text})" for method, text in seeds if text != usual)
        yield f"methods have different seeds: {usual}, but {others}"
    if mixed := mixed_test_sets(runs):
        yield f"runs were tested on {len(mixed)} different test sets and may not be comparable; none is marked"
    scores = [score for _, cell in cells for score in cell.scores]
    skipped = sorted({score.skipped for score in scores})
    if skipped not in ([], [0]):
        yield f"errors leave out items that could not be scored ({seeds_text(skipped)} per run)"
    trivial = min((score.trivial for score in scores if score.trivial is not None), default=math.inf)
    worse = [str(row.method) for row, cell in cells if cell.mean is not None and cell.mean >= trivial]
    if worse:
        yield f"not better than the best constant predictor: {'; '.join(worse)}"
    for row, run in ((row, run) for row, cell in cells for run in cell.hidden):
        yield (
            f"{row.method}, seed {run.seed}: runs differ in something that no setting shows (such as a changed YAML or data "
            f"file); the newest counts, not {run.path}"
        )
