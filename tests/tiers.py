"""Tiers of the tests, and the scorecard: the number of cases in a tier, and their outcomes.

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
    """Figures for the published table. Tests still make their own assertions; the scorecard does not fail a test."""

    def __init__(self, test: str) -> None:
        self._path, self._test = os.environ.get("ORCA_SCORECARD"), test

    @classmethod
    def for_test(cls, test: str) -> Scorecard:
        """Return the scorecard of a test. It writes to the file that the environment names, or to no file."""
        return cls(test)

    def add(self, figure: str, *, cases: int, passed: int, target: int, note: str = "") -> None:
        """Record the number of cases of a figure that were tried, and the number that passed; equal figures are added up.

        Only cases whose premise is true count. A nightly run has to pass `target` cases; the pr tier may try fewer. The note
        is a fact that a reader has to know, such as a latency.
        """
        self._write(figure=figure, cases=cases, passed=passed, target=target, note=note)

    def not_run(self, figure: str, reason: str) -> None:
        """Record that a figure could not be counted here, because its premise is false; the test then skips itself."""
        self._write(figure=figure, not_run=reason)

    def _write(self, **record: Any) -> None:
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record | {"test": self._test, "tier": tier()}) + "\n")
