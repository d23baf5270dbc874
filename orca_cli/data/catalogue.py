"""What the YAML files of tasks and sources say about their data: files, addresses, licence.

Nothing is composed. The block `data:` of a file in conf/task or conf/source; all of it is optional:

    shape, outputs     what a sample and its target are, as text
    error              the name of what is reported; default: the class of `error`, or the usual one
                       of the kind
    licence, homepage  under what the data may be used, and where they are described
    origin             files; generated (by the program); bundled (with a package); own (the
                       user's). Default: what the reader's parameter of this name says, else files
    by_hand            how to place the files where no address answers; FOLDER stands for the data
                       set's folder
    pages              addresses that a person opens for that, such as a shared drive
    files              a list, of each: path (relative to the data set's folder), bytes (about, as
                       far as known), sha256 or md5 where one is published, urls (in the order in
                       which they are tried), unpack (tar, zip, gzip) and only (patterns of the
                       members that are unpacked), members (some names that the archive holds),
                       instead (patterns of names of which any makes this file needless), when
                       (KEY=VALUE: the setting with which alone the file is read, such as
                       origin=files)
    files_of           the task whose files, in whose folder, this source reads
    without_files      of a source: the source that tasks other than the paper's have in place of
                       this one, where none is typed
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from orca_cli.config import configuration, parts
from orca_cli.config.declarations import declared_node
from orca_cli.config.ranges import Count, OneOf
from orca_cli.exceptions import ConfigError, suggest

# In the order in which data sets are listed and looked up.
GROUPS = ("task", "source")
ORIGINS = ("files", "generated", "bundled", "own")

# Neither absolute nor with .. or a backslash.
_INSIDE = r"(?!/)(?!(.*/)?\.\.(/|$))[^\\]*[^\\/.][^\\]*"
Inside = Annotated[str, OneOf(("a path below the data set's folder",), _INSIDE)]
Url = Annotated[str, OneOf(("an http or https address",), r"(?i:https?)://[^/?#].*")]
Sha256 = Annotated[str, OneOf(("64 hexadecimal digits in lower case",), r"[0-9a-f]{64}")]
Md5 = Annotated[str, OneOf(("32 hexadecimal digits in lower case",), r"[0-9a-f]{32}")]


@dataclass(frozen=True)
class DataFile:
    """One file of a data set; an entry of `files` above.

    If the folder has all `members`, the archive is not needed.
    """

    path: Inside
    bytes: Count | None = None
    sha256: Sha256 | None = None
    md5: Md5 | None = None
    urls: Sequence[Url] = ()
    unpack: Literal["tar", "zip", "gzip"] | None = None
    members: Sequence[Inside] = ()
    instead: Sequence[Inside] = ()
    only: Sequence[Inside] = ()
    when: str = ""

    def is_read(self, settings: Mapping[str, Any]) -> bool:
        """Return whether a task or source with these settings reads the file."""
        key, _, value = self.when.partition("=")
        return not key or str(settings.get(key)) == value


@dataclass(frozen=True)
class DataSet:
    """What a task's or source's file says about its data: the block above, name and description."""

    name: str  # of the file
    group: str
    description: str = ""  # first comment of the file
    # "" where the file says nothing about its data.
    origin: Literal["files", "generated", "bundled", "own", ""] = ""
    shape: str = ""
    outputs: str = ""
    error: str = ""
    licence: str = ""
    homepage: str = ""
    by_hand: str = ""
    pages: Sequence[Url] = ()
    files: Sequence[DataFile] = ()
    without_files: str = ""
    files_of: str = ""

    @property
    def folder(self) -> str:
        """Return the name of the folder below paths.data."""
        return self.files_of or self.name

    @property
    def bytes(self) -> int | None:
        """Return the size of all files as far as known; None where none is."""
        # Files of unknown size count as 0: the sum is a lower bound.
        return sum(file.bytes or 0 for file in self.files) or None


def data_sets(extra: Path | None = None) -> list[DataSet]:
    """Return what is known of the data of all tasks, then of all sources, each sorted by name.

    `extra` is a folder of the user's own.
    """
    entries = []
    for group in GROUPS:
        for name, path in configuration.choices(group, extra).items():
            entries.append(read(group, name, path))
    return entries


def find(word: str, entries: list[DataSet]) -> list[DataSet]:
    """Return the data sets that NAME, task=NAME or source=NAME names, the task first.

    ConfigError if none has that name.
    """
    # A bare NAME has no separator, and is looked for in both groups.
    group, separator, name = word.rpartition("=")
    candidates = [entry for entry in entries if not separator or entry.group == group]
    matches = [entry for entry in candidates if entry.name == name]
    if not matches:
        noun = group if group in GROUPS else "task or source"
        hint = suggest(name, {entry.name for entry in candidates})
        raise ConfigError(f"there is no {noun} '{name}'", where="NAME", hint=hint)
    return matches


def read(group: str, name: str, path: Path) -> DataSet:
    """Read the block of one file; ConfigError if the file or its block is malformed."""
    content = configuration.content(path)
    node = content.get(group, content)
    if not isinstance(node, dict):
        node = {}
    where = f"{path}: data"
    description = configuration.description(path)
    return described(group, name, node, where=where, description=description)


def described(
    group: str, name: str, node: Mapping[str, Any], where: str = "", description: str = ""
) -> DataSet:
    """Return the data set that a part's settings describe in their block `data`.

    ConfigError, which names the block by `where`, if it is malformed.
    """
    where = where or f"{group}.data"
    if node.get("data") is None:
        return DataSet(name=name, group=group, description=description)
    # Name, group and description come from the file itself, so the block may not set them.
    block = _settings(DataSet, node["data"], where, ("name", "group", "description"))
    files = []
    for i, file in enumerate(block.pop("files", ())):
        files.append(DataFile(**_settings(DataFile, file, f"{where}.files[{i}]")))
    other = block.get("files_of")
    if other:
        # Files of another address would pass for those of that task.
        if files:
            raise ConfigError("has files of its own beside files_of", where=where)
        path = configuration.choices("task").get(other)
        if path is None:
            raise ConfigError(f"no such task: '{other}'", where=f"{where}.files_of")
        files += read("task", other, path).files
    # A reader that generates its data says so by the default of its setting `origin`.
    setting = {**declared_node(group, node), **node}.get("origin")
    of_reader = setting if setting in ORIGINS else "files"
    return DataSet(
        name=name,
        group=group,
        description=description,
        origin=block.pop("origin", of_reader),
        **block,
        files=tuple(files),
    )


def _settings(kind: type, block: Any, where: str, reserved: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a mapping whose keys and values are those of a dataclass; null is left out.

    `reserved` are fields that the mapping may not have.
    """
    settings = {}
    for key, entry in configuration.mapping(block, where).items():
        if entry is not None:
            settings[key] = tuple(entry) if isinstance(entry, list) else entry
    # Refuses unknown keys and values of another type.
    parts.bind(kind, settings, where, reserved)
    return settings
