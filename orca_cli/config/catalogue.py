"""What the YAML files of tasks and sources say about their data: files, addresses, licence; nothing is composed.

The block `data:` of a file in conf/task or conf/source. All of it is optional:

    shape, outputs     what a sample and its target are, as text
    error              the name of what is reported; default: the class of `error`, or the usual one of the kind
    licence, homepage  under what the data may be used, and where they are described
    origin             files; generated (by the program); bundled (with a package); own (the user's). Default: what the
                       reader's parameter of this name says, else files
    by_hand            how to place the files where no address answers; FOLDER stands for the data set's folder
    pages              addresses that a person opens for that, such as a shared drive
    files              a list, of each: path (relative to the data set's folder), bytes (about, as far as known), sha256 or
                       md5 where one is published, urls (in the order in which they are tried), unpack (tar, zip, gzip)
                       and only (patterns of the members that are unpacked), members (some names that the archive holds),
                       instead (patterns of names of which any makes this file needless)
    without_files      of a source: the source that tasks other than the paper's have in place of this one, where none is typed
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from orca_cli.config import configuration, parts
from orca_cli.config.ranges import Count, OneOf
from orca_cli.exceptions import ConfigError, suggest

GROUPS = ("task", "source")
ORIGINS = ("files", "generated", "bundled", "own")

_INSIDE = (
    r"(?!/)(?!(.*/)?\.\.(/|$))[^\\]*[^\\/.][^\\]*"  # neither absolute nor with .. or a backslash
)
Inside = Annotated[str, OneOf(("a path below the data set's folder",), _INSIDE)]
Url = Annotated[str, OneOf(("an http or https address",), r"(?i:https?)://[^/?#].*")]
Sha256 = Annotated[str, OneOf(("64 hexadecimal digits in lower case",), r"[0-9a-f]{64}")]
Md5 = Annotated[str, OneOf(("32 hexadecimal digits in lower case",), r"[0-9a-f]{32}")]


@dataclass(frozen=True)
class DataFile:
    """One file of a data set; an entry of `files` above. If the folder has all `members`, the archive is not needed."""

    path: Inside
    bytes: Count | None = None
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    urls: Sequence[Url] = ()
    unpack: Literal["tar", "zip", "gzip"] | None = None
    members: Sequence[Inside] = ()
    instead: Sequence[Inside] = ()
    only: Sequence[Inside] = ()


@dataclass(frozen=True)
class DataSet:
    """What a task's or source's file says about its data; the block above, and what is known without it."""

    name: str  # of the file, and of the folder below paths.data
    group: str
    description: str = ""  # first comment of the file
    origin: Literal["files", "generated", "bundled", "own", ""] = (
        ""  # "" where the file says nothing about its data
    )
    shape: str = ""
    outputs: str = ""
    error: str = ""
    licence: str = ""
    homepage: str = ""
    by_hand: str = ""
    pages: Sequence[Url] = ()
    files: Sequence[DataFile] = ()
    without_files: str = ""

    @property
    def bytes(self) -> int | None:
        """Return the size of all files as far as known; None where none is."""
        return sum(file.bytes or 0 for file in self.files) or None


def data_sets(extra: Path | None = None) -> list[DataSet]:
    """Return what `read` finds for all tasks, then all sources, `extra` being a folder of the user's own; sorted by name."""
    return [
        read(group, name, path)
        for group in GROUPS
        for name, path in configuration.choices(group, extra).items()
    ]


def find(word: str, entries: list[DataSet]) -> list[DataSet]:
    """Return the data sets that NAME, task=NAME or source=NAME names, the task first; ConfigError where there is none."""
    group, separator, name = word.rpartition("=")
    matches = [
        entry for entry in entries if entry.name == name and (not separator or entry.group == group)
    ]
    if not matches:
        what = group if group in GROUPS else "task or source"
        names = {entry.name for entry in entries if not separator or entry.group == group}
        raise ConfigError(f"there is no {what} '{name}'", where="NAME", hint=suggest(name, names))
    return matches


def read(group: str, name: str, path: Path) -> DataSet:
    """Read the block of one file; ConfigError where the file cannot be read, or its block is malformed."""
    content = configuration.content(path)
    node = content.get(group, content)
    node = node if isinstance(node, dict) else {}
    description = configuration.description(path)
    if node.get("data") is None:
        return DataSet(name, group, description)
    block = _settings(DataSet, node["data"], f"{path}: data", ("name", "group", "description"))
    files = [
        _settings(DataFile, file, f"{path}: data.files[{i}]")
        for i, file in enumerate(block.pop("files", ()))
    ]
    origin = block.pop("origin", node["origin"] if node.get("origin") in ORIGINS else "files")
    return DataSet(
        name, group, description, origin, **block, files=tuple(DataFile(**file) for file in files)
    )


def _settings(kind: type, block: Any, where: str, reserved: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a mapping whose keys and values are those of a dataclass, `reserved` fields apart; null is left out."""
    entries = configuration.mapping(block, where).items()
    settings = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in entries
        if value is not None
    }
    parts.bind(kind, settings, where, reserved)
    return settings
