"""Your own table without code: a .csv or .parquet file with a column to be predicted.

Shapes: n samples of the training file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from orca_cli.data.assemble import Fitted, Pool, assemble
from orca_cli.data.own_data import check_columns, file_paths, listed
from orca_cli.data.samples import ArraySamples
from orca_cli.data.splits import group_rows, marked_rows
from orca_cli.data.table.columns import fit_columns, has_own_texts, infer_kind, raw_targets
from orca_cli.data.table.files import Table, open_table
from orca_cli.data.table.preprocessing import Rows, Series, Symbols, TablePreprocessing, fit_symbols
from orca_cli.data.table.settings import TableSettings, refuse_contradictions
from orca_cli.data.targets import TargetForm, fit_targets
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.terminal import counted

# The column that marks the split of each row; no setting renames it.
_SPLIT = "split"


def load(settings: TableSettings, data_folder: Path, reporter: Reporter) -> TaskData:
    """Return a task over the rows of a table (see `assemble`).

    A sample is a row, read as a sequence [1, F] with one feature per step. With `sequence`, a
    sample is the text in a row, as one-hot symbols [V, L]. With `id`, a sample is the series of all
    rows with the same id, [F, L] with one row per step. Shorter sequences are padded and masked.

    Raises:
        UnavailableError: a file is .parquet, and pyarrow is not installed.
        MemoryExhaustedError: a file does not fit into memory.
    """
    refuse_contradictions(settings)
    source = _open(settings, data_folder)
    marked_samples = _marked_samples(source)
    groups = _groups(source, marked_samples)
    # `assemble` draws splits before `_fit` learns from the rows of the training split alone.
    return assemble(
        "table",
        reporter,
        kind=source.kind,
        pool=_pool(source, marked_samples, groups.get("train")),
        fractions=(settings.validation_fraction, settings.test_fraction),
        split_seed=settings.split_seed,
        fit=partial(_fit, source, groups, reporter),
    )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Names of the columns of the training file, by their role."""

    inputs: list[str]
    targets: list[str]
    series: list[str]  # columns of ids and of times; empty if each row is a sample
    group: list[str]  # at most one name
    marks: list[str]  # column that marks splits, at most one name
    unread: list[str]  # columns that are not used because a sequence is the only input

    @property
    def in_samples(self) -> list[str]:
        """Columns from which the samples of every split are made."""
        return [*self.inputs, *self.targets, *self.series]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The files of a task: the training file was read, and the headers of the other files."""

    settings: TableSettings
    tables: dict[str, Table]  # split -> its table
    columns: _Columns
    preprocessing: TablePreprocessing  # before anything is learned
    rows: Rows  # rows of the training file
    per_sample: dict[str, np.ndarray]  # [n], columns of targets, groups and marks in that file
    kind: Kind
    notes: list[str]


def _open(settings: TableSettings, data_folder: Path) -> _Source:
    """Open all files, and read the training file.

    ConfigError or DataError if the files do not have the columns that the settings name.
    """
    files = {"train": settings.train, "validation": settings.validation, "test": settings.test}
    tables: dict[str, Table] = {}
    for split, path in file_paths(files, data_folder).items():
        tables[split] = open_table(path, f"task.{split}", settings.delimiter, settings.encoding)
    train_table = tables["train"]
    columns = _columns(settings, train_table)
    # A column that another file lacks is reported now, not when that split is opened.
    needed_names = [*columns.in_samples, *columns.group]
    for split, table in tables.items():
        check_columns(needed_names, table.columns, key=f"task.{split}", where=table.path.name)
    # Rows become samples before anything is learned, because splits consist of samples.
    preprocessing = _unfitted(settings)
    where = str(train_table.path)
    rows = preprocessing.rows(train_table.read([*needed_names, *columns.marks]), where)
    # Each column is [n]; all rows of a series must have the same entry.
    names_per_sample = (*columns.targets, *columns.group, *columns.marks)
    per_sample = {name: rows.per_sample(name) for name in names_per_sample}
    notes: list[str] = []
    kind: Kind | None = settings.kind
    if kind is None:
        kind, notes = infer_kind(per_sample, columns.targets, settings.decimal, where)
    if columns.unread:
        notes = [
            *notes,
            f"columns not used, because the sequence is the only input: {listed(columns.unread)}",
        ]
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
    """Return the role of each column of the training file; ConfigError if no input is left."""
    columns_by_setting = settings.named_columns
    setting_of = _setting_of(columns_by_setting, table)
    marks = []
    # A setting may give the column another role, as task.ignore=[split] does.
    if _SPLIT in table.columns and _SPLIT not in setting_of:
        marks.append(_SPLIT)
    taken_names = {*setting_of, *marks}
    free_names = [name for name in table.columns if name not in taken_names]
    # The sequence if it is set, else the features that the user lists, else all other columns.
    inputs = columns_by_setting["sequence"] or columns_by_setting["features"] or free_names
    if not inputs:
        hint = f"'{table.path.name}' has: {listed(table.columns, 20)}"
        raise ConfigError("no column is left as input", where="task.features", hint=hint)
    return _Columns(
        inputs=inputs,
        targets=settings.target_columns,
        series=columns_by_setting["id"] + columns_by_setting["time"],
        group=columns_by_setting["group"],
        marks=marks,
        unread=free_names if columns_by_setting["sequence"] else [],
    )


def _setting_of(columns_by_setting: Mapping[str, list[str]], table: Table) -> dict[str, str]:
    """Return column -> the setting that names it, for all columns that settings name.

    DataError for a column that does not exist, ConfigError for a column that is named twice.
    """
    setting_of: dict[str, str] = {}
    for setting, names in columns_by_setting.items():
        check_columns(names, table.columns, key=f"task.{setting}", where=table.path.name)
        for name in names:
            if name in setting_of:
                raise ConfigError(
                    f"'{name}' is also in task.{setting_of[name]}, but a column has only one role",
                    where=f"task.{setting}",
                    hint="remove it from one of the two settings",
                )
            setting_of[name] = setting
    return setting_of


def _unfitted(settings: TableSettings) -> TablePreprocessing:
    """Return the preprocessing before anything is learned; an unknown length is 0."""
    length = settings.length or 0
    symbols = None
    if settings.sequence is not None:
        symbols = Symbols(name=str(settings.sequence), alphabet="", length=length)
    series = None
    if settings.id is not None:
        time_column = None if settings.time is None else str(settings.time)
        series = Series(id=str(settings.id), time=time_column, length=length)
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


def _marked_samples(source: _Source) -> dict[str, np.ndarray]:
    """Return the samples of the training file by split; without marks all are for training.

    DataError if a mark is not the name of a split, ConfigError if a marked split also has a file.
    """
    if not source.columns.marks:
        return {"train": np.arange(len(source.rows))}
    hint = "; or ignore the column 'split' with task.ignore=[split]"
    where = f"{source.rows.where}[{_SPLIT}]"
    # Split -> its samples in the training file.
    samples = marked_rows(source.per_sample[_SPLIT], where, hint=hint)
    for split in samples:
        # The samples of a split come from one file.
        if split != "train" and split in source.tables:
            raise ConfigError(
                "cannot be combined with rows that the column 'split' marks for this split",
                where=f"task.{split}",
                hint=f"remove the setting{hint}",
            )
    return samples


def _groups(source: _Source, marked_samples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the group of each sample, by file; DataError for a group in two splits."""
    if not source.columns.group:
        return {}
    (group,) = source.columns.group
    # Ids are read, but not times, because groups do not depend on the order of rows.
    id_names = source.columns.series[:1]
    group_columns = {}
    for split, table in source.tables.items():
        rows = source.rows
        if split != "train":
            columns = table.read([group, *id_names])
            rows = source.preprocessing.rows(columns, str(table.path))
        group_columns[split] = (rows.per_sample(group), f"{table.path}[{group}]")
    return group_rows(group_columns, marked_samples)


