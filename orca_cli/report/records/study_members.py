"""The runs of a study, named by its axes, and what a command that adds runs to a report has to contain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orca_cli.config import configuration
from orca_cli.config.schema import is_without_effect
from orca_cli.config.study import BLANK, Study
from orca_cli.exceptions import DataError, OrcaError, suggest
from orca_cli.report.records.collect import GROUPS, Collection, Run
from orca_cli.report.records.details import shared_data
from orca_cli.runs import studies

SET = "set"  # the axis whose choices are the columns of a study's table


def select_study(collection: Collection, folders: Sequence[Path], name: str) -> Collection:
    """Return the runs that belong to a study, of which each folder may hold a record.

    Raises:
        DataError: no folder has a record of it, or one is damaged.
    """
    names = [recorded for folder in folders for recorded in studies.names(folder)]
    if name not in names:
        hint = suggest(name, names) if names else f"orca run -m study={name}"
        raise DataError(f"no run belongs to a study '{name}'", where="--study", hint=hint)
    labels: dict[str, dict[tuple[str, ...], dict[str, str]]] = defaultdict(dict)
    members = _members(folders, name)
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


def _members(folders: Sequence[Path], name: str) -> list[studies.Member]:
    return [one for folder in folders if name in studies.names(folder) for one in studies.read(folder, name)]


def _named(run: Run, labels: dict[str, str], axes: set[str]) -> Run:
    group_names: dict[str, Any] = {key: labels[key] for key in GROUPS if key in labels}
    settings = {key: name for key, name in labels.items() if key not in (SET, "seed", "task", *GROUPS)}
    arm = ", ".join(f"{axis}={labels[axis]}" for axis in sorted(axes) if axis != "seed")
    return replace(run, task=labels.get(SET, run.task), variant=settings, arm=arm, **group_names)


@dataclass(frozen=True)
class Origin:
    """Where a report's runs come from, as far as a command that adds runs needs it.

    Args:
        study: the study that they belong to; empty for none.
        axes: the study's axes, and settings that were typed besides.
        whole: axis -> names of all its choices, where these are known.
        blanks: settings that the study leaves to the command line.
        folder: of the runs; empty for the usual one.
        left_out: combinations of choices that the study does not run, axis -> names.
    """

    study: str = ""
    axes: tuple[str, ...] = ()
    whole: Mapping[str, frozenset[str]] = field(default_factory=dict)
    blanks: tuple[str, ...] = ()
    folder: str = ""
    left_out: tuple[Mapping[str, tuple[str, ...]], ...] = ()

    def makes(self, labels: Mapping[str, str]) -> bool:
        """Return whether the study runs this combination of choices, axis -> name."""
        return not any(all(labels.get(axis) in names for axis, names in one.items()) for one in self.left_out)

    def besides(self, typed: Sequence[Mapping[str, str]]) -> list[str]:
        """Return the overrides that a command of the study needs besides its axes: blanks, and the shared folder of data.

        `typed` are the `details.typed_settings` of runs that the new ones are to resemble.
        """
        words = []
        for key in self.blanks:
            values = dict.fromkeys(one[key] for one in typed if key in one)
            words += [f"{key}={','.join(values)}"] if values else []
        return words + shared_data(typed)


def origin_of(folders: Sequence[Path], study: str | None, usual: Path) -> Origin:
    """Return the origin of the runs in some folders, which belong to a study; `usual` is where runs are by default."""
    folder = str(folders[0]) if len(folders) == 1 and folders[0].resolve() != usual.resolve() else ""
    if study is None:
        return Origin(folder=folder)
    axes = tuple(dict.fromkeys(axis for member in _members(folders, study) for axis in member.labels))
    try:
        read = Study.read(study, configuration.choices("study")[study])
    except (OrcaError, KeyError):  # a study of the user's own, in a folder that is not known here
        return Origin(study, axes, folder=folder)
    texts = [text for choices in read.axes.values() for choice_texts in choices.values() for text in choice_texts]
    blanks = dict.fromkeys(text.partition("=")[0] for text in (*read.common, *texts) if text.endswith(f"={BLANK}"))
    whole = {axis: frozenset(choices) for axis, choices in read.axes.items()}
    return Origin(study, axes, whole, tuple(blanks), folder, read.left_out)
