"""Tiers of the tests, and the scorecard: how many cases a tier has, and what became of them.

ORCA_TIER (pr, the default, or nightly) chooses the number of cases; ORCA_SCORECARD names the file that figures are
appended to, one JSON object a line (`scripts/reliability.py` sets both).
"""

from __future__ import annotations

import json
import os
from typing import Any

TIERS = ("pr", "nightly")


def tier() -> str:
    """Return the tier that the environment asks for."""
    name = os.environ.get("ORCA_TIER", "pr")
    assert name in TIERS, f"ORCA_TIER is '{name}'; allowed: {', '.join(TIERS)}"
    return name


def count(*, pr: int, nightly: int) -> int:
    """Return how many cases to run in the present tier. Import it where a decorator needs the number."""
    return {"pr": pr, "nightly": nightly}[tier()]


class Scorecard:
    """Figures for the published table. Tests still make their own assertions; nothing here makes one fail."""

    def __init__(self, test: str) -> None:
        self._path, self._test = os.environ.get("ORCA_SCORECARD"), test

    @classmethod
    def for_test(cls, test: str) -> Scorecard:
        """Return the scorecard of a test, which writes where the environment says, or nowhere."""
        return cls(test)

    def add(self, figure: str, *, cases: int, passed: int, target: int, note: str = "") -> None:
        """Say how many cases of a figure were tried, whose premise held, and how many passed; equal figures are added up.

        A nightly run has to pass `target`; the pr tier may try fewer. The note is what a reader has to know, such as a latency.
        """
        self._write(figure=figure, cases=cases, passed=passed, target=target, note=note)

    def not_run(self, figure: str, reason: str) -> None:
        """Say that a figure could not be taken here, because its premise does not hold; the test then skips itself."""
        self._write(figure=figure, not_run=reason)

    def _write(self, **record: Any) -> None:
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record | {"test": self._test, "tier": tier()}) + "\n")
