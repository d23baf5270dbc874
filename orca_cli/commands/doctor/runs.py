"""`orca doctor RUN`: are the files of a run as they were written? A lost or broken status is restored from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from orca_cli import configuration
from orca_cli.exceptions import CheckpointError, DataError, OrcaError
from orca_cli.runs.check import Checked, check

_COMPLETED = "; run its command with --force to repeat it in another folder"
_UNFINISHED = "; run its command again to resume from what is intact"


@dataclass(frozen=True)
class Runs:
    """What was found in each run."""

    checked: list[Checked]
    failures: tuple[OrcaError, ...] = ()

    @property
    def code(self) -> int:
        """Exit code: that of the first run that is not intact."""
        return next((checked.code for checked in self.checked if checked.code), 0)

    def record(self) -> dict[str, Any]:
        """Return what was found."""
        return {"schema": 1, "runs": [vars(checked) | {"path": str(checked.path)} for checked in self.checked]}

    def show(self) -> Iterator[Text]:
        """Yield the findings of each run and a verdict."""
        for found in self.checked:
            yield Text(str(found.path), style="cyan")
            for text in found.damaged:
                yield Text(f"  damaged: {text}", style="red")
            for text in found.notes:
                yield Text(f"  {text}")
            if found.rebuilt:
                yield Text(f"  status.json was restored: {found.rebuilt}")
            yield Text(f"  {_verdict(found)}", style="bold")


def check_runs(words: list[str]) -> Runs:
    """Check runs, given by folder or by name.

    Raises:
        DataError: a run does not exist.
        LockedError: a process is working on it.
    """
    return Runs([check(_folder(word)) for word in words])


def _folder(word: str) -> Path:
    path = Path(word).expanduser()
    if path.is_dir():
        return path
    root = configuration.default_folders()["runs"]
    named = sorted(root.glob(f"*/{path.name}")) if path.name == word else []
    if not named:
        hint = f"give a run's folder, or the name of one in {root} (ORCA_RUNS)"
        raise DataError("no such run", where=word, hint=hint)
    return named[-1]


def _verdict(found: Checked) -> str:
    state = f"{len(found.damaged)} damaged" if found.damaged else "intact"
    if found.code == CheckpointError.code:
        state = "not checked"
    files = f"{found.files} files compared with their checksums" if found.files else "no file has a checksum yet"
    advice = (_COMPLETED if found.state == "completed" else _UNFINISHED) if found.damaged else ""
    return f"{state}: {files}; state {found.state}{advice}"
