"""What a search has found: its trials, the best one against the settings as they are, the importance of each setting."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orca_cli.tuning.search import DEFAULTS, FACTS, STOPPED, Search, counted
from orca_cli.tuning.space import Plain
from orca_cli.tuning.trials import optuna

if TYPE_CHECKING:
    from optuna import Study

_STATES = {"COMPLETE": "completed", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
_FEWEST = 4  # completed trials from which on an importance means something


@dataclass(frozen=True)
class Row:
    """One trial.

    Args:
        number: in the search.
        state: completed, stopped, failed, running or waiting.
        error: mean validation error of a completed one; the last one of a stopped one.
        settings: what was drawn; None for the settings as they are.
        note: when it was stopped, or why it failed.
        facts: error's name, whether it is shown in per cent, validation samples, seconds, runs.
    """

    number: int
    state: str
    error: float | None
    settings: dict[str, Plain] | None
    note: str
    facts: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**vars(self), "defaults": self.settings is None}


@dataclass(frozen=True)
class Found:
    """A search's state.

    Args:
        rows: its trials.
        importance: setting -> share of the variation of the validation error; empty with few completed trials.
    """

    rows: list[Row]
    importance: dict[str, float]

    @property
    def defaults(self) -> Row | None:
        """Return the trial with the settings as they are; None until it is completed."""
        return next((row for row in self.rows if row.settings is None and row.state == "completed"), None)

    @property
    def best(self) -> Row | None:
        """Return the completed trial with the lowest validation error, the first of equals; None where none is."""
        done = [row for row in self.rows if row.state == "completed" and row.error is not None]
        return min(done, key=lambda row: (row.error, row.settings is not None, row.number), default=None)

    def history(self) -> list[float | None]:
        """Return the lowest validation error of completed trials so far, trial by trial."""
        errors = [row.error if row.state == "completed" else None for row in self.rows]
        return list(itertools.accumulate(errors, _lower))

    def count(self, *states: str) -> int:
        """Return how many trials are in some states."""
        return sum(row.state in states for row in self.rows)


def of(search: Search) -> Found:
    """Return the state of a search."""
    rows = []
    for one in counted(search.study.get_trials(deepcopy=False)):
        facts = one.user_attrs.get(FACTS)
        facts = dict(facts) if isinstance(facts, dict) else {}
        is_default = bool(one.user_attrs.get(DEFAULTS))
        has_all = set(one.params) >= set(search.space.params)
        settings = None if is_default else search.space.plain(one.params) if has_all else {}
        value = one.value if one.state.is_finished() else None
        note = str(one.user_attrs.get(STOPPED) or facts.get("why") or "")
        rows.append(Row(one.number, _STATES[one.state.name], value, settings, note, facts))
    return Found(rows, importance(search.study))


def importance(study: Study) -> dict[str, float]:
    """Return the importance of each setting by Optuna's evaluator (PED-ANOVA), the largest first."""
    found = optuna()
    states = (found.trial.TrialState.COMPLETE,)
    drawn = [one for one in study.get_trials(deepcopy=False, states=states) if one.params]
    if len(drawn) < _FEWEST or len({one.value for one in drawn}) < 2:
        return {}
    only = found.create_study(direction="minimize")  # without the trial that drew nothing
    only.add_trials(drawn)
    try:
        values = found.importance.get_param_importances(only)
    except (ValueError, RuntimeError):  # settings that never varied
        return {}
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def _lower(one: float | None, other: float | None) -> float | None:
    return min((error for error in (one, other) if error is not None), default=None)
