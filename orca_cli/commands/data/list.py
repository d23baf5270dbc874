"""`orca data list`: the data sets, whether they are here, and where they come from; opens no file and no connection."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import RenderableType

from orca_cli import terminal
from orca_cli.commands.data import add_names, how_by_hand, select, size_text
from orca_cli.config.catalogue import GROUPS, DataFile, DataSet
from orca_cli.data import data_folder
from orca_cli.terminal import Result

_ORIGINS = {"generated": "made by orca", "bundled": "a package", "own": "your own files", "": "-"}
EXAMPLES = """\
examples:
  orca data list                       all, one line each
  orca data list deepsea psicov        every file and address of some, and how to place them by hand
  orca data list --json                for other programs
  orca data list --config-dir my_conf  with those of your own my_conf/task/x.yaml, ...

Of files that you put into a data set's folder, orca data get NAME verifies what is
known of them and unpacks archives. A run reads files that are elsewhere with
task.path=FOLDER (or source.path=FOLDER)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "The data sets of tasks and sources: is it here, size, licence, files and addresses."
    add_names(parser, "*", "task or source; default: all, in short")


def execute(arguments: argparse.Namespace) -> Result:
    """Return all that is known of the data sets, and which of their files are here."""
    chosen = select(arguments.names, arguments.config_dir, needs_name=False)
    data, sets = chosen.folder, []
    for entry in chosen.entries:
        folder = data / entry.name
        about = {"state": data_folder.state(entry, data), "folder": str(folder), "bytes": entry.bytes}
        files = [dataclasses.asdict(file) | {"there": data_folder.is_there(file, folder)} for file in entry.files]
        sets.append({**dataclasses.asdict(entry), **about, "files": files})
    shown: list[RenderableType] = []
    if chosen.is_named:
        shown += [_details(entry, data) for entry in chosen.entries]
    else:
        for group in GROUPS:
            rows = [
                (one.name, data_folder.state(one, data), _size(one), one.licence or "-", _from(one))
                for one in chosen.entries
                if one.group == group
            ]
            shown += [terminal.table((group, "data", "size", "licence", "from"), rows), ""]
        shown.append(f"in {data}\nFiles, addresses, how to place them by hand: orca data list NAME")
    return Result({"schema": 1, "folder": str(data), "data_sets": sets}, shown)


def _size(entry: DataSet) -> str:
    unknown = any(file.bytes is None for file in entry.files)
    return f"{'> ' if unknown and entry.bytes else ''}{size_text(entry.bytes)}"


def _from(entry: DataSet) -> str:
    hosts = dict.fromkeys(urlsplit(url).netloc.removeprefix("www.") for file in entry.files for url in file.urls)
    words = [_ORIGINS[entry.origin]] if entry.origin != "files" else []
    return ", ".join([*words, *hosts]) or "by hand"


def _details(entry: DataSet, data: Path) -> str:
    """Return labels, texts folded to the terminal's width, and addresses, which stay whole so that they can be copied."""
    folder = data / entry.name
    there = [data_folder.is_there(file, folder) for file in entry.files]
    count = f", {sum(there)} of {len(there)} files" if len(there) > 1 else ""
    rows: list[tuple[str, str, tuple[str, ...]]] = [
        (entry.name, f"{entry.group}: {entry.description}", ()),
        ("data", f"{data_folder.state(entry, data)}{count}", ()),
        ("folder", str(folder), ()),
        ("from", _ORIGINS[entry.origin] if entry.origin not in ("files", "") else "", ()),
        ("samples", f"{entry.shape or '?'} to {entry.outputs or '?'}" if entry.shape or entry.outputs else "", ()),
        ("licence", entry.licence, ()),
        ("homepage", entry.homepage, ()),
    ]
    for file, is_there in zip(entry.files, there, strict=True):
        rows.append(("file", f"{file.path}: {_about(file, is_there, folder)}", tuple(file.urls) or ("no address",)))
    rows.append(("by hand", how_by_hand(entry, data), tuple(entry.pages)))
    rows = [row for row in rows if any(row[1:])]
    indent = max(len(label) for label, _, _ in rows) + 2
    width = max(20, terminal.stdout().width - indent)
    lines = []
    for label, text, addresses in rows:
        folded = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{'' if n else label:<{indent}}{line}" for n, line in enumerate([*folded, *addresses])]
    return "\n".join([*lines, ""])


def _about(file: DataFile, is_there: bool, folder: Path) -> str:
    is_packed = not is_there and (folder / file.path).is_file()
    words = ["present" if is_there else "here, not unpacked" if is_packed else "absent"]
    words.append(size_text(file.bytes) if file.bytes else "size unknown")
    if file.unpack:
        words.append(f"{file.unpack}, unpacked by orca data get")
    digests = [f"{name} {value[:12]}..." for name, value in (("SHA-256", file.sha256), ("MD5", file.md5)) if value]
    return ", ".join([*words, *(digests or ["no checksum published"])[:1]])
