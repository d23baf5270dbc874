"""Files that are whole or absent: temporary name, fsync, rename; records that carry their own checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.exceptions import ChecksumError
from orca_cli.storage.disk import fsync_file, fsync_folder, guarded, make_folder, new_file, temporary_name, unreadable

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST = "sha256"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new one, never a part."""
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: Path, writer: Callable[[Path], Any]) -> None:
    """Let `writer` write a temporary file, force it to the disk and give it its name."""
    make_folder(path.parent)
    temporary = temporary_name(path)
    with guarded(path):
        os.close(new_file(temporary))
        try:
            writer(temporary)
            fsync_file(temporary)
            os.replace(temporary, path)
            fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all; invalid Unicode, as in file names, becomes an escape."""
    write_bytes(path, _encoded(text))


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # in JSON it is an escape that gives the same name again


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; NaN and infinity, which JSON lacks, are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Append one record to a .jsonl file and force it to the disk; half a line left by an earlier failure is cut off."""
    make_folder(path.parent)
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with guarded(path):
        new = not path.exists()
        with open(path, "a+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            if file.read(1) not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if new:
            fsync_folder(path.parent)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a .jsonl file up to the first invalid line; the last one may have been cut off."""
    records = []
    with suppress(ValueError, RecursionError):
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            records.append(json.loads(line))
    return records


def rewrite_json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace a .jsonl file, whole or not at all."""
    write_text(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records))


def write_checked_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON record with a SHA-256 of itself, whole or not at all."""
    write_text(path, _checked_text(record))


def read_checked_json(path: Path) -> dict[str, Any]:
    """Return what `write_checked_json` wrote; ChecksumError where the file is missing, or any bit of it has changed."""
    try:
        content = path.read_bytes()
        record = json.loads(content)
        digest = record.pop(_DIGEST)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ChecksumError("is missing", where=str(path)) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumError("is damaged: not a record of this program", where=str(path)) from error
    if not isinstance(record, dict) or _encoded(_checked_text(record)) != content:
        raise ChecksumError(f"is damaged: its checksum is not {str(digest)[:12]}", where=str(path))
    return record


def _checked_text(record: dict[str, Any]) -> str:
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
    digest = hashlib.sha256(_encoded(text)).hexdigest()
    return json.dumps({**record, _DIGEST: digest}, indent=2, ensure_ascii=False) + "\n"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one of our safetensors files, by name; StorageError where it cannot be read."""
    from safetensors import SafetensorError  # reports and lists import no torch
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # the library says "not found", torch raises RuntimeError
        raise unreadable(path, error) from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
