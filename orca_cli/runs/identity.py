"""What makes two runs the same experiment: the resolved configuration without what cannot change a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orca_cli.schema import GROUPS
from orca_cli.storage import sha256_file

_WITHOUT_EFFECT = ("paths", "device", "tracker")
_HASH_BELOW = 2**30  # bytes; larger files are identified by size and modification time
SHORT = 8


def settings_hash(content: dict[str, Any], choices: dict[str, str], data_folder: Path) -> str:
    """Return what `identity` returns, with the seed left out: equal for runs that may be averaged over seeds."""
    return identity({key: value for key, value in content.items() if key != "seed"}, choices, data_folder)


def identity(content: dict[str, Any], choices: dict[str, str], data_folder: Path) -> str:
    """Return the SHA-256 that names an experiment.

    Files and folders that the configuration names count by their content, not by their path: a data file that was
    changed makes another experiment, one that was only moved does not.

    Args:
        content: the resolved configuration as plain dictionaries.
        choices: group -> chosen file.
        data_folder: where files that are not found from the present folder are looked for.
    """
    kept = {key: value for key, value in content.items() if key not in _WITHOUT_EFFECT}
    kept["train"] = {key: value for key, value in content["train"].items() if key != "checkpoint_s"}
    kept["choices"] = {group: choices[group] for group in GROUPS}
    for part in ("task", "body", "source"):
        described = {key: value for key, value in kept[part].items() if key != "data"}  # where to get the files
        found = _described_files(kept[part], choices[part], data_folder)
        kept[part] = _by_content(described, data_folder) | ({"files": found} if found else {})
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def data_files(content: dict[str, Any], choices: dict[str, str], data_folder: Path) -> dict[str, str]:
    """Return absolute path -> content of the files and folders of data that `identity` counts by their content."""
    digests: dict[str, str] = {}
    for part in ("task", "source"):
        described = _described_paths(content[part], choices[part], data_folder).values()
        for path in (*described, *_named_paths(content[part], data_folder)):
            if digest := digest_of(path):
                digests[str(path.absolute())] = digest
    return digests


def _described_files(part: dict[str, Any], name: str, data_folder: Path) -> dict[str, str]:
    """Return the content of the files that a task or source describes and that are there, by their names in its folder."""
    digests = {member: digest_of(path) for member, path in _described_paths(part, name, data_folder).items()}
    return {member: digest for member, digest in digests.items() if digest}


def _described_paths(part: dict[str, Any], name: str, data_folder: Path) -> dict[str, Path]:
    data = part.get("data")
    files = data.get("files") if isinstance(data, dict) else None
    given = Path(str(part.get("path") or name)).expanduser()
    folder = given if part.get("path") and given.is_dir() else data_folder / given
    members = [member for file in files or [] for member in (file["path"], *(file.get("members") or []))]
    return {str(member): folder / member for member in members}


def _named_paths(value: Any, data_folder: Path) -> Iterator[Path]:
    """Yield what a part's settings name; a relative name in the working folder, else in the data folder."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "data":
                yield from _named_paths(item, data_folder)
    elif isinstance(value, list):
        for item in value:
            yield from _named_paths(item, data_folder)
    elif _may_be_path(value):
        path = Path(value).expanduser()
        yield path if path.exists() else data_folder / path


def _by_content(value: Any, data_folder: Path, *, bare: bool = False) -> Any:
    if isinstance(value, dict):
        # A bare word may match a folder by chance ("classes"); only a body's checkpoint is meant as one.
        return {key: _by_content(item, data_folder, bare=key == "checkpoint") for key, item in value.items()}
    if isinstance(value, list):
        return [_by_content(item, data_folder) for item in value]
    if _may_be_path(value, bare=bare):
        path = Path(value).expanduser()
        return digest_of(path) or digest_of(data_folder / path) or value
    return value


def _may_be_path(value: Any, *, bare: bool = False) -> bool:
    return isinstance(value, str) and (bare or "/" in value or "." in value) and len(value) < 4096


def digest_of(path: Path) -> str | None:
    """Return a digest of a file's content, or of the files in a folder; None where there is neither."""
    try:
        if path.is_file():
            return _file_digest(path)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            lines = "\n".join(f"{file.name} {_file_digest(file)}" for file in files)
            return "folder:" + hashlib.sha256(lines.encode()).hexdigest()
    except OSError:
        return None
    return None


def _file_digest(path: Path) -> str:
    facts = path.stat()
    if facts.st_size < _HASH_BELOW:
        return "sha256:" + sha256_file(path)
    return f"stat:{facts.st_size}:{facts.st_mtime_ns}"
