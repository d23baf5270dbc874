"""Settings of a reader that exclude or need each other, as a table of rules."""

from __future__ import annotations

from orca_cli.exceptions import ConfigError

Rule = tuple[bool, str, str, str]  # whether settings break it, the setting to name, what is wrong with it, what to do


def check_rules(*rules: Rule) -> None:
    """Raise ConfigError for the first rule that is broken."""
    for is_broken, setting, what, hint in rules:
        if is_broken:
            raise ConfigError(what, where=f"task.{setting}", hint=hint)


def missing_targets_rule(kind: str | None, missing_targets: bool) -> Rule:
    """Return the rule that no targets are missing where every sample needs a class."""
    hint = "remove it, and remove samples without a class from the data"
    return missing_targets and kind == "classes", "missing_targets", "does not apply to task.kind=classes", hint


def fractions_rule(validation_fraction: float, test_fraction: float, given: tuple[object, object] = ("", "")) -> Rule:
    """Return the rule that the fractions that are drawn leave samples for training; `given` splits are not drawn."""
    what = f"{validation_fraction} and task.test_fraction={test_fraction} leave nothing for training"
    is_broken = not any(given) and validation_fraction + test_fraction >= 1
    return is_broken, "validation_fraction", what, "allowed: a sum below 1"


def files_rule(origin: str, path: str | None) -> Rule:
    """Return the rule that a folder of files is given only where data come from files."""
    is_broken = path is not None and origin != "files"
    return is_broken, "path", "is for task.origin=files", f"with task.origin={origin} leave it out"
