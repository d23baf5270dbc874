"""What makes two runs the same experiment: all settings that can change a result."""

import functools
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config.schema import GROUPS, WITHOUT_EFFECT
from orca_cli.storage import sha256_file

# Bytes. A larger file, and every file of a larger folder, counts by size and modification time.
_HASH_BELOW = 2**30
# 32 bits: ten thousand experiments share them by chance with a probability of 1 per cent.
SHORT = 8  # digits of an identity in names of folders and tables
# Settings of tables that are not paths, although "." and "/" name folders.
_SYMBOLS = ("decimal", "delimiter")
# Settings whose text names a file or folder even if it has no slash or dot. Elsewhere such a text
# could match the name of a file by chance.
_PATHS = (
    "checkpoint",
    "path",
    "dataset",
    "table",
    "train",
    "validation",
    "test",
    "labels",
    "validation_labels",
    "test_labels",
)
# Longest path on Linux; a longer text would only raise an error when it is looked up.
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Identity:
    """The digests that name an experiment."""

    run: str  # SHA-256 of all that can change a result
    settings: str  # the same without the seed: equal for runs that may be averaged over seeds
    # Absolute path -> digest of the files and folders that the settings of task and source name.
    files: dict[str, str]


def identify(content: dict[str, Any], choices: dict[str, str], data_folder: Path) -> Identity:
    """Return the identity of a job from its resolved configuration and its choices by group.

    Files and folders that the settings name, from here or from the data folder, count by their
    content, not by their path: changing a data file makes another experiment, moving it does not.
    """
    settings = _effective_settings(content)
    # Two choices may have equal settings and are still named apart in tables.
    settings["choices"] = {group: choices[group] for group in GROUPS}
    files: dict[str, str] = {}
    for group in ("task", "body", "source"):
        settings[group], digests = _part_by_content(settings[group], choices[group], data_folder)
        if group != "body":
            files |= digests
    # Runs that differ in the seed alone are averaged in a report.
    without_seed = {key: entry for key, entry in settings.items() if key != "seed"}
    return Identity(run=_sha256(settings), settings=_sha256(without_seed), files=files)


def _effective_settings(content: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that can change a result."""
    settings = {key: entry for key, entry in content.items() if key not in WITHOUT_EFFECT}
    for section in ("train", "task"):
        settings[section] = {
            key: entry
            for key, entry in content[section].items()
            if f"{section}.{key}" not in WITHOUT_EFFECT
        }
    if settings["task"].get("channels_last", False) is None:
        # Arrays whose layout is not ambiguous are read as with false.
        settings["task"] = settings["task"] | {"channels_last": False}
    embedder = settings.get("embedder", {})
    if embedder.get("pooled_tokens", 0) is None:
        # An embedder without this bound is the same as one that has no such setting.
        kept = {key: entry for key, entry in embedder.items() if key != "pooled_tokens"}
        settings["embedder"] = kept
    return settings


def _part_by_content(
    part_settings: dict[str, Any], choice: str, data_folder: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a part's settings with digests in place of paths, and path -> digest.

    `choice` is also the name of the part's folder unless it has a setting `path`.
    """
    digests_by_path: dict[str, str] = {}
    # The block says where to get the data, not what they are.
    settings = {key: entry for key, entry in part_settings.items() if key != "data"}
    path_text = str(settings.get("path") or choice)
    path = Path(path_text).expanduser()
    is_folder = bool(settings.get("path")) and path.is_dir()
    folder = path if is_folder else data_folder / path
    digests: dict[str, str] = {}
    for file in _described_files(part_settings.get("data")):
        # A file that is absent does not count: the task will say that it is missing.
        digest = _noted_digest(folder / file, digests_by_path)
        if digest:
            digests[file] = digest
    if digests:
        # A run reads nothing else in the folder, so that the folder itself does not count.
        settings["path"] = None
    by_content = _by_content(settings, data_folder, digests_by_path)
    if digests:
        by_content["files"] = digests
    return by_content, digests_by_path


def _described_files(block: Any) -> list[str]:
    """Return the files, and the members of archives, that a block `data` says where to get."""
    file_names: list[str] = []
    if not isinstance(block, dict):
        return file_names
    for file in block.get("files") or []:
        file_names.append(str(file["path"]))
        file_names.extend(str(member) for member in file.get("members") or [])
    return file_names


def _sha256(content: dict[str, Any]) -> str:
    # Sorted and without spaces, so that equal settings give equal bytes.
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str).encode()
    return hashlib.sha256(text).hexdigest()


