"""Files that are programs or trees of pointers are parsed in a process of their own, which may crash and has limits.

One worker serves all reads of this process and ends with it. A new one is started after a crash, after a fork, and for a file
that needs more memory than the old one may use. See docs/decisions/0010-untrusted-files-in-a-worker.md.
"""

from __future__ import annotations

import atexit
import fcntl
import importlib.util
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orca_cli import exceptions, signals
from orca_cli.exceptions import OrcaError, UnavailableError, WorkerError
from orca_cli.untrusted import transfer
from orca_cli.untrusted.memory import check_memory
from orca_cli.untrusted.worker_process import MEMORY

_BASE_BYTES = 3 * 2**30
_BYTES_PER_BYTE = 4  # of memory for each byte of the file, beyond the base
_STEP_BYTES = 2**30  # that the memory is rounded up to, so that files of about one size share a worker
_BASE_S = 5
_BYTES_PER_S = 2**18
_WAIT = 12  # times the computing time: for slow disks and busy machines
_SLICE_S = 0.2
_MOST_BYTES = 2**33  # of the answer of a process without a limit of memory
# No secrets of this process, no threads, no plug-ins of HDF5.
_ENVIRONMENT = {
    "HOME": os.devnull,  # or importing SciPy asks the system for the user's folder
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",
    "LC_ALL": "C.UTF-8",
}
_START = "import sys; sys.path[:] = {path!r}; from orca_cli.untrusted.worker_process import main; main()"


class StoppedError(Exception):
    """A worker returned no value; the message is a predicate, such as "failed: ZeroDivisionError: division by zero"."""


class CrashedError(StoppedError):
    """It has ended, and not by one of its limits."""


class OverTimeError(StoppedError):
    """It needs more computing time, or gave no answer."""


