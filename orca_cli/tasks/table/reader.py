"""Your own table without code: rows of a .csv or .parquet file, one column of which is to be predicted.

Shapes: n rows, F features, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_cli.exceptions import ConfigError, DataError, suggest
from orca_cli.interfaces import Kind, Reporter, TaskData
from orca_cli.tasks.shared.samples import ArraySamples
from orca_cli.tasks.shared.splits import check_fractions, check_seed
from orca_cli.tasks.table.columns import Columns, fit
from orca_cli.tasks.table.files import Table, checked_delimiter, known_encoding, open_table
from orca_cli.tasks.table.splits import draw_rows, group_rows
from orca_cli.tasks.table.targets import Targets, fit_targets

_KINDS = ("classes", "labels")
_PARTS = ("train", "validation", "test")
_MIN_ROWS = 10
_SHOWN = 20  # names listed in a message


def load(
    data_folder: Path,
    reporter: Reporter,
    kind: Kind = "classes",
    train: str | None = None,
    target: str | int | None = None,
    targets: list[str] | None = None,
    validation: str | None = None,
    test: str | None = None,
    features: list[str] | None = None,
    ignore: list[str] | None = None,
    group: str | int | None = None,
    split_seed: int = 0,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    normalize: bool = True,
    max_categories: int = 32,
    missing_targets: bool = False,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str = ".",
) -> TaskData:
    """Return a task over the rows of a table; a row is a sequence [1, F] with one feature a step.

    Columns of numbers stay one feature each. Columns of text become one feature of 0 and 1 per text that training has,
    the rarer ones of many share one. Empty fields and ?, NA, N/A, NaN, null and none are missing: of numbers they become
    the training mean, of text a feature of their own. What is inferred is said, and comes from the training rows alone.

    Args:
        data_folder: relative file names that do not exist in the working folder are looked for here.
        reporter: is told what was inferred.
        kind: classes: one column of integers or text. labels: several columns of 0 and 1 (or false and true).
        train: .csv, .tsv, .txt (first line: names of the columns) or .parquet file; holds the splits that have no file.
        target: name of the column to be predicted; kind classes.
        targets: names of the columns to be predicted; kind labels.
        validation: file of the validation split; None draws it from the training file.
        test: file of the test split, read at the end of a run but for its header and groups; None draws it.
        features: the columns that are given to the model; None takes all others.
        ignore: columns that are not.
        group: column that says which rows belong together, such as a patient; no two splits share one of its values.
        split_seed: seed of the splits that are drawn.
        validation_fraction: part of the training file (of its groups, where there are) that is drawn, above 0 and below 1.
        test_fraction: the same for test.
        normalize: whether columns of numbers get mean 0 and deviation 1 over the training rows; text stays 0 and 1.
        max_categories: most texts of a column that get a feature of their own, 1 or more.
        missing_targets: whether empty targets are allowed (kind labels); they count in no loss and no error.
        delimiter: between fields, one character or `tab`; None tells it from the first lines.
        encoding: of text files; None reads UTF-8, or UTF-16 where the file says so.
        decimal: mark in numbers of text files, "." or ",".

    Raises:
        ConfigError: a setting is missing, unknown or out of range.
        DataError: missing or malformed files, unknown columns, targets of no or one class, groups in two files.
        UnavailableError: .parquet without pyarrow.
        MemoryExhaustedError: a file does not fit into memory.
    """
    check_settings(
        kind,
        train,
        target,
        targets,
        features,
        ignore,
        validation,
        test,
        split_seed,
        validation_fraction,
        test_fraction,
        max_categories,
        missing_targets,
        delimiter,
        encoding,
        decimal,
    )
    wanted = [str(target)] if kind == "classes" else [str(name) for name in targets or []]
    files = dict(zip(_PARTS, (train, validation, test), strict=True))
    tables = _open(files, data_folder, delimiter, encoding)
    base = tables["train"]
    chosen = _Choice.of(base, wanted, _named(features, "features"), _named(ignore, "ignore"), group)
    for part, table in tables.items():
        chosen.check(table, f"task.{part}")
    columns = base.read(chosen.all())
    if len(columns[wanted[0]]) < _MIN_ROWS:
        raise DataError(
            f"{len(columns[wanted[0]])} rows are too few",
            where=str(base.path),
            hint=f"give {_MIN_ROWS} or more for training",
        )
    records = _groups(tables, chosen.group)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    rows, drawn = draw_rows(
        columns, wanted[0] if kind == "classes" else None, records.get("train"), tables, fractions, split_seed
    )
    goal = fit_targets(kind, columns, wanted, rows["train"], missing_targets, str(base.path))
    form = fit(columns, chosen.features, rows["train"], normalize, max_categories, decimal, str(base.path))
    base_x, base_y = form.encode(columns, str(base.path)), goal.encode(columns, str(base.path))

    def samples(part: str) -> ArraySamples:
        if part in rows:
            return ArraySamples(base_x[:, None], base_y, rows=rows[part], groups=records.get("train"))
        return _read(tables[part], chosen, form, goal, records.get(part))

    train_samples, validation_samples = samples("train"), samples("validation")
    counts = f"{len(train_samples)} training and {len(validation_samples)} validation rows"
    note = "; ".join([counts, *drawn, goal.note, *form.notes, *chosen.notes, *goal.warnings(train_samples.targets())])
    reporter.say(f"table: {note}")
    return TaskData(
        kind=kind,
        input_shape=(1, base_x.shape[1]),
        num_outputs=len(goal.names),
        train=train_samples,
        validation=validation_samples,
        open_test=lambda: samples("test"),
        class_names=goal.names,
        note=note,
    )


@dataclass(frozen=True)
class _Choice:
    """Which columns are read, by their role.

    Args:
        targets: to be predicted.
        features: given to the model.
        group: says which rows belong together; None where nothing does.
        notes: what was left out unasked, in words.
    """

    targets: list[str]
    features: list[str]
    group: str | None
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls,
        table: Table,
        targets: list[str],
        features: list[str] | None,
        ignore: list[str] | None,
        group: str | int | None,
    ) -> _Choice:
        group = None if group is None else str(group)
        asked = {"target" if len(targets) == 1 else "targets": targets, "features": features, "ignore": ignore}
        for key, names in {**asked, "group": [group] if group else None}.items():
            for name in names or []:
                _check_known(name, table.columns, f"task.{key}", table.path)
        doubled = [name for name in features or [] if name in targets or name == group]
        if doubled:
            raise ConfigError(
                f"'{doubled[0]}' is to be predicted or the group",
                where="task.features",
                hint="take it out of the features",
            )
        left_out = {*targets, *(ignore or []), *([group] if group else [])}
        # Row numbers that a program wrote beside a table are no property of the rows.
        numbers = [] if features else [name for name in table.columns if name in table.unnamed and name not in left_out]
        kept = features or [name for name in table.columns if name not in left_out and name not in numbers]
        if not kept:
            raise ConfigError(
                "no column is left", where="task.features", hint=f"{table.path.name} has {_list(table.columns)}"
            )
        notes = (
            (f"left out, for it has no name: {_list(numbers)}; name it in task.features to keep it",) if numbers else ()
        )
        return cls(targets, list(dict.fromkeys(kept)), group, notes)

    def all(self) -> list[str]:
        """Return the names of all columns that are read."""
        return [*self.features, *self.targets]

    def check(self, table: Table, key: str) -> None:
        """Raise DataError where a file lacks one of the columns."""
        for name in [*self.all(), *([self.group] if self.group else [])]:
            _check_known(name, table.columns, key, table.path)


def check_settings(
    kind: str,
    train: str | None,
    target: str | int | None,
    targets: list[str] | None,
    features: list[str] | None,
    ignore: list[str] | None,
    validation: str | None,
    test: str | None,
    split_seed: int,
    validation_fraction: float,
    test_fraction: float,
    max_categories: int,
    missing_targets: bool,
    delimiter: str | None,
    encoding: str | None,
    decimal: str,
) -> None:
    """Refuse what is not allowed, before anything is read; arguments as those of `load`.

    Raises:
        ConfigError: a setting is missing, unknown or out of range, or two contradict each other.
    """
    if kind not in _KINDS:
        raise ConfigError(f"'{kind}' is not allowed", where="task.kind", hint=suggest(str(kind), _KINDS))
    if train is None:
        raise ConfigError("a value is needed", where="task.train", hint="give task.train=FILE.csv")
    needed, unused = ("target", "targets") if kind == "classes" else ("targets", "target")
    values = {"target": target, "targets": targets}
    if values[unused] is not None:
        raise ConfigError(f"is not for task.kind={kind}", where=f"task.{unused}", hint=f"give task.{needed} instead")
    if not _is_given(values[needed]):
        example = "COLUMN" if needed == "target" else "[COLUMN,COLUMN]"
        raise ConfigError("a value is needed", where=f"task.{needed}", hint=f"give task.{needed}={example}")
    for key, names in {"targets": targets, "features": features, "ignore": ignore}.items():
        _named(names, key)
    if both := sorted(set(map(str, features or [])) & set(map(str, ignore or []))):
        raise ConfigError(
            f"'{both[0]}' is in task.ignore too", where="task.features", hint="take it out of one of them"
        )
    if missing_targets and kind == "classes":
        raise ConfigError(
            "is not for task.kind=classes", where="task.missing_targets", hint="leave it out, and rows without a class"
        )
    check_seed(split_seed)
    check_fractions(None if validation else validation_fraction, None if test else test_fraction)
    checked_delimiter(delimiter)
    known_encoding(encoding)
    if max_categories < 1:
        raise ConfigError(f"{max_categories} is out of range", where="task.max_categories", hint="allowed: 1 or more")
    if decimal not in (".", ","):
        raise ConfigError(f"{decimal!r} is not allowed", where="task.decimal", hint="allowed: '.' and ','")


def _is_given(value: object) -> bool:
    return value is not None and value != [] and value != ""


def _named(names: list[str] | None, key: str) -> list[str] | None:
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not names:
        raise ConfigError(
            f"{names!r} is no list of columns", where=f"task.{key}", hint=f"give task.{key}=[COLUMN,COLUMN]"
        )
    return [str(name) for name in names]


def _open(
    files: dict[str, str | None], data_folder: Path, delimiter: str | None, encoding: str | None
) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    seen: dict[Path, str] = {}
    for part, file in files.items():
        if file is None:
            continue
        path = Path(str(file)).expanduser()
        inside = data_folder / path
        path = inside if not path.exists() and inside.exists() else path
        first = seen.setdefault(path.resolve(), part)
        if first != part:
            raise ConfigError(
                f"'{path}' is the file of task.{first} too; its rows would be in both splits",
                where=f"task.{part}",
                hint="name another file, or leave this one out and the split is drawn from the training file",
            )
        tables[part] = open_table(path, f"task.{part}", delimiter, encoding)
    return tables


def _groups(tables: dict[str, Table], group: str | None) -> dict[str, np.ndarray]:
    """Return the group of each row of each file; only the one column is looked at."""
    if group is None:
        return {}
    where = {part: f"{table.path}[{group}]" for part, table in tables.items()}
    return group_rows({part: table.read([group])[group] for part, table in tables.items()}, where)


def _read(table: Table, chosen: _Choice, form: Columns, goal: Targets, groups: np.ndarray | None) -> ArraySamples:
    columns = table.read(chosen.all())
    where = str(table.path)
    return ArraySamples(form.encode(columns, where)[:, None], goal.encode(columns, where), groups=groups)


def _check_known(name: str, columns: Sequence[str], key: str, path: Path) -> None:
    if name not in columns:
        close = suggest(name, columns)
        hint = close if close.startswith("did you mean") else f"it has {_list(columns)}"
        raise DataError(f"{path.name} has no column '{name}'", where=key, hint=hint)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