def _noted_digest(path: Path, digests: dict[str, str]) -> str | None:
    """Return a path's digest, after adding it to `digests`; None if the path does not exist."""
    digest = digest_of(path)
    if digest:
        digests[str(path.absolute())] = digest
    return digest


def _by_content(
    node: Any, data_folder: Path, digests: dict[str, str], *, bare: bool = False
) -> Any:
    """Return settings in which digests replace the names of files and folders that exist.

    Args:
        digests: path -> digest; those of the files and folders are added.
        bare: whether a text may name a file or folder without a slash or dot.
    """
    if isinstance(node, list):
        return [_by_content(entry, data_folder, digests) for entry in node]
    if isinstance(node, dict):
        replaced = {}
        for key, entry in node.items():
            replaced[key] = entry
            if key not in _SYMBOLS:
                replaced[key] = _by_content(entry, data_folder, digests, bare=key in _PATHS)
        return replaced
    if not isinstance(node, str) or len(node) >= _LONGEST_PATH:
        return node
    if not (bare or "/" in node or "." in node):
        return node
    path = Path(node).expanduser()
    # Relative names are looked for here first, then in the data folder, as readers do.
    return _noted_digest(path, digests) or _noted_digest(data_folder / path, digests) or node


def digest_of(path: Path) -> str | None:
    """Return a digest of a file, or of all files in and below a folder; None for neither."""
    # A file that vanishes or cannot be read counts as absent, and the reader says why.
    with suppress(OSError):
        is_folder = path.is_dir()
        files = _files(path) if is_folder else [path]
        is_large = sum(file.stat().st_size for file in files) >= _HASH_BELOW
        if is_folder:
            digest_lines = []
            for file in files:
                # Relative names: moving a folder does not change it.
                name = file.relative_to(path).as_posix()
                digest_lines.append(f"{name} {_file_digest(file, is_large)}")
            digest = hashlib.sha256("\n".join(digest_lines).encode())
            return f"folder:{digest.hexdigest()}"
        if path.is_file():
            return _file_digest(path, is_large)
    return None


def _files(path: Path) -> list[Path]:
    """Return all files in and below a folder, sorted; links to folders are followed."""

    # By default os.walk leaves out what it cannot read, and the digest would be that of a part.
    def fail(error: OSError) -> None:
        raise error

    files: list[Path] = []
    visited = set()
    for folder, subfolders, file_names in os.walk(path, followlinks=True, onerror=fail):
        folder_facts = os.stat(folder)
        identity = (folder_facts.st_dev, folder_facts.st_ino)
        if identity in visited:
            # A link to a folder further up would be followed for ever.
            subfolders.clear()
            continue
        visited.add(identity)
        for name in file_names:
            file = Path(folder) / name
            if file.is_file():
                files.append(file)
    # The order in which a file system lists names does not matter.
    return sorted(files)


def _file_digest(path: Path, is_large: bool) -> str:
    file_facts = path.stat()
    if is_large:
        return f"stat:{file_facts.st_size}:{file_facts.st_mtime_ns}"
    # With inode and time of change, since a copy may keep the time of modification.
    version = (
        file_facts.st_ino,
        file_facts.st_size,
        file_facts.st_mtime_ns,
        file_facts.st_ctime_ns,
    )
    return "sha256:" + _sha256_of(path, version)


@functools.cache
def _sha256_of(path: Path, version: tuple[int, ...]) -> str:
    """Return a file's SHA-256, from the cache if another job of the sweep has named the file."""
    return sha256_file(path)
