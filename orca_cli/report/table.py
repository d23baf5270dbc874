"""From runs to one table: methods as rows, tasks as columns, errors over seeds as cells.

An error is a mean and a sample standard deviation. Runs that differ in a setting are never
averaged: they get separate rows. Other people's results (`published`) appear below the methods,
with their source; they are never ranked and never best.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import NamedTuple

from orca_cli.config.composed import OWN_PATHS
from orca_cli.report.collect import TEST_SET, Baseline, Broken, Collection, Run
from orca_cli.report.conditions import TEST_DATA, mixed
from orca_cli.report.differences import LARGEST_P, LEAST, holm, sign_flip
from orca_cli.runs.settings import canonical

Settings = tuple[tuple[str, str], ...]  # keys and values
UNFINISHED = ("failed", "dead", "interrupted", "running")
# Why a run is not in a mean; not tested: test=false.
MISSING = ("undefined", "not tested", *UNFINISHED)


# Frozen and ordered: columns are keys of dictionaries, and are sorted by their fields in turn.
@dataclass(frozen=True, order=True)
class Column:
    """Errors that may be compared: of one task, by one protocol and under one name.

    The fields are as in `Run` and `Score`; without a score, the error has no name. `data` names the
    data set; it is empty if the task's name is that of the data set.
    """

    task: str
    protocol: str
    error_name: str = ""
    percent: bool = False
    synthetic: bool = False
    chosen_on_test: bool = False
    size: str = ""
    data: str = ""

    @property
    def name(self) -> str:
        """Return the name of the data set for readers."""
        return self.data or self.task

    @property
    def scale(self) -> float:
        """Return the factor by which stored errors are multiplied where they are shown."""
        return 100.0 if self.percent else 1.0


@dataclass(frozen=True, order=True)
class Method:
    """The name of a row.

    `settings` are keys and values of the overridden settings in which runs of the table differ.
    """

    body: str
    source: str
    metric: str
    finetune: str
    settings: Settings = ()

    def __str__(self) -> str:
        settings = [f"{key}={text}" for key, text in self.settings]
        return " ".join(filter(None, (self.body, self.metric, self.finetune, *settings)))


@dataclass
class Cell:
    """The runs of one method on one task; errors are as stored.

    Attributes:
        attempts: from the oldest to the newest.
        runs: the newest completed run of each seed, by rising seed; `scored` has them with their
            scores.
        hidden: completed runs that do not count, since a newer run has the same seed.
        run_by_seed, error_by_seed: `runs` and their test errors, by seed; undefined errors are left
            out.
        tested: the runs with a test error.
        mean, deviation: mean and sample standard deviation (n - 1) of the errors. Both are None
            without an error; the deviation is also None for a single error.
        missing: one of MISSING -> number of runs.
        best: whether its mean is the lowest of the column.
        earned: whether that mean is significantly lower than all others, see `_mark`.
    """

    attempts: Sequence[Run] = ()
    best: bool = False
    earned: bool = False

    def __post_init__(self) -> None:
        completed = []
        self.missing: Counter[str] = Counter()
        for run in self.attempts:
            if run.score is None:
                self.missing[run.state] += 1
            else:
                completed.append(run)
        # Attempts come from the oldest to the newest, so the newest run of a seed replaces the
        # others.
        newest = {run.seed: run for run in completed}
        self.run_by_seed = dict(sorted(newest.items()))
        self.runs = list(self.run_by_seed.values())
        self.hidden = [run for run in completed if run is not newest[run.seed]]
        self.scored = [(run, run.score) for run in self.runs if run.score is not None]
        self.tested: list[Run] = []
        self.error_by_seed: dict[int, float] = {}
        for run, score in self.scored:
            if score.value is not None:
                self.tested.append(run)
                self.error_by_seed[run.seed] = score.value
            elif score.n + score.skipped:
                # The error was measured on samples, but is not defined on them.
                self.missing["undefined"] += 1
            else:
                self.missing["not tested"] += 1
        errors = self.error_by_seed.values()
        self.mean = fmean(errors) if errors else None
        self.deviation = stdev(errors) if len(errors) > 1 else None

    @property
    def unaligned(self) -> int:
        """Return how many of its runs kept no alignment step although they have a metric."""
        n_unaligned = 0
        for run, score in self.scored:
            n_unaligned += run.metric != "none" and score.steps == 0
        return n_unaligned

    @property
    def choice(self) -> str:
        """Return the values chosen for its runs (see selection.py); empty if none was chosen."""
        choices = dict.fromkeys(run.choice for run in self.runs)
        return ", ".join(filter(None, choices))

    def common_seeds(self, partner: "Cell") -> list[int]:
        """Return the seeds with which both cells have an error, by rising seed."""
        return sorted(self.error_by_seed.keys() & partner.error_by_seed.keys())


def is_source_implied(methods: Iterable[Method]) -> bool:
    """Return whether each body has one source only, so that names may leave out the source."""
    source_of: dict[str, str] = {}
    for method in methods:
        if source_of.setdefault(method.body, method.source) != method.source:
            return False
    return True


@dataclass
class Row:
    """One method's cells, in the order of the columns."""

    method: Method
    cells: list[Cell]