def read(function: Callable[..., Any], where: str, size: int, **arguments: Any) -> Any:
    """Return what a function returns, called in the worker.

    Args:
        function: of a module; the worker imports it.
        where: the file, for messages.
        size: of the file in bytes; decides how much memory and time there is.
        arguments: of the function: numbers, texts, bytes and lists of them.

    Raises:
        OrcaError: as the function raises.
        WorkerError: the worker crashed, or reached a limit.
        MemoryExhaustedError: the answer is larger than the free memory.
        InterruptionError: a signal asked to stop.
    """
    seconds = _BASE_S + size // _BYTES_PER_S
    memory = _BASE_BYTES + (_BYTES_PER_BYTE * size // _STEP_BYTES + 1) * _STEP_BYTES
    with _lock:
        try:
            if _running is not None:  # a crash may be the fault of an earlier file: try again in a new worker
                with suppress(CrashedError):
                    return _worker(memory).ask(function, arguments, where, seconds, _WAIT * seconds)
            return _worker(memory).ask(function, arguments, where, seconds, _WAIT * seconds)
        except StoppedError as error:
            hint = "the file is damaged or hostile; get it from a source that you trust"
            raise WorkerError(f"reading it {error}", where=where, hint=hint) from error


def check_installed(package: str, where: str, what: str, *, extra: str, otherwise: str = "") -> None:
    """Raise UnavailableError, which names the extra, where a package that the worker needs is missing; nothing is imported."""
    try:
        is_installed = importlib.util.find_spec(package) is not None
    except ValueError:  # its import is blocked
        is_installed = False
    if not is_installed:
        hint = f"pip install 'orca-transfer[{extra}]'{otherwise}"
        raise UnavailableError(f"reading {what} needs the package {package}", where=where, hint=hint)


def close() -> None:
    """End the worker, if there is one."""
    global _running
    if _running is not None:
        _running.end()
        _running = None


def _worker(memory: int) -> Worker:
    global _running
    if _running is None or _running.memory < memory or not _running.usable:
        close()
        # Python may need LD_LIBRARY_PATH to start.
        variables = _ENVIRONMENT | {name: text for name, text in os.environ.items() if name == "LD_LIBRARY_PATH"}
        _running = Worker(memory, variables)
    return _running


class Worker:
    """A process that calls functions.

    Args:
        memory: bytes of address space; such a process is also confined to what reading a file needs. 0 for functions of
            our own, which may do what this process may.
        variables: its environment.
        errors: file for its standard error.
    """

    def __init__(self, memory: int, variables: Mapping[str, str], errors: Any = subprocess.DEVNULL) -> None:
        self.memory, self.usable = memory, True
        # The program's own folder first; the rest as this process finds its packages, and nothing of the current folder.
        path = [str(Path(__file__).parents[2]), *(entry for entry in sys.path if os.path.isabs(entry))]
        command = [sys.executable, "-I", "-S", "-B", "-c", _START.format(path=path), str(memory)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=variables)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for descriptor in (self._to, self._from):
            os.set_blocking(descriptor, False)
            with suppress(OSError, AttributeError):  # only slower
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 2**20)

    def ask(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], where: str, seconds: int, wait_s: float
    ) -> Any:
        """Return what a function returns; after an error the process has to be replaced unless it is `usable`.

        Args:
            function, arguments, where: as for `read`.
            seconds: of computing.
            wait_s: for the answer.

        Raises:
            StoppedError: there is no value.
            OrcaError: as for `read`.
        """
        self.usable = False  # until the whole answer has arrived
        self._where, self._seconds = where, seconds
        self._wait_s, self._end = wait_s, time.monotonic() + wait_s
        request = {
            "function": [function.__module__, function.__name__],
            "arguments": dict(arguments),
            "folder": os.getcwd(),
            "seconds": seconds,
        }
        try:
            for part in transfer.pack(request):
                self._send(memoryview(part).cast("B"))
            answer = transfer.unpack(self.memory or _MOST_BYTES, self._fill)
        except transfer.TransferError as error:
            self.end()
            raise StoppedError(f"failed: its process returned a malformed response: {error}") from error
        except BaseException:
            self.end()  # it may still be at work
            raise
        return self._value_of(answer)

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._process:
            self._process.kill()

    def _value_of(self, answer: Any) -> Any:
        kind, content = next(iter(answer.items())) if type(answer) is dict and len(answer) == 1 else ("", None)
        self.usable = kind in ("value", "error")
        if kind == "value":
            return content
        if kind == "failed" and content == MEMORY:
            limit = f"its limit of {self.memory / 2**30:.1f} GiB of memory" if self.memory else "the free memory"
            raise StoppedError(f"needs more than {limit}")
        if kind == "failed":
            raise StoppedError(f"failed: {str(content)[:500]}")
        if kind == "error" and type(content) is list and len(content) == 4 and all(type(t) is str for t in content):
            error = getattr(exceptions, content[0], None)
            if isinstance(error, type) and issubclass(error, OrcaError):
                raise error(content[1], where=content[2], hint=content[3])
        raise StoppedError("failed: its process returned a malformed response")

    def _fill(self, buffer: memoryview) -> None:
        if len(buffer) > 2**26:
            check_memory(len(buffer), self._where, hint="use a machine with more memory")
        while buffer:
            self._wait([self._from], [])
            count = os.readv(self._from, [buffer])
            if count == 0:
                raise self._ended()
            buffer = buffer[count:]

    def _send(self, part: memoryview) -> None:
        while part:
            self._wait([], [self._to])
            try:
                part = part[os.write(self._to, part) :]
            except BrokenPipeError:
                raise self._ended() from None

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        signals.check()
        while not any(select.select(readable, writable, [], _SLICE_S)):
            if time.monotonic() > self._end:
                raise OverTimeError(f"failed: its process gave no answer in {self._wait_s:g} s")
            signals.check()

    def _ended(self) -> StoppedError:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return OverTimeError(f"needs more than its limit of {self._seconds} s of computing time")
        name = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return CrashedError(f"failed: its process {name}")


def _forget() -> None:
    """Close the pipes of a worker that belongs to the process this one was forked from."""
    global _running, _lock
    _lock, forgotten, _running = threading.Lock(), _running, None
    if forgotten is not None:
        os.close(forgotten._to)
        os.close(forgotten._from)
        forgotten._process.returncode = 0


_running: Worker | None = None
_lock = threading.Lock()
atexit.register(close)
os.register_at_fork(after_in_child=_forget)
