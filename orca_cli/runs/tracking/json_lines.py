"""Curves as JSON lines, the recorder that every run has (see `interfaces.Recorder`), and in short for result.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orca_cli import storage

FILE = "metrics.jsonl"


class JsonLines:
    """Appends each line to metrics.jsonl in the stage's folder."""

    def __init__(self, folder_of: Callable[[str], Path]) -> None:
        """Take the function that maps a stage to its folder."""
        self._folder_of = folder_of

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Append a line."""
        storage.append_json_line(self._folder_of(stage) / FILE, dict(line))

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace the file by these lines."""
        storage.rewrite_json_lines(self._folder_of(stage) / FILE, list(map(dict, lines)))

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Do nothing: every line is on the disk."""


_MOST_POINTS = 100


def short_curve(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return some columns of a curve, at most 100 lines, evenly spread, the first and the last among them."""
    count = min(_MOST_POINTS, len(lines))
    places = sorted({round(i * (len(lines) - 1) / max(count - 1, 1)) for i in range(count)})
    return [{name: lines[place][name] for name in names if name in lines[place]} for place in places]
