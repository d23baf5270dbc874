"""What a rule decided about a setting that was left to the program, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Decision:
    """One setting.

    Args:
        value: what it is set to, JSON-able.
        why: the rule, and what it was applied to, such as "budget=normal, 200 training samples".
    """

    value: Any
    why: str


Decided = dict[str, Decision]  # dotted key -> decision


def record(decided: Decided) -> dict[str, dict[str, Any]]:
    """Return decisions as 1_build/summary.json and result.json hold them: key -> {"value", "why"}."""
    return {key: dict(vars(decision)) for key, decision in decided.items()}
