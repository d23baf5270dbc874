"""A run's settings, read from its folder: the composed settings, and those that it decided."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.runs.directory import RESULT, SETTINGS, STAGE_FOLDERS, SUMMARY, read_or_empty


def settings(path: Path) -> dict[str, Any]:
    """Return key -> value of a run's composed settings, such as train.epochs -> 10.

    Lists are values.

    Raises:
        ConfigError, UnsafeError: the file is missing, damaged, or not a file of settings.
    """
    return dict(flat(configuration.content(path / SETTINGS)))


def flat(node: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested settings; lists are values."""
    for key, value in node.items():
        # An empty group counts as a value; otherwise it would vanish.
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def decided(path: Path) -> dict[str, dict[str, Any]]:
    """Return key -> {value, why} of the settings that a run decided.

    Empty if it decided none, or has not decided yet.
    """
    # The result repeats the decisions in the summary of stage 1; an unfinished run has only the
    # summary.
    for file in (path / RESULT, path / STAGE_FOLDERS["build"] / SUMMARY):
        decisions = read_or_empty(file).get("decided")
        if not isinstance(decisions, dict):
            continue
        valid_decisions = {}
        for setting, decision in decisions.items():
            if isinstance(decision, dict) and "value" in decision:
                valid_decisions[str(setting)] = decision
        return valid_decisions
    return {}


def canonical(text: str) -> str:
    """Return the form in which values are compared and shown.

    1e-4 and 0.0001 are the same, and so are False and false.
    """
    try:
        number = float(text)
    except ValueError:
        return text.lower() if text.lower() in ("true", "false", "null") else text
    # Beyond 1e15 a float may differ from the integer that the user wrote.
    if number.is_integer() and abs(number) < 1e15:
        return str(int(number))
    return as_typed(number)


def as_typed(value: Any) -> str:
    """Return a value in the form that the command line takes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, float):
        # %g has 6 digits, which some numbers exceed.
        short_form = f"{value:g}"
        return short_form if float(short_form) == value else str(value)
    return str(value)
