"""Faults of the places that a run writes to, and what it opens; functions that take one text are hooks of the fork server."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.reliability.phases import PHASES, before

_CAPABILITY_VERSION = 0x20080522  # of the kernel's structure with 64 bits
_EVENTS = {
    "open": 0, "socket.connect": 1, "subprocess.Popen": 0, "os.system": 0, "os.exec": 0,
    "os.posix_spawn": 0,
}  # fmt: skip
DENIED = 70  # exit code of the harness where a premise does not hold


def without_privileges(folder: str) -> None:
    """Give up root's right to pass over permissions, and see that `folder`, which is another's, cannot be written then."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    if os.geteuid() == 0 and ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) != 0:
        os._exit(DENIED)
    try:
        (Path(folder) / "premise").touch()
    except PermissionError:
        return
    os._exit(DENIED)


def tree(folder: Path) -> set[str]:
    """Return the paths of all that lies in a folder; links are not followed."""
    return {
        os.path.join(place, name)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }


def vanish(argument: str) -> None:
    """Take a run's folder away at the n-th call of a phase ("phase:n:how:runs:mark"); what is left is written to `mark`."""
    phase, number, how, place, mark = argument.split(":")
    runs = Path(place)

    def go() -> None:
        (run,) = [path.parent for path in runs.glob("*/*/lock")]
        VANISH[how](run, runs)
        Path(mark).write_text(json.dumps(sorted(tree(runs.parent))))

    before(PHASES[phase], int(number), go)


VANISH: dict[str, Callable[[Path, Path], Any]] = {
    "deleted": lambda run, runs: shutil.rmtree(run),
    "renamed": lambda run, runs: run.rename(run.with_name("renamed")),
    "replaced": lambda run, runs: (run.rename(runs.parent / "elsewhere"), run.mkdir()),
    "all runs renamed": lambda run, runs: runs.rename(runs.with_name("elsewhere")),
}


def errors_to(place: str) -> None:
    """Write standard error to a full disk, or into a pipe whose reader has ended."""
    readable, writable = os.pipe()
    os.close(readable)
    os.dup2(os.open("/dev/full", os.O_WRONLY) if place == "full disk" else writable, 2)


def without_temporary(mark: str) -> None:
    """Let there be no folder for temporary files; `mark` is made where Python finds none."""
    tempfile.tempdir, tempfile._candidate_tempdir_list = None, lambda: ["/nowhere"]  # type: ignore[attr-defined]
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        Path(mark).touch()


def watch(log: str) -> None:
    """Write a line into a file for all that the process opens, starts and connects to, as Python's audit events have it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(event: str, arguments: tuple) -> None:
        if event in _EVENTS:
            os.write(
                descriptor, f"{event} {arguments[_EVENTS[event]]!r}\n".encode(errors="replace")
            )

    sys.addaudithook(note)
