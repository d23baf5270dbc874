"""The runs of one study, named as the study names them: its sets as tasks, its other axes as settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orca_cli.exceptions import DataError, suggest
from orca_cli.report.records.collect import GROUPS, Collection, Run
from orca_cli.runs import studies
from orca_cli.schema import is_without_effect

SET = "set"  # the axis whose choices are the columns of a study's table


def of_study(collection: Collection, folders: Sequence[Path], name: str) -> Collection:
    """Return the runs that belong to a study.

    Args:
        collection: of the folders.
        folders: of runs; each may hold a record of the study.
        name: the study.

    Raises:
        DataError: no folder has a record of it, or one is damaged.
    """
    known = [found for folder in folders for found in studies.names(folder)]
    if name not in known:
        hint = suggest(name, known) if known else f"orca run -m study={name}"
        raise DataError(f"no run belongs to a study '{name}'", where="--study", hint=hint)
    labels: dict[str, dict[tuple[str, ...], dict[str, str]]] = defaultdict(dict)
    members = [one for folder in folders if name in studies.names(folder) for one in studies.read(folder, name)]
    every = set(members[0].labels).intersection(*(one.labels for one in members)) if members else set[str]()
    axes = {axis for axis in every if not is_without_effect(axis)}
    for member in members:
        own = {key: value for key, value in member.labels.items() if not is_without_effect(key)}
        arm = tuple(own.get(axis, "") for axis in sorted(axes))
        # The same run, once with a setting typed besides, whose value the study has anyway, is one run of the arm.
        labels[member.identity][arm] = min(own, labels[member.identity].get(arm, own), key=len)
    runs, superseded = (
        [_named(run, own, axes) for run in found for own in labels.get(run.identity, {}).values()]
        for found in (collection.runs, collection.superseded)
    )
    return replace(collection, runs=runs, superseded=superseded)


def _named(run: Run, labels: dict[str, str], axes: set[str]) -> Run:
    own: dict[str, Any] = {key: labels[key] for key in GROUPS if key in labels}
    settings = {key: name for key, name in labels.items() if key not in (SET, "seed", "task", *GROUPS)}
    arm = ", ".join(f"{axis}={labels[axis]}" for axis in sorted(axes) if axis != "seed")
    return replace(run, task=labels.get(SET, run.task), variant=settings, arm=arm, **own)
