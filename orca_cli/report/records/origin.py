"""Where the runs of a report are from: what a command that adds runs to them has to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orca_cli import configuration
from orca_cli.exceptions import OrcaError
from orca_cli.report.records.details import overrides
from orca_cli.runs import studies
from orca_cli.study import BLANK, Study

_DATA = "paths.data"


@dataclass(frozen=True)
class Origin:
    """Where the runs of a report are from, as far as a command that adds to them has to say it.

    Args:
        study: the study that they belong to; empty for none.
        axes: what the study calls them by: its axes, and the settings that were typed besides.
        whole: for axes whose choices are known, their names.
        blanks: settings that have to be typed with the study.
        left_out: combinations of choices that the study does not make, axis -> names.
        folder: of the runs, if it is not the usual one; empty if it is.
    """

    study: str = ""
    axes: tuple[str, ...] = ()
    whole: Mapping[str, frozenset[str]] = field(default_factory=dict)
    blanks: tuple[str, ...] = ()
    folder: str = ""
    left_out: tuple[Mapping[str, tuple[str, ...]], ...] = ()

    def makes(self, labels: Mapping[str, str]) -> bool:
        """Return whether the study makes runs of some choices, axis -> name."""
        return not any(all(labels.get(axis) in names for axis, names in one.items()) for one in self.left_out)

    def besides(self, typed: Sequence[Mapping[str, str]]) -> list[str]:
        """Return what a command of the study has to say besides its axes: blanks, and the folder of data that all share.

        Args:
            typed: of runs that the new ones are to be like; see `typed_of`.
        """
        words = []
        for key in self.blanks:
            values = dict.fromkeys(one[key] for one in typed if key in one)
            words += [f"{key}={','.join(values)}"] if values else []
        return words + shared_data(typed)


def typed_of(path: Path) -> dict[str, str]:
    """Return key -> value of what was typed for a run, besides its seed and folder; empty where its folder does not say.

    The folder may be somebody else's: what is an option of the program, and no setting, is left out.
    """
    pairs = [line.partition("=") for line in overrides(path) or () if "=" in line and not line.startswith("-")]
    return {key: value for key, _, value in pairs if key not in ("seed", "paths.runs")}


def shared_data(typed: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the override of the folder of data, where all runs have it and the same."""
    folders = {one.get(_DATA, "") for one in typed}
    return [f"{_DATA}={folders.pop()}"] if len(folders) == 1 and "" not in folders else []


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
    whole = {axis: frozenset(own) for axis, own in read.axes.items()}
    return Origin(study, axes, whole, tuple(blanks), folder, read.left_out)
