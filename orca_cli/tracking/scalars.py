"""Curves, settings and results as the flat names and plain values that trackers take."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Plain = str | int | float | bool

_LONGEST = 500  # characters of a setting; MLflow refuses longer ones in some versions
_NOT_SHOWN = ("tracker", "paths")  # where a run is written to, and what shows it
_NAMELESS = re.compile(r"[^\w./ -]")  # MLflow takes no other characters in names
_INDEX = ("epoch", "member")


def point(curve: str, line: Mapping[str, Any]) -> tuple[dict[str, float], int]:
    """Return the numbers of a line as CURVE/NAME, with the line's epoch; a member of several has a curve of its own."""
    member = line.get("member")
    prefix = curve if member is None else f"{curve}/member_{member}"
    found = {name: value for name, value in line.items() if name not in _INDEX and _is_number(value)}
    return {_name(f"{prefix}/{name}"): value for name, value in found.items()}, int(line["epoch"])


def settings(stored: Mapping[str, Any]) -> dict[str, Plain]:
    """Return settings by dotted names; lists and null as JSON, long values cut."""
    shown = {key: value for key, value in stored.items() if key not in _NOT_SHOWN}
    return {_name(key): _plain(value) for key, value in _leaves(shown, "")}


def final(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the errors of a result record (result.json) and the distance, as final/NAME; empty for an empty record."""
    error = result.get("error") or {}
    values: dict[str, Any] = {"test_error": error.get("value")}
    values |= {f"test_{name}": value for name, value in (error.get("others") or {}).items()}
    values |= {name: result.get(name) for name in ("validation_error", "trivial_error")}
    values |= {f"distance_{when}": (result.get("metric_value") or {}).get(when) for when in ("before", "after")}
    return {_name(f"final/{name}"): value for name, value in values.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _leaves(value: Any, key: str) -> list[tuple[str, Any]]:
    if not (isinstance(value, Mapping) and value):
        return [(key, value)]
    return [leaf for name, inner in value.items() for leaf in _leaves(inner, f"{key}.{name}" if key else str(name))]


def _plain(value: Any) -> Plain:
    if isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _name(text: str) -> str:
    return _NAMELESS.sub("_", text)
