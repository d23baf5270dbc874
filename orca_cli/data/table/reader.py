"""Your own table without code: rows of a .csv or .parquet file, and the column to be predicted.

Shapes: n samples of the training file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.own_data import check_columns, file_paths, listed
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import group_rows, marked_rows
from orca_cli.data.table.columns import (
    ColumnSettings,
    fit_columns,
    has_own_texts,
    infer_kind,
    raw_targets,
)
from orca_cli.data.table.files import Table, open_table
from orca_cli.data.table.preprocessing import (
    Rows,
    Series,
    Symbols,
    TablePreprocessing,
    fit_symbols,
)
from orca_cli.data.targets import TargetForm, fit_targets
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.terminal import counted

_SPLIT = "split"  # the column of marks, which no setting names


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """The settings of a table, which conf/task/table.yaml explains."""

    train: str
    kind: Literal["classes", "labels", "values"] | None = None
    target: str | int | None = None
    targets: list[str] | None = None
    validation: str | None = None
    test: str | None = None
    features: list[str] | None = None
    ignore: list[str] | None = None
    group: str | int | None = None
    split_seed: Seed = 0
    validation_fraction: Fraction = 0.15
    test_fraction: Fraction = 0.15
    normalize: bool = True
    max_categories: Count = 32
    gap_indicator: bool = False
    missing_targets: bool = False
    delimiter: str | None = None
    encoding: str | None = None
    decimal: Literal[".", ","] = "."
    sequence: str | int | None = None
    id: str | int | None = None
    time: str | int | None = None
    length: Count | None = None

    @property
    def target_columns(self) -> list[str]:
        """Names of the columns to be predicted."""
        if self.has_target:
            return [str(self.target)]
        return [str(name) for name in self.targets or []]

    @property
    def has_target(self) -> bool:
        """Whether a single column is named."""
        return self.target not in (None, "")


def load(settings: TableSettings, data_folder: Path, reporter: Reporter) -> TaskData:
    """Return a task over the rows of a table. See `assemble`.

    A row is a sequence [1, F] with one feature a step. With `sequence` a row is a sequence of
    symbols [V, L], one-hot. With `id` the rows of one id are a series [F, L] with one row a step.
    Shorter sequences are padded and masked.

    Raises:
        UnavailableError: .parquet without pyarrow.
        MemoryExhaustedError: a file does not fit into memory.
    """
    _refuse_contradictions(settings)
    source = _open(settings, data_folder)
    splits = _split(source)
    return assemble(
        "table",
        reporter,
        kind=source.kind,
        pool=_pool(source, splits),
        fractions=(settings.validation_fraction, settings.test_fraction),
        split_seed=settings.split_seed,
        fit=partial(_fit, source, splits.groups, reporter),
    )


def _refuse_contradictions(settings: TableSettings) -> None:
    """Raise ConfigError for settings that exclude or need each other."""
    if settings.has_target and settings.targets:
        what = "does not go with task.target"
        raise ConfigError(what, where="task.targets", hint="remove one of them")
    if not settings.target_columns:
        hint = "give task.target=COLUMN, or task.targets=[A,B]"
        raise ConfigError("a value is needed", where="task.target", hint=hint)
    if settings.kind == "classes" and len(settings.target_columns) > 1:
        hint = "classes are one column"
        raise ConfigError("holds several", where="task.targets", hint=hint)
    if settings.sequence is not None:
        what = "does not go with task.sequence"
        hint = "a sequence is the only input"
        if settings.id is not None:
            raise ConfigError(what, where="task.id", hint=hint)
        if settings.features:
            raise ConfigError(what, where="task.features", hint=hint)
    if settings.time is not None and settings.id is None:
        hint = "name the column that says what series a row is in"
        raise ConfigError("needs task.id", where="task.time", hint=hint)
    if settings.length is not None and settings.sequence is None and settings.id is None:
        what = "needs task.sequence or task.id"
        raise ConfigError(what, where="task.length", hint="name its column")


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Names of the columns of the training file, by what they are for."""

    inputs: list[str]
    targets: list[str]
    id: str | None
    time: str | None
    group: str | None
    marks: str | None  # of splits
    unread: list[str]  # that a sequence leaves over

    @property
    def in_samples(self) -> list[str]:
        """Columns that samples of every split are made of."""
        return [*self.inputs, *self.targets, *_without_none(self.id, self.time)]

    @property
    def per_sample(self) -> list[str]:
        """Columns in which all rows of a sample are the same."""
        return [*self.targets, *_without_none(self.group, self.marks)]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Files of which the training file was read; of the others only the headers were."""

    settings: TableSettings
    tables: dict[str, Table]  # by split
    columns: _Columns
    preprocessing: TablePreprocessing  # before anything is learned
    rows: Rows  # of the training file
    per_sample: dict[str, np.ndarray]  # [n], its columns `per_sample`
    kind: Kind
    notes: list[str]


def _open(settings: TableSettings, data_folder: Path) -> _Source:
    """Open all files, and read the training file.

    ConfigError or DataError where the files do not have the columns that the settings name.
    """
    files = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    tables: dict[str, Table] = {}
    for split, path in file_paths(files, data_folder).items():
        tables[split] = open_table(path, f"task.{split}", settings.delimiter, settings.encoding)
    columns = _columns(settings, tables["train"])
    names = [*columns.in_samples, *_without_none(columns.group)]
    for split, table in tables.items():
        check_columns(names, table.columns, key=f"task.{split}", where=table.path.name)
    preprocessing = _unfitted(settings)
    where = str(tables["train"].path)
    content = tables["train"].read([*names, *_without_none(columns.marks)])
    rows = preprocessing.rows(content, where)
    per_sample = {name: rows.per_sample(name) for name in columns.per_sample}
    notes: list[str] = []
    kind: Kind | None = settings.kind
    if kind is None:
        kind, notes = infer_kind(per_sample, columns.targets, settings.decimal, where)
    if columns.unread:
        notes = [*notes, f"not read beside the sequence: {listed(columns.unread)}"]
    return _Source(
        settings=settings,
        tables=tables,
        columns=columns,
        preprocessing=preprocessing,
        rows=rows,
        per_sample=per_sample,
        kind=kind,
        notes=notes,
    )


def _columns(settings: TableSettings, table: Table) -> _Columns:
    """Return what the columns of the training file are for; ConfigError where no input is left."""
    setting_of = _naming_settings(settings, table)
    marks = _SPLIT if _SPLIT in table.columns and _SPLIT not in setting_of else None
    free = [name for name in table.columns if name not in setting_of and name != marks]
    if settings.sequence is not None:
        inputs = [str(settings.sequence)]
        unread = free
    else:
        inputs = settings.features or free
        unread = []
    if not inputs:
        hint = f"{table.path.name} has {listed(table.columns, 20)}"
        raise ConfigError("no column is left", where="task.features", hint=hint)
    return _Columns(
        inputs=inputs,
        targets=settings.target_columns,
        id=_as_name(settings.id),
        time=_as_name(settings.time),
        group=_as_name(settings.group),
        marks=marks,
        unread=unread,
    )


def _naming_settings(settings: TableSettings, table: Table) -> dict[str, str]:
    """Return column -> the setting that names it.

    DataError for a column that does not exist, ConfigError for one that is named twice.
    """
    named: dict[str, Sequence[str | int | None]] = {
        "targets" if settings.targets else "target": settings.target_columns,
        "features": settings.features or [],
        "ignore": settings.ignore or [],
        "group": [settings.group],
        "sequence": [settings.sequence],
        "id": [settings.id],
        "time": [settings.time],
    }
    setting_of: dict[str, str] = {}
    for setting, entries in named.items():
        names = [str(name) for name in entries if name is not None]
        check_columns(names, table.columns, key=f"task.{setting}", where=table.path.name)
        for name in names:
            if name in setting_of:
                raise ConfigError(
                    f"'{name}' is in task.{setting_of[name]} too",
                    where=f"task.{setting}",
                    hint="a column has one role: remove one of them",
                )
            setting_of[name] = setting
    return setting_of


def _as_name(column: str | int | None) -> str | None:
    return None if column is None else str(column)


def _without_none(*names: str | None) -> list[str]:
    return [name for name in names if name is not None]


def _unfitted(settings: TableSettings) -> TablePreprocessing:
    """Return the preprocessing before anything is learned; a length of 0 is open."""
    symbols = None
    if settings.sequence is not None:
        symbols = Symbols(name=str(settings.sequence), alphabet="", length=settings.length or 0)
    series = None
    if settings.id is not None:
        series = Series(
            id=str(settings.id), time=_as_name(settings.time), length=settings.length or 0
        )
    return TablePreprocessing(
        columns=(),
        decimal=settings.decimal,
        target_columns=tuple(settings.target_columns),
        targets=TargetForm(settings.kind or "values", 0, missing=settings.missing_targets),
        delimiter=settings.delimiter,
        encoding=settings.encoding,
        symbols=symbols,
        series=series,
    )


@dataclass(frozen=True)
class _Splits:
    """What is known of splits before any is drawn."""

    samples: dict[str, np.ndarray]  # those of the training file, by split
    groups: dict[str, np.ndarray]  # of each sample, by the split whose file it is in


def _split(source: _Source) -> _Splits:
    samples = _marked_samples(source)
    return _Splits(samples, _groups(source, samples))


def _marked_samples(source: _Source) -> dict[str, np.ndarray]:
    """Return the samples of the training file by split; without marks all are for training.

    DataError where marks are not of splits, ConfigError where a split has a file as well.
    """
    if source.columns.marks is None:
        return {"train": np.arange(len(source.rows))}
    hint = f"; task.ignore=[{_SPLIT}] leaves the column out"
    where = f"{source.rows.where}[{_SPLIT}]"
    samples = marked_rows(source.per_sample[_SPLIT], where, hint=hint)
    for split in samples:
        if split != "train" and split in source.tables:
            what = f"the column '{_SPLIT}' marks rows of it too"
            raise ConfigError(what, where=f"task.{split}", hint=f"leave out the file{hint}")
    return samples


def _groups(source: _Source, samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the group of each sample, by file; DataError for a group in two splits."""
    group = source.columns.group
    if group is None:
        return {}
    names = [group, *_without_none(source.columns.id)]
    groups = {}
    for split, table in source.tables.items():
        rows = source.rows
        if split != "train":
            rows = source.preprocessing.rows(table.read(names), str(table.path))
        groups[split] = (rows.per_sample(group), f"{table.path}[{group}]")
    return group_rows(groups, samples)


