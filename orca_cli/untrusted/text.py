"""Text files of unknown origin."""

from __future__ import annotations

from pathlib import Path

from orca_cli.exceptions import DataError


def read_text(path: Path, max_bytes: int, hint: str = "") -> str:
    """Return the content of a UTF-8 file; DataError where it cannot be read or is larger than `max_bytes`."""
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"has more than {max_bytes} bytes", where=str(path), hint=hint)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), hint=hint) from error
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8 text", where=str(path), hint=hint) from error
