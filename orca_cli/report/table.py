"""From runs to one table: methods as rows, tasks as columns, mean and sample standard deviation over seeds as cells.

Runs that differ in a setting are never averaged: they get rows of their own. Other people's results from a csv file stand
below, with their source, never ranked, never best.
"""

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev

from orca_cli.exceptions import DataError, suggest
from orca_cli.report.collect import TEST_SET, Broken, Collection, Run
from orca_cli.report.conditions import TEST_DATA, mixed
from orca_cli.report.differences import LARGEST_P, LEAST, holm, sign_flip
from orca_cli.runs.settings import canonical

_NAMES_OF_DATA = (
    "task.test",
    "task.train",
    "task.path",
    "task.dataset",
)  # settings that name a user's own data
UNFINISHED = ("failed", "dead", "interrupted", "running")
MISSING = (
    "undefined",
    "not tested",
    *UNFINISHED,
)  # why a run is not in a mean; not tested: test=false
_PUBLISHED = ("task", "method", "error", "source")


@dataclass(frozen=True, order=True)
class Column:
    """Errors that may be compared: of one task, by one protocol and under one name; fields as in `Run` and `Score`.

    `data` names the user's own data set, where the runs of the task are of several.
    """

    task: str
    protocol: str
    error_name: str
    percent: bool
    synthetic: bool
    chosen_on_test: bool = False
    size: str = ""
    data: str = ""

    @property
    def name(self) -> str:
        """Return the name of the data set for readers."""
        return f"{self.task} {self.data}".rstrip()

    @property
    def scale(self) -> float:
        """Return what stored errors are multiplied by where they are shown."""
        return 100.0 if self.percent else 1.0


@dataclass(frozen=True, order=True)
class Method:
    """What a row stands for; `settings` are keys and values of the overridden settings in which runs of the table differ."""

    body: str
    source: str
    metric: str
    finetune: str
    settings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        settings = (f"{key}={value}" for key, value in self.settings)
        return " ".join(text for text in (self.body, self.metric, self.finetune, *settings) if text)


@dataclass
class Cell:
    """The runs of one method on one task; errors are as stored.

    Attributes:
        runs: the newest completed one of each seed, by rising seed; `scored` has them with their scores.
        tested, values: runs with a test error, and these errors; undefined ones are left out.
        mean, deviation: of `values`; None where there is no value, or for the deviation only one.
    """

    every: Sequence[Run] = ()  # from the oldest to the newest
    best: bool = False  # its mean is the lowest of the column
    earned: bool = False  # and it is shown to be lower than all others: see `_mark`

    def __post_init__(self) -> None:
        completed = [run for run in self.every if run.score is not None]
        newest = {run.seed: run for run in completed}
        self.run_by_seed = dict(sorted(newest.items()))
        self.runs = list(self.run_by_seed.values())
        self.hidden = [run for run in completed if run is not newest[run.seed]]  # not counted
        self.scored = [(run, run.score) for run in self.runs if run.score is not None]
        self.by_seed = {
            run.seed: score.value for run, score in self.scored if score.value is not None
        }
        self.tested = [self.run_by_seed[seed] for seed in self.by_seed]
        self.values = list(self.by_seed.values())
        self.mean = fmean(self.values) if self.values else None
        self.deviation = (
            stdev(self.values) if len(self.values) > 1 else None
        )  # sample standard deviation (n - 1)
        self.missing = Counter(
            run.state for run in self.every if run.score is None
        )  # of MISSING -> number of runs
        lacking = [score for _, score in self.scored if score.value is None]
        self.missing.update(
            "undefined" if score.n + score.skipped else "not tested" for score in lacking
        )

    @property
    def unaligned(self) -> int:
        """Return how many of its runs kept no alignment step although they have a metric."""
        return sum(run.metric != "none" and score.steps == 0 for run, score in self.scored)

    @property
    def choice(self) -> str:
        """Return the values chosen for its runs (see selection.py); empty where nothing was chosen."""
        return ", ".join(dict.fromkeys(run.choice for run in self.runs if run.choice))


def is_source_implied(methods: Iterable[Method]) -> bool:
    """Return whether each body has one source only, so that no name has to say it."""
    sources = {(method.body, method.source) for method in methods}
    return len(sources) == len({body for body, _ in sources})


@dataclass
class Row:
    """One method's cells, in the order of the columns."""

    method: Method
    cells: list[Cell]


@dataclass(frozen=True)
class Reference:
    """An error beside ours on one task, as stored: a simple model's, lowest and highest over runs, or one that others report.

    `words` say which model, or what makes the two hard to compare; empty for nothing.
    """

    low: float
    high: float
    words: str = ""