def _pool(
    source: _Source, marked_samples: dict[str, np.ndarray], groups: np.ndarray | None
) -> Pool:
    settings = source.settings
    classes = None
    if source.kind == "classes":
        (target,) = source.columns.targets
        # As texts, because the drawn splits are stratified by text.
        classes = source.per_sample[target].astype(str)
    # Chosen from the training rows alone, as `fit_columns` chooses the columns to drop.
    compared_names = _compared_columns(source, marked_samples["train"])
    is_text = settings.sequence is not None
    return Pool(
        unit="rows" if settings.id is None else "series",
        where=source.rows.where,
        rows=marked_samples,
        supplied=source.tables,
        classes=classes,
        groups=groups,
        contents=partial(source.rows.contents, compared_names, settings.decimal, is_text),
    )


def _compared_columns(source: _Source, training_samples: np.ndarray) -> list[str]:
    """Return the input columns that decide whether samples are identical.

    Columns in which nearly every row has a different text are not compared: `fit_columns` will drop
    them, and with them no two samples would be identical.
    """
    settings = source.settings
    inputs = source.columns.inputs
    if settings.sequence is not None or settings.features:
        return inputs
    training_rows = source.rows.rows_of(training_samples)
    compared_names = []
    for name in inputs:
        training_entries = source.rows.columns[name][training_rows]
        if not has_own_texts(training_entries, settings.decimal):
            compared_names.append(name)
    return compared_names or inputs


