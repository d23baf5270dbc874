"""Your own table without code: rows of a .csv or .parquet file, one column of which is to be predicted.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.data.own_data import check_column, check_rules, file_paths, listed, refuse_entry
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import group_rows, marked_rows
from orca_cli.data.table.columns import Column, fit_columns, infer_kind, raw_targets
from orca_cli.data.table.files import Table, open_table
from orca_cli.data.table.preprocessing import TablePreprocessing, per_sample
from orca_cli.data.table.series import Series, contents, fit_symbols, group_by
from orca_cli.data.targets import TargetForm, fit_targets
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.terminal import counted

_SPLIT, _IGNORE = "split", "task.ignore=[split]"


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
    rows of one id are a series [F, L] with one row a step. Shorter ones are padded and masked. Columns of text become one
    feature of 0 and 1 per text of training. Empty fields and ?, NA, N/A, NaN, null and none are missing: of numbers they
    become the training mean, of text a feature of their own. A column `split` of train, validation and test is no feature.

    Raises:
        UnavailableError: .parquet without pyarrow.
        MemoryExhaustedError: a file does not fit into memory.
    """
    has_target, names = target not in (None, ""), [str(name) for name in targets or []]
    target_names = [str(target)] if has_target else names
    alone = "a sequence of symbols is the only input: remove one of them"
    check_rules(
        (has_target and bool(names), "targets", "does not go with task.target", "remove one of them"),
        (not target_names, "target", "a value is needed", "give task.target=COLUMN, or task.targets=[A,B]"),
        (len({*names}) < len(names), "targets", "names a column twice", "remove one of them"),
        (kind == "classes" and len(target_names) > 1, "targets", "holds several", "classes are one column"),
        (group is not None and str(group) in target_names, "group", "is to be predicted", "name another column"),
        (sequence is not None and id is not None, "id", "does not go with task.sequence", alone),
        (sequence is not None and bool(features), "features", "does not go with task.sequence", alone),
        (time is not None and id is None, "time", "needs task.id", "name the column that says what series a row is in"),
        (length is not None and sequence is id is None, "length", "needs task.sequence or task.id", "name its column"),
    )
    paths = file_paths({"train": train, "validation": validation, "test": test}, data_folder)
    tables = {part: open_table(path, f"task.{part}", delimiter, encoding) for part, path in paths.items()}
    named = {key: str(name) for key, name in (("sequence", sequence), ("id", id), ("time", time)) if name is not None}
    rows = _Rows(
        tables, reporter, kind, target_names, features or [], ignore or [], [] if group is None else [str(group)], named,
        length, normalize, max_categories, gap_indicator, missing_targets, delimiter, encoding, decimal,
    )  # fmt: skip
    return assemble("table", reporter, rows.kind, rows.pool, (validation_fraction, test_fraction), split_seed, rows.fit)