def _pool(source: _Source, splits: _Splits) -> Pool:
    settings = source.settings
    classes = None
    if source.kind == "classes":
        classes = source.per_sample[source.columns.targets[0]].astype(str)
    contents = partial(
        source.rows.contents,
        _compared_columns(source, splits.samples["train"]),
        settings.decimal,
        settings.sequence is not None,
    )
    return Pool(
        unit="rows" if settings.id is None else "series",
        where=source.rows.where,
        rows=splits.samples,
        supplied=source.tables,
        classes=classes,
        groups=splits.groups.get("train"),
        contents=contents,
    )


def _compared_columns(source: _Source, train: np.ndarray) -> list[str]:
    """Return the input columns that decide whether samples are identical.

    Those that `fit_columns` will leave out would make each sample differ.
    """
    settings = source.settings
    if settings.sequence is not None:
        return source.columns.inputs
    rows = source.rows.rows_of(train)
    compared = []
    for name in source.columns.inputs:
        is_declared = name in (settings.features or [])
        if is_declared or not has_own_texts(source.rows.columns[name][rows], settings.decimal):
            compared.append(name)
    return compared or source.columns.inputs


def _fit(
    source: _Source,
    groups: Mapping[str, np.ndarray],
    reporter: Reporter,
    samples_by_split: dict[str, np.ndarray],
) -> Fitted:
    """Learn from the training samples how rows become samples; see `assemble`."""
    train = samples_by_split["train"]
    columns = source.columns
    raw = raw_targets(
        source.per_sample,
        source.kind,
        columns.targets,
        missing=source.settings.missing_targets,
        where=source.rows.where,
        decimal=source.settings.decimal,
    )
    targets = fit_targets(
        source.kind,
        raw.y,
        train,
        raw.where,
        names=() if source.kind == "classes" else tuple(columns.targets),
        missing=source.settings.missing_targets,
    )
    preprocessing, input_notes = _fit_inputs(source, train)
    preprocessing = replace(preprocessing, targets=targets)
    x = preprocessing.features(source.rows)
    y = targets.encode(raw.y, raw.where)
    notes = [targets.note(), *source.notes, *input_notes]

    def samples(split: str) -> ArraySamples:
        if split in samples_by_split:
            taken = source.rows.rows_of(samples_by_split[split])
            content = {name: source.rows.columns[name][taken] for name in columns.in_samples}
            rows = preprocessing.rows(content, source.rows.where)
            opened = ArraySamples(x, y, rows=samples_by_split[split], groups=groups.get("train"))
        else:
            table = source.tables[split]
            rows = preprocessing.rows(table.read(columns.in_samples), str(table.path))
            features = preprocessing.features(rows)
            encoded = preprocessing.encoded_targets(rows)
            opened = ArraySamples(features, encoded, groups=groups.get(split))
        for what, count in preprocessing.remarks(rows, training=split == "train").items():
            remark = f"{split} split: {counted(count, 'sample')} {what}"
            if split == "test":
                reporter.say(remark)
            else:
                notes.append(remark)  # read by `assemble` once train and validation are open
        return opened

    return Fitted(
        preprocessing=preprocessing,
        input_shape=preprocessing.input_shape,
        targets=targets,
        samples=samples,
        notes=notes,
    )


