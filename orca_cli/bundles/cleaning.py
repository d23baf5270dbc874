"""What records say about the machine that they come from, taken out: paths, accounts, secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orca_cli import credentials

REMOVED = "<removed>"
_OF_MACHINE = ("host", "pid", "boot", "folder")  # keys of status.json and env.json
_STOP = r"\s'\"<>|:;,()\[\]{}="
_POSIX, _WINDOWS = rf"(?:~[\w.-]*)?/(?=[\w.])(?:/?[^/{_STOP}]+)+/?", rf"[A-Za-z]:\\[^{_STOP}]*"
_IN_TEXT = re.compile(rf"(?<![\w.:/<>~-])(?:{_POSIX}|{_WINDOWS})")
_WHOLE = re.compile(r"(?:(?:~[\w.-]*)?/[\w.]|[A-Za-z]:\\)(?:(?!: )[^\n;])*")
_FILE = re.compile(r"\bfile://+")


class Cleaner:
    """Takes out of texts and records what is only of this machine.

    Paths that differ stay different: the second path of a last name is `<path-2>/NAME`, by the order in which they are met.

    Args:
        folders: whose paths may have blanks, such as that of the runs; the home and the working folder are added.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        known = {Path.home(), Path.cwd(), *folders}
        known |= {Path(os.path.realpath(folder)) for folder in known} | {folder.absolute() for folder in known}
        # Others are found without being known, so that what is left of them does not depend on who asks.
        texts = {str(folder) for folder in known if folder.is_absolute() and re.search(rf"[{_STOP}]", str(folder))}
        found = "|".join(map(re.escape, sorted(texts, key=lambda text: (-len(text), text))))
        self._known = re.compile(rf"(?:{found})(?:/[^/{_STOP}]+)*/?") if found else None
        self._met: dict[str, dict[str, int]] = {}  # last name -> path -> its number

    def text(self, text: str) -> str:
        """Return a text: of absolute paths only the last name is left, of logins and keys of services nothing."""
        text = credentials.KEYS.sub(REMOVED, credentials.LOGIN.sub(rf"\1{REMOVED}@", _FILE.sub("/", text)))
        if _WHOLE.fullmatch(text):
            return self._short(text)
        if self._known is not None:
            text = self._known.sub(lambda found: self._short(found[0]), text)
        return _IN_TEXT.sub(lambda found: self._short(found[0]), text)

    def setting(self, text: str) -> str:
        """Return a text of the form KEY=VALUE."""
        key, separator, value = text.partition("=")
        return f"{key}={self.value(value, key)}" if separator and value else self.text(text)

    def value(self, value: Any, key: str = "") -> Any:
        """Return a record or a part of one; `key` is where it stands."""
        if isinstance(value, dict):
            return {(name := self.text(str(own))): self.value(inner, name) for own, inner in value.items()}
        if isinstance(value, list):
            return [self.setting(one) if isinstance(one, str) else self.value(one, key) for one in value]
        is_text = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""
        if is_text and credentials.NAMES.search(key):
            return REMOVED
        return self.text(value) if isinstance(value, str) else value

    def machine(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return a record of a status or an environment without what names the machine."""
        return {
            key: [self.machine(one) if isinstance(one, dict) else one for one in value] if key == "attempts" else value
            for key, value in record.items()
            if key not in _OF_MACHINE
        }

    def _short(self, path: str) -> str:
        path = path.rstrip("/\\")
        names = re.split(r"[/\\]", path)
        is_account = len(names) > 1 and names[-2] in ("home", "Users")  # a home is named after who owns it
        name = "" if is_account else f"/{names[-1]}"
        met = self._met.setdefault(name, {})
        number = met.setdefault(path, len(met) + 1)
        return f"<path{f'-{number}' if number > 1 else ''}>{name}"
