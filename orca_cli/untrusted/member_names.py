"""Names inside archives: which are accepted, and that no two of them name the same file."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from orca_cli.exceptions import UnsafeError

_MAX_PART = 255  # bytes, of most file systems
_MAX_NAME = 1024
_MAX_DEPTH = 32


class Names:
    """The names of one archive's members as paths inside a folder.

    Args:
        where: the archive, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._files: set[str] = set()
        self._folders: dict[str, str] = {}  # folded -> as written

    def add(self, name: str, folder: bool = False) -> PurePosixPath | None:
        """Return the path of a member, or None for the folder itself.

        Raises:
            UnsafeError: absolute, with `..` or control characters, too long, inside a file, or the same as another name up
                to case.
        """
        self._check(name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts:
            if folder:
                return None
            raise self._refused(name, "does not name a file")
        if len(parts) > _MAX_DEPTH or any(len(part.encode()) > _MAX_PART for part in parts):
            raise self._refused(name, "is too long or too deep")
        for end in range(1, len(parts) + folder):
            written = "/".join(parts[:end])
            folded = _folded(written)
            if folded in self._files:
                raise self._refused(name, "lies inside a file")
            if self._folders.setdefault(folded, written) != written:
                raise self._refused(name, "differs from another folder only in case")
        path = PurePosixPath(*parts)
        folded = _folded(str(path))
        if not folder:
            if folded in self._files or folded in self._folders:
                raise self._refused(name, "occurs twice, or differs only in case")
            self._files.add(folded)
        return path

    def _check(self, name: str) -> None:
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise self._refused(name, "is not text") from error
        if size > _MAX_NAME:
            raise self._refused(name, "is too long or too deep")
        if name.startswith("/") or "\\" in name or name[1:2] == ":":
            raise self._refused(name, "is an absolute path, or one of another system")
        if ".." in name.split("/"):
            raise self._refused(name, "leads out of the folder")
        if not all(letter.isprintable() for letter in name):
            raise self._refused(name, "has control characters")

    def _refused(self, name: str, what: str) -> UnsafeError:
        return UnsafeError(
            f"member {ascii(name[:100])} {what}",
            where=self._where,
            hint="nothing was unpacked; get the archive from a source that you trust",
        )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
