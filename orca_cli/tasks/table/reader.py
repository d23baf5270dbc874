"""Your own table without code: rows of a .csv or .parquet file, one column of which is to be predicted.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.tasks.shared.assemble import Fitted, Pool, assemble, check_enough
from orca_cli.tasks.shared.own_data import check_column, check_missing_targets, counted, file_paths, listed
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.tasks.shared.splits import PART_NAMES, check_fractions, group_rows, marked_rows
from orca_cli.tasks.shared.targets import fit_targets
from orca_cli.tasks.table.columns import Column, fit_columns
from orca_cli.tasks.table.files import Table, open_table
from orca_cli.tasks.table.preprocessing import TablePreprocessing, per_sample
from orca_cli.tasks.table.series import contents, fit_series, group_by
from orca_cli.tasks.table.symbols import fit_symbols
from orca_cli.tasks.table.target_columns import infer_kind, raw_targets, refuse_measurements

_SPLIT = "split"


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
    """Return a task over the rows of a table; a row is a sequence [1, F] with one feature a step.

    With `sequence` a row is a sequence of symbols [V, L], one-hot, and other columns are not read. With `id` the rows of one
    id are a series [F, L] with one row a step. Where their lengths differ, the shorter ones are padded and masked.

    Columns of numbers stay one feature each. Columns of text become one feature of 0 and 1 per text that training has,
    the rarer ones of many share one. Empty fields and ?, NA, N/A, NaN, null and none are missing: of numbers they become
    the training mean, of text a feature of their own. A column `split` of train, validation and test says which rows are
    which, and is no feature; one of other entries is a feature, with a warning. See shared.assemble.

    Args:
        train: .csv, .tsv, .txt (first line: names of the columns) or .parquet file; holds the splits that have no file.
        kind: classes: one column of integers or text. labels: several columns of 0 and 1 (or false and true). values: one or
            several columns of numbers. None infers it, see `target_columns.infer_kind`; the note says which.
        target: name of the column to be predicted; kinds classes and values.
        targets: names of the columns to be predicted; kinds labels and values.
        test: file of the test split, read at the end of a run but for its header and groups.
        features: the columns that are given to the model; None takes all but those in `ignore`.
        group: column that says which rows belong together, such as a patient; no two splits share one of its values.
        normalize: of columns of numbers; text stays 0 and 1.
        max_categories: most texts of a column that get a feature of their own.
        gap_indicator: whether a column of numbers with missing ones in training gets a second feature that is 1 where a number
            was missing, else 0.
        delimiter: between fields, one character or `tab`; None infers it from the first lines.
        encoding: of text files; None reads UTF-8, or UTF-16 where the file says so.
        decimal: mark in numbers of text files.
        sequence: column of text with one symbol a character, such as ACGT; symbols that training lacks are zeros.
        id: column that says which series a row is a step of.
        time: column that the steps of a series are sorted by; None keeps the order of the rows.
        length: L of sequences and series; longer ones are cut at the end. None takes the longest of training.

    Raises:
        ConfigError: settings contradict each other or the columns.
        UnavailableError: .parquet without pyarrow.
        MemoryExhaustedError: a file does not fit into memory.
    """
    paths = file_paths({"train": train, "validation": validation, "test": test}, data_folder)
    tables = {part: open_table(path, f"task.{part}", delimiter, encoding) for part, path in paths.items()}
    base = tables["train"]
    target_names = [str(target)] if targets is None else [str(name) for name in targets]
    grouped = [] if group is None else [str(group)]
    named = {key: str(name) for key, name in (("sequence", sequence), ("id", id), ("time", time)) if name is not None}
    marks = _marks(base, {*target_names, *(features or []), *(ignore or []), *grouped, *named.values()})
    chosen, left_out = _choose(base, target_names, features, [*(ignore or []), *marks], grouped, named)
    if not features and (like := next((name for name in chosen if name.lower() == _SPLIT), None)):
        what = (
            f"call the column '{_SPLIT}', with the entries train, validation and test, if it says which rows are which"
        )
        left_out += [f"warning: '{like}' is a feature; {what}"]
    read = [*chosen, *target_names, *(named[key] for key in ("id", "time") if key in named)]
    for part, table in tables.items():
        for name in [*read, *grouped]:
            check_column(name, table.columns, f"task.{part}", table.path.name)
    columns, where = base.read([*read, *grouped]), str(base.path)
    steps = None if id is None else group_by(columns, str(id), named.get("time"), where, decimal)
    values = per_sample(columns, target_names, steps, where)
    form_kind, inferred = (kind, []) if kind else infer_kind(values, target_names, decimal, where)
    check_missing_targets(form_kind, missing_targets)
    total = len(values[target_names[0]])
    check_enough(total, "rows" if steps is None else "series", where)
    records = {} if group is None else _records(tables, str(group), named.get("id"))
    groups = records.get("train")
    rows = _marked_rows(per_sample(marks, list(marks), steps, where), tables, where)
    for name, column in per_sample(columns, grouped, steps, where).items():
        places = {part: f"{where}[{name}] ({part})" for part in rows}
        group_rows({part: column[members] for part, members in rows.items()}, places)
    marked = [f"splits as the column '{_SPLIT}' says"] if rows else []
    rows = {"train": np.arange(total)} | rows
    train_rows = rows["train"]
    pool = Pool(
        "rows" if steps is None else "series", rows, tables,
        values[target_names[0]].astype(str)[train_rows] if form_kind == "classes" else None,
        None if groups is None else groups[train_rows],
        lambda: contents(columns, chosen, steps, train_rows, decimal, sequence is not None),
    )  # fmt: skip

    def fit(rows: dict[str, np.ndarray]) -> Fitted:
        learn = rows["train"]
        raw, place = raw_targets(values, form_kind, target_names, missing_targets, where, decimal)
        if form_kind == "classes":
            refuse_measurements(raw[learn], place)
        names = () if form_kind == "classes" else tuple(target_names)
        form = fit_targets(form_kind, raw, learn, place, names=names, missing=missing_targets)
        encoders: tuple[Column, ...] = ()
        symbols = series = None
        if sequence is not None:
            symbols, fitted = fit_symbols(named["sequence"], columns[named["sequence"]], learn, length, where)
        else:
            step_rows = learn if steps is None else steps.rows(learn)
            encoders, fitted = fit_columns(
                columns, chosen, step_rows, normalize, max_categories, decimal, where, gap_indicator
            )
        if steps is not None:
            series, seen = fit_series(steps, learn, named["id"], named.get("time"), length)
            fitted = [*seen, *fitted]
        preprocessing = TablePreprocessing(
            encoders, decimal, tuple(target_names), form, delimiter, encoding, symbols, series
        )
        base_x, base_y = preprocessing.features(columns, where), preprocessing.encoded_targets(columns, where)
        notes = [form.note(), *inferred, *fitted, *left_out]

        def samples(part: str) -> ArraySamples:
            if part in rows:
                part_rows = rows[part] if steps is None else steps.rows(rows[part])
                split, origin = {name: columns[name][part_rows] for name in read}, where
                made = ArraySamples(base_x, base_y, rows=rows[part], groups=groups)
            else:
                split, origin = tables[part].read(read), str(tables[part].path)
                x, y = preprocessing.features(split, origin), preprocessing.encoded_targets(split, origin)
                made = ArraySamples(x, y, groups=records.get(part))
            say = reporter.say if part == "test" else notes.append
            for what, count in preprocessing.remarks(split, origin, training=part == "train").items():
                say(f"{part} split: {counted(count, 'sample')} {what}")
            return made

        return Fitted(preprocessing, preprocessing.input_shape, form, samples, notes)

    fractions = validation_fraction, test_fraction
    return assemble("table", reporter, form_kind, pool, fractions, split_seed, fit, given=marked)


def check_settings(
    kind: str | None,
    target: str | int | None,
    targets: list[str] | None,
    features: list[str] | None,
    ignore: list[str] | None,
    validation: str | None,
    test: str | None,
    validation_fraction: float,
    test_fraction: float,
    missing_targets: bool,
    sequence: str | int | None,
    id: str | int | None,
    time: str | int | None,
    length: int | None,
) -> None:
    """Raise ConfigError where settings contradict each other; arguments as those of `load`."""
    if sequence is not None and (
        other := next((key for key, value in (("id", id), ("features", features)) if value), None)
    ):
        hint = "a sequence of symbols is the only input: remove one of them"
        raise ConfigError("does not go with task.sequence", where=f"task.{other}", hint=hint)
    for key, value in (("time", time), ("length", length)):
        if value is not None and id is None and (key == "time" or sequence is None):
            hint = "give task.id=COLUMN, which says what series a row is a step of"
            raise ConfigError("applies to series of several rows", where=f"task.{key}", hint=hint)
    columns = {"target": target, "targets": targets}
    examples = {"target": "COLUMN", "targets": "[COLUMN,COLUMN]"}
    allowed = {"classes": ("target",), "labels": ("targets",)}.get(str(kind), ("target", "targets"))
    for key in columns:
        if key not in allowed and columns[key] is not None:
            what, hint = f"does not apply to task.kind={kind}", f"give task.{allowed[0]} instead"
            raise ConfigError(what, where=f"task.{key}", hint=hint)
    if target is not None and targets is not None:
        hint = "give all columns to be predicted in task.targets, or one in task.target"
        raise ConfigError("given beside task.targets", where="task.target", hint=hint)
    if all(columns[key] in (None, "", []) for key in allowed):
        key = allowed[0]
        raise ConfigError("a value is needed", where=f"task.{key}", hint=f"give task.{key}={examples[key]}")
    if both := sorted({*(features or [])} & {*(ignore or [])}):
        what = f"'{both[0]}' is also in task.ignore"
        raise ConfigError(what, where="task.features", hint="remove it from one of them")
    check_missing_targets(str(kind), missing_targets)
    check_fractions(None if validation else validation_fraction, None if test else test_fraction)


def _choose(
    table: Table,
    targets: list[str],
    features: list[str] | None,
    ignore: list[str] | None,
    group: list[str],
    named: dict[str, str],
) -> tuple[list[str], list[str]]:
    """Return the input columns, and a note on columns that are left out by default.

    `named` are the columns of `sequence`, `id` and `time`, by these words.
    """
    target_key = "target" if len(targets) == 1 else "targets"
    roles = {target_key: targets, "features": features, "ignore": ignore, "group": group}
    for key, names in (roles | {key: [name] for key, name in named.items()}).items():
        for name in names or []:
            check_column(name, table.columns, f"task.{key}", table.path.name)
    taken = [*targets, *group, *named.values()]
    if doubled := [name for name in features or [] if name in taken]:
        what = f"'{doubled[0]}' is to be predicted, or says what belongs together"
        raise ConfigError(what, where="task.features", hint="remove it from the features")
    if twice := [name for name in named.values() if taken.count(name) > 1 and name not in group]:
        raise ConfigError(f"column '{twice[0]}' is given two roles", where="task", hint="name different columns")
    free = [name for name in table.columns if name not in {*taken, *(ignore or [])}]
    if "sequence" in named:
        unread = [f"not read beside the sequence: {listed(free)}"] if free else []
        return [named["sequence"]], unread
    # Row numbers that a program wrote beside a table are not a property of the rows.
    unnamed = [] if features else [name for name in free if name in table.unnamed]
    kept = features or [name for name in free if name not in unnamed]
    if not kept:
        hint = f"{table.path.name} has {listed(table.columns, 20)}"
        raise ConfigError("no column is left", where="task.features", hint=hint)
    note = f"left out because unnamed: {listed(unnamed)}; name it in task.features to keep it"
    return list(dict.fromkeys(kept)), [note] if unnamed else []


def _marks(table: Table, taken: Container[str]) -> dict[str, np.ndarray]:
    """Return the column `split` by its name if it has no other role and marks splits, else nothing.

    At least half of its entries have to be names of splits: numbers alone may be a feature.

    Raises:
        DataError: other entries stand among them.
    """
    if _SPLIT not in table.columns or _SPLIT in taken:
        return {}
    column = table.read([_SPLIT])[_SPLIT]
    words = set(chain.from_iterable(PART_NAMES.values()))
    if column.dtype.kind != "O" or 2 * sum(text.lower() in words for text in column) < len(column):
        return {}
    unknown = np.setdiff1d(np.arange(len(column)), np.concatenate(list(marked_rows(column).values())))
    if len(unknown):
        what = f"'{column[unknown[0]]}' in row {unknown[0] + 1} is not a split ({len(unknown)} rows)"
        hint = f"allowed: train, validation, test, or 0, 1, 2; task.ignore=[{_SPLIT}] leaves the column out"
        raise DataError(what, where=f"{table.path}[{_SPLIT}]", hint=hint)
    return {_SPLIT: column}


def _marked_rows(marks: Mapping[str, np.ndarray], supplied: Container[str], where: str) -> dict[str, np.ndarray]:
    """Return the samples of each split that marks name.

    Raises:
        DataError: none is for training.
        ConfigError: a split has a file as well.
    """
    rows = marked_rows(marks[_SPLIT]) if marks else {}
    other = f"the column with task.ignore=[{_SPLIT}]"
    if marks and "train" not in rows:
        hint = f"mark rows with train, or leave out {other}"
        raise DataError("no training rows", where=f"{where}[{_SPLIT}]", hint=hint)
    if doubled := [part for part in rows if part != "train" and part in supplied]:
        what = f"the column '{_SPLIT}' marks rows of this split too"
        raise ConfigError(what, where=f"task.{doubled[0]}", hint=f"leave out the file, or {other}")
    return rows


def _records(tables: Mapping[str, Table], group: str, id: str | None) -> dict[str, np.ndarray]:
    """Return the number of each sample's group, split -> [n]."""
    values = {}
    for part, table in tables.items():
        columns, where = table.read([group] if id is None else [group, id]), str(table.path)
        steps = None if id is None else group_by(columns, id, None, where, ".")
        values[part] = per_sample(columns, [group], steps, where)[group]
    return group_rows(values, {part: f"{table.path}[{group}]" for part, table in tables.items()})
