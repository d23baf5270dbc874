"""`orca doctor RUN`: are the files of a run what was written? A lost or broken status is made anew from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orca_cli import configuration, terminal
from orca_cli.exceptions import DataError
from orca_cli.runs.check import Checked, check

SCHEMA = 1
_COMPLETED = "; its command with --force runs it anew, in another folder"
_UNFINISHED = "; its command, typed again, goes on from what is whole"


def check_runs(words: list[str], *, as_json: bool) -> int:
    """Check runs, given by folder or by name, and return the exit code: that of the first that is not whole.

    Raises:
        DataError: there is no such run.
        LockedError: a process works on it.
    """
    found = [check(_folder(word)) for word in words]
    if as_json:
        records = [vars(checked) | {"path": str(checked.path)} for checked in found]
        terminal.print_text(json.dumps({"schema": SCHEMA, "runs": records}, indent=2) + "\n")
    else:
        for checked in found:
            _print(checked)
    return next((checked.code for checked in found if checked.code), 0)


def _folder(word: str) -> Path:
    path = Path(word).expanduser()
    if path.is_dir():
        return path
    root = configuration.default_folders()["runs"]
    named = sorted(root.glob(f"*/{path.name}")) if path.name == word else []
    if not named:
        raise DataError(
            "no such run", where=word, hint=f"give a run's folder, or the name of one in {root} (ORCA_RUNS)"
        )
    return named[-1]


def _print(found: Checked) -> None:
    from rich.text import Text

    lines: list[Any] = [Text(str(found.path), style="cyan")]
    lines += [Text(f"  damaged: {text}", style="red") for text in found.damaged]
    lines += [Text(f"  {text}") for text in found.notes]
    if found.rebuilt:
        lines.append(Text(f"  status.json was written anew: {found.rebuilt}"))
    verdict = f"{len(found.damaged)} damaged" if found.damaged else "whole"
    if found.code == 21:
        verdict = "not checked"
    files = f"{found.files} files compared with their checksums" if found.files else "no file has a checksum yet"
    verdict = f"{verdict}: {files}; state {found.state}"
    if found.damaged:
        verdict += _COMPLETED if found.state == "completed" else _UNFINISHED
    lines.append(Text(f"  {verdict}", style="bold"))
    terminal.print_result(*lines)
