"""The settings of a task of tables, and which of them exclude or need each other."""

from dataclasses import dataclass
from typing import Annotated, Literal

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """The settings of task=table; see `reader.load`."""

    kind: Annotated[
        Literal["classes", "labels", "values"] | None,
        "classes, labels or values; null: numbers are values, text and a few whole numbers classes",
    ] = None
    train: Annotated[str, "file with the training rows"]
    target: Annotated[
        str | int | None, "column to be predicted: integers or text (classes), or numbers (values)"
    ] = None
    targets: Annotated[
        list[str] | None,
        "instead of target: columns to be predicted, [a,b]: of 0 and 1 "
        "(labels), or numbers (values)",
    ] = None
    validation: Annotated[
        str | None, "file of the validation split; null: drawn from the training file"
    ] = None
    test: Annotated[
        str | None,
        "file of the test split, read at the end of a run only; null: drawn from the training "
        "file, where a column `split` of train, validation and test may say which rows are which",
    ] = None
    features: Annotated[
        list[str] | None,
        "columns given to the model, [a,b]; null: all others, without text of "
        "which nearly every row has its own",
    ] = None
    ignore: Annotated[list[str] | None, "columns that are not given to the model, [a,b]"] = None
    group: Annotated[
        str | int | None,
        "column of rows that belong together, such as a patient: never in two splits",
    ] = None
    split_seed: Annotated[
        Seed, "seed of the splits that are drawn: 0 or more; not the seed of the run"
    ] = 0
    validation_fraction: Annotated[
        Fraction, "part of the training file that is drawn: above 0 and below 1"
    ] = 0.15
    test_fraction: Annotated[Fraction, "as validation_fraction"] = 0.15
    normalize: Annotated[
        bool,
        "columns of numbers: subtract the mean over the training rows, divide by the deviation",
    ] = True
    max_categories: Annotated[
        Count, "most texts of a column with a feature of their own: 1 or more; rarer ones share one"
    ] = 32
    gap_indicator: Annotated[
        bool,
        "true: a column with missing numbers in training gets a feature that "
        "is 1 where one was missing",
    ] = False
    missing_targets: Annotated[
        bool, "true: an empty target (labels, values) is missing, left out of losses and errors"
    ] = False
    delimiter: Annotated[
        str | None,
        "between fields: one character, or tab; null: , ; tab or |, whichever "
        "parts the first line most often",
    ] = None
    encoding: Annotated[str | None, "such as latin-1 or utf-16; null: UTF-8"] = None
    decimal: Annotated[
        Literal[".", ","], 'mark in numbers of text files: "." or ","; no mark between thousands'
    ] = "."
    sequence: Annotated[
        str | int | None, "column of text with one symbol a character, such as ACGT: the only input"
    ] = None
    id: Annotated[
        str | int | None,
        "column that says which series a row is a step of; null: every row is a sample of its own",
    ] = None
    time: Annotated[
        str | int | None,
        "column that the steps of a series are sorted by, numbers or times; null: the file's order",
    ] = None
    length: Annotated[
        Count | None,
        "steps of sequences and series; longer ones are cut; null: the longest of training",
    ] = None

    @property
    def target_columns(self) -> list[str]:
        """Names of the columns to be predicted."""
        # `task.target=` on a command line gives an empty text.
        if self.target not in (None, ""):
            return [str(self.target)]
        return [str(name) for name in self.targets or []]

    @property
    def named_columns(self) -> dict[str, list[str]]:
        """The columns that each setting names; none where it names none."""
        columns = {
            # A message names the setting that the user has typed.
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
            "does not go with task.target", where="task.targets", hint="remove one of them"
        )
    if not settings.target_columns:
        raise ConfigError(
            "a value is needed",
            where="task.target",
            hint="give task.target=COLUMN, or task.targets=[A,B]",
        )
    if settings.kind == "classes" and len(settings.target_columns) > 1:
        raise ConfigError("holds several", where="task.targets", hint="classes are one column")
    # Beside a sequence, neither of the settings below would have an effect.
    if settings.sequence is not None:
        message = "does not go with task.sequence"
        hint = "a sequence is the only input"
        if settings.id is not None:
            raise ConfigError(message, where="task.id", hint=hint)
        if settings.features:
            raise ConfigError(message, where="task.features", hint=hint)
    # Times order the steps within a series, and no rows belong together without an id.
    if settings.time is not None and settings.id is None:
        raise ConfigError(
            "needs task.id",
            where="task.time",
            hint="name the column that says what series a row is in",
        )
    # A plain row has no steps that a length could cut.
    if settings.length is not None and settings.sequence is None and settings.id is None:
        raise ConfigError(
            "needs task.sequence or task.id", where="task.length", hint="name its column"
        )
