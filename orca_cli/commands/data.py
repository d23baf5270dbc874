"""`orca data`: the data sets of tasks and sources, and fetching their files."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import RenderableType

from orca_cli.commands import data_check
from orca_cli.commands.options import CONFIG_DIR, Record, Verb, argument
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

orca data get NAME also verifies and unpacks files that you put into a data set's folder. A run \
reads files that are elsewhere
with task.path=FOLDER (or source.path=FOLDER)."""
_GET = """\
examples:
  orca data get deepsea                     all files of a data set
  orca data get deepsea ecg                 several

If it is interrupted, repeat the command to resume. A file gets its name only
when it is complete and has the published SHA-256, or if none is published, the
one recorded when it was first seen (checksums.json in its folder)."""


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


def _by_hand(entry: catalogue.DataSet, folder: Path) -> str:
    """Return how to place a data set's files when no address answers.

    It is what the data set's YAML file says, else where its files belong.
    """
    if entry.by_hand:
        # FOLDER in a file of conf/ is the data set's own folder, which that file cannot know.
        return entry.by_hand.replace("FOLDER", str(folder))
    names = ", ".join(file.path for file in entry.files)
    return f"put {names} into {folder}" if names else ""


def listed(arguments: argparse.Namespace) -> Result:
    """Return the data sets, and which of their files are here; opens no file and no connection."""
    root = default_folders()["data"]
    records = []
    details: list[str] = []
    # One table for tasks and one for sources: group -> rows.
    rows: dict[str, list[tuple[str, ...]]] = {group: [] for group in catalogue.GROUPS}
    for entry in _selected(arguments.names, arguments.config_dir):
        folder = root / entry.name
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
    by_hand = _by_hand(entry, Path(folder))
    if by_hand:
        lines += [f"by hand  {by_hand}", *(f"         {page}" for page in entry.pages)]
    return lines


def get(arguments: argparse.Namespace) -> Result:
    """Download what is missing, and return it; a failure does not keep other files back."""
    chosen = _selected(arguments.names, arguments.config_dir)
    root = default_folders()["data"]
    configure_logging()
    done: list[Record] = []
    failures: list[OrcaError] = []
    shown: list[str] = []
    without_files = []
    reporter = LogReporter()
    for entry in chosen:
        if not entry.files:
            # Such as generated data, and those that come with a package.
            without_files.append(entry.name)
            hint = f"orca data list {entry.name}"
            shown.append(f"{entry.name} ({entry.group}): nothing to download ({hint})")
            continue
        records, errors = _get_files(entry, root, reporter)
        done += records
        failures += errors
        shown += [_done_text(record) for record in records]
        # No address gave the right file, so that people have to place it by hand.
        if any(isinstance(error, NetworkError | ChecksumError) for error in errors):
            shown.append(f"{entry.name} by hand: {_by_hand(entry, root / entry.name)}")
            shown += [f"  from {page}" for page in entry.pages]
    record = {
        "schema": 1,
        "files": done,
        "nothing_to_download": without_files,
        "failures": [str(failure) for failure in failures],
    }
    return Result(record, shown, failures)


def _get_files(
    entry: catalogue.DataSet, root: Path, reporter: Reporter
) -> tuple[list[Record], list[OrcaError]]:
    """Fetch or verify, and unpack, all files of a data set; return what was done, and failures."""
    done = []
    failures = []
    # Another process that gets the same data set waits, and then finds the files.
    with data_folder.locked(entry, root, reporter) as folder:
        for file in entry.files:
            # The failure of one file does not keep the others back, but a full disk does.
            try:
                record = _get_file(file, folder, f"{entry.name}/{file.path}", reporter)
                # Also a file that was here already: unpacking may have been interrupted.
                record["unpacked"] = data_folder.unpack(file, folder, reporter)
            except (InterruptionError, StorageError):
                raise
            except OrcaError as error:
                failures.append(error)
                continue
            done.append({"data_set": entry.name, "path": file.path, **record})
    return done, failures


def _done_text(record: Record) -> str:
    """Return what was done with one file, in a line."""
    texts = ["here" if record["action"] == "found" else record["action"]]
    # None where the archive is gone and only its content is here.
    if record["sha256"] is not None:
        texts.append(size_text(record["bytes"]))
        texts.append(f"SHA-256 {record['sha256'][:12]} {record['trust']}")
    if record["unpacked"]:
        texts.append(f"{counted(record['unpacked'], 'file')} unpacked")
    return f"{record['data_set']}/{record['path']}: {', '.join(texts)}"


def _get_file(file: catalogue.DataFile, folder: Path, where: str, reporter: Reporter) -> Record:
    """Fetch one file, or verify it; return what was done, and how sure the checksum is."""
    path = folder / file.path
    # Read before `verify`, which records the checksum of a file that it sees for the first time.
    expected = data_folder.expected(file, folder)
    if path.is_file():
        digest = data_folder.verify(file, folder)
        # How sure the checksum is: verified if it was published or recorded before, recorded if
        # this file is the first one seen.
        trust = "recorded" if expected is None else "verified"
        return {"action": "found", "bytes": path.stat().st_size, "sha256": digest, "trust": trust}
    if data_folder.is_there(file, folder):
        # An archive may be deleted once its content is in place, so that there is nothing to hash.
        return {"action": "unpacked", "bytes": None, "sha256": None, "trust": ""}
    if not file.urls:
        raise NetworkError("no address is known", where=where)
    from orca_cli.data.untrusted.downloads import fetch

    try:
        fetched = fetch(path, file.urls, reporter, size=file.bytes, sha256=expected, md5=file.md5)
    except (NetworkError, ChecksumError) as error:
        raise type(error)(error.what, where=where) from error
    data_folder.record(
        folder, file.path, size=fetched.bytes, digest=fetched.sha256, origin=fetched.url
    )
    trust = "recorded"
    if expected:
        trust = "verified"
    elif file.md5:
        trust = "recorded, MD5 verified"
    return {
        "action": "downloaded",
        "bytes": fetched.bytes,
        "sha256": fetched.sha256,
        "trust": trust,
    }


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
    "get": Verb(
        about="download, verify and unpack; resumes where it was interrupted",
        examples=_GET,
        arguments=(
            argument("names", nargs="+", metavar="NAME", help="task or source (orca data list)"),
            CONFIG_DIR,
        ),
        execute=get,
    ),
    "check": data_check.VERB,
}
