"""`orca data get`: fetch the files of data sets, verify and unpack them."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase
from pathlib import Path

from orca_cli import data_folder, storage, terminal
from orca_cli.catalogue import DataFile, DataSet
from orca_cli.commands.data import by_hand, chosen, refuse_settings, size_text
from orca_cli.exceptions import ChecksumError, InterruptionError, NetworkError, OrcaError, StorageError, UsageError

EXAMPLES = """\
examples:
  orca data get deepsea                     all files of a data set
  orca data get darcy --file '*smooth1*'    some of them
  orca data get deepsea ecg --timeout 120   several; more patience with slow hosts
  orca data get deepsea --offline           open no connection: only verify and unpack what is there

Interrupted, it goes on where it was when the command is repeated. A file gets
its name only when it is whole and has the published SHA-256, or where none is
published, the one of its first sight (checksums.json in its folder)."""

_LARGE = 10**9  # bytes; checksums of smaller files take no time worth a word
_WHY = {
    "generated": "the program makes the data",
    "bundled": "the data come with a package",
    "own": "the data are your own files",
}
_UNKNOWN = "its file in conf/ names no files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Fetch the files of data sets, verify and unpack them; files that are there are only verified."
    parser.epilog = EXAMPLES
    parser.add_argument("names", nargs="+", metavar="NAME", help="task or source (orca data list)")
    parser.add_argument("--file", metavar="PATTERN", help="only the files whose path fits, such as '*.npz'")
    parser.add_argument("--offline", action="store_true", help="open no connection")
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="seconds without an answer; default: 30"
    )
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="folder with your own task/x.yaml, ...")


def execute(arguments: argparse.Namespace) -> int:
    """Fetch, and return the exit code: that of the first file that could not be had."""
    if not arguments.timeout > 0:
        raise UsageError(f"--timeout {arguments.timeout:g} is not above 0", hint="seconds, such as 30")
    found, folder, settings = chosen(arguments.names, arguments.config_dir)
    refuse_settings(settings)
    if len(settings) == len(arguments.names):
        raise UsageError("a name is needed", hint="orca data list shows them")
    terminal.configure_logging()
    failures: list[OrcaError] = []
    without: list[DataSet] = []
    for entry in found:
        files = [file for file in entry.files if arguments.file is None or fnmatchcase(file.path, arguments.file)]
        if not entry.files:
            terminal.print_text(f"{entry.name} ({entry.group}): nothing to fetch, {_WHY.get(entry.origin, _UNKNOWN)}\n")
        elif not files:
            names = ", ".join(file.path for file in entry.files)
            raise UsageError(f"no file of {entry.name} fits '{arguments.file}'", where="--file", hint=f"it has {names}")
        else:
            failed = _get(entry, files, folder, arguments)
            failures += failed
            if any(isinstance(failure, NetworkError | ChecksumError) for failure in failed):
                without.append(entry)
    for failure in failures:
        terminal.print_error(f"orca: error: {failure}")
    for entry in without:
        terminal.print_error(by_hand(entry, folder))
    return failures[0].code if failures else 0


def _get(entry: DataSet, files: list[DataFile], data: Path, arguments: argparse.Namespace) -> list[OrcaError]:
    """Fetch what is missing; one file's failure does not keep the others away."""
    reporter, failures = terminal.LogReporter(), []
    with data_folder.locked(entry, data, reporter) as folder:
        if not arguments.offline:
            missing = [file for file in files if file.urls and not _is_here(file, folder)]
            needed = sum((file.bytes or 0) - _begun(file, folder) for file in missing)
            storage.require_space(folder, needed, entry.name)
        for file in files:
            try:
                done = _get_file(entry, file, folder, arguments, reporter)
                count = data_folder.unpack(file, folder, reporter)
            except (InterruptionError, StorageError):
                raise
            except OrcaError as error:
                failures.append(error)
            else:
                unpacked = f", {count} file{'s' * (count != 1)} unpacked" if count else ""
                terminal.print_text(f"{entry.name}/{file.path}: {done}{unpacked}\n")
    return failures


def _get_file(
    entry: DataSet, file: DataFile, folder: Path, arguments: argparse.Namespace, reporter: terminal.LogReporter
) -> str:
    """Bring one file into the folder, or verify it where it is there; returns what was done."""
    place = folder / file.path
    if place.is_file():
        is_known = data_folder.expected(file, folder) is not None
        if place.stat().st_size > _LARGE:
            reporter.say(f"verifying {place}")
        digest = data_folder.verify(file, folder)
        return f"there, SHA-256 {digest[:12]} {'verified' if is_known else 'recorded'}"
    if data_folder.is_there(file, folder):
        return "there, unpacked"
    if arguments.offline:
        raise NetworkError("is not here, and --offline opens no connection", where=str(place))
    if not file.urls:
        raise NetworkError("no address is known", where=f"{entry.name}/{file.path}")
    from orca_cli.untrusted.downloads import fetch

    known = data_folder.expected(file, folder)
    try:
        fetched = fetch(
            place, file.urls, reporter, size=file.bytes, sha256=known, md5=file.md5, timeout_s=arguments.timeout
        )
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=f"{entry.name}/{file.path}") from error
    data_folder.record(folder, file.path, fetched.bytes, fetched.sha256, fetched.url)
    trust = "verified" if known else "recorded, MD5 verified" if file.md5 else "recorded"
    return f"fetched, {size_text(fetched.bytes)}, SHA-256 {fetched.sha256[:12]} {trust}"


def _is_here(file: DataFile, folder: Path) -> bool:
    return (folder / file.path).is_file() or data_folder.is_there(file, folder)


def _begun(file: DataFile, folder: Path) -> int:
    part = folder / f"{file.path}.part"
    return part.stat().st_size if part.exists() else 0
