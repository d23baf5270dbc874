"""The runs of a study, named by its axes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orca_cli.config.schema import is_without_effect
from orca_cli.exceptions import DataError, suggest
from orca_cli.report.records.collect import GROUPS, Collection, Run
from orca_cli.runs import studies

SET = "set"  # the axis whose choices are the columns of a study's table


def select_study(collection: Collection, folders: Sequence[Path], name: str) -> Collection:
    """Return the runs that belong to a study, of which each folder may hold a record.

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
    """Return a run under the names that a study gives to its choices."""
    group_names: dict[str, Any] = {key: labels[key] for key in GROUPS if key in labels}
    settings = {key: name for key, name in labels.items() if key not in (SET, "seed", "task", *GROUPS)}
    arm = ", ".join(f"{axis}={labels[axis]}" for axis in sorted(axes) if axis != "seed")
    return replace(run, task=labels.get(SET, run.task), variant=settings, arm=arm, **group_names)
