"""What a forked command line opens, starts and connects to, as Python's audit events tell it."""

import os
import sys

_SEEN = {"open": 0, "socket.connect": 1, "subprocess.Popen": 0, "os.system": 0, "os.exec": 0, "os.posix_spawn": 0}


def watch(argument):
    """Write a line for each event into a file; called in the child before the command line."""
    log = os.open(argument, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(event, arguments):
        if event in _SEEN:
            os.write(log, f"{event} {arguments[_SEEN[event]]!r}\n".encode(errors="replace"))

    sys.addaudithook(note)
