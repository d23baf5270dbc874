"""The settings of a table, and how they exclude or need each other."""

from dataclasses import dataclass
from typing import Literal

from orca_cli.config.ranges import Count, Fraction, Seed
from orca_cli.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """The settings of conf/task/table.yaml, which explains them."""

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
        if self.target not in (None, ""):
            return [str(self.target)]
        return [str(name) for name in self.targets or []]

    @property
    def named_columns(self) -> dict[str, list[str]]:
        """The columns that each setting names; none where it names none."""
        columns = {
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
        message = "does not go with task.target"
        raise ConfigError(message, where="task.targets", hint="remove one of them")
    if not settings.target_columns:
        hint = "give task.target=COLUMN, or task.targets=[A,B]"
        raise ConfigError("a value is needed", where="task.target", hint=hint)
    if settings.kind == "classes" and len(settings.target_columns) > 1:
        hint = "classes are one column"
        raise ConfigError("holds several", where="task.targets", hint=hint)
    if settings.sequence is not None:
        message = "does not go with task.sequence"
        hint = "a sequence is the only input"
        if settings.id is not None:
            raise ConfigError(message, where="task.id", hint=hint)
        if settings.features:
            raise ConfigError(message, where="task.features", hint=hint)
    if settings.time is not None and settings.id is None:
        hint = "name the column that says what series a row is in"
        raise ConfigError("needs task.id", where="task.time", hint=hint)
    if settings.length is not None and settings.sequence is None and settings.id is None:
        message = "needs task.sequence or task.id"
        raise ConfigError(message, where="task.length", hint="name its column")
