"""`orca data`: the data sets of tasks and sources; each verb is a module of its own, `data_VERB.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orca_cli import catalogue, configuration
from orca_cli.catalogue import DataSet
from orca_cli.exceptions import UsageError

VERBS = {
    "list": "licence, size, addresses of each data set, and whether it is there",
    "get": "fetch what can be fetched; goes on where it was interrupted",
    "check": "open the data and look: shapes, classes, NaN, overlaps between splits",
    "import": "place files that you have where the program looks for them",
    "path": "print the folder of a data set",
}
ABOUT = "The data sets of tasks and sources: what there is, fetch it, check it, bring your own copy."
EXAMPLES = """\
examples:
  orca data list                       every data set: is it there, size, licence, from where
  orca data get deepsea                fetch it
  orca data import ~/Downloads         place what was downloaded by hand
  orca data check deepsea              open it and look
  orca data get --help                 more of each

Data lie in $ORCA_HOME/data, one folder each: orca data path."""


def chosen(words: Sequence[str], extra: Path | None) -> tuple[list[DataSet], Path, list[str]]:
    """Return the data sets that words name, the data folder, and the words that are settings.

    A name may be written task=NAME or source=NAME; paths.data=DIR is another data folder.

    Raises:
        ConfigError: an unknown name, or a malformed file.
    """
    names = [word for word in words if "=" not in word or word.partition("=")[0] in catalogue.GROUPS]
    settings = [word for word in words if word not in names]
    folder = configuration.default_folders()["data"]
    for word in settings:
        key, _, value = word.partition("=")
        if key == "paths.data" and value:
            folder = Path(value).expanduser()
    known = catalogue.data_sets(extra)
    found: list[DataSet] = []
    for name in names:
        found += [entry for entry in catalogue.find(name, known) if entry not in found]
    return found if names else known, folder, settings


def refuse_settings(settings: Sequence[str]) -> None:
    """Raise where other settings are given than the data folder, which is all that these verbs know."""
    for word in settings:
        if word.partition("=")[0] != "paths.data":
            raise UsageError(f"'{word}' has no meaning here", hint="give names; the one setting is paths.data=DIR")


def by_hand(entry: DataSet, data: Path) -> str:
    """Return how to place a data set's files without an address that answers, in several lines."""
    folder = data / entry.name
    names = ", ".join(file.path for file in entry.files)
    lines = [f"{entry.name} by hand: {place_text(entry, folder) or f'put {names} into {folder}'}"]
    lines += [f"  from {page}" for page in entry.pages]
    lines.append(f"  or let the program place what you have: orca data import DIR {entry.name}")
    return "\n".join(lines)


def place_text(entry: DataSet, folder: Path) -> str:
    """Return what the data set's file says about files that are placed by hand, with the real folder in it."""
    return entry.by_hand.replace("FOLDER", str(folder))


def size_text(size: int | None) -> str:
    """Return a size as people write it, in powers of 1000; - where it is unknown."""
    if size is None:
        return "-"
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_of:
            number = size / bytes_of
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{size} B"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], indent: int = 0) -> Any:
    """Return a table for the terminal; texts are not read as markup."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(map(bool, headers))
    )
    for place, header in enumerate(headers):
        drawn.add_column(header, overflow="fold", no_wrap=place == 0, style="cyan" if place == 0 else "")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return Padding(drawn, (0, 0, 0, indent)) if indent else drawn
