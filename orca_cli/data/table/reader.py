"""Your own table without code: rows of a .csv or .parquet file, one column of which is to be predicted.

Shapes: n rows, F features, K outputs.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.data.own_data import check_column, check_rules, file_paths, listed
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import group_rows, marked_rows
from orca_cli.data.table.columns import fit_columns, infer_kind, raw_targets
from orca_cli.data.table.files import Table, open_table
from orca_cli.data.table.preprocessing import Series, Symbols, TablePreprocessing, fit_symbols
from orca_cli.data.targets import TargetForm, fit_targets
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.terminal import counted

_SPLIT = "split"  # of marks, a column that no setting names


def load(
    data_folder: Path,
    reporter: Reporter,
    train: str,
    kind: Literal["classes", "labels", "values"] | None = None,
    target: str | int | None = None,
    targets: list[str] | None = None,
    validation: str | None = None,
    test: str | None = None,
    features: list[str] | None = None,
    ignore: list[str] | None = None,
    group: str | int | None = None,
    split_seed: Seed = 0,
    validation_fraction: Fraction = 0.15,
    test_fraction: Fraction = 0.15,
    normalize: bool = True,
    max_categories: Count = 32,
    gap_indicator: bool = False,
    missing_targets: bool = False,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: Literal[".", ","] = ".",
    sequence: str | int | None = None,
    id: str | int | None = None,
    time: str | int | None = None,
    length: Count | None = None,
) -> TaskData:
    """Return a task over the rows of a table; a row is a sequence [1, F] with one feature a step. See `assemble`.

    conf/task/table.yaml explains the settings. With `sequence` a row is a sequence of symbols [V, L], one-hot. With `id` the
    rows of one id are a series [F, L] with one row a step. Shorter ones are padded and masked.

    Raises:
        UnavailableError: .parquet without pyarrow.
        MemoryExhaustedError: a file does not fit into memory.
    """
    has_target = target not in (None, "")
    names, alone = [str(name) for name in ([target] if has_target else targets or [])], "a sequence is the only input"
    check_rules(
        (has_target and bool(targets), "targets", "does not go with task.target", "remove one of them"),
        (not names, "target", "a value is needed", "give task.target=COLUMN, or task.targets=[A,B]"),
        (kind == "classes" and len(names) > 1, "targets", "holds several", "classes are one column"),
        (sequence is not None and id is not None, "id", "does not go with task.sequence", alone),
        (sequence is not None and bool(features), "features", "does not go with task.sequence", alone),
        (time is not None and id is None, "time", "needs task.id", "name the column that says what series a row is in"),
        (length is not None and sequence is id is None, "length", "needs task.sequence or task.id", "name its column"),
    )
    paths = file_paths({"train": train, "validation": validation, "test": test}, data_folder)
    tables = {part: open_table(path, f"task.{part}", delimiter, encoding) for part, path in paths.items()}
    single = {"group": group, "sequence": sequence, "id": id, "time": time}
    roles = {"targets" if targets else "target": names, "features": features or [], "ignore": ignore or []}
    roles |= {key: [str(name)] for key, name in single.items() if name is not None}
    symbols = None if sequence is None else Symbols(str(sequence), "", length or 0)
    series = None if id is None else Series(str(id), None if time is None else str(time), length or 0)
    form = TargetForm(kind or "values", 0, missing=missing_targets)
    draft = TablePreprocessing((), decimal, tuple(names), form, delimiter, encoding, symbols, series)
    settings = {"normalize": normalize, "max_categories": max_categories, "indicator": gap_indicator}
    rows = _Rows(tables, reporter, draft, kind, settings, roles)
    return assemble("table", reporter, rows.kind, rows.pool, (validation_fraction, test_fraction), split_seed, rows.fit)


@dataclass
class _Rows:
    """The rows of the training file, read, and how they become samples; those of other files, whose groups alone are read.

    `tables` are the files by split, `draft` is the preprocessing before anything is learned, `settings` are those of
    `fit_columns`, and `roles` has the columns by the settings that name them.
    """

    tables: dict[str, Table]
    reporter: Reporter
    draft: TablePreprocessing
    given_kind: Kind | None
    settings: dict[str, Any]
    roles: dict[str, list[str]]

    def __post_init__(self) -> None:
        tables, targets, roles, base = self.tables, list(self.draft.target_columns), self.roles, self.tables["train"]
        self._inputs, left_out = self._choose()
        group, marks = roles.get("group", []), roles.get(_SPLIT, [])
        self._read = [*self._inputs, *targets, *roles.get("id", []), *roles.get("time", [])]
        for part, table in tables.items():
            for name in [*self._read, *group]:
                check_column(name, table.columns, f"task.{part}", table.path.name)
        self._columns, self._where = base.read([*self._read, *group, *marks]), str(base.path)
        self._steps = self.draft.grouped(self._columns, self._where)
        self._values = self.draft.per_sample(self._columns, [*targets, *group, *marks], self._where)
        self.kind, inferred = self.given_kind or "values", list[str]()
        if self.given_kind is None:
            self.kind, inferred = infer_kind(self._values, targets, self.draft.decimal, self._where)
        target, unit = self._values[targets[0]], "rows" if self._steps is None else "series"
        rows = {"train": np.arange(len(target))}
        if marks:
            hint = "; task.ignore=[split] leaves the column out"
            rows = marked_rows(self._values[_SPLIT], f"{self._where}[{_SPLIT}]", hint)
            if doubled := [part for part in rows if part != "train" and part in tables]:
                what = f"the column '{_SPLIT}' marks rows of this split too"
                raise ConfigError(what, where=f"task.{doubled[0]}", hint=f"leave out the file{hint}")
        check_enough(len(rows["train"]), unit, self._where)
        self._records = self._groups(group[0], rows) if group else {}
        self._notes, learn = [*inferred, *left_out], rows["train"]
        entries = [self._columns[name] for name in self._inputs]
        self.pool = Pool(
            unit, rows, tables, target.astype(str)[learn] if self.kind == "classes" else None,
            self._records["train"][learn] if group else None,
            lambda: self.draft.contents(entries, self._steps, learn),
        )  # fmt: skip

    def _choose(self) -> tuple[list[str], list[str]]:
        """Return the input columns, and a note on those that are not read; an unnamed column `split` gets a role."""
        table, taken = self.tables["train"], dict[str, str]()
        for key, names in self.roles.items():
            for name in names:
                check_column(name, table.columns, f"task.{key}", table.path.name)
                if name in taken:
                    what = f"'{name}' is in task.{taken[name]} too"
                    raise ConfigError(what, where=f"task.{key}", hint="a column has one role: remove one of them")
                taken[name] = key
        if _SPLIT in table.columns and _SPLIT not in taken:
            taken[_SPLIT], self.roles[_SPLIT] = _SPLIT, [_SPLIT]
        features, free = self.roles["features"], [name for name in table.columns if name not in taken]
        if "sequence" in self.roles:
            return self.roles["sequence"], [f"not read beside the sequence: {listed(free)}"] if free else []
        if not (features or free):
            hint = f"{table.path.name} has {listed(table.columns, 20)}"
            raise ConfigError("no column is left", where="task.features", hint=hint)
        return features or free, []

    def _groups(self, group: str, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the number of each sample's group, split with a file -> [n]; `rows` are those of the training file."""
        values, places = {"train": self._values[group]}, {part: f"{self._where}[{group}] ({part})" for part in rows}
        group_rows({part: values["train"][members] for part, members in rows.items()}, places)
        series = None if self.draft.series is None else replace(self.draft.series, time=None)
        for part, table in self.tables.items():
            if part != "train":
                columns = table.read([group, *self.roles.get("id", [])])
                values[part] = replace(self.draft, series=series).per_sample(columns, [group], str(table.path))[group]
        return group_rows(values, {part: f"{table.path}[{group}]" for part, table in self.tables.items()})

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how rows become samples; see `assemble`."""
        columns, where, kind, draft = self._columns, self._where, self.kind, self.draft
        missing, names = draft.targets.missing, draft.target_columns
        raw, place = raw_targets(self._values, kind, names, missing, where, draft.decimal)
        form = fit_targets(kind, raw, rows["train"], place, names=() if kind == "classes" else names, missing=missing)
        draft, fitted = self._fit_inputs(rows["train"])
        preprocessing = replace(draft, targets=form)
        x, y = preprocessing.features(columns, where), preprocessing.encoded_targets(columns, where)
        notes = [form.note(), *self._notes, *fitted]

        def samples(part: str) -> ArraySamples:
            if part in rows:
                split, origin = {name: columns[name][self._rows_of(rows[part])] for name in self._read}, where
                made = ArraySamples(x, y, rows=rows[part], groups=self._records.get("train"))
            else:
                split, origin = self.tables[part].read(self._read), str(self.tables[part].path)
                part_x, part_y = preprocessing.features(split, origin), preprocessing.encoded_targets(split, origin)
                made = ArraySamples(part_x, part_y, groups=self._records.get(part))
            say = self.reporter.say if part == "test" else notes.append
            for what, count in preprocessing.remarks(split, origin, training=part == "train").items():
                say(f"{part} split: {counted(count, 'sample')} {what}")
            return made

        return Fitted(preprocessing, preprocessing.input_shape, form, samples, notes)

    def _fit_inputs(self, learn: np.ndarray) -> tuple[TablePreprocessing, list[str]]:
        """Return the preprocessing with what the training samples say about inputs, and notes on it."""
        columns, where, draft, steps = self._columns, self._where, self.draft, self._steps
        if draft.symbols is not None:
            name, length = draft.symbols.name, draft.symbols.length
            symbols, notes = fit_symbols(name, columns[name], learn, length, where)
            return replace(draft, symbols=symbols), notes
        names, step_rows = self._inputs, self._rows_of(learn)
        encoders, notes = fit_columns(columns, step_rows, where, names=names, decimal=draft.decimal, **self.settings)
        if draft.series is None or steps is None:
            return replace(draft, columns=encoders), notes
        sizes = steps.sizes[learn]
        series = replace(draft.series, length=draft.series.length or int(sizes.max()))
        seen = f"{len(steps.series)} rows are {len(steps.names)} series of {sizes.min()} to {sizes.max()} steps"
        return replace(draft, columns=encoders, series=series), [seen, *notes]

    def _rows_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the table's rows of some samples, in its order."""
        return samples if self._steps is None else np.flatnonzero(np.isin(self._steps.series, samples))