@dataclass(frozen=True)
class Table:
    """Everything that a report shows.

    Args:
        columns, rows: `build_table` sorts them by their names; every row has a cell for each column.
        unfinished, superseded, broken: runs that are not completed; and as in `Collection`.
        references: the rows below: name -> an error for each column, None where there is none.
        heading: the first line, such as how rates were chosen; empty for none.
        remarks: notes that every view of it shows.
    """

    columns: list[Column]
    rows: list[Row]
    unfinished: list[Run]
    superseded: list[Run]
    broken: list[Broken]
    references: dict[str, list[Reference | None]] = field(default_factory=dict)
    heading: str = ""
    remarks: list[str] = field(default_factory=list)


def build_table(collection: Collection) -> Table:
    """Return the table of a collection; rows and columns are sorted by their names."""
    runs: dict[tuple[Method, Column], list[Run]] = defaultdict(list)
    for run, column, method in placed(collection.runs):
        runs[method, column].append(run)
    columns, methods = (
        sorted({column for _, column in runs}),
        sorted({method for method, _ in runs}),
    )
    rows = [Row(method, [Cell(runs[method, column]) for column in columns]) for method in methods]
    references: dict[str, list[Reference | None]] = {"best baseline": [], "trivial": []}
    for place in range(len(columns)):
        cells = [row.cells[place] for row in rows]
        _mark(cells)
        scores = [score for cell in cells for _, score in cell.scored]
        references["best baseline"].append(
            _range([score.baselines[0] for score in scores if score.baselines])
        )
        references["trivial"].append(
            _range([("", score.trivial) for score in scores if score.trivial is not None])
        )
    references = {name: ranges for name, ranges in references.items() if any(ranges)}
    unfinished = [run for run in collection.runs if run.state != "completed"]
    return Table(columns, rows, unfinished, collection.superseded, collection.broken, references)


def _mark(cells: Sequence[Cell]) -> None:
    """Mark the lowest mean of a column as best, and as earned where it is demonstrably lower than that of each other method.

    That takes six seeds or more in common with each, on the same test data and otherwise alike (see `conditions`), a lower mean
    over them, and p <= 0.05 by the exact sign-flip test, corrected for the number of other methods (Holm).
    """
    shown = [(cell, mean) for cell in cells if (mean := cell.mean) is not None]
    lowest = min((mean for _, mean in shown), default=math.inf)
    for cell, mean in shown:
        cell.best = math.isclose(mean, lowest, rel_tol=1e-12)
        if cell.best and len(shown) > 1 and len(cell.values) >= LEAST:
            gains = [_gains(other, cell) for other, _ in shown if other is not cell]
            if all(
                len(differences) >= LEAST and math.fsum(differences) > 0 for differences in gains
            ):
                cell.earned = (
                    max(holm([sign_flip(differences) for differences in gains])) <= LARGEST_P
                )


def _gains(other: Cell, cell: Cell) -> list[float]:
    """Return how much lower the errors of a cell are than another's, by seed, where their runs can be compared."""
    gains = []
    for seed in sorted(other.by_seed.keys() & cell.by_seed.keys()):
        run, partner = cell.run_by_seed[seed], other.run_by_seed[seed]
        if run.test_set == partner.test_set and not mixed((run, partner)):
            gains.append(other.by_seed[seed] - cell.by_seed[seed])
    return gains


def _range(models: Sequence[tuple[str, float]]) -> Reference | None:
    if not models:
        return None
    names, errors = zip(*models, strict=True)
    words = ", ".join(filter(None, sorted(set(names))))
    return Reference(min(errors), max(errors), words and f"({words})")


def placed(runs: Sequence[Run]) -> list[tuple[Run, Column, Method]]:
    """Return each run with its column and its method.

    A method is named by the overridden settings that are not the same in all runs of some column; runs of the same settings are
    one method, however these were typed. Where settings differ without an override, because a file was changed, the name
    includes the first digits of their hash. Where test data differ, the names of all runs include the first digits of theirs,
    so that runs on the same data stay together.
    """
    columns = _columns_of(runs)
    variants = _variants(runs, columns)
    sizes = Counter(columns)
    counts = Counter(
        (column, item)
        for column, one in zip(columns, variants, strict=True)
        for item in one.items()
    )
    shown = sorted({key for (column, (key, _)), count in counts.items() if count < sizes[column]})
    methods = []
    hashes: dict[tuple[Column, Method], list[str]] = defaultdict(list)
    for run, column, variant in zip(runs, columns, variants, strict=True):
        settings = tuple((key, variant[key]) for key in shown if key in variant)
        methods.append(Method(run.body, run.source, run.metric, run.finetune, settings))
        hashes[column, methods[-1]].append(run.settings)
    for place, run in enumerate(runs):
        every, method = hashes[columns[place], methods[place]], methods[place]
        # In a study whose seeds draw the samples every run has settings of its own.
        if len(set(every)) > 1 and not (run.arm and len(set(every)) == len(every)):
            methods[place] = replace(
                method, settings=(*method.settings, ("settings", run.settings[:8]))
            )
    return list(zip(runs, columns, methods, strict=True))