@dataclass(frozen=True)
class Reference:
    """An error on one task with which the methods' errors are compared, as stored.

    It is a baseline's error, lowest and highest over runs, or an error that other people report.
    `words` name the baseline, or say why the errors are hard to compare; they may be empty.
    """

    low: float
    high: float
    words: str = ""


@dataclass(frozen=True)
class Table:
    """Everything that a report shows.

    Args:
        columns, rows: `build_table` sorts them by their names; every row has a cell for each
            column.
        unfinished: runs that are not completed.
        superseded, broken: as in `Collection`.
        references: the rows below: name -> an error for each column, None if there is none.
        heading: the first line, such as how rates were chosen; empty for none.
        remarks: notes that every view of the table shows.
    """

    columns: list[Column]
    rows: list[Row]
    unfinished: list[Run]
    superseded: list[Run]
    broken: list[Broken]
    references: dict[str, list[Reference | None]] = field(default_factory=dict)
    heading: str = ""
    remarks: list[str] = field(default_factory=list)


class Placement(NamedTuple):
    """A run with its column and its row of a table."""

    run: Run
    column: Column
    method: Method


def build_table(collection: Collection) -> Table:
    """Return the table of a collection; rows and columns are sorted by their names."""
    # A method without runs of a task gets an empty cell, so that all rows are equally long.
    runs_by_cell = defaultdict(list)
    for run, column, method in placed(collection.runs):
        runs_by_cell[method, column].append(run)
    columns = sorted({column for _, column in runs_by_cell})
    rows = []
    cells_by_row = []
    for method in sorted({method for method, _ in runs_by_cell}):
        cells = [Cell(attempts=runs_by_cell[method, column]) for column in columns]
        cells_by_row.append(cells)
        rows.append(Row(method=method, cells=cells))
    # [columns][rows]
    cells_by_column = list(zip(*cells_by_row, strict=True))
    for column_cells in cells_by_column:
        _mark(column_cells)
    return Table(
        columns=columns,
        rows=rows,
        unfinished=[run for run in collection.runs if run.state != "completed"],
        superseded=collection.superseded,
        broken=collection.broken,
        references=_references(cells_by_column),
    )


def _mark(cells: Sequence[Cell]) -> None:
    """Mark the lowest mean of a column as best, and as earned if it is significantly the lowest.

    For that, a method needs at least six seeds in common with each other method, on the same test
    data and under equal conditions (see `conditions`), a lower mean over these seeds, and p <= 0.05
    by the exact sign-flip test, corrected for the number of other methods (Holm).
    """
    means = [cell.mean for cell in cells if cell.mean is not None]
    for cell in cells:
        if cell.mean is None:
            continue
        # Means that differ by rounding only are tied, and all of them are best.
        cell.best = math.isclose(cell.mean, min(means), rel_tol=1e-12)
        if cell.best:
            rivals = [rival for rival in cells if rival.mean is not None and rival is not cell]
            cell.earned = _is_shown_lower(cell, rivals)


