"""`orca data`: the data sets of tasks and sources, and which of them are on this machine."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import RenderableType

from orca_cli.commands import data_check
from orca_cli.commands.get import by_hand
from orca_cli.commands.options import CONFIG_DIR, Record, Verb, argument
from orca_cli.config.configuration import default_folders
from orca_cli.data import catalogue, data_folder
from orca_cli.terminal import Result, size_text, table

# Origin of a data set -> where it comes from, besides the hosts of its files.
_ORIGINS = {
    "generated": "made by orca",
    "bundled": "a package",
    "own": "your own files",
    "": "-",
    "files": "",
}
_LIST = """\
examples:
  orca data list                       all, one line each
  orca data list deepsea psicov        every file and address of some, and how to place them by hand
  orca data list --config-dir my_conf  with those of your own my_conf/task/x.yaml, ...

`orca get task=NAME` fetches a task's files, and verifies and unpacks those that you put into its \
folder. A run reads files
that are elsewhere with task.path=FOLDER (or source.path=FOLDER)."""


def _selected(names: Sequence[str], extra: Path | None) -> list[catalogue.DataSet]:
    """Return the data sets with these names, also as task=NAME or source=NAME; without names all.

    `extra` is the folder with the user's own files, as in `orca_cli.config.configuration`.
    """
    data_sets = catalogue.data_sets(extra)
    if not names:
        return data_sets
    chosen = []
    for name in names:
        # A task and a source may share a name; both are meant then.
        chosen += catalogue.find(name, data_sets)
    # A data set that is named twice counts once.
    return list(dict.fromkeys(chosen))


def listed(arguments: argparse.Namespace) -> Result:
    """Return the data sets, and which of their files are here; opens no file and no connection."""
    root = default_folders()["data"]
    records = []
    details: list[str] = []
    # One table for tasks and one for sources: group -> rows.
    rows: dict[str, list[tuple[str, ...]]] = {group: [] for group in catalogue.GROUPS}
    for entry in _selected(arguments.names, arguments.config_dir):
        folder = root / entry.folder
        state = data_folder.state(entry, root)
        # Only names are looked at. Checksums would take a pass over all data.
        files = [
            asdict(file) | {"there": data_folder.is_there(file, folder)} for file in entry.files
        ]
        record = asdict(entry)
        record |= {"state": state, "folder": str(folder), "bytes": entry.bytes, "files": files}
        records.append(record)
        origin = _origin(entry)
        size = size_text(entry.bytes)
        rows[entry.group].append((entry.name, state, size, entry.licence or "-", origin))
        details += [*_details(entry, record, origin), ""]
    # No line of details is folded, so that addresses can be copied.
    # The last detail is the empty line behind the last data set.
    shown: list[RenderableType] = ["\n".join(details[:-1])]
    if not arguments.names:
        shown = []
        for group, group_rows in rows.items():
            shown += [table((group, "data", "size", "licence", "from"), group_rows), ""]
        shown.append(f"in {root}\nFiles, addresses, how to place them by hand: orca data list NAME")
    return Result({"schema": 1, "folder": str(root), "data_sets": records}, shown)


def _origin(entry: catalogue.DataSet) -> str:
    """Return where a data set comes from: what makes it, or the hosts of its files."""
    origins = [_ORIGINS[entry.origin]]
    for file in entry.files:
        origins += [urlsplit(url).netloc.removeprefix("www.") for url in file.urls]
    # Several files of one host name it once.
    return ", ".join(dict.fromkeys(filter(None, origins))) or "by hand"


def _details(entry: catalogue.DataSet, record: Record, origin: str) -> list[str]:
    """Return the lines about one data set and its files."""
    folder = record["folder"]
    lines = [
        f"{entry.name}  {entry.group}: {entry.description}",
        f"data     {record['state']}, from {origin}, in {folder}",
        f"samples  {entry.shape or '?'} to {entry.outputs or '?'}",
        f"licence  {entry.licence or '-'}  {entry.homepage}",
    ]
    for file in record["files"]:
        presence = "present" if file["there"] else "absent"
        lines.append(f"file     {file['path']}: {presence}, {size_text(file['bytes'])}")
        lines += [f"         {address}" for address in file["urls"] or ("no address",)]
    if entry.files:
        lines.append(f"get      orca get {entry.group}={entry.name}")
        lines.append(f"by hand  {by_hand(entry, Path(folder))}")
        lines += [f"         {page}" for page in entry.pages]
    return lines


VERBS = {
    "list": Verb(
        about="licence, size, addresses, and whether it is here",
        examples=_LIST,
        arguments=(
            argument(
                "names", nargs="*", metavar="NAME", help="task or source; default: all, in short"
            ),
            CONFIG_DIR,
        ),
        execute=listed,
    ),
    "check": data_check.VERB,
}
