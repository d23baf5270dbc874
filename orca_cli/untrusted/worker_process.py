"""The worker itself: calls functions until its input ends.

`worker` starts it with an environment of its own. One that reads files gives up what that does not need before it touches the
first: the network, writing to files, further processes, and memory beyond a limit that cannot be raised again.
"""

from __future__ import annotations

import importlib
import math
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from orca_cli.exceptions import OrcaError

MEMORY = "memory"
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CUT = 2000  # characters of a message


def main() -> None:
    """Serve requests on standard input; answers go to what standard output was."""
    answers = os.fdopen(os.dup(1), "wb", buffering=2**20)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is not an answer
    # Meant for the parent, which ends this process or closes its input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)
    if memory := int(sys.argv[1]):
        _confine(memory)
    from orca_cli.untrusted import transfer

    requests = os.fdopen(0, "rb", buffering=2**20)

    def fill(buffer: memoryview) -> None:
        if requests.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise EOFError

    with suppress(EOFError):
        while True:
            request = transfer.unpack(2**62, fill)
            used = resource.getrusage(resource.RUSAGE_SELF)
            # From now on the kernel lets this process compute for this long.
            _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + request["seconds"])
            answers.writelines(_answered(request))
            answers.flush()
            del request


def _answered(request: dict[str, Any]) -> list[Any]:
    """Return the parts of the answer: the value, or what prevents it."""
    from orca_cli.untrusted import transfer

    try:
        os.chdir(request["folder"])
        module, name = request["function"]
        return transfer.pack({"value": getattr(importlib.import_module(module), name)(**request["arguments"])})
    except OrcaError as error:
        texts = [text[:_CUT] for text in (error.what, error.where, error.hint)]
        return transfer.pack({"error": [type(error).__name__, *texts]})
    except MemoryError:
        return transfer.pack({"failed": MEMORY})
    except Exception as error:  # noqa: BLE001 - a parser can fail in any way; the parent says so and names the file
        return transfer.pack({"failed": f"{type(error).__name__}: {error}"[:_CUT]})


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # a system without this limit; the others apply
        resource.setrlimit(what, (value, value if what != resource.RLIMIT_CPU else hard))


def _confine(memory: int) -> None:
    _leave_the_network()
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    import numpy as np  # it may start threads, which the last limit forbids

    np.zeros(1)
    _limit(resource.RLIMIT_NPROC, 0)


def _leave_the_network() -> None:
    """Enter a network of its own without any device, where the kernel allows that; this process is still single-threaded."""
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
