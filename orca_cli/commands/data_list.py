"""`orca data list`: the data sets, whether they are there, and where they come from; nothing is opened or asked for."""

from __future__ import annotations

import argparse
import dataclasses
import json
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orca_cli import data_folder, terminal
from orca_cli.catalogue import GROUPS, DataFile, DataSet
from orca_cli.commands.data import chosen, place_text, refuse_settings, size_text, table

SCHEMA = 1
_ORIGINS = {"generated": "made by orca", "bundled": "a package", "own": "your own files", "": "-"}
EXAMPLES = """\
examples:
  orca data list                       all, one line each
  orca data list deepsea psicov        every file and address of some, and how to place them by hand
  orca data list --json                for other programs
  orca data list --config-dir my_conf  with those of your own my_conf/task/x.yaml, ..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "The data sets of tasks and sources: is it there, size, licence, files and addresses."
    parser.epilog = EXAMPLES
    parser.add_argument("names", nargs="*", metavar="NAME", help="task or source; default: all, in short")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="folder with your own task/x.yaml, ...")
    parser.add_argument("--json", action="store_true", help="print JSON")


def execute(arguments: argparse.Namespace) -> int:
    """Print the list, and return the exit code."""
    found, folder, settings = chosen(arguments.names, arguments.config_dir)
    refuse_settings(settings)
    if arguments.json:
        listed = [_record(entry, folder) for entry in found]
        terminal.print_text(json.dumps({"schema": SCHEMA, "folder": str(folder), "data_sets": listed}, indent=2) + "\n")
    elif len(arguments.names) > len(settings):
        for entry in found:
            _print_one(entry, folder)
    else:
        for group in GROUPS:
            rows = [
                (
                    entry.name,
                    data_folder.state(entry, folder),
                    _size(entry),
                    entry.licence or "-",
                    _from(entry),
                )
                for entry in found
                if entry.group == group
            ]
            terminal.print_result(table((group, "data", "size", "licence", "from"), rows), "")
        terminal.print_text(f"in {folder}\nFiles, addresses, placing by hand: orca data list NAME\n")
    return 0


def _record(entry: DataSet, folder: Path) -> dict[str, Any]:
    files = [
        {**dataclasses.asdict(file), "there": data_folder.is_there(file, folder / entry.name)} for file in entry.files
    ]
    about = {"state": data_folder.state(entry, folder), "folder": str(folder / entry.name), "bytes": entry.bytes}
    return {**dataclasses.asdict(entry), **about, "files": files}


def _size(entry: DataSet) -> str:
    unknown = any(file.bytes is None for file in entry.files)
    return f"{'> ' if unknown and entry.bytes else ''}{size_text(entry.bytes)}"


def _from(entry: DataSet) -> str:
    hosts = dict.fromkeys(urlsplit(url).netloc.removeprefix("www.") for file in entry.files for url in file.urls)
    words = [_ORIGINS[entry.origin]] if entry.origin != "files" else []
    return ", ".join([*words, *hosts]) or "by hand"


def _print_one(entry: DataSet, folder: Path) -> None:
    place = folder / entry.name
    there = [data_folder.is_there(file, place) for file in entry.files]
    count = f", {sum(there)} of {len(there)} files" if len(there) > 1 else ""
    samples = f"{entry.shape or '?'} to {entry.outputs or '?'}" if entry.shape or entry.outputs else ""
    rows: list[tuple[str, str, tuple[str, ...]]] = [
        (entry.name, f"{entry.group}: {entry.description}", ()),
        ("data", f"{data_folder.state(entry, folder)}{count}", ()),
        ("folder", str(place), ()),
        ("from", _ORIGINS[entry.origin] if entry.origin not in ("files", "") else "", ()),
        ("samples", samples, ()),
        ("licence", entry.licence, ()),
        ("homepage", entry.homepage, ()),
    ]
    for file, is_there in zip(entry.files, there, strict=True):
        rows.append(("file", f"{file.path}: {_about(file, is_there, place)}", tuple(file.urls) or ("no address",)))
    rows.append(("by hand", place_text(entry, place), tuple(entry.pages)))
    _print_rows([row for row in rows if any(row[1:])])


def _print_rows(rows: list[tuple[str, str, tuple[str, ...]]]) -> None:
    """Print labels, texts in as many lines as they need, and addresses, which stay whole so that they can be copied."""
    indent = max(len(label) for label, _, _ in rows) + 2
    width = max(20, terminal.stdout().width - indent)
    for label, text, addresses in rows:
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
        for number, line in enumerate([*lines, *addresses]):
            terminal.print_text(f"{'' if number else label:<{indent}}{line}\n")
    terminal.print_text("\n")


def _about(file: DataFile, is_there: bool, folder: Path) -> str:
    is_packed = not is_there and (folder / file.path).is_file()
    words = ["present" if is_there else "here, not unpacked" if is_packed else "absent"]
    words.append(size_text(file.bytes) if file.bytes else "size unknown")
    if file.unpack:
        words.append(f"{file.unpack}, unpacked by orca data get")
    digest = next(((name, value) for name, value in (("SHA-256", file.sha256), ("MD5", file.md5)) if value), None)
    words.append(f"{digest[0]} {digest[1][:12]}..." if digest else "no checksum published")
    return ", ".join(words)
