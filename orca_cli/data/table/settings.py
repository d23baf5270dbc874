"""The settings of task=table, and a check for settings that exclude or need each other."""

from dataclasses import dataclass
from typing import Annotated, Literal

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """The settings of task=table; see `reader.load`."""

    kind: Annotated[
        Literal["classes", "labels", "values"] | None,
        "classes, labels or values; null: inferred from the columns to be predicted. A single "
        "column with text, or with at most 20 different integers, contains classes; several "
        "columns of 0 and 1 contain labels; all other columns contain values",
    ] = None
    train: Annotated[str, "file with the training rows"]
    target: Annotated[
        str | int | None, "column to be predicted: integers or text (classes), or numbers (values)"
    ] = None
    targets: Annotated[
        list[str] | None,
        "several columns to be predicted, such as [a,b], instead of task.target; either all "
        "contain 0 and 1 (labels), or all contain numbers (values)",
    ] = None
    validation: Annotated[
        str | None,
        "file of the validation split; null: rows of the training file that a column `split` "
        "marks as validation, or else rows drawn at random",
    ] = None
    test: Annotated[
        str | None,
        "file of the test split, read only at the end of a run; null: rows of the training file "
        "that a column `split` marks as test, or else rows drawn at random",
    ] = None
    features: Annotated[
        list[str] | None,
        "columns that the model gets as input, such as [a,b]; null: all columns that no other "
        "setting names, except columns of text in which nearly every row has a different text",
    ] = None
    ignore: Annotated[
        list[str] | None, "columns that the model does not get as input, such as [a,b]"
    ] = None
    group: Annotated[
        str | int | None,
        "column with the group of each row, such as a patient; a group is never in two splits",
    ] = None
    split_seed: Annotated[
        Seed, "seed for drawing the splits: 0 or more; the setting `seed` does not affect them"
    ] = 0
    validation_fraction: Annotated[
        Fraction,
        "fraction of the training file that is drawn for validation: above 0 and below 1",
    ] = 0.15
    test_fraction: Annotated[
        Fraction,
        "fraction of the training file that is drawn for the test split: above 0 and below 1",
    ] = 0.15
    normalize: Annotated[
        bool,
        "true: in columns of numbers, subtract the mean over the training rows, then divide by the "
        "standard deviation",
    ] = True
    max_categories: Annotated[
        Count,
        "maximum number of a column's texts that get their own feature, chosen by frequency: "
        "1 or more; all rarer texts share one feature",
    ] = 32
    gap_indicator: Annotated[
        bool,
        "true: a column with missing numbers in training gets one more feature, which is 1 where a "
        "number is missing, else 0",
    ] = False
    missing_targets: Annotated[
        bool,
        "true: targets may be empty; losses and errors skip empty targets; not for classes",
    ] = False
    delimiter: Annotated[
        str | None,
        "separator of fields in text files: one character, or tab; null: comma, semicolon, tab or "
        "|, whichever splits the first line into most fields",
    ] = None
    encoding: Annotated[
        str | None, "encoding of text files, such as latin-1 or utf-16; null: UTF-8"
    ] = None
    decimal: Annotated[
        Literal[".", ","],
        'decimal mark in text files: "." or ","; numbers must have no mark for thousands',
    ] = "."
    sequence: Annotated[
        str | int | None,
        "column of text that is read as a sequence, one symbol per character, such as ACGT; it is "
        "the only input",
    ] = None
    id: Annotated[
        str | int | None,
        "column that names the series of each row; each row is one step of its series; null: "
        "every row is a separate sample",
    ] = None
    time: Annotated[
        str | int | None,
        "column of numbers or times by which the steps of a series are sorted; null: the "
        "order of the rows in the file",
    ] = None
    length: Annotated[
        Count | None,
        "number of steps of the input, only with task.sequence or task.id; the end of longer "
        "samples is cut off; null: length of the longest training sample",
    ] = None

    @property
    def target_columns(self) -> list[str]:
        """Names of the columns to be predicted."""
        # `task.target=` on a command line means an empty text.
        if self.target not in (None, ""):
            return [str(self.target)]
        return [str(name) for name in self.targets or []]

    @property
    def named_columns(self) -> dict[str, list[str]]:
        """Setting -> the columns that it names; empty if it names no column."""
        columns = {
            # Messages name the setting that the user has set.
            "targets" if self.targets else "target": self.target_columns,
            "features": self.features or [],
            "ignore": self.ignore or [],
        }
        for setting in ("group", "sequence", "id", "time"):
            name = getattr(self, setting)
            columns[setting] = [] if name is None else [str(name)]
        return columns


def refuse_contradictions(settings: TableSettings) -> None:
    """Raise ConfigError for settings that exclude or need each other."""
    if settings.target not in (None, "") and settings.targets:
        raise ConfigError(
            "cannot be combined with task.target", where="task.targets", hint="remove one of them"
        )
    if not settings.target_columns:
        raise ConfigError(
            "must be set",
            where="task.target",
            hint="set task.target=COLUMN, or task.targets=[A,B]",
        )
    if settings.kind == "classes" and len(settings.target_columns) > 1:
        raise ConfigError(
            "must name a single column for task.kind=classes",
            where="task.targets",
            hint="set task.target=COLUMN instead",
        )
    # A sequence is the only input, so the settings below would have no effect.
    if settings.sequence is not None:
        message = "cannot be combined with task.sequence, which makes a text the only input"
        hint = "remove one of the two settings"
        if settings.id is not None:
            raise ConfigError(message, where="task.id", hint=hint)
        if settings.features:
            raise ConfigError(message, where="task.features", hint=hint)
    # Times order the steps within a series, and without an id no rows form a series.
    if settings.time is not None and settings.id is None:
        raise ConfigError(
            "needs task.id",
            where="task.time",
            hint="set task.id=COLUMN, the column with the series of each row",
        )
    # A sample that is a single row has no steps that could be cut.
    if settings.length is not None and settings.sequence is None and settings.id is None:
        raise ConfigError(
            "needs task.sequence or task.id",
            where="task.length",
            hint="set one of them to the name of a column",
        )
