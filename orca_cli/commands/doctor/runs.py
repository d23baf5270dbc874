"""`orca doctor RUN`: are the files of a run as they were written? A lost or broken status is restored from them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from orca_cli.exceptions import CheckpointError
from orca_cli.runs.check import Checked, check
from orca_cli.runs.naming import named
from orca_cli.terminal import Result

_COMPLETED = "; run its command with --force to repeat it in another folder"
_UNFINISHED = "; run its command again to resume from what is intact"


def check_runs(words: list[str]) -> Result:
    """Check runs, given by folder or by name; the exit code is that of the first run that is not intact.

    Raises:
        DataError: a run does not exist.
        LockedError: a process is working on it.
    """
    found = [check(named(word)) for word in words]
    record = {"schema": 1, "runs": [vars(one) | {"path": str(one.path)} for one in found]}
    return Result(
        record, [text for one in found for text in _show(one)], code=next((o.code for o in found if o.code), 0)
    )


def _show(found: Checked) -> Iterator[Text]:
    yield Text(str(found.path), style="cyan")
    for text in found.damaged:
        yield Text(f"  damaged: {text}", style="red")
    for text in found.notes:
        yield Text(f"  {text}")
    if found.rebuilt:
        yield Text(f"  status.json was restored: {found.rebuilt}")
    state = f"{len(found.damaged)} damaged" if found.damaged else "intact"
    if found.code == CheckpointError.code:
        state = "not checked"
    files = f"{found.files} files compared with their checksums" if found.files else "no file has a checksum yet"
    advice = (_COMPLETED if found.state == "completed" else _UNFINISHED) if found.damaged else ""
    yield Text(f"  {state}: {files}; state {found.state}{advice}", style="bold")
