"""Settings of a reader that exclude or need each other, as a table of rules."""

from __future__ import annotations

from orca_cli.exceptions import ConfigError

Rule = tuple[bool, str, str, str]  # whether settings break it, the setting to name, what is wrong with it, what to do


def check_rules(*rules: Rule) -> None:
    """Raise ConfigError for the first rule that is broken."""
    for is_broken, setting, what, hint in rules:
        if is_broken:
            raise ConfigError(what, where=f"task.{setting}", hint=hint)


def files_rule(origin: str, path: str | None) -> Rule:
    """Return the rule that a folder of files is given only where data come from files."""
    is_broken = path is not None and origin != "files"
    return is_broken, "path", "is for task.origin=files", f"with task.origin={origin} leave it out"
