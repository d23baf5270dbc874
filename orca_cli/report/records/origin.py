"""Where the runs of a report are from: what a command that adds runs to them has to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orca_cli import configuration
from orca_cli.exceptions import OrcaError
from orca_cli.runs import studies
from orca_cli.study import BLANK, Study


@dataclass(frozen=True)
class Origin:
    """Where the runs of a report are from, as far as a command that adds to them has to say it.

    Args:
        study: the study that they belong to; empty for none.
        axes: what the study calls them by: its axes, and the settings that were typed besides.
        whole: for axes whose choices are known, their names.
        blanks: settings that have to be typed with the study.
        folder: of the runs, if it is not the usual one; empty if it is.
    """

    study: str = ""
    axes: tuple[str, ...] = ()
    whole: Mapping[str, frozenset[str]] = field(default_factory=dict)
    blanks: tuple[str, ...] = ()
    folder: str = ""


def origin_of(folders: Sequence[Path], study: str | None, usual: Path) -> Origin:
    """Return the origin of the runs in some folders.

    Args:
        folders: of runs.
        study: whose runs are meant.
        usual: where runs are by default.
    """
    folder = str(folders[0]) if len(folders) == 1 and folders[0].resolve() != usual.resolve() else ""
    if study is None:
        return Origin(folder=folder)
    members = [one for folder in folders if study in studies.names(folder) for one in studies.read(folder, study)]
    axes = tuple(dict.fromkeys(axis for member in members for axis in member.labels))
    try:
        read = Study.read(study, configuration.choices("study")[study])
    except (OrcaError, KeyError):  # a study of the user's own, in a folder that is not known here
        return Origin(study, axes, folder=folder)
    texts = [text for choices in read.axes.values() for own in choices.values() for text in own]
    blanks = dict.fromkeys(text.partition("=")[0] for text in (*read.common, *texts) if text.endswith(f"={BLANK}"))
    return Origin(study, axes, {axis: frozenset(own) for axis, own in read.axes.items()}, tuple(blanks), folder)
