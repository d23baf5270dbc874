"""The identity of an experiment: a digest of all settings that can change a result."""

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

# Bytes. For a larger file, and every file of a larger folder, the digest covers only size and
# modification time.
_HASH_BELOW = 2**30
# Digits of an identity in names of folders and tables: 32 bits, with which any two of ten thousand
# experiments coincide by chance with a probability of 1 per cent.
SHORT = 8
# Settings of tables that are not paths, although "." and "/" are names of folders.
_SYMBOLS = ("decimal", "delimiter")
# Settings whose text names a file or folder even if it has no slash or dot. In other settings, such
# a text could match the name of a file by chance.
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
# Length of the longest path on Linux; a longer text would raise an error when it is looked up.
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Identity:
    """The digests that identify an experiment."""

    run: str  # SHA-256 of all settings that can change a result
    settings: str  # the same without the seed: equal for runs that may be averaged over seeds
    # Absolute path -> digest, of the files and folders that the settings of task and source name.
    files: dict[str, str]


def identify(content: dict[str, Any], choices: dict[str, str], data_folder: Path) -> Identity:
    """Return the identity of a job from its resolved configuration and its choices by group.

    The settings may name files and folders, relative to the working folder or the data folder. The
    identity covers their content and not their path: changing a data file makes another experiment,
    moving it does not.
    """
    settings = _effective_settings(content)
    # Two choices may have equal settings, but tables still show them separately.
    settings["choices"] = {group: choices[group] for group in GROUPS}
    files: dict[str, str] = {}
    for group in ("task", "body", "source"):
        settings[group], digests = _part_by_content(settings[group], choices[group], data_folder)
        if group != "body":
            files |= digests
    # A report averages runs that differ only in the seed.
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
        # null: the layout of the arrays is not ambiguous, and they are read as with false.
        settings["task"] = settings["task"] | {"channels_last": False}
    embedder = settings.get("embedder", {})
    if embedder.get("pooled_tokens", 0) is None:
        # null: no upper bound, as for an embedder that does not have this setting.
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
    # The block `data` says where to get the data; it does not change them.
    settings = {key: entry for key, entry in part_settings.items() if key != "data"}
    path_text = str(settings.get("path") or choice)
    path = Path(path_text).expanduser()
    is_folder = bool(settings.get("path")) and path.is_dir()
    folder = path if is_folder else data_folder / path
    digests: dict[str, str] = {}
    for file in _described_files(part_settings.get("data")):
        # An absent file has no digest; the task will report that it is missing.
        digest = _noted_digest(folder / file, digests_by_path)
        if digest:
            digests[file] = digest
    if digests:
        # A run reads only these files of the folder, so the folder itself has no digest.
        settings["path"] = None
    by_content = _by_content(settings, data_folder, digests_by_path)
    if digests:
        by_content["files"] = digests
    return by_content, digests_by_path


def _described_files(block: Any) -> list[str]:
    """Return the files, and the members of archives, that a block `data` lists."""
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
    """Add a path's digest to `digests` and return it; return None if the path does not exist."""
    digest = digest_of(path)
    if digest:
        digests[str(path.absolute())] = digest
    return digest


def _by_content(
    node: Any, data_folder: Path, digests: dict[str, str], *, bare: bool = False
) -> Any:
    """Return settings in which digests replace the names of files and folders that exist.

    Args:
        digests: path -> digest; the function adds the files and folders that it finds.
        bare: whether a text without a slash or dot may name a file or folder.
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
    # As readers do: a relative name is looked up in the working folder, then in the data folder.
    return _noted_digest(path, digests) or _noted_digest(data_folder / path, digests) or node


def digest_of(path: Path) -> str | None:
    """Return the digest of a file, or of all files in and below a folder; None if it is neither."""
    # A file that vanishes or cannot be read counts as absent, and its reader will report it.
    with suppress(OSError):
        is_folder = path.is_dir()
        files = _files(path) if is_folder else [path]
        is_large = sum(file.stat().st_size for file in files) >= _HASH_BELOW
        if is_folder:
            digest_lines = []
            for file in files:
                # Relative names, so that moving a folder does not change its digest.
                name = file.relative_to(path).as_posix()
                digest_lines.append(f"{name} {_file_digest(file, is_large)}")
            digest = hashlib.sha256("\n".join(digest_lines).encode())
            return f"folder:{digest.hexdigest()}"
        if path.is_file():
            return _file_digest(path, is_large)
    return None


def _files(path: Path) -> list[Path]:
    """Return all files in and below a folder, sorted; links to folders are followed."""

    # By default, os.walk skips folders that it cannot read; the digest would lack their files.
    def fail(error: OSError) -> None:
        raise error

    files: list[Path] = []
    visited = set()
    for folder, subfolders, file_names in os.walk(path, followlinks=True, onerror=fail):
        folder_facts = os.stat(folder)
        identity = (folder_facts.st_dev, folder_facts.st_ino)
        if identity in visited:
            # A link to a parent folder would otherwise be followed for ever.
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
    # Inode and time of change are included, since a copy may keep the time of modification.
    version = (
        file_facts.st_ino,
        file_facts.st_size,
        file_facts.st_mtime_ns,
        file_facts.st_ctime_ns,
    )
    return "sha256:" + _sha256_of(path, version)


@functools.cache
def _sha256_of(path: Path, version: tuple[int, ...]) -> str:
    """Return a file's SHA-256, cached for all jobs of a sweep that name the same file."""
    return sha256_file(path)
