"""What a parser could do in the worker: functions that tests let it call in place of the readers."""

import os
import resource
import socket
import subprocess
import time
from typing import Any

import numpy as np

from orca_cli.exceptions import DataError


def fault(kind: str, argument: Any = None) -> Any:
    return globals()[f"_{kind}"](argument)


def _segfault(_):
    import ctypes

    ctypes.string_at(0)


def _abort(_):
    os.abort()


def _leave(code):
    os._exit(code)


def _spin(_):
    while True:
        pass


def _sleep(seconds):
    time.sleep(seconds)


def _swallow(size):
    return len(np.empty(size // 8))


def _nibble(_):
    held = []
    while True:
        held.append(bytearray(2**24))


def _error(_):
    raise ZeroDivisionError("deep inside")


def _ours(_):
    raise DataError("is wrong", where="some.file", hint="mend it")


def _echo(value):
    return value


def _loop(_):
    holder = []
    holder.append(holder)
    return holder


def _object(_):
    return object()


def _state(_):
    return {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "limits": {name: resource.getrlimit(getattr(resource, name))[0] for name in dir(resource) if "RLIMIT" in name},
    }


def _reach_out(port):
    return _tried(lambda: socket.create_connection(("127.0.0.1", port), 2).close())


def _write(path):
    return _tried(lambda: _write_file(path))


def _write_file(path):
    with open(path, "w") as file:
        file.write("x")


def _start(_):
    return _tried(lambda: subprocess.run(["true"], check=True))


def _tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"


def _rubbish(content):
    # Descriptor of the answers: the one that is a copy of what standard output was.
    os.write(_answers(), content)
    os._exit(0)


def _crash_if_used(path):
    """Crash in a process that has served before."""
    global _used
    _used += 1
    if _used > 1:
        os.abort()
    return path


_used = 0


def _answers() -> int:
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            if number > 2 and os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                return number
        except OSError:
            continue
    raise LookupError
