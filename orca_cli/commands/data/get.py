"""`orca data get`: download the files of data sets, verify and unpack them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from orca_cli import data_folder, storage, terminal
from orca_cli.catalogue import DataFile, DataSet
from orca_cli.commands.data.selection import add_names, by_hand, select, size_text, unpacked_text
from orca_cli.exceptions import ChecksumError, InterruptionError, NetworkError, OrcaError, StorageError, UsageError

EXAMPLES = """\
examples:
  orca data get deepsea                     all files of a data set
  orca data get darcy --file '*smooth1*'    some of them
  orca data get deepsea ecg --timeout 120   several; more patience with slow hosts
  orca data get deepsea --offline           open no connection: only verify and unpack what is here

If it is interrupted, repeat the command to resume. A file gets its name only
when it is complete and has the published SHA-256, or if none is published, the
one recorded when it was first seen (checksums.json in its folder)."""

_LARGE = 10**9  # bytes; verifying smaller files takes no time worth mentioning
_WHY = {
    "generated": "the program generates the data",
    "bundled": "the data come with a package",
    "own": "the data are your own files",
}


@dataclass(frozen=True)
class Got:
    """What was done for one file.

    Args:
        data_set: name of its data set.
        path: of the file in the data set's folder.
        action: downloaded; found (it was here); unpacked (its content was here).
        bytes: size; None where only the content is here.
        sha256: likewise.
        trust: what the checksum was compared with, such as "verified" or "recorded".
        unpacked: number of files that were unpacked.
    """

    data_set: str
    path: str
    action: str
    bytes: int | None = None
    sha256: str | None = None
    trust: str = ""
    unpacked: int = 0

    def __str__(self) -> str:
        if self.sha256 is None or self.bytes is None:
            text = "here, unpacked"
        else:
            size = f", {size_text(self.bytes)}" if self.action == "downloaded" else ""
            text = f"{'here' if self.action == 'found' else self.action}{size}, SHA-256 {self.sha256[:12]} {self.trust}"
        return f"{self.data_set}/{self.path}: {text}{unpacked_text(self.unpacked)}"


@dataclass
class Downloads:
    """What was done, what failed, and data sets that have nothing to download or have to be placed by hand."""

    folder: Path
    files: list[Got] = field(default_factory=list)
    nothing: list[DataSet] = field(default_factory=list)
    failures: list[OrcaError] = field(default_factory=list)
    by_hand: list[DataSet] = field(default_factory=list)

    @property
    def code(self) -> int:
        """Exit code: that of the first file that could not be had."""
        return self.failures[0].code if self.failures else 0

    def record(self) -> dict[str, Any]:
        """Return files, data sets without files, and failures."""
        return {
            "schema": 1,
            "files": [asdict(file) for file in self.files],
            "nothing_to_download": [entry.name for entry in self.nothing],
            "failures": [str(failure) for failure in self.failures],
        }

    def show(self) -> Iterator[str]:
        """Yield a line for each file, and how to place by hand what could not be downloaded."""
        for entry in self.nothing:
            why = _WHY.get(entry.origin, "its file in conf/ lists no files")
            yield f"{entry.name} ({entry.group}): nothing to download, {why}"
        yield from map(str, self.files)
        for entry in self.by_hand:
            yield by_hand(entry, self.folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Download the files of data sets, verify and unpack them; files that are here are only verified."
    )
    parser.epilog = EXAMPLES
    add_names(parser, "+", "task or source (orca data list)")
    parser.add_argument("--file", metavar="PATTERN", help="only files whose path matches, such as '*.npz'")
    parser.add_argument("--offline", action="store_true", help="open no connection")
    text = "seconds to wait for an answer; default: 30"
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help=text)


def execute(arguments: argparse.Namespace) -> Downloads:
    """Download, and return what was done."""
    if not arguments.timeout > 0:
        raise UsageError(f"--timeout {arguments.timeout:g} is not above 0", hint="seconds, such as 30")
    chosen = select(arguments.names, arguments.config_dir, needs_name=True)
    terminal.configure_logging()
    done = Downloads(chosen.folder)
    for entry in chosen.entries:
        files = [file for file in entry.files if arguments.file is None or fnmatchcase(file.path, arguments.file)]
        if not entry.files:
            done.nothing.append(entry)
        elif not files:
            names = ", ".join(file.path for file in entry.files)
            raise UsageError(
                f"no file of {entry.name} matches '{arguments.file}'", where="--file", hint=f"it has {names}"
            )
        else:
            _get(entry, files, arguments, done)
    return done


def _get(entry: DataSet, files: list[DataFile], arguments: argparse.Namespace, done: Downloads) -> None:
    """Get what is missing; one file's failure does not affect the others."""
    reporter, failures = terminal.LogReporter(), []
    with data_folder.locked(entry, done.folder, reporter) as folder:
        if not arguments.offline:
            missing = [file for file in files if file.urls and not _is_here(file, folder)]
            needed = sum((file.bytes or 0) - _begun(file, folder) for file in missing)
            storage.require_space(folder, needed, entry.name)
        for file in files:
            try:
                got = _get_file(entry, file, folder, arguments, reporter)
                count = data_folder.unpack(file, folder, reporter)
            except (InterruptionError, StorageError):
                raise
            except OrcaError as error:
                failures.append(error)
            else:
                done.files.append(Got(entry.name, file.path, *got, unpacked=count))
    done.failures += failures
    if any(isinstance(failure, NetworkError | ChecksumError) for failure in failures):
        done.by_hand.append(entry)


def _get_file(
    entry: DataSet, file: DataFile, folder: Path, arguments: argparse.Namespace, reporter: terminal.LogReporter
) -> tuple[str, int | None, str | None, str]:
    """Bring one file into the folder, or verify it; returns action, size, SHA-256 and what that was compared with."""
    place = folder / file.path
    known = data_folder.expected(file, folder)
    if place.is_file():
        size = place.stat().st_size
        if size > _LARGE:
            reporter.say(f"verifying {place}")
        return "found", size, data_folder.verify(file, folder), "recorded" if known is None else "verified"
    if data_folder.is_there(file, folder):
        return "unpacked", None, None, ""
    if arguments.offline:
        raise NetworkError("is not here, and --offline opens no connection", where=str(place))
    if not file.urls:
        raise NetworkError("no address is known", where=f"{entry.name}/{file.path}")
    from orca_cli.untrusted.downloads import fetch

    try:
        fetched = fetch(
            place, file.urls, reporter, size=file.bytes, sha256=known, md5=file.md5, timeout_s=arguments.timeout
        )
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=f"{entry.name}/{file.path}") from error
    data_folder.record(folder, file.path, fetched.bytes, fetched.sha256, fetched.url)
    trust = "verified" if known else "recorded, MD5 verified" if file.md5 else "recorded"
    return "downloaded", fetched.bytes, fetched.sha256, trust


def _is_here(file: DataFile, folder: Path) -> bool:
    return (folder / file.path).is_file() or data_folder.is_there(file, folder)


def _begun(file: DataFile, folder: Path) -> int:
    part = folder / f"{file.path}.part"
    return part.stat().st_size if part.exists() else 0