def _fit_inputs(source: _Source, train: np.ndarray) -> tuple[TablePreprocessing, list[str]]:
    """Learn from the training samples how columns become inputs; targets are still open."""
    settings = source.settings
    unfitted = source.preprocessing
    rows = source.rows
    if unfitted.symbols is not None:
        symbols, notes = fit_symbols(
            unfitted.symbols.name,
            rows.columns[unfitted.symbols.name],
            rows=train,
            length=settings.length,
            where=rows.where,
        )
        return replace(unfitted, symbols=symbols), notes
    inputs = {name: rows.columns[name] for name in source.columns.inputs}
    column_settings = ColumnSettings(
        decimal=settings.decimal,
        normalize=settings.normalize,
        max_categories=settings.max_categories,
        indicator=settings.gap_indicator,
        declared=settings.features or (),
    )
    columns, notes = fit_columns(inputs, rows.rows_of(train), rows.where, column_settings)
    used = {column.name for column in columns}
    left_out = tuple(name for name in inputs if name not in used)
    preprocessing = replace(unfitted, columns=columns, left_out=left_out)
    if preprocessing.series is None:
        return preprocessing, notes
    sizes = np.diff(rows.starts)[train]  # rows of each training series
    series = replace(preprocessing.series, length=settings.length or int(sizes.max()))
    note = f"{len(rows.order)} rows are {len(rows)} series of {sizes.min()} to {sizes.max()} steps"
    return replace(preprocessing, series=series), [note, *notes]