@dataclass
class _Rows:
    """The rows of the training file, read, and how they become samples; those of other files, whose groups alone are read.

    Beside the tables of the splits that have a file are the arguments of `load` on the roles of columns and on samples;
    `named` has the columns of sequence, id and time.
    """

    tables: dict[str, Table]
    reporter: Reporter
    given_kind: Kind | None
    targets: list[str]
    features: list[str]
    ignore: list[str]
    group: list[str]
    named: dict[str, str]
    length: int | None
    normalize: bool
    max_categories: int
    gap_indicator: bool
    missing_targets: bool
    delimiter: str | None
    encoding: str | None
    decimal: str

    def __post_init__(self) -> None:
        tables, targets, named, group = self.tables, self.targets, self.named, self.group
        base = tables["train"]
        taken = {*targets, *self.features, *self.ignore, *group, *named.values()}
        marks = [_SPLIT] if _SPLIT in base.columns and _SPLIT not in taken else []
        self._chosen, self._left_out = self._choose([*self.ignore, *marks])
        self._read = [*self._chosen, *targets, *(named[key] for key in ("id", "time") if key in named)]
        for part, table in tables.items():
            for name in [*self._read, *group]:
                check_column(name, table.columns, f"task.{part}", table.path.name)
        self._columns, self._where = base.read([*self._read, *group, *marks]), str(base.path)
        self._steps = None
        if "id" in named:
            self._steps = group_by(self._columns, named["id"], named.get("time"), self._where, self.decimal)
        self._values = per_sample(self._columns, [*targets, *group, *marks], self._steps, self._where)
        self.kind, self._inferred = self.given_kind or "values", list[str]()
        if self.given_kind is None:
            self.kind, self._inferred = infer_kind(self._values, targets, self.decimal, self._where)
        target, unit = self._values[targets[0]], "rows" if self._steps is None else "series"
        rows = self._marked_rows() if marks else {"train": np.arange(len(target))}
        check_enough(len(rows["train"]), unit, self._where)
        self._records = self._groups(rows) if group else {}
        learn, is_text = rows["train"], "sequence" in named
        self.pool = Pool(
            unit, rows, tables, target.astype(str)[learn] if self.kind == "classes" else None,
            self._records["train"][learn] if group else None,
            lambda: contents(self._columns, self._chosen, self._steps, learn, self.decimal, is_text),
        )  # fmt: skip

    def _marked_rows(self) -> dict[str, np.ndarray]:
        """Return the samples of each split that the column `split` names."""
        marks, where = self._values[_SPLIT], f"{self._where}[{_SPLIT}]"
        hint = f"; {_IGNORE} leaves the column out"
        numbers = np.array([str(mark).isdigit() for mark in marks])
        refuse_entry(numbers, marks, "is a number", where, f"name train, validation and test{hint}")
        rows = marked_rows(marks, where, hint)
        if doubled := [part for part in rows if part != "train" and part in self.tables]:
            what = f"the column '{_SPLIT}' marks rows of this split too"
            raise ConfigError(what, where=f"task.{doubled[0]}", hint=f"leave out the file{hint}")
        return rows

    def _groups(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the number of each sample's group, split with a file -> [n]; `rows` are those of the training file."""
        group, id = self.group[0], self.named.get("id")
        values = {"train": self._values[group]}
        places = {part: f"{self._where}[{group}] ({part})" for part in rows}
        group_rows({part: values["train"][members] for part, members in rows.items()}, places)
        for part, table in self.tables.items():
            if part != "train":
                columns, where = table.read([group] if id is None else [group, id]), str(table.path)
                steps = None if id is None else group_by(columns, id, None, where, ".")
                values[part] = per_sample(columns, [group], steps, where)[group]
        return group_rows(values, {part: f"{table.path}[{group}]" for part, table in self.tables.items()})

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how rows become samples; see `assemble`."""
        columns, where, kind, learn = self._columns, self._where, self.kind, rows["train"]
        missing, names = self.missing_targets, self.targets
        raw, place = raw_targets(self._values, kind, names, missing, where, self.decimal)
        form = fit_targets(kind, raw, learn, place, names=() if kind == "classes" else tuple(names), missing=missing)
        preprocessing, fitted = self._fit_inputs(form, learn)
        x, y = preprocessing.features(columns, where), preprocessing.encoded_targets(columns, where)
        notes = [form.note(), *self._inferred, *fitted, *self._left_out]

        def samples(part: str) -> ArraySamples:
            if part in rows:
                part_rows = rows[part] if self._steps is None else self._steps.rows(rows[part])
                split, origin = {name: columns[name][part_rows] for name in self._read}, where
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

    def _fit_inputs(self, form: TargetForm, learn: np.ndarray) -> tuple[TablePreprocessing, list[str]]:
        """Return the preprocessing with these targets that the training samples learn, and notes on it."""
        columns, where, steps = self._columns, self._where, self._steps
        encoders: tuple[Column, ...] = ()
        symbols, series, named = None, None, self.named
        if "sequence" in named:
            name = named["sequence"]
            symbols, fitted = fit_symbols(name, columns[name], learn, self.length, where)
        else:
            step_rows = learn if steps is None else steps.rows(learn)
            encoders, fitted = fit_columns(
                columns, self._chosen, step_rows, self.normalize, self.max_categories, self.decimal, where,
                self.gap_indicator,
            )  # fmt: skip
        if steps is not None:
            sizes = (steps.ends - steps.starts)[learn]
            series = Series(named["id"], named.get("time"), self.length or int(sizes.max()))
            seen = f"{len(steps.order)} rows are {len(steps.names)} series of {sizes.min()} to {sizes.max()} steps"
            fitted = [seen, *fitted]
        files = self.delimiter, self.encoding
        targets = tuple(self.targets)
        return TablePreprocessing(encoders, self.decimal, targets, form, *files, symbols, series), fitted

    def _choose(self, ignore: list[str]) -> tuple[list[str], list[str]]:
        """Return the input columns, and a note on those that are left out."""
        table, features, named = self.tables["train"], self.features, self.named
        targets, group = self.targets, self.group
        roles = {"target": targets, "features": features, "ignore": ignore, "group": group}
        for key, names in (roles | {key: [name] for key, name in named.items()}).items():
            for name in names:
                check_column(name, table.columns, f"task.{key}", table.path.name)
        taken = [*targets, *group, *named.values()]
        if doubled := [name for name in features if name in (*taken, *ignore)]:
            what = f"'{doubled[0]}' is to be predicted or ignored, or says what belongs together"
            raise ConfigError(what, where="task.features", hint="remove it from the features")
        if twice := [name for name in named.values() if taken.count(name) > 1 and name not in group]:
            raise ConfigError(f"column '{twice[0]}' is given two roles", where="task", hint="name different columns")
        free = [name for name in table.columns if name not in {*taken, *ignore}]
        if "sequence" in named:
            return [named["sequence"]], [f"not read beside the sequence: {listed(free)}"] if free else []
        if not (features or free):
            hint = f"{table.path.name} has {listed(table.columns, 20)}"
            raise ConfigError("no column is left", where="task.features", hint=hint)
        return list(dict.fromkeys(features or free)), []
