"""The descriptions of data in the YAML files of tasks and sources: files, addresses, licence.

The files are read as they are, without composing a configuration. A file in conf/task or
conf/source may have a block `data:`, in which every key is optional:

    shape, outputs     description of a sample and of its target, as text
    error              name of the reported error; default: the class of `error`, or the usual error
                       of the kind
    licence, homepage  terms of use of the data, and the page that describes them
    origin             files; generated (by the program); bundled (with a package); own (the
                       user's). Default: the default of the reader's parameter `origin`, else files
    by_hand            how to place the files by hand if no address answers; FOLDER represents the
                       data set's folder
    pages              addresses of pages that a person opens to get the files, such as a shared
                       drive
    files              list of files. Keys of each: path (relative to the data set's folder), bytes
                       (approximate size, if known), sha256 or md5 (if published), urls (in the
                       order in which they are tried), unpack (tar, zip, gzip), only (patterns of
                       the members to unpack), members (names of some members of the archive),
                       instead (patterns of file names; if any such file exists, this file is not
                       needed), when (KEY=VALUE: the file is read only with this setting, such as
                       origin=files)
    files_of           the task whose files this source reads, from that task's folder
    without_files      in the file of a source: the source that tasks other than the paper's use
                       instead of this one, if no source is explicitly set
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

# A path that is not absolute and contains neither `..` nor a backslash.
_INSIDE = r"(?!/)(?!(.*/)?\.\.(/|$))[^\\]*[^\\/.][^\\]*"
Inside = Annotated[str, OneOf(("a path below the data set's folder",), _INSIDE)]
Url = Annotated[str, OneOf(("an http or https address",), r"(?i:https?)://[^/?#].*")]
Sha256 = Annotated[str, OneOf(("64 hexadecimal digits in lower case",), r"[0-9a-f]{64}")]
Md5 = Annotated[str, OneOf(("32 hexadecimal digits in lower case",), r"[0-9a-f]{32}")]


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, described by an entry of `files` (see the module's docstring).

    If the data set's folder contains all `members`, the archive is not needed.
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
    """Name, description and block `data` of a task's or source's file."""

    name: str  # name of the file
    group: str
    description: str = ""  # first comment of the file
    # "" if the file does not describe its data.
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
        """Name of the folder below paths.data."""
        return self.files_of or self.name

    @property
    def bytes(self) -> int | None:
        """Sum of the known sizes of all files; None if no size is known."""
        # Files of unknown size count as 0, so the sum is a lower bound.
        return sum(file.bytes or 0 for file in self.files) or None


def data_sets(extra: Path | None = None) -> list[DataSet]:
    """Return the data sets of all tasks, then of all sources, each sorted by name.

    `extra` is the user's own configuration folder, which is searched too.
    """
    entries = []
    for group in GROUPS:
        for name, path in configuration.choices(group, extra).items():
            entries.append(read(group, name, path))
    return entries


def find(word: str, entries: list[DataSet]) -> list[DataSet]:
    """Return the data sets that NAME, task=NAME or source=NAME names; a task comes first.

    ConfigError if no data set has that name.
    """
    # NAME without a group is looked up in both groups.
    group, separator, name = word.rpartition("=")
    candidates = [entry for entry in entries if not separator or entry.group == group]
    matches = [entry for entry in candidates if entry.name == name]
    if not matches:
        noun = group if group in GROUPS else "task or source"
        hint = suggest(name, {entry.name for entry in candidates})
        raise ConfigError(f"unknown {noun} '{name}'", where="NAME", hint=hint)
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
    """Return the data set that the settings of a task or source describe in their block `data`.

    ConfigError if the block is malformed; `where` names the block in the message.
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
        # Files from another address would be taken for files of that task.
        if files:
            raise ConfigError("has both `files` and `files_of`; remove one of the two", where=where)
        path = configuration.choices("task").get(other)
        if path is None:
            raise ConfigError(f"unknown task '{other}'", where=f"{where}.files_of")
        files += read("task", other, path).files
    # A reader that generates its data has `generated` as the default of its setting `origin`.
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
    """Return the settings of a block after checking them against a dataclass; null is left out.

    The block must not set the fields in `reserved`.
    """
    settings = {}
    for key, entry in configuration.mapping(block, where).items():
        if entry is not None:
            settings[key] = tuple(entry) if isinstance(entry, list) else entry
    # Raises ConfigError for unknown keys and for values of a wrong type.
    parts.bind(kind, settings, where, reserved)
    return settings
