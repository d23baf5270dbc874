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
                       md5 where one is published, urls, unpack (tar, zip, gzip) and only (patterns of the members that
                       are unpacked), members (some names that the archive holds), instead (patterns of names of which
                       any makes this file needless)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from orca_cli import configuration
from orca_cli.exceptions import ConfigError, suggest

GROUPS = ("task", "source")
ORIGINS = ("files", "generated", "bundled", "own")
UNPACK = ("tar", "zip", "gzip")
_TEXTS = ("shape", "outputs", "error", "licence", "homepage", "by_hand")
_KEYS = (*_TEXTS, "origin", "pages", "files")
_PATHS = ("members", "instead", "only")
_DIGITS = {"sha256": 64, "md5": 32}
_FILE_KEYS = ("path", "bytes", *_DIGITS, "urls", "unpack", *_PATHS)


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Args:
        path: relative to the data set's folder, with slashes.
        bytes: its size, perhaps rounded; None where unknown.
        sha256: as published, 64 hexadecimal digits; None where unknown.
        md5: the same, 32 digits, for files of which nobody published the SHA-256.
        urls: addresses, http or https, in the order in which they are asked.
        unpack: tar, zip or gzip, for an archive that the reader wants unpacked; None for one that is read as it is.
        members: some names that the archive holds; where all of them lie in the folder, the archive itself is not needed.
        instead: patterns of names in the folder; where there is any, the file is not needed.
        only: patterns of the members that are unpacked; none for all.
    """

    path: str
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    urls: tuple[str, ...] = ()
    unpack: str | None = None
    members: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """What a task's or source's file says about its data.

    Args:
        name: of the file, and of the folder below paths.data.
        group: task or source.
        description: first comment of the file.
        origin: where the data come from, one of `ORIGINS`; "" where the file says nothing about them.
        files: those that have to lie in the folder, or may, where the origin is another than files.
    """

    name: str
    group: str
    description: str = ""
    origin: str = ""
    shape: str = ""
    outputs: str = ""
    error: str = ""
    licence: str = ""
    homepage: str = ""
    by_hand: str = ""
    pages: tuple[str, ...] = ()
    files: tuple[DataFile, ...] = ()

    @property
    def bytes(self) -> int | None:
        """Return the size of all files as far as known; None where none is."""
        known = [file.bytes for file in self.files if file.bytes is not None]
        return sum(known) if known else None


def data_sets(extra: Path | None = None) -> list[DataSet]:
    """Return what is known about the data of every task and source, tasks first, sorted by name.

    Args:
        extra: the user's own folder with task/x.yaml, source/x.yaml.

    Raises:
        ConfigError: a file cannot be read, or its block `data` is malformed.
    """
    return [read(group, name, path) for group in GROUPS for name, path in configuration.choices(group, extra).items()]


def find(word: str, known: list[DataSet]) -> list[DataSet]:
    """Return the data sets that a word names: NAME, task=NAME or source=NAME; the task first where both have the name.

    Raises:
        ConfigError: there is none.
    """
    group, separator, name = word.rpartition("=")
    found = [entry for entry in known if entry.name == name and (not separator or entry.group == group)]
    if not found:
        what = group if group in GROUPS else "task or source"
        names = {entry.name for entry in known if not separator or entry.group == group}
        raise ConfigError(f"there is no {what} '{name}'", where="NAME", hint=suggest(name, names))
    return found


def read(group: str, name: str, path: Path) -> DataSet:
    """Read the block of one file.

    Raises:
        ConfigError: the file cannot be read, or its block is malformed.
    """
    content = configuration.content(path)
    node = content.get(group, content)
    node = node if isinstance(node, dict) else {}
    block = node.get("data")
    description = configuration.description(path)
    if block is None:
        return DataSet(name, group, description)
    where = str(path)
    _check_mapping(block, _KEYS, "data", where)
    texts = {key: "" if block.get(key) is None else str(block[key]) for key in _TEXTS}
    origin = block.get("origin", node["origin"] if node.get("origin") in ORIGINS else "files")
    _check_choice(origin, ORIGINS, "data.origin", where)
    files = block.get("files") or []
    if not isinstance(files, list):
        raise ConfigError("data.files has to be a list", where=where)
    read_files = tuple(_file(entry, f"data.files[{place}]", where) for place, entry in enumerate(files))
    return DataSet(
        name, group, description, origin, **texts, pages=_urls(block, "pages", "data", where), files=read_files
    )


def _file(entry: Any, key: str, where: str) -> DataFile:
    _check_mapping(entry, _FILE_KEYS, key, where)
    path = entry.get("path")
    if not isinstance(path, str) or not _is_inside(path):
        raise ConfigError(f"{key}.path has to be a path below the data set's folder, not {path!r}", where=where)
    size, unpack = entry.get("bytes"), entry.get("unpack")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ConfigError(f"{key}.bytes has to be a whole number of 1 or more, or null", where=where)
    if unpack is not None:
        _check_choice(unpack, UNPACK, f"{key}.unpack", where)
    names = {name: _texts(entry, name, key, where) for name in _PATHS}
    for name in _PATHS:
        for text in names[name]:
            if not _is_inside(text):
                raise ConfigError(f"{key}.{name}: '{text}' lies outside the data set's folder", where=where)
    return DataFile(
        path,
        size,
        sha256=_digest(entry, "sha256", key, where),
        md5=_digest(entry, "md5", key, where),
        urls=_urls(entry, "urls", key, where),
        unpack=unpack,
        members=names["members"],
        instead=names["instead"],
        only=names["only"],
    )


def _digest(entry: dict[str, Any], name: str, parent: str, where: str) -> str | None:
    value = entry.get(name)
    if value is None:
        return None
    if not re.fullmatch(f"[0-9a-fA-F]{{{_DIGITS[name]}}}", str(value)):
        raise ConfigError(f"{parent}.{name} has to be {_DIGITS[name]} hexadecimal digits, or null", where=where)
    return str(value).lower()


def _urls(entry: dict[str, Any], name: str, parent: str, where: str) -> tuple[str, ...]:
    urls = _texts(entry, name, parent, where)
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"{parent}.{name}: '{url}' is no http or https address", where=where)
    return urls


def _texts(entry: dict[str, Any], name: str, parent: str, where: str) -> tuple[str, ...]:
    values = entry.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{parent}.{name} has to be a list of texts", where=where)
    return tuple(values)


def _check_mapping(value: Any, allowed: tuple[str, ...], key: str, where: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} has to hold 'key: value' pairs", where=where, hint=f"allowed: {', '.join(allowed)}")
    for name in value:
        if name not in allowed:
            raise ConfigError(f"no such key: '{key}.{name}'", where=where, hint=suggest(str(name), allowed))


def _check_choice(value: Any, allowed: tuple[str, ...], key: str, where: str) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value!r} is not allowed", where=where, hint=suggest(str(value), allowed))


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not PurePosixPath(path).is_absolute() and ".." not in parts and "\\" not in path
