"""`orca data import`: recognise data files that the user has, and put them where the program looks for them."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from rich.console import RenderableType

from orca_cli import data_folder, signals, storage, terminal
from orca_cli.catalogue import DataFile, DataSet
from orca_cli.commands.data.selection import select, unpacked_text
from orca_cli.commands.options import add_config_dir
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, StorageError, UnsafeError, UsageError
from orca_cli.terminal import Result
from orca_cli.untrusted.downloads import differs
from orca_cli.untrusted.first_bytes import disguise

Way = Literal["copy", "move", "link"]
Score = tuple[int, bool]

_CHUNK = 2**20
_MB = 10**6
_SHOWN = 12  # names of files that were not recognised
_MEMBERS = 200  # names that are read from an archive
_DONE = {"copy": "copied", "move": "moved", "link": "linked"}
EXAMPLES = """\
examples:
  orca data import ~/Downloads --dry-run    show what would go where
  orca data import ~/Downloads              copy what is recognised
  orca data import /mnt/datasets --link     symbolic links: no second copy, but the files have to stay
  orca data import ~/Downloads deepsea      only for this data set

Files are recognised by name, also as 'name (1).zip', by content if a SHA-256 is
published, and by an archive's members. A folder of unpacked data needs no
import: orca run task=NAME task.path=FOLDER."""


@dataclass
class Match:
    """A file that may be a data set's `file`.

    Args:
        place: where it goes.
        score: how well it matches; of several files for one place the best one goes there.
        problem: why it does not go there; empty if it may.
        action: what is or was done.
        digest: SHA-256 of the source.
    """

    source: Path
    entry: DataSet
    file: DataFile
    place: Path
    score: Score = (0, False)
    problem: str = ""
    action: str = "not placed"
    digest: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Recognise the files of data sets in a folder, and put them where the program looks for them."
    parser.epilog = EXAMPLES
    text = "folder to search, with its subfolders; or a single file"
    parser.add_argument("folder", type=Path, metavar="DIR", help=text)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only for these tasks or sources; default: all")
    way = parser.add_mutually_exclusive_group()
    ways = {"copy": "the default", "move": "remove the files from DIR", "link": "symbolic links to DIR"}
    for name, text in ways.items():
        way.add_argument(f"--{name}", dest="way", action="store_const", const=name, default="copy", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument("--force", action="store_true", help="replace files that are in place and differ")
    add_config_dir(parser)


def execute(arguments: argparse.Namespace) -> Result:
    """Place the files, and return what was done."""
    chosen = select(arguments.names, arguments.config_dir, needs_name=False)
    root = arguments.folder.expanduser()
    if not root.exists():
        raise UsageError(f"'{root}' does not exist", where="DIR", hint="give the folder that contains your files")
    terminal.configure_logging()
    matches, strangers = _search(root, chosen.entries, chosen.folder)
    failures: list[OrcaError] = []
    last_use = {match.source: match for match in matches if not match.problem}
    for match in matches:
        # A file that two data sets need is moved to the second one only.
        way: Way = "copy" if arguments.way == "move" and last_use.get(match.source) is not match else arguments.way
        try:
            if match.problem:
                raise DataError(match.problem, where=str(match.source), hint=f"its place is {match.place}")
            _place(match, chosen.folder, way, force=arguments.force, dry_run=arguments.dry_run)
        except (DataError, ChecksumError) as error:
            match.action = "not placed"
            failures.append(error)
        except UnsafeError as error:  # of an archive, which is in its place already
            match.action += ", not unpacked"
            failures.append(error)
        except OSError as error:  # of the folder that is searched; our own raise StorageError
            match.action = "not placed"
            failures.append(DataError(f"cannot be read: {error.strerror}", where=str(match.source)))
        terminal.log.info(f"{match.source.name}: {match.action} ({match.entry.name})")
    files = [
        {"source": str(one.source), "data_set": one.entry.name, "place": str(one.place), "action": one.action}
        for one in matches
    ]
    about = {"not_recognised": strangers, "failures": [str(failure) for failure in failures]}
    record = {"schema": 1, "folder": str(chosen.folder), "files": files, **about}
    return Result(record, _show(root, chosen.folder, matches, strangers), failures)


def _show(root: Path, data: Path, matches: list[Match], strangers: list[str]) -> Iterator[RenderableType]:
    if matches:
        folder = root if root.is_dir() else root.parent
        rows = [(one.entry.name, one.action, str(one.source.relative_to(folder))) for one in matches]
        yield terminal.table(("data set", "done", f"file in {folder}"), rows)
        yield f"Data sets are in {data}"
    else:
        yield f"nothing in {root} is recognised; `orca data list NAME` shows the names of its files"
    if strangers:
        more = f", and {len(strangers) - _SHOWN} more" if len(strangers) > _SHOWN else ""
        yield terminal.facts([("not recognised", ", ".join(strangers[:_SHOWN]) + more)])


def _search(root: Path, known: list[DataSet], data: Path) -> tuple[list[Match], list[str]]:
    """Return the files that are recognised, and the names of the others."""
    wanted = [(entry, file) for entry in known for file in entry.files]
    found: list[Match] = []
    strangers: list[str] = []
    for source in _files(root):
        signals.check()
        relative = PurePosixPath(source.relative_to(root if root.is_dir() else root.parent).as_posix())
        by_name = _by_name(relative, root.absolute().name, wanted)
        pairs = by_name or dict.fromkeys(_by_content(source, wanted), (0, False))
        for (entry, file), score in pairs.items():
            found.append(Match(source, entry, file, data / entry.name / file.path, score, _problem(source, file)))
        if not pairs:
            strangers.append(str(relative))
    # Matches whose place another file fits better are left out if they have a place of their own.
    best: dict[Path, Match] = {}
    for match in found:
        if not match.problem and (match.place not in best or match.score > best[match.place].score):
            best[match.place] = match
    placed = {match.source for match in best.values()}
    kept = [match for match in found if best.get(match.place, match) is match or match.source not in placed]
    return kept, strangers


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not name.startswith("."):
                yield path


def _by_name(
    relative: PurePosixPath, above: str, wanted: list[tuple[DataSet, DataFile]]
) -> dict[tuple[DataSet, DataFile], Score]:
    """Return the best matches; a score counts equal parts of the path, then whether a folder is named as the data set."""
    name = re.sub(r" \(\d+\)(?=\.)", "", relative.name)  # browsers number repeated downloads
    parts = (above, *relative.parts[:-1], name)
    scores = {}
    for entry, file in wanted:
        own = PurePosixPath(file.path).parts
        if alike := len(os.path.commonprefix([own[::-1], parts[::-1]])):
            scores[entry, file] = (alike, entry.name in parts[:-1])
    best = max(scores.values(), default=None)
    return {pair: score for pair, score in scores.items() if score == best}


def _by_content(source: Path, wanted: list[tuple[DataSet, DataFile]]) -> Iterator[tuple[DataSet, DataFile]]:
    """Yield those whose published checksum, or whose members, a file has."""
    size = source.stat().st_size
    digest = cache(storage.sha256_file)
    members = cache(_members)
    for entry, file in wanted:
        if file.sha256 is not None and size and not differs(size, file.bytes):
            if digest(source) == file.sha256:
                yield entry, file
        elif file.members and set(file.members) <= members(source):
            yield entry, file


def _members(path: Path) -> set[str]:
    """Return the first names in a zip, npz or tar archive; none for other files."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return {name.removesuffix(".npy") if path.suffix == ".npz" else name for name in archive.namelist()}
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                return {member.name.removeprefix("./") for member, _ in zip(tar, range(_MEMBERS), strict=False)}
    except (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, NotImplementedError):
        pass
    return set()