def _is_shown_lower(cell: Cell, rivals: Sequence[Cell]) -> bool:
    gains_by_rival = []
    for rival in rivals:
        gains = _gains(rival, cell)
        # The sign-flip test is two-sided, so the sign of the gains is checked before it.
        if len(gains) < LEAST or math.fsum(gains) <= 0:
            return False
        gains_by_rival.append(gains)
    # A single method cannot be lower than another method.
    if not gains_by_rival:
        return False
    p_values = list(map(sign_flip, gains_by_rival))
    # The rival with the largest p decides.
    return max(holm(p_values)) <= LARGEST_P


def _gains(rival: Cell, cell: Cell) -> list[float]:
    """Return by how much a cell's errors are lower than a rival's, for seeds of comparable runs."""
    gains = []
    for seed in rival.common_seeds(cell):
        run = cell.run_by_seed[seed]
        partner = rival.run_by_seed[seed]
        # A setting may explain that test data differ, but the errors are still of other samples.
        if run.test_set == partner.test_set and not mixed((run, partner)):
            gains.append(rival.error_by_seed[seed] - cell.error_by_seed[seed])
    return gains


def _references(
    cells_by_column: Sequence[Sequence[Cell]],
) -> dict[str, list[Reference | None]]:
    """Return the rows of the best baselines and of the constants that have an error."""
    # An entry for each column.
    baseline_references = []
    constant_references = []
    for cells in cells_by_column:
        best_models: list[Baseline] = []
        constant_models = []
        for cell in cells:
            for _, score in cell.scored:
                # Baselines are sorted by rising error, so the first is the best on the run's split.
                best_models += score.baselines[:1]
                if score.trivial is not None:
                    constant_models.append(Baseline(name="", error=score.trivial))
        baseline_references.append(_reference(best_models))
        constant_references.append(_reference(constant_models))
    rows_of_references = {"best baseline": baseline_references, "trivial": constant_references}
    return {name: references for name, references in rows_of_references.items() if any(references)}


def _reference(models: Sequence[Baseline]) -> Reference | None:
    """Return the lowest and highest error of some models; None for no model."""
    if not models:
        return None
    errors = [model.error for model in models]
    # Constants have no name.
    model_names = {model.name for model in models} - {""}
    names_text = f"({', '.join(sorted(model_names))})" if model_names else ""
    return Reference(low=min(errors), high=max(errors), words=names_text)


def placed(runs: Sequence[Run]) -> list[Placement]:
    """Return each run with its column and its method.

    A method is named by the overridden settings that are not the same in all runs of some column;
    runs with equal settings are one method, however the settings were written. If settings differ
    without an override, because a file was changed, the name includes the first digits of their
    hash. If test data differ, the name of each run includes the first digits of its test data's
    hash, so that runs on the same data stay together.
    """
    columns = _columns_of(runs)
    variants = _variants(runs, columns)
    telling_keys = _telling_keys(columns, variants)
    methods = []
    # Column and method -> hashes of all settings, one for each run.
    hashes = defaultdict(list)
    for run, column, variant in zip(runs, columns, variants, strict=True):
        settings = tuple((key, variant[key]) for key in telling_keys if key in variant)
        method = Method(
            body=run.body,
            source=run.source,
            metric=run.metric,
            finetune=run.finetune,
            settings=settings,
        )
        methods.append(method)
        hashes[column, method].append(run.settings)
    # Only now are all runs of each cell known, so that their hashes can distinguish them.
    placements = []
    for run, column, method in zip(runs, columns, methods, strict=True):
        hashes_of_cell = hashes[column, method]
        n_settings = len(set(hashes_of_cell))
        # In a study whose seeds draw the samples, all runs have different settings.
        is_drawn_by_seed = run.arm != "" and n_settings == len(hashes_of_cell)
        if n_settings > 1 and not is_drawn_by_seed:
            # No override distinguishes these runs.
            settings = (*method.settings, ("settings", run.settings[:8]))
            method = replace(method, settings=settings)
        placements.append(Placement(run=run, column=column, method=method))
    return placements


