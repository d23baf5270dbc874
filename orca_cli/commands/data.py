"""`orca data`: the data sets of tasks and sources: what is known of them and here, and bringing their files here."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import RenderableType

from orca_cli.commands import data_check
from orca_cli.commands.options import CONFIG_DIR, Verb, argument
from orca_cli.config.configuration import default_folders
from orca_cli.data import catalogue, data_folder
from orca_cli.exceptions import (
    ChecksumError,
    InterruptionError,
    NetworkError,
    OrcaError,
    StorageError,
)
from orca_cli.progress import Reporter
from orca_cli.terminal import LogReporter, Result, configure_logging, counted, size_text, table

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

orca data get NAME also verifies and unpacks files that you put into a data set's folder. A run reads files that are elsewhere
with task.path=FOLDER (or source.path=FOLDER)."""
_GET = """\
examples:
  orca data get deepsea                     all files of a data set
  orca data get deepsea ecg                 several

If it is interrupted, repeat the command to resume. A file gets its name only
when it is complete and has the published SHA-256, or if none is published, the
one recorded when it was first seen (checksums.json in its folder)."""


def _selected(words: Sequence[str], extra: Path | None) -> list[catalogue.DataSet]:
    """Return the data sets that words name, also as task=NAME or source=NAME; all where there are none."""
    data_sets = catalogue.data_sets(extra)
    return [
        *dict.fromkeys(entry for word in words for entry in catalogue.find(word, data_sets))
    ] or data_sets


def _by_hand(entry: catalogue.DataSet, folder: Path) -> str:
    """Return how to place a data set's files when no address answers: what its file says, else where they belong."""
    names = ", ".join(file.path for file in entry.files)
    return entry.by_hand.replace("FOLDER", str(folder)) or (
        f"put {names} into {folder}" if names else ""
    )


def listed(arguments: argparse.Namespace) -> Result:
    """Return all that is known of the data sets, and which of their files are here; opens no file and no connection."""
    data, records, details = default_folders()["data"], [], []
    rows: dict[str, list[tuple[str, ...]]] = {group: [] for group in catalogue.GROUPS}
    for entry in _selected(arguments.names, arguments.config_dir):
        folder, state = data / entry.name, data_folder.state(entry, data)
        files = [
            asdict(file) | {"there": data_folder.is_there(file, folder)} for file in entry.files
        ]
        records.append(
            asdict(entry)
            | {"state": state, "folder": str(folder), "bytes": entry.bytes, "files": files}
        )
        hosts = dict.fromkeys(
            urlsplit(url).netloc.removeprefix("www.") for file in entry.files for url in file.urls
        )
        origin = ", ".join(filter(None, (_ORIGINS[entry.origin], *hosts))) or "by hand"
        rows[entry.group].append(
            (entry.name, state, size_text(entry.bytes), entry.licence or "-", origin)
        )
        details += [
            f"{entry.name}  {entry.group}: {entry.description}",
            f"data     {state}, from {origin}, in {folder}",
            f"samples  {entry.shape or '?'} to {entry.outputs or '?'}",
            f"licence  {entry.licence or '-'}  {entry.homepage}",
        ]
        for file in files:
            there = "present" if file["there"] else "absent"
            details.append(f"file     {file['path']}: {there}, {size_text(file['bytes'])}")
            details += [f"         {address}" for address in file["urls"] or ("no address",)]
        if by_hand := _by_hand(entry, folder):
            details += [f"by hand  {by_hand}", *(f"         {page}" for page in entry.pages)]
        details.append("")
    # No line of details is folded, so that addresses can be copied.
    shown: list[RenderableType] = ["\n".join(details[:-1])]
    if not arguments.names:
        shown = [
            one
            for group in rows
            for one in (table((group, "data", "size", "licence", "from"), rows[group]), "")
        ]
        shown.append(f"in {data}\nFiles, addresses, how to place them by hand: orca data list NAME")
    return Result({"schema": 1, "folder": str(data), "data_sets": records}, shown)


def get(arguments: argparse.Namespace) -> Result:
    """Download what is missing, and return what was done; a failure does not keep other files back."""
    chosen, data = _selected(arguments.names, arguments.config_dir), default_folders()["data"]
    configure_logging()
    done: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    shown: list[str] = []
    reporter = LogReporter()
    for entry in chosen:
        if not entry.files:
            shown.append(
                f"{entry.name} ({entry.group}): nothing to download (orca data list {entry.name})"
            )
            continue
        failed: list[OrcaError] = []
        with data_folder.locked(entry, data, reporter) as folder:
            for file in entry.files:
                try:
                    got = _got(file, folder, f"{entry.name}/{file.path}", reporter)
                    got["unpacked"] = data_folder.unpack(file, folder, reporter)
                except (InterruptionError, StorageError):
                    raise
                except OrcaError as error:
                    failed.append(error)
                    continue
                done.append({"data_set": entry.name, "path": file.path, **got})
                words = [got["action"].replace("found", "here")]
                if got["sha256"] is not None:
                    words += [
                        size_text(got["bytes"]),
                        f"SHA-256 {got['sha256'][:12]} {got['trust']}",
                    ]
                if got["unpacked"]:
                    words.append(f"{counted(got['unpacked'], 'file')} unpacked")
                shown.append(f"{entry.name}/{file.path}: {', '.join(words)}")
        failures += failed
        if any(isinstance(failure, NetworkError | ChecksumError) for failure in failed):
            shown.append(f"{entry.name} by hand: {_by_hand(entry, data / entry.name)}")
            shown += [f"  from {page}" for page in entry.pages]
    nothing = [entry.name for entry in chosen if not entry.files]
    record = {
        "schema": 1,
        "files": done,
        "nothing_to_download": nothing,
        "failures": [*map(str, failures)],
    }
    return Result(record, shown, failures)


def _got(file: catalogue.DataFile, folder: Path, where: str, reporter: Reporter) -> dict[str, Any]:
    """Bring one file into the folder, or verify it; returns what was done, and how sure the checksum is."""
    place, expected = folder / file.path, data_folder.expected(file, folder)
    if place.is_file():
        digest, trust = (
            data_folder.verify(file, folder),
            "recorded" if expected is None else "verified",
        )
        return {"action": "found", "bytes": place.stat().st_size, "sha256": digest, "trust": trust}
    if data_folder.is_there(file, folder):
        return {"action": "unpacked", "bytes": None, "sha256": None, "trust": ""}
    if not file.urls:
        raise NetworkError("no address is known", where=where)
    from orca_cli.data.untrusted.downloads import fetch

    try:
        fetched = fetch(place, file.urls, reporter, size=file.bytes, sha256=expected, md5=file.md5)
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=where) from error
    data_folder.record(folder, file.path, fetched.bytes, fetched.sha256, fetched.url)
    trust = "verified" if expected else "recorded, MD5 verified" if file.md5 else "recorded"
    return {
        "action": "downloaded",
        "bytes": fetched.bytes,
        "sha256": fetched.sha256,
        "trust": trust,
    }


_SOME = argument("names", nargs="*", metavar="NAME", help="task or source; default: all, in short")
_NAMES = argument("names", nargs="+", metavar="NAME", help="task or source (orca data list)")
VERBS = {
    "list": Verb(
        "licence, size, addresses, and whether it is here", _LIST, (_SOME, CONFIG_DIR), listed
    ),
    "get": Verb(
        "download, verify and unpack; resumes where it was interrupted",
        _GET,
        (_NAMES, CONFIG_DIR),
        get,
    ),
    "check": data_check.VERB,
}
