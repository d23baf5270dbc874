"""`orca data`: the data sets of tasks and sources; each verb is a module of its own, and takes its names by `select`."""

from collections.abc import Sequence
from pathlib import Path

from orca_cli.config import catalogue
from orca_cli.config.catalogue import DataSet

VERBS = {
    "list": "licence, size and addresses of each data set, and whether it is here",
    "get": "download what can be downloaded, verify and unpack it; resumes where it was interrupted",
    "check": "open the data and look: shapes, classes, NaN, overlaps between splits",
}


def select(words: Sequence[str], extra: Path | None) -> list[DataSet]:
    """Return the data sets that words name, also as task=NAME or source=NAME; all where there are none.

    Raises:
        ConfigError: an unknown name, or a malformed file, also in `extra`, the folder of the user's own configuration.
    """
    data_sets = catalogue.data_sets(extra)
    return [*dict.fromkeys(entry for word in words for entry in catalogue.find(word, data_sets))] or data_sets


def how_by_hand(entry: DataSet, folder: Path) -> str:
    """Return how to place a data set's files when no address answers: what its file says, else where they belong."""
    names = ", ".join(file.path for file in entry.files)
    return entry.by_hand.replace("FOLDER", str(folder)) or (f"put {names} into {folder}" if names else "")


def size_text(size: int | None) -> str:
    """Return a size in powers of 1000; - if it is unknown."""
    for unit, power in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size is not None and size >= power:
            return f"{size / power:.{1 if size < 10 * power else 0}f} {unit}"
    return "-" if size is None else f"{size} B"
