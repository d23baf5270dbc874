"""Read a run's JSON records; no content, however hostile, crashes the reader or fills memory."""

import json
import stat
from pathlib import Path
from typing import Any

SCHEMA = 2
LARGEST = 2**20  # largest size of a record in bytes; a real record has some 2 kB


class UnreadableError(Exception):
    """A record is invalid; the message says why."""


class NewerSchemaError(UnreadableError):
    """A newer program wrote the record."""


def read_record(path: Path, most_bytes: int = LARGEST) -> dict[str, Any] | None:
    """Return a record of a schema that this program knows; None if the file does not exist.

    Args:
        path: the record's file.
        most_bytes: the largest size of a file that is read.

    Raises:
        UnreadableError: the file is not a record, or has an unknown schema.
        OSError: the file cannot be read.
    """
    try:
        facts = path.stat()
        # Opening a named pipe would block for ever.
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > most_bytes:
            raise UnreadableError(
                f"{path.name} is not a regular file, or too large for a record ({facts.st_size:,} "
                f"bytes, limit {most_bytes:,})"
            )
        record = json.loads(path.read_bytes())
    # A missing record is normal, such as in a run that has just begun; a broken record is not.
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{path.name} is not valid JSON (cut off or damaged)") from error
    if not isinstance(record, dict):
        raise UnreadableError(f"{path.name} must be a JSON object, got {type(record).__name__}")
    schema = record.get("schema")
    # In Python, True is an integer.
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise UnreadableError(
            f"{path.name}: schema must be an integer from 1 to {SCHEMA}, got {schema!r}"
        )
    if schema > SCHEMA:
        raise NewerSchemaError(
            f"{path.name} has schema {schema} of a newer program; this program reads schemas up to "
            f"{SCHEMA}"
        )
    if schema < SCHEMA and "metric" in record:
        # The names of metrics in such a record have other meanings now.
        raise UnreadableError(
            f"{path.name} has schema {schema} of an older program, which this program cannot read"
        )
    return record


def newer_schema(*paths: Path) -> NewerSchemaError | None:
    """Return the error for the first record that a newer program wrote; None if there is none."""
    for path in paths:
        try:
            read_record(path)
        except NewerSchemaError as error:
            return error
        except (UnreadableError, OSError):
            continue
    return None
