"""`orca data get`: download the files of data sets, verify and unpack them."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.data import add_names, how_by_hand, select, size_text
from orca_cli.config.catalogue import DataFile, DataSet
from orca_cli.data import data_folder
from orca_cli.exceptions import ChecksumError, InterruptionError, NetworkError, OrcaError, StorageError
from orca_cli.progress import Reporter
from orca_cli.terminal import Result, counted

EXAMPLES = """\
examples:
  orca data get deepsea                     all files of a data set
  orca data get deepsea ecg                 several
  orca data get deepsea --offline           open no connection: only verify and unpack what is here

If it is interrupted, repeat the command to resume. A file gets its name only
when it is complete and has the published SHA-256, or if none is published, the
one recorded when it was first seen (checksums.json in its folder)."""


@dataclass
class Got:
    """What was done for one file; size and SHA-256 are unknown where only its unpacked content was here."""

    data_set: str
    path: str
    action: str  # downloaded, found (it was here) or unpacked (its content was here)
    bytes: int | None = None
    sha256: str | None = None
    trust: str = ""  # how sure the checksum is, such as "verified" or "recorded"
    unpacked: int = 0  # files

    def __str__(self) -> str:
        text = "here" if self.action == "found" else self.action
        if self.sha256 is not None:
            text += f", {size_text(self.bytes)}, SHA-256 {self.sha256[:12]} {self.trust}"
        return f"{self.data_set}/{self.path}: {text}" + (
            f", {counted(self.unpacked, 'file')} unpacked" if self.unpacked else ""
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Download the files of data sets, verify and unpack them; files that are here are only verified."
    )
    add_names(parser, "+", "task or source (orca data list)")
    parser.add_argument("--offline", action="store_true", help="open no connection")


def execute(arguments: argparse.Namespace) -> Result:
    """Download, and return what was done."""
    chosen = select(arguments.names, arguments.config_dir, needs_name=True)
    terminal.configure_logging()
    done: list[Got] = []
    failures: list[OrcaError] = []
    shown: list[str] = []
    for entry in chosen.entries:
        if not entry.files:
            shown.append(f"{entry.name} ({entry.group}): nothing to download (orca data list {entry.name})")
            continue
        got, failed = _get(entry, chosen.folder, is_offline=arguments.offline)
        done += got
        failures += failed
        shown += map(str, got)
        if any(isinstance(failure, NetworkError | ChecksumError) for failure in failed):
            shown.append(f"{entry.name} by hand: {how_by_hand(entry, chosen.folder)}")
            shown += [f"  from {page}" for page in entry.pages]
    nothing = [entry.name for entry in chosen.entries if not entry.files]
    record = {"schema": 1, "files": [asdict(file) for file in done], "nothing_to_download": nothing}
    return Result(record | {"failures": [str(failure) for failure in failures]}, shown, failures)


def _get(entry: DataSet, data: Path, *, is_offline: bool) -> tuple[list[Got], list[OrcaError]]:
    """Get the files that are missing; a failure does not keep the others back, and each file is reported at once."""
    reporter = terminal.LogReporter()
    done: list[Got] = []
    failures: list[OrcaError] = []
    with data_folder.locked(entry, data, reporter) as folder:
        if not is_offline:
            needed = 0
            for file in entry.files:
                place, part = folder / file.path, folder / f"{file.path}.part"
                if file.urls and not place.is_file() and not data_folder.is_there(file, folder):
                    needed += (file.bytes or 0) - (part.stat().st_size if part.exists() else 0)
            storage.require_space(folder, needed, entry.name)
        for file in entry.files:
            try:
                got = _get_file(entry, file, folder, reporter, is_offline=is_offline)
                got.unpacked = data_folder.unpack(file, folder, reporter)
                done.append(got)
                reporter.say(str(got))
            except (InterruptionError, StorageError):
                raise
            except OrcaError as error:
                failures.append(error)
                reporter.say(f"{entry.name}/{file.path}: failed")
    return done, failures


def _get_file(entry: DataSet, file: DataFile, folder: Path, reporter: Reporter, *, is_offline: bool) -> Got:
    """Bring one file into the folder, or verify it."""
    place = folder / file.path
    expected = data_folder.expected(file, folder)
    if place.is_file():
        size = place.stat().st_size
        trust = "recorded" if expected is None else "verified"
        return Got(entry.name, file.path, "found", size, data_folder.verify(file, folder), trust)
    if data_folder.is_there(file, folder):
        return Got(entry.name, file.path, "unpacked")
    if is_offline:
        raise NetworkError("is not here, and --offline opens no connection", where=str(place))
    where = f"{entry.name}/{file.path}"
    if not file.urls:
        raise NetworkError("no address is known", where=where)
    from orca_cli.data.untrusted.downloads import fetch

    try:
        fetched = fetch(place, file.urls, reporter, size=file.bytes, sha256=expected, md5=file.md5)
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=where) from error
    data_folder.record(folder, file.path, fetched.bytes, fetched.sha256, fetched.url)
    trust = "verified" if expected else "recorded, MD5 verified" if file.md5 else "recorded"
    return Got(entry.name, file.path, "downloaded", fetched.bytes, fetched.sha256, trust)
