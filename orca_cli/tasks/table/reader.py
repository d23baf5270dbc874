"""Your own table without code: rows of a .csv or .parquet file, one column of which is to be predicted.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Reporter, TaskData
from orca_cli.ranges import Count, Fraction, Seed
from orca_cli.tasks.shared.own_data import check_column, check_enough, check_missing_targets, listed, own_paths
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.tasks.shared.splits import check_fractions, draw, group_rows
from orca_cli.tasks.shared.targets import fit_targets, own_task
from orca_cli.tasks.table.columns import fit_columns
from orca_cli.tasks.table.files import Table, open_table
from orca_cli.tasks.table.preprocessing import TablePreprocessing, raw_targets, refuse_measurements


def load(
    data_folder: Path,
    reporter: Reporter,
    train: str,
    kind: Literal["classes", "labels"] = "classes",
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
    missing_targets: bool = False,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: Literal[".", ","] = ".",
) -> TaskData:
    """Return a task over the rows of a table; a row is a sequence [1, F] with one feature a step.

    Columns of numbers stay one feature each. Columns of text become one feature of 0 and 1 per text that training has,
    the rarer ones of many share one. Empty fields and ?, NA, N/A, NaN, null and none are missing: of numbers they become
    the training mean, of text a feature of their own. See shared.own_data.

    Args:
        train: .csv, .tsv, .txt (first line: names of the columns) or .parquet file; holds the splits that have no file.
        kind: classes: one column of integers or text. labels: several columns of 0 and 1 (or false and true).
        target: name of the column to be predicted; kind classes.
        targets: names of the columns to be predicted; kind labels.
        test: file of the test split, read at the end of a run but for its header and groups.
        features: the columns that are given to the model; None takes all but those in `ignore`.
        group: column that says which rows belong together, such as a patient; no two splits share one of its values.
        normalize: of columns of numbers; text stays 0 and 1.
        max_categories: most texts of a column that get a feature of their own.
        delimiter: between fields, one character or `tab`; None infers it from the first lines.
        encoding: of text files; None reads UTF-8, or UTF-16 where the file says so.
        decimal: mark in numbers of text files.

    Raises:
        ConfigError: settings contradict each other or the columns.
        UnavailableError: .parquet without pyarrow.
        MemoryExhaustedError: a file does not fit into memory.
    """
    paths = own_paths({"train": train, "validation": validation, "test": test}, data_folder)
    tables = {part: open_table(path, f"task.{part}", delimiter, encoding) for part, path in paths.items()}
    base = tables["train"]
    wanted = [str(target)] if kind == "classes" else [str(name) for name in targets or []]
    grouped = [] if group is None else [str(group)]
    chosen, left_out = _choose(base, wanted, features, ignore, grouped)
    read = [*chosen, *wanted]
    for part, table in tables.items():
        for name in [*read, *grouped]:
            check_column(name, table.columns, f"task.{part}", table.path.name)
    columns, where = base.read(read), str(base.path)
    classes = columns[wanted[0]].astype(str) if kind == "classes" else None
    total = len(columns[wanted[0]])
    check_enough(total, "rows", where)
    records = {}
    if group is not None:
        named = {part: f"{table.path}[{group}]" for part, table in tables.items()}
        records = group_rows({part: table.read(grouped)[str(group)] for part, table in tables.items()}, named)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    rows, drawn = draw(total, tables, fractions, split_seed, classes, records.get("train"))
    raw, place = raw_targets(columns, kind, wanted, missing_targets, where)
    if kind == "classes":
        refuse_measurements(raw[rows["train"]], place)
    names = tuple(wanted) if kind == "labels" else ()
    form = fit_targets(kind, raw, rows["train"], place, missing=missing_targets, names=names)
    encoders, fitted = fit_columns(columns, chosen, rows["train"], normalize, max_categories, decimal, where)
    preprocessing = TablePreprocessing(encoders, decimal, tuple(wanted), form, delimiter, encoding)
    base_x, base_y = preprocessing.features(columns, where), preprocessing.encoded_targets(columns, where)

    def samples(part: str) -> ArraySamples:
        if part in rows:
            return ArraySamples(base_x, base_y, rows=rows[part], groups=records.get("train"))
        own, place = tables[part].read(read), str(tables[part].path)
        x, y = preprocessing.features(own, place), preprocessing.encoded_targets(own, place)
        return ArraySamples(x, y, groups=records.get(part))

    learn, choose = samples("train"), samples("validation")
    counts = f"{len(learn)} training and {len(choose)} validation rows"
    notes, shape = [counts, *drawn, form.note(), *fitted, *left_out], preprocessing.input_shape
    return own_task(kind, shape, form, preprocessing, (learn, choose), samples, notes, "table", reporter)


def check_settings(
    kind: str,
    target: str | int | None,
    targets: list[str] | None,
    features: list[str] | None,
    ignore: list[str] | None,
    validation: str | None,
    test: str | None,
    validation_fraction: float,
    test_fraction: float,
    missing_targets: bool,
) -> None:
    """Raise ConfigError where settings contradict each other; arguments as those of `load`."""
    needed, unused = ("target", "targets") if kind == "classes" else ("targets", "target")
    values = {"target": target, "targets": targets}
    if values[unused] is not None:
        what = f"does not apply to task.kind={kind}"
        raise ConfigError(what, where=f"task.{unused}", hint=f"give task.{needed} instead")
    if values[needed] in (None, "", []):
        example = "COLUMN" if needed == "target" else "[COLUMN,COLUMN]"
        raise ConfigError("a value is needed", where=f"task.{needed}", hint=f"give task.{needed}={example}")
    if both := sorted({*(features or [])} & {*(ignore or [])}):
        what = f"'{both[0]}' is also in task.ignore"
        raise ConfigError(what, where="task.features", hint="remove it from one of them")
    check_missing_targets(kind, missing_targets)
    check_fractions(None if validation else validation_fraction, None if test else test_fraction)


def _choose(
    table: Table, targets: list[str], features: list[str] | None, ignore: list[str] | None, group: list[str]
) -> tuple[list[str], list[str]]:
    """Return the columns that become features, and a note on columns that are left out without being asked to."""
    target_key = "target" if len(targets) == 1 else "targets"
    for key, names in ((target_key, targets), ("features", features), ("ignore", ignore), ("group", group)):
        for name in names or []:
            check_column(name, table.columns, f"task.{key}", table.path.name)
    doubled = [name for name in features or [] if name in [*targets, *group]]
    if doubled:
        what = f"'{doubled[0]}' is to be predicted or the group"
        raise ConfigError(what, where="task.features", hint="remove it from the features")
    free = [name for name in table.columns if name not in {*targets, *(ignore or []), *group}]
    # Row numbers that a program wrote beside a table are not a property of the rows.
    unnamed = [] if features else [name for name in free if name in table.unnamed]
    kept = features or [name for name in free if name not in unnamed]
    if not kept:
        hint = f"{table.path.name} has {listed(table.columns, 20)}"
        raise ConfigError("no column is left", where="task.features", hint=hint)
    note = f"left out because unnamed: {listed(unnamed)}; name it in task.features to keep it"
    return list(dict.fromkeys(kept)), [note] if unnamed else []
