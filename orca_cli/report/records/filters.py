"""Which runs of a collection are shown: by the value of any setting or by their state; members of a study, by its names."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import DataError, OrcaError, UsageError, suggest
from orca_cli.report.records.collect import GROUPS, TEST_SET, Collection, Run
from orca_cli.runs import settings, studies

SET = "set"  # the axis whose choices are the columns of a study's table
FIELDS = ("task", *GROUPS, "seed", "protocol", "state")
KEY_HINT = "it is none of the runs' settings; orca runs show RUN lists them"


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
        if key in run.decided:
            return run.decided[key]
        # The hash of the settings leaves out those without an effect on the result.
        place = (str(run.path) if is_without_effect(key) or not run.settings else run.settings, key)
        if place not in self._composed:
            try:
                self._composed[place] = settings.as_typed(settings.settings(run.path)[key])
            except (OrcaError, KeyError):  # the run has no such setting
                self._composed[place] = None
        return self._composed[place]


def where(collection: Collection, text: str, values: Values | None = None) -> Collection:
    """Return the runs whose key has a value, or one of several separated by commas; see `Values.lookup`.

    Args:
        text: KEY=VALUE; numbers are compared as numbers, so that 1e-4 finds 0.0001.
        values: of runs, so that the settings of several calls are read once.

    Raises:
        UsageError: the text is not KEY=VALUE.
        DataError: no run has such a value.
    """
    key, value = pair(text, "--where")
    values = values or Values()
    every = [(run, values.lookup(run, key)) for run in (*collection.runs, *collection.superseded)]
    spellings = {canonical(value): value for _, value in every if value is not None}
    names = [value] if canonical(value) in spellings else value.split(",")
    for name in sorted(name for name in names if canonical(name) not in spellings):
        hint = suggest(name, spellings.values()) if spellings else KEY_HINT
        raise DataError(f"no run has {key}={name}", where="--where", hint=hint)
    names = [canonical(name) for name in names]
    kept = {id(run) for run, run_value in every if run_value is not None and canonical(run_value) in names}
    runs, superseded = ([run for run in group if id(run) in kept] for group in (collection.runs, collection.superseded))
    return replace(collection, runs=runs, superseded=superseded)


def canonical(text: str) -> str:
    """Return the form in which values are compared and shown: 1e-4 and 0.0001 are the same, and so are False and false."""
    try:
        value = float(text)
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else settings.as_typed(value)
    except ValueError:
        return text.lower() if text.lower() in ("true", "false", "null") else text


def select_study(collection: Collection, folders: Sequence[Path], name: str) -> Collection:
    """Return the runs that belong to a study, of which each folder may hold a record, under the names of its axes.

    Raises:
        DataError: no folder has a record of it, or one is damaged.
    """
    names_by_folder = {folder: studies.names(folder) for folder in folders}
    names = [recorded for folder_names in names_by_folder.values() for recorded in folder_names]
    if name not in names:
        hint = suggest(name, names) if names else f"orca run -m study={name}"
        raise DataError(f"no run belongs to a study '{name}'", where="--study", hint=hint)
    labels: dict[str, dict[tuple[str, ...], dict[str, str]]] = defaultdict(dict)
    members = [one for folder, there in names_by_folder.items() if name in there for one in studies.read(folder, name)]
    every = set(members[0].labels).intersection(*(one.labels for one in members)) if members else set[str]()
    axes = {axis for axis in every if not is_without_effect(axis)}
    for member in members:
        member_labels = {key: value for key, value in member.labels.items() if not is_without_effect(key)}
        arm = tuple(member_labels.get(axis, "") for axis in sorted(axes))
        # An extra override that repeats the study's own value does not make a second run of the arm.
        labels[member.identity][arm] = min(member_labels, labels[member.identity].get(arm, member_labels), key=len)
    runs, superseded = (
        [_named(run, run_labels, axes) for run in group for run_labels in labels.get(run.identity, {}).values()]
        for group in (collection.runs, collection.superseded)
    )
    return replace(collection, runs=runs, superseded=superseded)


def _named(run: Run, labels: dict[str, str], axes: set[str]) -> Run:
    group_names: dict[str, Any] = {key: labels[key] for key in GROUPS if key in labels}
    variant = {key: name for key, name in labels.items() if key not in (SET, "seed", "task", *GROUPS)}
    arm = ", ".join(f"{axis}={labels[axis]}" for axis in sorted(axes) if axis != "seed")
    return replace(run, task=labels.get(SET, run.task), variant=variant, arm=arm, **group_names)
