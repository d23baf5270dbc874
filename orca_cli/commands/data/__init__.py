"""`orca data`: the data sets of tasks and sources; each verb is a module of its own, and takes its names by `select`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_cli.commands.options import add_config_dir
from orca_cli.config import catalogue, configuration
from orca_cli.config.catalogue import DataSet
from orca_cli.exceptions import UsageError

VERBS = {
    "list": "licence, size and addresses of each data set, and whether it is here",
    "get": "download what can be downloaded; resumes where it was interrupted",
    "check": "open the data and look: shapes, classes, NaN, overlaps between splits",
}
ABOUT = "The data sets of tasks and sources: list, download and check them."
EXAMPLES = """\
examples:
  orca data list                       every data set: is it here, size, licence, origin
  orca data list deepsea               its files, addresses, and how to place them by hand
  orca data get deepsea                download it, or verify and unpack what you placed
  orca data check deepsea              open it and look
  orca data get --help                 more about each

Data are stored in $ORCA_HOME/data, one folder each."""


@dataclass(frozen=True)
class Selection:
    """The data sets that are named, or all of them; the folder of all data; the words that are settings."""

    entries: list[DataSet]
    folder: Path
    settings: list[str]
    is_named: bool


def add_names(parser: argparse.ArgumentParser, nargs: str, text: str) -> None:
    """Add the names of data sets and --config-dir to a command line."""
    parser.add_argument("names", nargs=nargs, metavar="NAME", help=text)
    add_config_dir(parser)


def select(words: Sequence[str], extra: Path | None, *, takes_settings: bool = False, needs_name: bool) -> Selection:
    """Return the data sets that words name.

    Args:
        words: names, also as task=NAME or source=NAME, and KEY=VALUE; paths.data=DIR is another data folder.
        extra: folder of the user's own configuration.
        takes_settings: allow settings other than paths.data.
        needs_name: refuse words without a name.

    Raises:
        ConfigError: an unknown name, or a malformed file.
        UsageError: a setting, or no name, where it is not allowed.
    """
    settings = [word for word in words if "=" in word and word.partition("=")[0] not in catalogue.GROUPS]
    folder = configuration.default_folders()["data"]
    for word in settings:
        key, _, value = word.partition("=")
        if key == "paths.data" and value:
            folder = Path(value).expanduser()
        elif not takes_settings:
            raise UsageError(f"'{word}' has no effect here", hint="give names; the only setting is paths.data=DIR")
    names = [word for word in words if word not in settings]
    if needs_name and not names:
        raise UsageError("a name is needed", hint="orca data list shows the names")
    data_sets = catalogue.data_sets(extra)
    matches = dict.fromkeys(entry for name in names for entry in catalogue.find(name, data_sets))
    return Selection([*matches] if names else data_sets, folder, settings, bool(names))


def how_by_hand(entry: DataSet, data: Path) -> str:
    """Return how to place a data set's files when no address answers: what its file says, else where they belong."""
    folder = data / entry.name
    names = ", ".join(file.path for file in entry.files)
    return entry.by_hand.replace("FOLDER", str(folder)) or (f"put {names} into {folder}" if names else "")


def size_text(size: int | None) -> str:
    """Return a size in powers of 1000; - if it is unknown."""
    for unit, power in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size is not None and size >= power:
            return f"{size / power:.{1 if size < 10 * power else 0}f} {unit}"
    return "-" if size is None else f"{size} B"
