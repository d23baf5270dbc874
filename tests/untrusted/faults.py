"""Faults of a parser in the worker: functions that tests call in place of the readers."""

import ctypes
import os
import resource
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from orca_cli.exceptions import DataError


def fault(kind: str, argument: Any = None) -> Any:
    return FAULTS[kind](argument)


def _spin(size):
    """Never end, and hold ever more memory."""
    blocks = []
    while True:
        if size:
            blocks.append(bytearray(size))


def _raise(error):
    raise error


def _state(_):
    return {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "limits": {
            name: resource.getrlimit(getattr(resource, name))[0]
            for name in dir(resource)
            if "RLIMIT" in name
        },
    }


def _tried(action):
    """Return a function that tries an action and reports whether the system allowed it."""

    def attempt(argument):
        try:
            action(argument)
        except OSError as error:
            return type(error).__name__
        return "done"

    return attempt


def _rubbish(content):
    """Write to the descriptor of the answers: the first pipe, once the standard output."""
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        with suppress(OSError):
            if number > 2 and os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                os.write(number, content)
                os._exit(0)


FAULTS = {
    "segfault": lambda _: ctypes.string_at(0),
    "spin": lambda _: _spin(0),
    "nibble": lambda _: _spin(2**24),
    "sleep": time.sleep,
    "error": lambda _: _raise(ZeroDivisionError("deep inside")),
    "ours": lambda _: _raise(DataError("is wrong", where="some.file", hint="repair it")),
    "echo": lambda value: value,
    "state": _state,
    "reach_out": _tried(lambda port: socket.create_connection(("127.0.0.1", port), 2).close()),
    "write": _tried(lambda path: Path(path).write_text("x")),
    "rubbish": _rubbish,
}
