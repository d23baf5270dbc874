"""What a parser could do in the worker: functions that tests let it call in place of the readers."""

import ctypes
import os
import resource
import socket
import subprocess
import time
from typing import Any

from orca_cli.exceptions import DataError


def fault(kind: str, argument: Any = None) -> Any:
    return FAULTS[kind](argument)


def _spin(_):
    while True:
        pass


def _nibble(_):
    held = []
    while True:
        held.append(bytearray(2**24))


def _error(_):
    raise ZeroDivisionError("deep inside")


def _ours(_):
    raise DataError("is wrong", where="some.file", hint="mend it")


def _state(_):
    return {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "limits": {name: resource.getrlimit(getattr(resource, name))[0] for name in dir(resource) if "RLIMIT" in name},
    }


def _write(path):
    with open(path, "w") as file:
        file.write("x")


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
    # Descriptor of the answers: the one that is a copy of what standard output was.
    os.write(_answers(), content)
    os._exit(0)


def _answers() -> int:
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            if number > 2 and os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                return number
        except OSError:
            continue
    raise LookupError


FAULTS = {
    "segfault": lambda _: ctypes.string_at(0),
    "spin": _spin,
    "sleep": time.sleep,
    "nibble": _nibble,
    "error": _error,
    "ours": _ours,
    "echo": lambda value: value,
    "state": _state,
    "reach_out": _tried(lambda port: socket.create_connection(("127.0.0.1", port), 2).close()),
    "write": _tried(_write),
    "start": _tried(lambda _: subprocess.run(["true"], check=True)),
    "rubbish": _rubbish,
}
