"""`orca data list`: the data sets, whether they are here, and where they come from; opens no file and no connection."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.commands.data import how_by_hand, select, size_text
from orca_cli.commands.options import add_config_dir
from orca_cli.config.catalogue import GROUPS, DataSet
from orca_cli.config.configuration import default_folders
from orca_cli.data import data_folder
from orca_cli.terminal import Result

_ORIGINS = {"generated": "made by orca", "bundled": "a package", "own": "your own files", "": "-"}
EXAMPLES = """\
examples:
  orca data list                       all, one line each
  orca data list deepsea psicov        every file and address of some, and how to place them by hand
  orca data list --config-dir my_conf  with those of your own my_conf/task/x.yaml, ...

orca data get NAME also verifies and unpacks files that you put into a data set's folder. A run reads files that are elsewhere
with task.path=FOLDER (or source.path=FOLDER)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="task or source; default: all, in short")
    add_config_dir(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Return all that is known of the data sets, and which of their files are here."""
    data, sets = default_folders()["data"], []
    chosen = select(arguments.names, arguments.config_dir)
    for entry in chosen:
        folder = data / entry.name
        about = {"state": data_folder.state(entry, data), "folder": str(folder), "bytes": entry.bytes}
        files = [asdict(file) | {"there": data_folder.is_there(file, folder)} for file in entry.files]
        sets.append({**asdict(entry), **about, "files": files})
    shown: list[RenderableType] = []
    if arguments.names:
        shown.append("\n\n".join(_details(entry, one) for entry, one in zip(chosen, sets, strict=True)))
    else:
        for group in GROUPS:
            rows = []
            for entry, one in zip(chosen, sets, strict=True):
                if entry.group == group:
                    rows.append((entry.name, one["state"], size_text(entry.bytes), entry.licence or "-", _from(entry)))
            shown += [terminal.table((group, "data", "size", "licence", "from"), rows), ""]
        shown.append(f"in {data}\nFiles, addresses, how to place them by hand: orca data list NAME")
    return Result({"schema": 1, "folder": str(data), "data_sets": sets}, shown)


def _from(entry: DataSet) -> str:
    hosts = dict.fromkeys(urlsplit(url).netloc.removeprefix("www.") for file in entry.files for url in file.urls)
    words = [_ORIGINS[entry.origin]] if entry.origin != "files" else []
    return ", ".join([*words, *hosts]) or "by hand"


def _details(entry: DataSet, known: dict[str, Any]) -> str:
    """Return labels, texts and addresses; no line is folded, so that addresses can be copied."""
    lines = [
        f"{entry.name}  {entry.group}: {entry.description}",
        f"data     {known['state']}, from {_from(entry)}, in {known['folder']}",
        f"samples  {entry.shape or '?'} to {entry.outputs or '?'}",
        f"licence  {entry.licence or '-'}  {entry.homepage}",
    ]
    for file in known["files"]:
        lines.append(f"file     {file['path']}: {'present' if file['there'] else 'absent'}, {size_text(file['bytes'])}")
        lines += [f"         {address}" for address in file["urls"] or ("no address",)]
    if by_hand := how_by_hand(entry, Path(known["folder"])):
        lines += [f"by hand  {by_hand}", *(f"         {page}" for page in entry.pages)]
    return "\n".join(lines)
