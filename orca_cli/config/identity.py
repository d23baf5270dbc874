"""What makes two runs the same experiment: the resolved configuration without what cannot change a result."""

import functools
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli.config.retired import as_before
from orca_cli.config.schema import GROUPS, WITHOUT_EFFECT
from orca_cli.storage import sha256_file

_HASH_BELOW = (
    2**30
)  # bytes; larger files, and all files of a larger folder, count by size and modification time
SHORT = 8


@dataclass(frozen=True)
class Identity:
    """What names an experiment."""

    run: str  # SHA-256 of all that can change a result
    settings: str  # the same without the seed: equal for runs that may be averaged over seeds
    # Absolute path -> digest, of the task's and the source's files and folders that count by content.
    files: dict[str, str]


def identify(content: dict[str, Any], choices: dict[str, str], data_folder: Path) -> Identity:
    """Return the identity of a job from its resolved configuration and group -> chosen file.

    Files and folders that it names, here or in the data folder, count by their content, not by their path: a data file that
    was changed makes another experiment, one that was only moved does not.
    """
    kept = {key: value for key, value in content.items() if key not in WITHOUT_EFFECT}
    kept["train"] = {
        key: value
        for key, value in content["train"].items()
        if f"train.{key}" not in WITHOUT_EFFECT
    }
    kept = as_before(kept)
    kept["train"]["average"] = None  # runs from when these were settings keep their identity
    kept["augment"] = {"_target_": None}
    if kept.get("test") is True:
        del kept["test"]  # as do runs from before this setting
    if kept["task"].get("channels_last", False) is None:
        kept["task"]["channels_last"] = False  # what null reads
    kept["choices"] = {group: choices[group] for group in GROUPS}
    files: dict[str, str] = {}
    for part in ("task", "body", "source"):
        seen: dict[str, str] = {}
        settings = {
            key: value for key, value in kept[part].items() if key != "data"
        }  # where to get the files
        place = Path(str(settings.get("path") or choices[part])).expanduser()
        folder = place if settings.get("path") and place.is_dir() else data_folder / place
        data = kept[part].get("data")
        described = (data.get("files") or []) if isinstance(data, dict) else []
        members = [
            str(member)
            for file in described
            for member in (file["path"], *(file.get("members") or []))
        ]
        digests = {
            member: digest for member in members if (digest := _counted(folder / member, seen))
        }
        if digests:  # all that is read in the folder, so that its path does not count
            settings |= {"path": None}
        kept[part] = _by_content(settings, data_folder, seen) | (
            {"files": digests} if digests else {}
        )
        if part != "body":
            files |= seen
    return Identity(
        _sha256(kept), _sha256({key: value for key, value in kept.items() if key != "seed"}), files
    )


_SYMBOLS = ("decimal", "delimiter")  # of tables: "." and "/" are folders as well
# Settings that name files or folders even by a bare word.
_FOLDERS = (
    *("checkpoint", "path", "dataset", "table"),
    *("train", "validation", "test", "labels", "validation_labels", "test_labels"),
)


def _sha256(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _counted(path: Path, seen: dict[str, str]) -> str | None:
    """Return a path's digest, and note it in `seen`; None for what does not exist."""
    if digest := digest_of(path):
        seen[str(path.absolute())] = digest
    return digest


def _by_content(value: Any, data_folder: Path, seen: dict[str, str], *, bare: bool = False) -> Any:
    if isinstance(value, dict):
        # A bare word may match a folder by chance ("classes"); only some settings mean one.
        return {
            key: item
            if key in _SYMBOLS
            else _by_content(item, data_folder, seen, bare=key in _FOLDERS)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_by_content(item, data_folder, seen) for item in value]
    if isinstance(value, str) and (bare or "/" in value or "." in value) and len(value) < 4096:
        path = Path(value).expanduser()
        return _counted(path, seen) or _counted(data_folder / path, seen) or value
    return value


def digest_of(path: Path) -> str | None:
    """Return a digest of a file's content, or of all files in a folder and below it; None where there is neither."""
    with suppress(OSError):
        files = _files(path) if path.is_dir() else [path]
        is_large = sum(file.stat().st_size for file in files) >= _HASH_BELOW
        if path.is_dir():
            lines = "\n".join(
                f"{file.relative_to(path).as_posix()} {_file_digest(file, is_large)}"
                for file in files
            )
            return "folder:" + hashlib.sha256(lines.encode()).hexdigest()
        if path.is_file():
            return _file_digest(path, is_large)
    return None


def _files(path: Path) -> list[Path]:
    """Return all files in a folder and below it, sorted; linked folders, such as those of classes, belong to it."""

    def fail(error: OSError) -> None:
        raise error

    files, seen = [], set()
    for folder, inside, names in os.walk(path, followlinks=True, onerror=fail):
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in seen:  # a link to a folder above
            inside.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        files += [file for name in names if (file := Path(folder) / name).is_file()]
    return sorted(files)


def _file_digest(path: Path, is_large: bool) -> str:
    facts = path.stat()
    if is_large:
        return f"stat:{facts.st_size}:{facts.st_mtime_ns}"
    return "sha256:" + _sha256_of(
        path, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
    )


# The jobs of a sweep name the same files, which are read once.
_sha256_of = functools.cache(lambda path, *facts: sha256_file(path))