def _fit(
    source: _Source,
    groups: Mapping[str, np.ndarray],
    reporter: Reporter,
    samples_by_split: dict[str, np.ndarray],
) -> Fitted:
    """Learn from the training samples how rows become samples; see `assemble`."""
    training_samples = samples_by_split["train"]
    columns = source.columns
    missing = source.settings.missing_targets
    # The targets of all n samples of the file; `fit_targets` learns from the training samples only.
    file_targets = raw_targets(
        source.per_sample,
        source.kind,
        columns.targets,
        missing=missing,
        where=source.rows.where,
        decimal=source.settings.decimal,
    )
    where = file_targets.where
    output_names = () if source.kind == "classes" else tuple(columns.targets)
    targets = fit_targets(
        source.kind, file_targets.y, training_samples, where, names=output_names, missing=missing
    )
    preprocessing, input_notes = _fit_inputs(source, training_samples)
    preprocessing = replace(preprocessing, targets=targets)
    # All samples of the training file; its splits are rows of these arrays.
    x = preprocessing.features(source.rows)
    y = targets.encode(file_targets.y, where)
    notes = [targets.note(), *source.notes, *input_notes]

    # Called when a split is needed, so the inputs of a test file are read only at the end of a run.
    def samples(split: str) -> ArraySamples:
        if split in samples_by_split:
            # The split is in the training file, whose features were computed above. The rows of the
            # split are needed only for the remarks below.
            split_rows = source.rows.rows_of(samples_by_split[split])
            split_columns = {}
            for name in columns.in_samples:
                split_columns[name] = source.rows.columns[name][split_rows]
            rows = preprocessing.rows(split_columns, source.rows.where)
            split_samples = ArraySamples(
                x, y, rows=samples_by_split[split], groups=groups.get("train")
            )
        else:
            table = source.tables[split]
            rows = preprocessing.rows(table.read(columns.in_samples), str(table.path))
            features = preprocessing.features(rows)
            encoded_y = preprocessing.encoded_targets(rows)
            split_samples = ArraySamples(features, encoded_y, groups=groups.get(split))
        for change, count in preprocessing.remarks(rows, training=split == "train").items():
            remark = f"{split} split: {counted(count, 'sample')} {change}"
            if split == "test":
                reporter.say(remark)
            else:
                # `assemble` reads the notes once train and validation are open.
                notes.append(remark)
        return split_samples

    return Fitted(
        preprocessing=preprocessing,
        input_shape=preprocessing.input_shape,
        targets=targets,
        samples=samples,
        notes=notes,
    )


def _fit_inputs(
    source: _Source, training_samples: np.ndarray
) -> tuple[TablePreprocessing, list[str]]:
    """Learn from the training samples how columns become inputs; targets are not learned yet."""
    settings = source.settings
    unfitted = source.preprocessing
    rows = source.rows
    # A sequence is the only input.
    if unfitted.symbols is not None:
        name = unfitted.symbols.name
        symbols, notes = fit_symbols(
            name,
            rows.columns[name],
            training_rows=training_samples,
            length=settings.length,
            where=rows.where,
        )
        return replace(unfitted, symbols=symbols), notes
    inputs = {name: rows.columns[name] for name in source.columns.inputs}
    columns, notes = fit_columns(inputs, rows.rows_of(training_samples), rows.where, settings)
    # New data may lack the columns that are dropped.
    used_names = {column.name for column in columns}
    left_out = tuple(name for name in inputs if name not in used_names)
    preprocessing = replace(unfitted, columns=columns, left_out=left_out)
    if preprocessing.series is None:
        return preprocessing, notes
    series_lengths = np.diff(rows.starts)[training_samples]  # number of rows of each series
    longest = int(series_lengths.max())
    series = replace(preprocessing.series, length=settings.length or longest)
    note = (
        f"{len(rows.order)} rows form {len(rows)} series;"
        f" training series have {series_lengths.min()} to {longest} steps"
    )
    return replace(preprocessing, series=series), [note, *notes]
