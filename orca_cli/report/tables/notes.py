"""What a reader has to know before trusting a table: one sentence for each thing that limits a comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from orca_cli.report.records.collect import GROUPS, Run, mixed_test_sets
from orca_cli.report.records.filters import canonical
from orca_cli.report.statistics.differences import LARGEST_P, LEAST
from orca_cli.report.tables.rows import time_of
from orca_cli.report.tables.table import Cell, Column, Row, Table
from orca_cli.terminal import visible


def clean(text: str, *, longest: int = 300) -> str:
    """Return text from the disk with everything that could move a cursor, hide or break a line written as an escape."""
    return visible(text if len(text) <= longest else f"{text[:longest]}...")


def notes_of(table: Table) -> list[str]:
    """Return the notes of a table, with names as they are on the disk."""
    notes = [*_order_notes(table), *_merged_notes(table)]
    for place, name in enumerate(column_names(table.columns)):
        cells = [(row, row.cells[place]) for row in table.rows]
        notes += [f"{name}: {note}" for note in (*_differences(cells), *_doubts(cells))]
    for number, text in enumerate(sources_of(table), 1):
        notes.append(f"[{number}] reported by others, under their conditions: {text}")
    if count := len(table.superseded):
        folders = ", ".join(run.path.name for run in table.superseded[:3]) + (", ..." if count > 3 else "")
        text = "1 older attempt does not count" if count == 1 else f"{count} older attempts do not count"
        notes.append(f"{text} (only the newest completed run of an experiment does): {folders}")
    return [*notes, *table.remarks]


def sources_of(table: Table) -> list[str]:
    """Return the sources of others' results, in the order of their numbers in the table."""
    return list(dict.fromkeys(result.source for result in table.published))


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


def seeds_text(seeds: list[int]) -> str:
    """Return integers in short, such as "0-4,7"."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def _order_notes(table: Table) -> Iterator[str]:
    """Yield what ranks and the order of rows mean, and how many cells have too few seeds to be marked."""
    if ranked := sum(row.rank is not None for row in table.rows):
        tasks = "the task" if len(table.columns) == 1 else f"all {len(table.columns)} tasks"
        yield f"rank: mean over {tasks}, among the {ranked} of {len(table.rows)} methods that have a result for each"
    if table.order == "time":
        times = ((row.method, time_of(row)) for row in table.rows)
        listed = "; ".join(f"{method} {seconds:.3g} s" for method, seconds in times if seconds is not None)
        yield f"rows by the mean time of a run's stages: {listed}"
    elif table.order:
        yield f"rows by {table.order}"
    columns = [[n for cell in table.cells(place) if (n := len(cell.values))] for place in range(len(table.columns))]
    compared = [n for counts in columns if len(counts) > 1 for n in counts]
    if few := sum(n < LEAST for n in compared):
        where = f"in {few} of {len(compared)} cells that have others to compare with"
        why = f"so few cannot show a difference (p <= {LARGEST_P}), so none is marked there"
        yield f"fewer than {LEAST} seeds {where}: {why}"


def _merged_notes(table: Table) -> Iterator[str]:
    """Yield what rows average over, where they merge settings."""
    if not table.by:
        return
    keys, unlike = set[str](), []
    for place, name in enumerate(column_names(table.columns)):
        settings = [_settings_besides(table.by, cell.runs) for cell in table.cells(place) if cell.runs]
        counts = [Counter(key for key, _ in cell_settings) for cell_settings in settings]
        keys |= {key for one in counts for key, count in one.items() if count > 1}
        unlike += [name] if len(set(settings)) > 1 else []
    if keys:
        yield f"an error is a mean over settings, by seed, of seeds that all of them have; merged: {', '.join(sorted(keys))}"
    if unlike:
        yield f"rows are not of the same settings besides {', '.join(table.by)}, so compare them with care: {', '.join(unlike)}"


def _settings_besides(keys: Collection[str], runs: Iterable[Run]) -> frozenset[tuple[str, str]]:
    settings = (
        {key: str(getattr(run, key)) for key in GROUPS} | {key: canonical(value) for key, value in run.variant.items()}
        for run in runs
    )
    return frozenset(item for one in settings for item in one.items() if item[0] not in keys)


def _differences(cells: list[tuple[Row, Cell]]) -> Iterator[str]:
    """Yield the settings that all runs of a column share although no row's name has them, and how its runs differ."""
    runs = [run for _, cell in cells for run in cell.runs]
    common = set.intersection(*(set(run.variant.items()) for run in runs)) if runs else set()
    hidden = common - {setting for row, cell in cells if cell.runs for setting in row.method.settings}
    if hidden:
        yield f"all runs with {', '.join(f'{key}={value}' for key, value in sorted(hidden))}"
    seeds = [(str(row.method), seeds_text(cell.seeds)) for row, cell in cells if cell.seeds]
    counts = Counter(text for _, text in seeds)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        others = "; ".join(f"{method} ({text})" for method, text in seeds if text != usual)
        yield f"methods have different seeds: {usual}, but {others}"
    sizes = sorted({score.n for _, cell in cells for score in cell.scores if score.is_tested})
    if len(sizes) > 1:
        items = ", ".join(map(str, sizes))
        yield f"errors are means over different numbers of items ({items}) and may not be comparable"
    if mixed := mixed_test_sets(runs):
        text = f"runs were tested on {len(mixed)} different test sets and may not be comparable"
        yield f"{text}; methods are neither ranked nor marked across them"


def _doubts(cells: list[tuple[Row, Cell]]) -> Iterator[str]:
    """Yield what the errors of a column leave out, and which of them are no better than a simple model's."""
    scores = [score for _, cell in cells for score in cell.scores]
    skipped = sorted({score.skipped for score in scores})
    if skipped not in ([], [0]):
        yield f"errors leave out items that could not be scored ({seeds_text(skipped)} per run)"
    trivial = min((score.trivial for score in scores if score.trivial is not None), default=math.inf)
    worse = [str(row.method) for row, cell in cells if cell.mean is not None and cell.mean >= trivial]
    if worse:
        yield f"not better than the best constant predictor: {'; '.join(worse)}"
    for row, cell in cells:
        best = [score.baselines[0] for score in cell.scores if score.baselines]
        if cell.mean is not None and len(best) == len(cell.runs) and str(row.method) not in worse:
            names = ", ".join(sorted({clean(name) for name, _ in best}))
            if cell.mean >= math.fsum(error for _, error in best) / len(best):
                yield f"{row.method}: not better than the best simple model ({names}), which takes seconds"
    for row, cell in cells:
        if len(set(cell.steps)) > 1 or cell.unaligned:
            none = f"; {cell.unaligned} of {len(cell.runs)} runs kept 0 steps, so they are not aligned"
            by_seed = ", ".join(map(str, cell.steps)) + (none if cell.unaligned else "")
            yield f"{row.method}: alignment steps that selection kept, by seed: {by_seed}"
    for row, run in ((row, run) for row, cell in cells for run in cell.hidden):
        yield (
            f"{row.method}, seed {run.seed}: runs differ in something that no setting shows (such as a changed YAML or data "
            f"file); the newest counts, not {run.path}"
        )
