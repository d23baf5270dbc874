"""Selecting runs of a collection by the value of a group, of any setting, or by their state."""

from __future__ import annotations

import dataclasses
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.retired import current_target
from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import DataError, OrcaError, UsageError, suggest
from orca_cli.report.records.collect import GROUPS, TEST_SET, Collection, Run
from orca_cli.report.records.study_members import SET
from orca_cli.runs import settings

FIELDS = ("task", *GROUPS, "seed", "protocol", "state")
_PARTS = ("embedder", "augment")  # groups of conf/ that a run's records have no name for


def pair(text: str, option: str) -> tuple[str, str]:
    """Return key and value of KEY=VALUE; UsageError where the text is something else."""
    key, separator, value = text.partition("=")
    if not (separator and key and value):
        raise UsageError(f"'{text}' is not KEY=VALUE", where=option, hint=f"such as {option} metric=none")
    return key, value


class Values:
    """Looks up the value of any key of a run, as it would be typed; runs that differ in their seed only are read once."""

    def __init__(self) -> None:
        self._composed: dict[tuple[str, str], str | None] = {}

    def lookup(self, run: Run, key: str) -> str | None:
        """Return a run's value of a group or a setting: typed, decided by the run, or the default; None if not recorded.

        In a study, the names of its choices come first, and `set` is the task.
        """
        if key == TEST_SET:
            return run.test_set[:8] or None
        if key in FIELDS or key == SET:
            return str(getattr(run, "task" if key == SET else key))
        if key in run.variant:
            return run.variant[key]
        decided = run.decided
        if run.state != "completed":
            decided = {key: settings.as_typed(one["value"]) for key, one in settings.decided(run.path).items()}
        if key in decided:
            return decided[key]
        # The hash of the settings leaves out those without an effect on the result.
        place = (str(run.path) if is_without_effect(key) or not run.settings else run.settings, key)
        if place not in self._composed:
            self._composed[place] = _composed(run, key)
        return self._composed[place]


def _composed(run: Run, key: str) -> str | None:
    try:
        if key in _PARTS:
            return _choice(key, current_target(str(settings.settings(run.path)[f"{key}._target_"])))
        return settings.as_typed(settings.settings(run.path)[key])
    except (OrcaError, KeyError):  # the run has no such setting
        return None


def _choice(group: str, target: Any) -> str | None:
    """Return the name of the file in a group of conf/ with a `_target_`; None unless exactly one has it."""
    every = configuration.choices(group).items()
    names = [name for name, file in every if configuration.content(file).get("_target_") == target]
    return names[0] if len(names) == 1 else None


def key_hint(key: str, collection: Collection) -> str:
    """Return a hint for a key that no run has: a similar one, or how to list the settings."""
    keys = dict.fromkeys((*FIELDS, *(name for run in collection.runs for name in (*run.variant, *run.decided))))
    hint = suggest(key, keys)
    return hint if hint.startswith("did") else "it is none of the runs' settings; orca runs show RUN lists them"


def where(collection: Collection, text: str, values: Values | None = None, option: str = "--where") -> Collection:
    """Return the runs whose key has a value, or one of several separated by commas; see `Values.lookup`.

    Args:
        text: KEY=VALUE; numbers are compared as numbers, so that 1e-4 finds 0.0001.
        values: of runs, so that the settings of several calls are read once.
        option: the command line's name for the text, for messages.

    Raises:
        UsageError: the text is not KEY=VALUE.
        DataError: no run has such a value.
    """
    key, value = pair(text, option)
    values = values or Values()
    every = [(run, values.lookup(run, key)) for run in (*collection.runs, *collection.superseded)]
    spellings = {canonical(value): value for _, value in every if value is not None}
    names = [value] if canonical(value) in spellings else value.split(",")
    for name in sorted(name for name in names if canonical(name) not in spellings):
        hint = suggest(name, spellings.values()) if spellings else key_hint(key, collection)
        raise DataError(f"no run has {key}={name}", where=option, hint=hint)
    names = [canonical(name) for name in names]
    kept = {id(run) for run, run_value in every if run_value is not None and canonical(run_value) in names}
    runs, superseded = ([run for run in group if id(run) in kept] for group in (collection.runs, collection.superseded))
    return dataclasses.replace(collection, runs=runs, superseded=superseded)


def canonical(text: str) -> str:
    """Return the form in which values are compared: 1e-4 and 0.0001 are the same, and so are False and false."""
    try:
        return repr(float(text))
    except ValueError:
        return text.lower() if text.lower() in ("true", "false", "null") else text
