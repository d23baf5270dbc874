"""The settings of a run as its folder has them: as composed, and what was decided where they left something open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orca_cli.config import configuration
from orca_cli.runs.directory import RESULT, STAGE_FOLDERS, SUMMARY, read_or_empty

FILE = "config.yaml"
_MOST_PLAIN = 2**16  # characters
_NOT_PLAIN = tuple("&*!{|>%@`")


def settings(path: Path) -> dict[str, Any]:
    """Return key -> value of a run's composed settings, such as train.epochs -> 10; lists are values.

    Raises:
        ConfigError, UnsafeError: the file is missing, damaged, or not one of settings.
    """
    return dict(flat(configuration.content(path / FILE)))


def setting(path: Path, key: str) -> Any:
    """Return one of `settings`; a file as this program writes it is not parsed as a whole, since reports read many.

    Raises:
        ConfigError, UnsafeError: see `settings`.
        KeyError: there is no such setting.
    """
    try:
        text = _plain_value((path / FILE).read_text(encoding="utf-8"), key)
    except (OSError, UnicodeDecodeError):
        text = None
    return settings(path)[key] if text is None else yaml.safe_load(text)


def _plain_value(text: str, key: str) -> str | None:
    """Return the text of a value that stands on one line in block style; None where it does not, or is not plainly one."""
    if len(text) > _MOST_PLAIN:
        return None
    *parents, last = key.split(".")
    lines = text.split("\n")
    first = 0
    for depth, name in enumerate((*parents, last)):
        start = f"{'  ' * depth}{name}:"
        for number in range(first, len(lines)):
            line = lines[number]
            if line.startswith(start) and (len(line) == len(start)) == (depth < len(parents)):
                first = number + 1
                break
            if depth and not line.startswith("  " * depth):  # the parent's block has ended
                return None
        else:
            return None
    value = lines[first - 1].split(":", 1)[1] if ":" not in last else None
    following = lines[first] if first < len(lines) else ""
    is_continued = following.startswith("  " * (len(parents) + 1))
    return value if value and not is_continued and value[1:2] not in _NOT_PLAIN else None


def flat(node: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested settings; lists are values."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def decided(path: Path) -> dict[str, dict[str, Any]]:
    """Return key -> {value, why} of what a run decided; empty where it decided nothing, or has not got that far."""
    for file in (path / RESULT, path / STAGE_FOLDERS["build"] / SUMMARY):
        decisions = read_or_empty(file).get("decided")
        if isinstance(decisions, dict):
            return {str(key): one for key, one in decisions.items() if isinstance(one, dict) and "value" in one}
    return {}


def as_typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
