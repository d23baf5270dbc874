"""Files of a run for a bundle: read without following a link, cleaned of what is only of this machine."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from orca_cli import configuration, storage
from orca_cli.bundles.cleaning import Cleaner
from orca_cli.exceptions import ChecksumError, OrcaError, StorageError
from orca_cli.runs.directory import ENVIRONMENT, STATUS

_MOST_BYTES = 2**26  # of a record
_DIGEST = "sha256"  # key of records that carry their own checksum


class UnfitError(Exception):
    """A file cannot go into a bundle; the message says why."""


def plain_file(run: Path, name: str) -> Path | None:
    """Return a file that really lies in a run; None where there is none.

    Raises:
        UnfitError: it is a link, below one, or not a file.
        OSError: it may not be looked at.
    """
    path = run
    for step in Path(name).parts:
        path = path / step
        try:
            facts = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(facts.st_mode):
            raise UnfitError("is a link, which could lead anywhere")
    if not stat.S_ISREG(facts.st_mode):
        raise UnfitError("is not a file")
    return path


def copy_record(source: Path, target: Path, cleaner: Cleaner) -> bool:
    """Write a record of a run as it may be given away; True if that differs from what it was.

    Raises:
        UnfitError: it is not a record of its kind.
        OSError: it cannot be read.
        StorageError: it cannot be written.
    """
    if source.stat().st_size > _MOST_BYTES:
        raise UnfitError(f"is far too large for a record ({source.stat().st_size} bytes)")
    writers = {".json": _json, ".jsonl": _lines, ".yaml": _yaml}
    try:
        return writers.get(source.suffix, _words)(source, target, cleaner)
    except StorageError:
        raise
    except OrcaError as error:
        raise UnfitError(error.what) from error
    except (ValueError, RecursionError, TypeError) as error:
        raise UnfitError(f"is damaged: {type(error).__name__}") from error


def _json(source: Path, target: Path, cleaner: Cleaner) -> bool:
    content = source.read_bytes()
    record = json.loads(content)
    cleaned = cleaner.value(record)
    if source.name in (STATUS, ENVIRONMENT) and isinstance(cleaned, dict):
        cleaned = cleaner.machine(cleaned)
    if cleaned == record:
        put(target, content)
        return False
    if _is_checked(source):
        del cleaned[_DIGEST]
        storage.write_checked_json(target, cleaned)
    else:
        put(target, json_bytes(cleaned))
    return True


def _is_checked(source: Path) -> bool:
    try:
        storage.read_checked_json(source)
    except ChecksumError:
        return False
    return True


def _lines(source: Path, target: Path, cleaner: Cleaner) -> bool:
    content = source.read_bytes()
    records = [json.loads(line) for line in content.splitlines()]
    cleaned = [cleaner.value(record) for record in records]
    if cleaned == records:
        put(target, content)
        return False
    put(target, "".join(json.dumps(record, allow_nan=False) + "\n" for record in cleaned).encode())
    return True


def _yaml(source: Path, target: Path, cleaner: Cleaner) -> bool:
    content = source.read_bytes()
    record: dict[str, Any] = configuration.content(source)
    cleaned = cleaner.value(record)
    if cleaned == record and b"#" not in content:  # comments may say anything
        put(target, content)
        return False
    put(target, yaml.safe_dump(cleaned, sort_keys=False, allow_unicode=True).encode())
    return True


def _words(source: Path, target: Path, cleaner: Cleaner) -> bool:
    content = source.read_bytes()
    cleaned = "\n".join(map(cleaner.setting, content.decode().split("\n"))).encode()
    put(target, cleaned)
    return cleaned != content


def json_bytes(value: Any) -> bytes:
    """Return a value as a JSON file; NaN and infinity, which JSON lacks, are refused."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def put(path: Path, content: bytes) -> None:
    """Write a file of a bundle that is being put together: nothing reads it unless all of it comes to its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
