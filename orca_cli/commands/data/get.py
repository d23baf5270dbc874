"""`orca data get`: download the files of data sets, verify and unpack them."""

import argparse
from pathlib import Path
from typing import Any

from orca_cli import terminal
from orca_cli.commands.data import how_by_hand, select, size_text
from orca_cli.commands.options import add_config_dir
from orca_cli.config.catalogue import DataFile, DataSet
from orca_cli.config.configuration import default_folders
from orca_cli.data import data_folder
from orca_cli.exceptions import ChecksumError, InterruptionError, NetworkError, OrcaError, StorageError
from orca_cli.progress import Reporter
from orca_cli.terminal import Result, counted

EXAMPLES = """\
examples:
  orca data get deepsea                     all files of a data set
  orca data get deepsea ecg                 several

If it is interrupted, repeat the command to resume. A file gets its name only
when it is complete and has the published SHA-256, or if none is published, the
one recorded when it was first seen (checksums.json in its folder)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("names", nargs="+", metavar="NAME", help="task or source (orca data list)")
    add_config_dir(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Download, and return what was done."""
    chosen, data = select(arguments.names, arguments.config_dir), default_folders()["data"]
    terminal.configure_logging()
    done: list[dict[str, Any]] = []
    failures: list[OrcaError] = []
    shown: list[str] = []
    for entry in chosen:
        if not entry.files:
            shown.append(f"{entry.name} ({entry.group}): nothing to download (orca data list {entry.name})")
            continue
        got, failed = _get(entry, data)
        done += got
        failures += failed
        shown += map(_text, got)
        if any(isinstance(failure, NetworkError | ChecksumError) for failure in failed):
            shown.append(f"{entry.name} by hand: {how_by_hand(entry, data / entry.name)}")
            shown += [f"  from {page}" for page in entry.pages]
    nothing = [entry.name for entry in chosen if not entry.files]
    record = {"schema": 1, "files": done, "nothing_to_download": nothing}
    return Result(record | {"failures": [str(failure) for failure in failures]}, shown, failures)


def _get(entry: DataSet, data: Path) -> tuple[list[dict[str, Any]], list[OrcaError]]:
    """Get the files that are missing; a failure does not keep the others back, and each file is reported at once."""
    reporter, done, failures = terminal.LogReporter(), [], []
    with data_folder.locked(entry, data, reporter) as folder:
        for file in entry.files:
            where = f"{entry.name}/{file.path}"
            try:
                got = {"data_set": entry.name, "path": file.path, "bytes": None, "sha256": None, "trust": ""}
                got |= _get_file(file, folder, where, reporter)
                done.append(got | {"unpacked": data_folder.unpack(file, folder, reporter)})
                reporter.say(_text(done[-1]))
            except (InterruptionError, StorageError):
                raise
            except OrcaError as error:
                failures.append(error)
                reporter.say(f"{where}: failed")
    return done, failures


def _get_file(file: DataFile, folder: Path, where: str, reporter: Reporter) -> dict[str, Any]:
    """Bring one file into the folder, or verify it; returns what was done, and how sure the checksum is."""
    place, expected = folder / file.path, data_folder.expected(file, folder)
    if place.is_file():
        digest, trust = data_folder.verify(file, folder), "recorded" if expected is None else "verified"
        return {"action": "found", "bytes": place.stat().st_size, "sha256": digest, "trust": trust}
    if data_folder.is_there(file, folder):
        return {"action": "unpacked"}
    if not file.urls:
        raise NetworkError("no address is known", where=where)
    from orca_cli.data.untrusted.downloads import fetch

    try:
        fetched = fetch(place, file.urls, reporter, size=file.bytes, sha256=expected, md5=file.md5)
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=where) from error
    data_folder.record(folder, file.path, fetched.bytes, fetched.sha256, fetched.url)
    trust = "verified" if expected else "recorded, MD5 verified" if file.md5 else "recorded"
    return {"action": "downloaded", "bytes": fetched.bytes, "sha256": fetched.sha256, "trust": trust}


def _text(got: dict[str, Any]) -> str:
    words = ["here" if got["action"] == "found" else got["action"]]
    if got["sha256"] is not None:
        words += [size_text(got["bytes"]), f"SHA-256 {got['sha256'][:12]} {got['trust']}"]
    if got["unpacked"]:
        words.append(f"{counted(got['unpacked'], 'file')} unpacked")
    return f"{got['data_set']}/{got['path']}: {', '.join(words)}"
