"""Your own table without code: rows of a .csv or .parquet file, one column of which is to be predicted.

Shapes: n rows, F features, K outputs.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.own_data import check_columns, check_rules, file_paths, listed
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import group_rows, marked_rows
from orca_cli.data.table.columns import fit_columns, has_own_texts, infer_kind, raw_targets
from orca_cli.data.table.files import Table, open_table
from orca_cli.data.table.preprocessing import Series, Symbols, TablePreprocessing, fit_symbols
from orca_cli.data.targets import TargetForm, fit_targets
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
    names, alone = (
        [str(name) for name in ([target] if has_target else targets or [])],
        "a sequence is the only input",
    )
    check_rules(
        (
            has_target and bool(targets),
            "targets",
            "does not go with task.target",
            "remove one of them",
        ),
        (
            not names,
            "target",
            "a value is needed",
            "give task.target=COLUMN, or task.targets=[A,B]",
        ),
        (
            kind == "classes" and len(names) > 1,
            "targets",
            "holds several",
            "classes are one column",
        ),
        (sequence is not None and id is not None, "id", "does not go with task.sequence", alone),
        (
            sequence is not None and bool(features),
            "features",
            "does not go with task.sequence",
            alone,
        ),
        (
            time is not None and id is None,
            "time",
            "needs task.id",
            "name the column that says what series a row is in",
        ),
        (
            length is not None and sequence is id is None,
            "length",
            "needs task.sequence or task.id",
            "name its column",
        ),
    )
    paths = file_paths({"train": train, "validation": validation, "test": test}, data_folder)
    tables = {
        part: open_table(path, f"task.{part}", delimiter, encoding) for part, path in paths.items()
    }
    single = {"group": group, "sequence": sequence, "id": id, "time": time}
    roles = {
        "targets" if targets else "target": names,
        "features": features or [],
        "ignore": ignore or [],
    }
    roles |= {key: [str(name)] for key, name in single.items() if name is not None}
    symbols = None if sequence is None else Symbols(str(sequence), "", length or 0)
    series = (
        None if id is None else Series(str(id), None if time is None else str(time), length or 0)
    )
    form = TargetForm(kind or "values", 0, missing=missing_targets)
    draft = TablePreprocessing(
        (), decimal, tuple(names), form, delimiter, encoding, symbols, series
    )
    settings = {
        "normalize": normalize,
        "max_categories": max_categories,
        "indicator": gap_indicator,
    }
    held = _Held(tables, reporter, draft, kind, settings, roles)
    return assemble(
        "table",
        reporter,
        held.kind,
        held.pool,
        (validation_fraction, test_fraction),
        split_seed,
        held.fit,
    )


@dataclass
class _Held:
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
        draft, roles, base, where = (
            self.draft,
            self.roles,
            self.tables["train"],
            str(self.tables["train"].path),
        )
        self._inputs, self._notes = self._choose(base)
        targets, group, marks = (
            list(draft.target_columns),
            roles.get("group", []),
            roles.get(_SPLIT, []),
        )
        self._names = [*self._inputs, *targets, *roles.get("id", []), *roles.get("time", [])]
        for part, table in self.tables.items():
            check_columns([*self._names, *group], table.columns, f"task.{part}", table.path.name)
        self._base = draft.rows(base.read([*self._names, *group, *marks]), where)
        self._values = {name: self._base.per_sample(name) for name in [*targets, *group, *marks]}
        self.kind = self.given_kind or "values"
        if self.given_kind is None:
            self.kind, inferred = infer_kind(self._values, targets, draft.decimal, where)
            self._notes = [*inferred, *self._notes]
        rows = {"train": np.arange(len(self._base))}
        if marks:
            what, hint = (
                "the column 'split' marks rows of it too",
                "; task.ignore=[split] leaves the column out",
            )
            rows, others = (
                marked_rows(self._values[_SPLIT], f"{where}[split]", hint),
                self.tables.keys() - {"train"},
            )
            check_rules(
                *((part in others, part, what, f"leave out the file{hint}") for part in rows)
            )
        groups_held = {}
        for part, table in self.tables.items() if group else ():
            names = [*group, *roles.get("id", [])]  # of other files no times are read
            held = self._base if part == "train" else draft.rows(table.read(names), str(table.path))
            groups_held[part] = held.per_sample(group[0]), f"{table.path}[{group[0]}]"
        self._groups = group_rows(groups_held, rows)
        unit, groups = "rows" if draft.series is None else "series", self._groups.get("train")
        classes = self._values[targets[0]].astype(str) if self.kind == "classes" else None
        compared = self._inputs
        if draft.symbols is None:
            trained = self._base.rows_of(rows["train"])
            compared = [name for name in self._inputs if self._is_compared(name, trained)]
            compared = compared or self._inputs
        contents = partial(self._base.contents, compared, draft.decimal, draft.symbols is not None)
        self.pool = Pool(unit, where, rows, self.tables, classes, groups, contents)

    def _is_compared(self, name: str, rows: np.ndarray) -> bool:
        """Return whether a column decides if inputs are identical: one that will be left out would make each differ."""
        if name in self.roles["features"]:
            return True
        return not has_own_texts(self._base.columns[name][rows], self.draft.decimal)

    def _choose(self, table: Table) -> tuple[list[str], list[str]]:
        """Return the input columns, and a note on those that are not read; an unnamed column `split` gets a role."""
        taken = dict[str, str]()
        for key, names in self.roles.items():
            check_columns(names, table.columns, f"task.{key}", table.path.name)
            for name in names:
                what = f"'{name}' is in task.{taken.get(name)} too"
                check_rules((name in taken, key, what, "a column has one role: remove one of them"))
                taken[name] = key
        if _SPLIT in table.columns and _SPLIT not in taken:
            taken[_SPLIT], self.roles[_SPLIT] = _SPLIT, [_SPLIT]
        features, free = (
            self.roles["features"],
            [name for name in table.columns if name not in taken],
        )
        if "sequence" in self.roles:
            return self.roles["sequence"], [
                f"not read beside the sequence: {listed(free)}"
            ] if free else []
        hint = f"{table.path.name} has {listed(table.columns, 20)}"
        check_rules((not (features or free), "features", "no column is left", hint))
        return features or free, []

    def fit(self, rows: dict[str, np.ndarray]) -> Fitted:
        """Learn from the training rows how rows become samples; see `assemble`."""
        base, draft, names = self._base, self.draft, self.draft.target_columns
        missing, learn = draft.targets.missing, rows["train"]
        raw, place = raw_targets(self._values, self.kind, names, missing, base.where, draft.decimal)
        form = fit_targets(
            self.kind,
            raw,
            learn,
            place,
            names=() if self.kind == "classes" else names,
            missing=missing,
        )
        if draft.symbols is not None:
            name, length = draft.symbols.name, draft.symbols.length
            symbols, fitted = fit_symbols(name, base.columns[name], learn, length, base.where)
            draft = replace(draft, symbols=symbols)
        else:
            inputs = {name: base.columns[name] for name in self._inputs}
            columns, fitted = fit_columns(
                inputs,
                base.rows_of(learn),
                base.where,
                decimal=draft.decimal,
                declared=self.roles["features"],
                **self.settings,
            )
            names_kept = {column.name for column in columns}
            left_out = tuple(name for name in self._inputs if name not in names_kept)
            draft = replace(draft, columns=columns, left_out=left_out)
        if draft.series is not None:
            sizes = np.diff(base.starts)[learn]
            draft = replace(
                draft, series=replace(draft.series, length=draft.series.length or int(sizes.max()))
            )
            seen = f"{len(base.order)} rows are {len(base)} series of {sizes.min()} to {sizes.max()} steps"
            fitted = [seen, *fitted]
        preprocessing = replace(draft, targets=form)
        x, y = preprocessing.features(base), form.encode(raw, place)
        notes = [form.note(), *self._notes, *fitted]

        def samples(part: str) -> ArraySamples:
            if part in rows:
                taken = base.rows_of(rows[part])
                split = preprocessing.rows(
                    {name: base.columns[name][taken] for name in self._names}, base.where
                )
                held = x, y
            else:
                split = preprocessing.rows(
                    self.tables[part].read(self._names), str(self.tables[part].path)
                )
                held = preprocessing.features(split), preprocessing.encoded_targets(split)
            made = ArraySamples(
                *held,
                rows=rows.get(part),
                groups=self._groups.get("train" if part in rows else part),
            )
            say = self.reporter.say if part == "test" else notes.append
            for what, count in preprocessing.remarks(split, training=part == "train").items():
                say(f"{part} split: {counted(count, 'sample')} {what}")
            return made

        return Fitted(preprocessing, preprocessing.input_shape, form, samples, notes)