def _columns_of(runs: Sequence[Run]) -> list[Column]:
    """Return the column of each run; a run without a score goes to a column of its task that has scores.

    A user's own data set is named by the path of its test data, or of its training data where `task.test` is not set, as typed:
    by the first path of those whose runs were tested on the same data. It has no name where its task has no other.
    """
    first_path: dict[tuple[str, str], str] = {}  # task and fingerprint of the test data -> path
    columns = []
    for run in runs:  # those of a study have the names of its sets
        typed = [run.variant[key] for key in _NAMES_OF_DATA if key in run.variant]
        path = " ".join([*typed[:1], run.variant.get("task.config", "")]).strip() if typed else ""
        data = first_path.setdefault((run.task, run.test_set or path), path) if path else ""
        one, marks = run.score, ("", False, False, False, "")
        if one is not None:
            marks = (
                one.error_name,
                one.percent,
                one.synthetic,
                one.validated_on == "test",
                one.size,
            )
        columns.append(Column(run.task, run.protocol, *marks, data))
    sets = Counter(
        task for task, data in {(column.task, column.data) for column in columns} if data
    )
    columns = [column if sets[column.task] > 1 else replace(column, data="") for column in columns]
    scored = {column for run, column in zip(runs, columns, strict=True) if run.score}
    first = {(one.task, one.protocol, one.data): one for one in sorted(scored, reverse=True)}
    return [
        one if one in scored else first.get((one.task, one.protocol, one.data), one)
        for one in columns
    ]


def _variants(runs: Sequence[Run], columns: Sequence[Column]) -> list[dict[str, str]]:
    """Return the overridden settings of each run, and its test data where they differ between runs with equal task settings.

    Settings are merged over all runs with the same hash of all settings: one may be typed, or left at its default. Settings
    that prepare the data (`task.gaps`, ...) change the recorded test data too, but already name the run.
    """
    merged: dict[Hashable, dict[str, str]] = defaultdict(dict)
    variants = []
    for run, column in zip(runs, columns, strict=True):
        key = (
            column,
            run.body,
            run.source,
            run.metric,
            run.finetune,
            run.arm,
            run.settings or run.path,
        )
        merged[key] |= {key: canonical(value) for key, value in run.variant.items()}
        variants.append(merged[key])
    places: dict[Column, list[int]] = defaultdict(list)
    for place, column in enumerate(columns):
        if runs[place].test_set:
            places[column].append(place)
    for group in places.values():
        tests = mixed([runs[place] for place in group], [TEST_DATA]).get(TEST_DATA, {})
        for place in group:
            if runs[place].test_set in tests:
                variants[place] = variants[place] | {TEST_SET: runs[place].test_set[:8]}
    return variants


def with_published(table: Table, path: Path) -> Table:
    """Return a table with other people's results below it: those lines of a csv file that are of its tasks.

    The file has the columns task, method, error and source. `error` is in the units of result.json: fractions where tables show
    per cent, so 0.1939 for 19.39 %. Of several results for a cell the first counts.

    Raises:
        DataError: it cannot be read, a field is empty, an error is in per cent or not finite, or no task is in the table.
    """
    in_percent = {column.task: column.percent for column in table.columns}
    numbers: dict[str, int] = {}  # of sources
    rows: dict[str, list[Reference | None]] = {}
    tasks, place = set(), 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for line in csv.DictReader(file, skipinitialspace=True):
                place += 1
                task, method, text, source = ((line.get(name) or "").strip() for name in _PUBLISHED)
                if not (task and method and source and math.isfinite(error := float(text))):
                    raise ValueError(f"a field is empty, or '{text}' not finite")
                if error > 1 and in_percent.get(task):
                    raise ValueError(f"error {error:g} is above 1")
                tasks.add(task)
                if task in in_percent:
                    label = f"{method} [{numbers.setdefault(source, len(numbers) + 1)}]"
                    row = rows.setdefault(label, [None] * len(table.columns))
                    for number, column in enumerate(table.columns):
                        words = "real data, ours are synthetic" if column.synthetic else ""
                        row[number] = row[number] or (
                            Reference(error, error, words) if task == column.task else None
                        )
    except (OSError, ValueError, csv.Error) as problem:
        hint = f"a line is {','.join(_PUBLISHED)}, in UTF-8; an error is such as 0.1939 for 19.39 %"
        raise DataError(
            f"cannot be read: {problem}", where=f"{path}, line {place}", hint=hint
        ) from problem
    if not rows:
        hint = (
            suggest(min(tasks), in_percent)
            if tasks and in_percent
            else "orca report shows the tasks"
        )
        what = f"no run is of a task in it ({', '.join(sorted(tasks)) or 'no line'})"
        raise DataError(what, where=str(path), hint=hint)
    notes = [
        f"[{n}] reported by others, under their conditions: {source}"
        for source, n in numbers.items()
    ]
    return replace(table, references=rows | table.references, remarks=[*notes, *table.remarks])