def _columns_of(runs: Sequence[Run]) -> list[Column]:
    """Return the column of each run.

    Files with the same name are different data sets if their paths and test data differ; the
    column's name then includes the path as the user wrote it. A run without a score is put into a
    column of its data set that has scores, the first by name if there are several.
    """
    # Name of a data set and fingerprint of its test data -> first path.
    first_path: dict[tuple[str, str], str] = {}
    paths_by_name: dict[str, set[str]] = defaultdict(set)
    paths = []
    for run in runs:
        path = first_path.setdefault((run.data, run.test_set or _own_path(run)), _own_path(run))
        paths_by_name[run.data].add(path)
        paths.append(path)
    columns = []
    for run, path in zip(runs, paths, strict=True):
        is_alone = len(paths_by_name[run.data]) == 1
        columns.append(_column(run, run.data if is_alone else f"{run.data} {path}".rstrip()))
    # Column as it would be without a score -> the column with scores.
    with_scores = {}
    # Sorted in falling order, so that the first column by name is written last.
    for column in sorted(set(columns), reverse=True):
        if column.error_name:
            unscored = Column(task=column.task, protocol=column.protocol, data=column.data)
            with_scores[unscored] = column
    return [with_scores.get(column, column) for column in columns]


def _own_path(run: Run) -> str:
    """Return the path of a user's own data as the user wrote it; empty for none."""
    # Runs of a study have the names of its data sets instead.
    for key in ("test", *OWN_PATHS):
        path = run.variant.get(f"task.{key}")
        if path:
            return path
    return ""


def _column(run: Run, data: str) -> Column:
    column = Column(task=run.task, protocol=run.protocol, data=data)
    score = run.score
    if score is None:
        return column
    return replace(
        column,
        error_name=score.error_name,
        percent=score.percent,
        synthetic=score.synthetic,
        chosen_on_test=score.validated_on == "test",
        size=score.size,
    )


def _variants(runs: Sequence[Run], columns: Sequence[Column]) -> list[dict[str, str]]:
    """Return the overridden settings of each run, with its test data if only these differ.

    Settings are merged over all runs with the same hash of all settings: one run may set a value
    explicitly, another run may have it as the default. Settings that prepare the data (`task.gaps`,
    ...) change the recorded test data too, but already name the run.
    """
    merged: dict[Hashable, dict[str, str]] = defaultdict(dict)
    variants = []
    for run, column in zip(runs, columns, strict=True):
        method_names = (run.body, run.source, run.metric, run.finetune, run.arm)
        # Without a recorded hash a run is merged with no other.
        variant = merged[column, method_names, run.settings or run.path]
        for key, text in run.variant.items():
            variant[key] = canonical(text)
        # Merged runs share the dictionary, so that each also has the settings that a later run
        # overrides.
        variants.append(variant)
    positions_by_column = defaultdict(list)  # column -> positions of its runs
    for position, column in enumerate(columns):
        if runs[position].test_set:
            positions_by_column[column].append(position)
    for positions in positions_by_column.values():
        runs_of_column = [runs[position] for position in positions]
        # Empty if settings of the task explain why test data differ.
        test_sets = mixed(runs_of_column, [TEST_DATA]).get(TEST_DATA, {})
        for position in positions:
            test_set = runs[position].test_set
            if test_set in test_sets:
                # A new dictionary: the merged dictionary is shared with runs on other data.
                variants[position] = variants[position] | {TEST_SET: test_set[:8]}
    return variants


def _telling_keys(columns: Sequence[Column], variants: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the settings, sorted, that are not the same in all runs of some column."""
    sizes = Counter(columns)
    counts: Counter[tuple[Column, str, str]] = Counter()
    for column, variant in zip(columns, variants, strict=True):
        for key, text in variant.items():
            counts[column, key, text] += 1
    telling_keys = set()
    for (column, key, _), n_runs in counts.items():
        # If all runs of the column have this value, the setting does not distinguish them.
        if n_runs < sizes[column]:
            telling_keys.add(key)
    return sorted(telling_keys)
