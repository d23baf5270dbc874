"""What a reader has to know before trusting a table: one sentence for each thing that limits a comparison."""

from __future__ import annotations

from collections import Counter

from orca_cli.report.collect import Run
from orca_cli.report.table import Cell, Column, Row, Table, score_of
from orca_cli.terminal import visible

_LONGEST = 300


def clean(text: str, *, longest: int = _LONGEST) -> str:
    """Return text from the disk with everything that could move a cursor, hide or break a line written as an escape."""
    return visible(text if len(text) <= longest else f"{text[:longest]}...")


def notes_of(table: Table) -> list[str]:
    """Return the notes of a table, with names as they are on the disk."""
    notes = [_rank_note(table)]
    for place, column in enumerate(table.columns):
        cells = [(row, row.cells[place]) for row in table.rows]
        name = _column_name(column, table.columns)
        found = (_settings(cells), _seeds(cells), _sizes(cells), _test_sets(cells), _skipped(cells))
        notes += [f"{name}: {note}" for note in (*found, _against_trivial(cells), *_hidden(cells)) if note]
    notes.append(_superseded_note(table.superseded))
    return [note for note in notes if note]


def _column_name(column: Column, columns: list[Column]) -> str:
    """Return a column's task, with protocol and error if other columns have the same task."""
    same = [other for other in columns if other.task == column.task]
    if len(same) == 1:
        return column.task
    words = (column.protocol, *data_words(column), column.error_name or "no result")
    return f"{column.task} ({' '.join(words)})"


def data_words(column: Column) -> list[str]:
    """Return words for the data of a column: whether they are synthetic, and their size."""
    return [*(["synthetic"] if column.synthetic else []), *([clean(column.size)] if column.size else [])]


def seeds_text(seeds: list[int]) -> str:
    """Return integers in short, such as "0-4,7"."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _rank_note(table: Table) -> str:
    ranked = sum(row.rank is not None for row in table.rows)
    if not ranked:
        return ""
    tasks = "the task" if len(table.columns) == 1 else f"all {len(table.columns)} tasks"
    return f"rank: mean over {tasks}, among the {ranked} of {len(table.rows)} methods that have a result for each"


def _settings(cells: list[tuple[Row, Cell]]) -> str:
    """Name the overridden settings that all runs of a column share and that are in no row's name."""
    runs = _runs(cells)
    if not runs:
        return ""
    common = set(runs[0].variant.items()).intersection(*(run.variant.items() for run in runs))
    hidden = common - {setting for row, cell in cells if cell.runs for setting in row.method.settings}
    return f"all runs with {', '.join(f'{key}={value}' for key, value in sorted(hidden))}" if hidden else ""


def _seeds(cells: list[tuple[Row, Cell]]) -> str:
    seeds = [(str(row.method), seeds_text([run.seed for run in cell.runs])) for row, cell in cells if cell.runs]
    counts = Counter(text for _, text in seeds)
    if len(counts) < 2:
        return ""
    usual = counts.most_common(1)[0][0]
    others = "; ".join(f"{method} ({text})" for method, text in seeds if text != usual)
    return f"methods have different seeds: {usual}, but {others}"


def _sizes(cells: list[tuple[Row, Cell]]) -> str:
    sizes = sorted({score_of(run).n for run in _runs(cells)})
    if len(sizes) < 2:
        return ""
    return f"errors are means over different numbers of items ({', '.join(map(str, sizes))}) and may not be comparable"


def _test_sets(cells: list[tuple[Row, Cell]]) -> str:
    known = {score_of(run).test_set for run in _runs(cells)} - {""}
    return f"runs were tested on {len(known)} different test sets and may not be comparable" if len(known) > 1 else ""


def _skipped(cells: list[tuple[Row, Cell]]) -> str:
    counts = sorted({score_of(run).skipped for run in _runs(cells)})
    if not counts or counts == [0]:
        return ""
    return f"errors leave out items that could not be scored ({seeds_text(counts)} per run)"


def _against_trivial(cells: list[tuple[Row, Cell]]) -> str:
    known = [score_of(run).trivial for run in _runs(cells)]
    trivial = [value for value in known if value is not None]
    if not trivial:
        return ""
    worse = [str(row.method) for row, cell in cells if cell.mean is not None and cell.mean >= min(trivial)]
    return f"not better than the best constant predictor: {'; '.join(worse)}" if worse else ""


def _hidden(cells: list[tuple[Row, Cell]]) -> list[str]:
    return [
        f"{row.method}, seed {run.seed}: runs differ in something that no setting shows (such as a changed YAML or data "
        f"file); the newest counts, not {run.path}"
        for row, cell in cells
        for run in cell.hidden
    ]


def _superseded_note(superseded: list[Run]) -> str:
    if not superseded:
        return ""
    folders = ", ".join(run.path.name for run in superseded[:3]) + (", ..." if len(superseded) > 3 else "")
    count = len(superseded)
    text = "1 older attempt does not count" if count == 1 else f"{count} older attempts do not count"
    return f"{text} (only the newest completed run of an experiment does): {folders}"


def _runs(cells: list[tuple[Row, Cell]]) -> list[Run]:
    return [run for _, cell in cells for run in cell.runs]
