"""`orca data import`: recognise files that someone has, and place them where the program looks for them."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from orca_cli import data_folder, signals, storage, terminal
from orca_cli.catalogue import DataFile, DataSet
from orca_cli.commands.data import chosen, refuse_settings, table
from orca_cli.exceptions import ChecksumError, DataError, OrcaError, StorageError, UnsafeError, UsageError
from orca_cli.untrusted.downloads import differs
from orca_cli.untrusted.first_bytes import disguise

_CHUNK = 2**20
_MB = 10**6
_SHOWN = 12  # names of files that were not recognised
_MEMBERS = 200  # names that are looked at in an archive
EXAMPLES = """\
examples:
  orca data import ~/Downloads --dry-run    say what would go where
  orca data import ~/Downloads              copy what is recognised
  orca data import /mnt/datasets --link     symbolic links: no second copy, and the files have to stay
  orca data import ~/Downloads deepsea      only for this data set

Files are recognised by name, also as 'name (1).zip', by content where a SHA-256
is published, and by an archive's members. A folder with unpacked data needs no
import: orca run task=NAME task.path=FOLDER."""


@dataclass
class Found:
    """A file that may belong to a data set.

    Args:
        source: where it lies.
        entry: the data set.
        file: what it is there.
        place: where it goes.
        score: how much speaks for it; of several files for one place the one with the most goes there.
        problem: why it does not go there; "" where it may.
        action: what is or was done.
    """

    source: Path
    entry: DataSet
    file: DataFile
    place: Path
    score: tuple[int, bool] = (0, False)
    problem: str = ""
    action: str = ""
    digest: str = field(default="", repr=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Recognise the files of data sets in a folder, and place them where the program looks for them."
    )
    parser.epilog = EXAMPLES
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder that is searched, with those below it; or a file"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only for these tasks or sources; default: all")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--copy", dest="way", action="store_const", const="copy", help="the default")
    way.add_argument("--move", dest="way", action="store_const", const="move", help="take the files away from DIR")
    way.add_argument(
        "--link", dest="way", action="store_const", const="link", help="symbolic links to the files in DIR"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--force", action="store_true", help="replace a file that is there and differs")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="folder with your own task/x.yaml, ...")


def execute(arguments: argparse.Namespace) -> int:
    """Place the files, and return the exit code."""
    known, data, settings = chosen(arguments.names, arguments.config_dir)
    refuse_settings(settings)
    root = arguments.folder.expanduser()
    if not root.exists():
        raise UsageError(f"there is no '{root}'", where="DIR", hint="give the folder that holds your files")
    terminal.configure_logging()
    way = arguments.way or "copy"
    found, strangers = _search(root, known, data)
    failures: list[OrcaError] = []
    last_use = {match.source: match for match in found if not match.problem}
    for match in found:
        if match.problem:
            failures.append(DataError(match.problem, where=str(match.source), hint=f"its place is {match.place}"))
            match.action = "not placed"
            continue
        # A file that two data sets need is moved to the second one only.
        own_way = "copy" if way == "move" and last_use[match.source] is not match else way
        try:
            _place(match, data, own_way, force=arguments.force, dry_run=arguments.dry_run)
        except (DataError, ChecksumError) as error:
            match.action = "not placed"
            failures.append(error)
        except UnsafeError as error:  # of an archive, which is in its place already
            match.action += ", not unpacked"
            failures.append(error)
        except OSError as error:  # of the folder that is searched; ours raise StorageError
            match.action = "not placed"
            failures.append(DataError(f"cannot be read: {error.strerror}", where=str(match.source)))
    _print(root, data, found, strangers)
    for failure in failures:
        terminal.print_error(f"orca: error: {failure}")
    return failures[0].code if failures else 0


def _search(root: Path, known: list[DataSet], data: Path) -> tuple[list[Found], list[str]]:
    """Return what is recognised, and the names of the files that are not."""
    wanted = [(entry, file) for entry in known for file in entry.files]
    found: list[Found] = []
    strangers: list[str] = []
    for source in _files(root):
        signals.check()
        relative = PurePosixPath(source.relative_to(root if root.is_dir() else root.parent).as_posix())
        pairs = _by_name(relative, root.absolute().name, wanted) or dict.fromkeys(
            _by_content(source, wanted), (0, False)
        )
        for (entry, file), score in pairs.items():
            found.append(Found(source, entry, file, data / entry.name / file.path, score, _problem(source, file)))
        if not pairs:
            strangers.append(str(relative))
    return _without_rivals(found), strangers


def _without_rivals(found: list[Found]) -> list[Found]:
    """Leave out matches whose place another file has a better claim to, if they have a place of their own."""
    best: dict[Path, Found] = {}
    for match in found:
        if not match.problem and (match.place not in best or match.score > best[match.place].score):
            best[match.place] = match
    placed = {match.source for match in best.values()}
    return [match for match in found if best.get(match.place, match) is match or match.source not in placed]


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
) -> dict[tuple[DataSet, DataFile], tuple[int, bool]]:
    """Return those of this name with what speaks for them: equal parts of the path, and a folder of the data set's name.

    Where several have the name, those that most speaks for.
    """
    name = re.sub(r" \(\d+\)(?=\.)", "", relative.name)  # browsers number what they fetch again
    parts = (above, *relative.parts[:-1], name)
    scores = {}
    for entry, file in wanted:
        own = PurePosixPath(file.path).parts
        alike = 0
        while alike < min(len(own), len(parts)) and own[-1 - alike] == parts[-1 - alike]:
            alike += 1
        if alike:
            scores[entry, file] = (alike, entry.name in parts[:-1])
    best = max(scores.values(), default=None)
    return {pair: score for pair, score in scores.items() if score == best}


def _by_content(source: Path, wanted: list[tuple[DataSet, DataFile]]) -> Iterator[tuple[DataSet, DataFile]]:
    """Yield those whose published checksum a file has, or whose members."""
    size = source.stat().st_size
    digest = None
    members = None
    for entry, file in wanted:
        if file.sha256 is not None and size and not differs(size, file.bytes):
            digest = digest or storage.sha256_file(source)
            if digest == file.sha256:
                yield entry, file
        elif file.members:
            members = _members(source) if members is None else members
            if set(file.members) <= members:
                yield entry, file


def _members(path: Path) -> set[str]:
    """Return the first names in a zip, npz or tar archive; nothing where it is none."""
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
        return f"has the name of '{file.path}' and is {what}"
    size = source.stat().st_size
    if differs(size, file.bytes):
        return f"has the name of '{file.path}' and {size:,} bytes, where about {file.bytes:,} are expected"
    return ""


def _place(match: Found, data: Path, way: str, *, force: bool, dry_run: bool) -> None:
    """Bring one file to its place; what is there already stays, or is replaced with --force alone."""
    folder = data / match.entry.name
    match.digest = storage.sha256_file(match.source)
    known = data_folder.expected(match.file, folder)
    is_recorded_only = match.file.sha256 is None
    if known not in (None, match.digest) and not (force and is_recorded_only):
        which = "recorded" if is_recorded_only else "published"
        hint = "--force places it all the same" if is_recorded_only else "download it again"
        raise ChecksumError(
            f"its SHA-256 is {match.digest}, and the one {which} for '{match.file.path}' is {known}",
            where=str(match.source),
            hint=hint,
        )
    if known != match.digest:
        data_folder.check_md5(match.file, match.source)
    if match.place.is_file():
        if os.path.samefile(match.source, match.place) or storage.sha256_file(match.place) == match.digest:
            match.action = "is there already"
            if not dry_run:
                _settle(match, data)
            return
        if not force:
            raise DataError(
                "another file is there, and is not overwritten", where=str(match.place), hint="--force replaces it"
            )
    match.action = {"copy": "copied", "move": "moved", "link": "linked"}[way]
    if match.source.name != match.place.name:
        match.action += f" as {match.file.path}"
    if dry_run:
        match.action = f"would be {match.action}"
        return
    with data_folder.locked(match.entry, data, terminal.LogReporter()):
        storage.make_folder(match.place.parent)
        _WAYS[way](match)
    _settle(match, data)


def _settle(match: Found, data: Path) -> None:
    """Record the checksum and unpack."""
    reporter = terminal.LogReporter()
    with data_folder.locked(match.entry, data, reporter) as folder:
        size = match.place.stat().st_size
        data_folder.record(folder, match.file.path, size, match.digest, f"import of {match.source.absolute()}")
        count = data_folder.unpack(match.file, folder, reporter)
        if count:
            match.action += f", {count} file{'s' * (count != 1)} unpacked"


def _copy(match: Found) -> None:
    storage.write_with(match.place, lambda temporary: _copy_to(match, temporary))


def _copy_to(match: Found, temporary: Path) -> None:
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
        raise ChecksumError("has changed while it was copied", where=str(match.source), hint="repeat the command")


def _move(match: Found) -> None:
    try:
        os.replace(match.source, match.place)
    except OSError:  # on another disk
        _copy(match)
        match.source.unlink()


def _link(match: Found) -> None:
    temporary = match.place.with_name(f".tmp-{os.getpid()}-{match.place.name}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(match.source.resolve())
        os.replace(temporary, match.place)
    except OSError as error:  # such as a disk that knows no links
        raise StorageError(f"no link can be made: {error}", where=str(match.place), hint="use --copy") from error


_WAYS = {"copy": _copy, "move": _move, "link": _link}


def _print(root: Path, data: Path, found: list[Found], strangers: list[str]) -> None:
    if not found:
        terminal.print_text(f"nothing in {root} is recognised; `orca data list NAME` says what files are called\n")
    else:
        rows = [(match.entry.name, match.action, str(_shown(match.source, root))) for match in found]
        terminal.print_result(table(("data set", "done", f"file in {root if root.is_dir() else root.parent}"), rows))
        terminal.print_text(f"Data sets are in {data}\n")
    if strangers:
        more = f", and {len(strangers) - _SHOWN} more" if len(strangers) > _SHOWN else ""
        terminal.print_result(table(("", ""), [("not recognised", ", ".join(strangers[:_SHOWN]) + more)]))


def _shown(path: Path, root: Path) -> Path:
    return path.relative_to(root) if root.is_dir() else Path(path.name)
