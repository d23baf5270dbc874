"""`orca data get`: download the files of data sets, verify and unpack them."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from orca_cli import storage, terminal
from orca_cli.commands.data import add_names, how_by_hand, select, size_text
from orca_cli.config.catalogue import DataFile, DataSet
from orca_cli.data import data_folder
from orca_cli.exceptions import ChecksumError, InterruptionError, NetworkError, OrcaError, StorageError, UsageError
from orca_cli.terminal import Result

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
        if self.sha256 is None or self.bytes is None:
            text = "here, unpacked"
        else:
            size = f", {size_text(self.bytes)}" if self.action == "downloaded" else ""
            text = f"{'here' if self.action == 'found' else self.action}{size}, SHA-256 {self.sha256[:12]} {self.trust}"
        unpacked = f", {self.unpacked} file{'s' * (self.unpacked != 1)} unpacked" if self.unpacked else ""
        return f"{self.data_set}/{self.path}: {text}{unpacked}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Download the files of data sets, verify and unpack them; files that are here are only verified."
    )
    add_names(parser, "+", "task or source (orca data list)")
    parser.add_argument("--file", metavar="PATTERN", help="only files whose path matches, such as '*.npz'")
    parser.add_argument("--offline", action="store_true", help="open no connection")
    waiting = "seconds to wait for an answer; default: 30"
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help=waiting)


def execute(arguments: argparse.Namespace) -> Result:
    """Download, and return what was done."""
    if not arguments.timeout > 0:
        raise UsageError(f"--timeout {arguments.timeout:g} is not above 0", hint="seconds, such as 30")
    chosen = select(arguments.names, arguments.config_dir, needs_name=True)
    terminal.configure_logging()
    nothing = [entry for entry in chosen.entries if not entry.files]
    done: list[Got] = []
    failures: list[OrcaError] = []
    by_hand: list[str] = []
    for entry in (entry for entry in chosen.entries if entry.files):
        files = [file for file in entry.files if arguments.file is None or fnmatchcase(file.path, arguments.file)]
        if not files:
            hint = f"it has {', '.join(file.path for file in entry.files)}"
            raise UsageError(f"no file of {entry.name} matches '{arguments.file}'", where="--file", hint=hint)
        got, failed = _get(entry, files, arguments, chosen.folder)
        done += got
        failures += failed
        if any(isinstance(failure, NetworkError | ChecksumError) for failure in failed):
            how = f"{entry.name} by hand: {how_by_hand(entry, chosen.folder)}"
            advice = f"orca data list {entry.name} shows all; {entry.group}.path=FOLDER reads another folder"
            by_hand.append("\n  ".join([how, *(f"from {page}" for page in entry.pages), advice]))
    record = {
        "schema": 1,
        "files": [asdict(file) for file in done],
        "nothing_to_download": [entry.name for entry in nothing],
        "failures": [str(failure) for failure in failures],
    }
    shown = [
        f"{one.name} ({one.group}): nothing to download, {_WHY.get(one.origin, 'its file in conf/ lists no files')}"
        for one in nothing
    ]
    return Result(record, [*shown, *map(str, done), *by_hand], failures)


def _get(
    entry: DataSet, files: list[DataFile], arguments: argparse.Namespace, data: Path
) -> tuple[list[Got], list[OrcaError]]:
    """Get the files that are missing; a failure does not keep the others back, and each file is reported at once."""
    reporter = terminal.LogReporter()
    done: list[Got] = []
    failures: list[OrcaError] = []
    with data_folder.locked(entry, data, reporter) as folder:
        if not arguments.offline:
            needed = 0
            for file in files:
                place, part = folder / file.path, folder / f"{file.path}.part"
                if file.urls and not place.is_file() and not data_folder.is_there(file, folder):
                    needed += (file.bytes or 0) - (part.stat().st_size if part.exists() else 0)
            storage.require_space(folder, needed, entry.name)
        for file in files:
            try:
                got = _get_file(entry, file, folder, arguments, reporter)
                got.unpacked = data_folder.unpack(file, folder, reporter)
                done.append(got)
                reporter.say(str(got))
            except (InterruptionError, StorageError):
                raise
            except OrcaError as error:
                failures.append(error)
                reporter.say(f"{entry.name}/{file.path}: failed")
    return done, failures


def _get_file(
    entry: DataSet, file: DataFile, folder: Path, arguments: argparse.Namespace, reporter: terminal.LogReporter
) -> Got:
    """Bring one file into the folder, or verify it."""
    place = folder / file.path
    expected = data_folder.expected(file, folder)
    if place.is_file():
        size = place.stat().st_size
        if size > _LARGE:
            reporter.say(f"verifying {place}")
        trust = "recorded" if expected is None else "verified"
        return Got(entry.name, file.path, "found", size, data_folder.verify(file, folder), trust)
    if data_folder.is_there(file, folder):
        return Got(entry.name, file.path, "unpacked")
    if arguments.offline:
        raise NetworkError("is not here, and --offline opens no connection", where=str(place))
    where = f"{entry.name}/{file.path}"
    if not file.urls:
        raise NetworkError("no address is known", where=where)
    from orca_cli.data.untrusted.downloads import fetch

    wait = arguments.timeout
    try:
        fetched = fetch(place, file.urls, reporter, size=file.bytes, sha256=expected, md5=file.md5, timeout_s=wait)
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=where) from error
    data_folder.record(folder, file.path, fetched.bytes, fetched.sha256, fetched.url)
    trust = "verified" if expected else "recorded, MD5 verified" if file.md5 else "recorded"
    return Got(entry.name, file.path, "downloaded", fetched.bytes, fetched.sha256, trust)