def _problem(source: Path, file: DataFile) -> str:
    with open(source, "rb") as opened:
        what = disguise(opened.read(512), PurePosixPath(file.path).name)
    if what:
        return f"has the name of '{file.path}' but is {what}"
    size = source.stat().st_size
    if differs(size, file.bytes):
        return f"has the name of '{file.path}' but {size:,} bytes; about {file.bytes:,} are expected"
    return ""


def _place(match: Match, data: Path, way: Way, *, force: bool, dry_run: bool) -> None:
    """Put one file in its place; one that is already there is only replaced with --force."""
    match.digest = storage.sha256_file(match.source)
    known = data_folder.expected(match.file, data / match.entry.name)
    is_published = match.file.sha256 is not None
    if known not in (None, match.digest) and (is_published or not force):
        raise ChecksumError(
            f"its SHA-256 is {match.digest}, but the one {'published' if is_published else 'recorded'} for "
            f"'{match.file.path}' is {known}",
            where=str(match.source),
            hint="download it again" if is_published else "--force imports it anyway",
        )
    if known != match.digest:
        data_folder.check_md5(match.file, match.source)
    is_there = False
    if match.place.is_file():
        is_same = os.path.samefile(match.source, match.place)
        is_there = is_same or storage.sha256_file(match.place) == match.digest
        if not is_there and not force:
            text = "another file is there and is not overwritten"
            raise DataError(text, where=str(match.place), hint="--force replaces it")
    renamed = "" if match.source.name == match.place.name else f" as {match.file.path}"
    match.action = "already there" if is_there else f"{'would be ' * dry_run}{_DONE[way]}{renamed}"
    if dry_run:
        return
    reporter = terminal.LogReporter()
    with data_folder.locked(match.entry, data, reporter) as folder:
        if not is_there:
            storage.make_folder(match.place.parent)
            _WAYS[way](match)
        size = match.place.stat().st_size
        data_folder.record(folder, match.file.path, size, match.digest, f"import of {match.source.absolute()}")
        match.action += unpacked_text(data_folder.unpack(match.file, folder, reporter))


def _copy(match: Match) -> None:
    storage.write_with(match.place, lambda temporary: _copy_to(match, temporary))


def _copy_to(match: Match, temporary: Path) -> None:
    size = match.source.stat().st_size
    digest, done = hashlib.sha256(), 0
    track = terminal.LogReporter().track(f"copying {match.source.name} (MB)", max(1, size // _MB))
    with open(match.source, "rb") as source, open(temporary, "wb") as target, track as advance:
        while chunk := source.read(_CHUNK):
            signals.check()
            target.write(chunk)
            digest.update(chunk)
            advance((done + len(chunk)) // _MB - done // _MB)
            done += len(chunk)
    if digest.hexdigest() != match.digest:
        raise ChecksumError("changed while it was copied", where=str(match.source), hint="repeat the command")


def _move(match: Match) -> None:
    try:
        os.replace(match.source, match.place)
    except OSError:  # on another disk
        _copy(match)
        match.source.unlink()


def _link(match: Match) -> None:
    temporary = match.place.with_name(f".tmp-{os.getpid()}-{match.place.name}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(match.source.resolve())
        os.replace(temporary, match.place)
    except OSError as error:  # such as a file system without links
        raise StorageError(f"no link can be made: {error}", where=str(match.place), hint="use --copy") from error


_WAYS = {"copy": _copy, "move": _move, "link": _link}
