"""Sends each line once to a tracker that cannot take one back, also where a run is resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orca_cli import storage

_TIMES = ("seconds",)  # differ between two attempts at the same step


class Sent:
    """A journal of lines. One is entered before it is sent: a process killed in between loses it there, and doubles none.

    A resumed run repeats its last lines with the same values, which are not sent again. Lines with other values, as after a
    change of the rate, cannot replace those that were sent: from there on the curve has another name, such as `finetune_2`.

    Args:
        path: of the journal; the file need not exist.
        send: takes the name of a curve and a line of it.
    """

    def __init__(self, path: Path, send: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._path, self._send = path, send
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self._attempts: dict[str, int] = {}
        self._places: dict[str, int] = {}
        for entry in storage.read_json_lines(path):
            self._enter(entry)

    def forget(self) -> None:
        """Begin anew: the tracker no longer has what it was sent."""
        storage.rewrite_json_lines(self._path, [])
        self._lines, self._attempts = {}, {}

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Send the next line of a stage, unless it was sent before."""
        place = self._places.get(stage, 0)
        self._places[stage] = place + 1
        lines, attempt = self._lines.get(stage, []), self._attempts.get(stage, 1)
        if place < len(lines):
            if _compared(lines[place]) == _compared(line):
                return
            attempt += 1
        entry = {"stage": stage, "attempt": attempt, "place": place, "line": dict(line)}
        storage.append_json_line(self._path, entry)
        self._enter(entry)
        self._send(stage if attempt == 1 else f"{stage}_{attempt}", line)

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Send those of the lines that were not sent before; the next one of the stage follows them."""
        self._places[stage] = 0
        for line in lines:
            self.record(stage, line)

    def _enter(self, entry: Mapping[str, Any]) -> None:
        stage = entry["stage"]
        lines = self._lines.setdefault(stage, [])
        lines[entry["place"] :] = [entry["line"]]
        self._attempts[stage] = entry["attempt"]


def _compared(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in _TIMES}
