"""Files that are programs or trees of pointers are parsed in a process of their own, which may crash and has limits.

One worker serves all reads of this process. It ends with it, and a new one is started where it died, where a file needs
more memory than it was allowed, and after a fork. See docs/decisions/0010-foreign-files-in-a-worker.md.
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
_PIPE_BYTES = 2**20
_TRUST = "the file is damaged or hostile; get it from a source that you trust"
_START = "import sys; sys.path[:] = {path!r}; from orca_cli.untrusted.worker_process import main; main()"


def read(reader: str, where: str, size: int, **arguments: Any) -> Any:
    """Return what a function of `worker_process.READERS` returns, called in the worker.

    Args:
        reader: name of the function.
        where: the file, for messages.
        size: bytes of the file; they decide how much memory and time there is.
        arguments: of the function: numbers, texts, bytes and lists of them.

    Raises:
        OrcaError: as the function says.
        WorkerError: the worker crashed, or reached a limit.
        MemoryExhaustedError: the answer is larger than the memory that is free.
        InterruptionError: a signal asked to stop.
    """
    request = {"reader": reader, "arguments": arguments, "folder": os.getcwd()}
    seconds = _BASE_S + size // _BYTES_PER_S
    memory = _BASE_BYTES + (_BYTES_PER_BYTE * size // _STEP_BYTES + 1) * _STEP_BYTES
    with _lock:
        used_before = _running is not None
        try:
            return _worker(memory).ask(request, where, seconds)
        except _CrashedError as crash:
            if not used_before:
                raise crash.told(where) from crash
        # The fault may be what an earlier file left behind.
        try:
            return _worker(memory).ask(request, where, seconds)
        except _CrashedError as crash:
            raise crash.told(where) from crash


def check_installed(package: str, where: str, what: str, *, extra: str, otherwise: str = "") -> None:
    """Raise UnavailableError, which names the extra, where a package that the worker needs is missing; nothing is imported."""
    try:
        found = importlib.util.find_spec(package) is not None
    except ValueError:  # its import is blocked
        found = False
    if not found:
        hint = f"pip install 'orca-transfer[{extra}]'{otherwise}"
        raise UnavailableError(f"reading {what} needs the package {package}", where=where, hint=hint)


def close() -> None:
    """End the worker, if there is one."""
    global _running
    if _running is not None:
        _running.end()
        _running = None


def _worker(memory: int) -> _Worker:
    global _running
    if _running is not None and (_running.memory < memory or not _running.usable):
        close()
    if _running is None:
        _running = _Worker(memory)
    return _running


class _CrashedError(Exception):
    """The worker is no more, and it was not stopped by a limit."""

    def told(self, where: str) -> WorkerError:
        return WorkerError(f"the process that reads it {self}", where=where, hint=_TRUST)


class _Worker:
    """A running worker.

    Args:
        memory: bytes of address space that it may use.
    """

    def __init__(self, memory: int) -> None:
        self.memory, self.usable = memory, True
        # The program's own folder first; the rest as this process finds its packages, and nothing of the current folder.
        path = [str(Path(__file__).parents[2]), *(entry for entry in sys.path if os.path.isabs(entry))]
        command = [sys.executable, "-I", "-S", "-B", "-c", _START.format(path=path), str(memory)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            _widen(pipe)

    def ask(self, request: dict[str, Any], where: str, seconds: int) -> Any:
        """Send a request and return the answer's value; raises as `read`, and _CrashedError."""
        self.usable = False  # until the answer was taken whole
        self._seconds, self._end = seconds, time.monotonic() + _WAIT * seconds
        self._where = where
        try:
            for part in transfer.pack(request | {"seconds": seconds}):
                self._send(memoryview(part).cast("B"))
            head = bytearray(transfer.LENGTH_BYTES)
            self._fill(memoryview(head))
            text = bytearray(transfer.length(bytes(head)))
            self._fill(memoryview(text))
            answer = transfer.unpack(bytes(text), self.memory, self._fill_checked)
        except transfer.TransferError as error:
            self.end()
            raise WorkerError(f"cannot be handed over: {error}", where=where, hint=_TRUST) from error
        except BaseException:
            self.end()  # it may still be at work
            raise
        return self._taken(answer, where)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def forget(self) -> None:
        """Let go of a process that belongs to the process this one was forked from."""
        for pipe in (self._to, self._from):
            os.close(pipe)
        self._process.returncode = 0

    def _taken(self, answer: Any, where: str) -> Any:
        kinds = {"value", "error", "failed"}
        if type(answer) is not dict or len(answer) != 1 or not answer.keys() <= kinds:
            raise WorkerError("the process that reads it gave no answer that is one", where=where, hint=_TRUST)
        if "value" in answer:
            self.usable = True
            return answer["value"]
        if "error" in answer:
            self.usable = True
            raise _error(answer["error"], where)
        if answer["failed"] == MEMORY:
            raise WorkerError(
                f"reading it needs more than the {self.memory / 2**30:.1f} GiB of memory that it may use",
                where=where,
                hint=_TRUST,
            )
        raise WorkerError(f"reading it failed: {str(answer['failed'])[:500]}", where=where, hint=_TRUST)

    def _fill_checked(self, buffer: memoryview) -> None:
        if len(buffer) > 2**26:
            check_memory(len(buffer), self._where, hint="use a machine with more memory")
        self._fill(buffer)

    def _fill(self, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            self._wait([self._from], [])
            count = os.readv(self._from, [buffer[done:]])
            if count == 0:
                raise self._ended()
            done += count

    def _send(self, part: memoryview) -> None:
        done = 0
        while done < len(part):
            self._wait([], [self._to])
            try:
                done += os.write(self._to, part[done:])
            except BrokenPipeError:
                raise self._ended() from None

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        while True:
            signals.check()
            if any(select.select(readable, writable, [], _SLICE_S)):
                return
            if time.monotonic() > self._end:
                what = f"the process that reads it gave no answer in {_WAIT * self._seconds} s"
                raise WorkerError(what, where=self._where, hint=_TRUST)

    def _ended(self) -> Exception:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            what = f"reading it needs more than the {self._seconds} s of computing time that it may use"
            return WorkerError(what, where=self._where, hint=_TRUST)
        if code < 0:
            return _CrashedError(f"was ended by {signal.Signals(-code).name}")
        return _CrashedError(f"ended with exit code {code}")


def _error(told: Any, where: str) -> OrcaError:
    """Return one of our errors that the worker tells of."""
    if type(told) is list and len(told) == 4 and all(type(text) is str for text in told):
        kind = getattr(exceptions, told[0], None)
        if isinstance(kind, type) and issubclass(kind, OrcaError):
            return kind(told[1], where=told[2], hint=told[3])
    return WorkerError("the process that reads it gave no answer that is one", where=where, hint=_TRUST)


def _environment() -> dict[str, str]:
    """Return the worker's variables: no secrets of this process, no threads, no plug-ins of HDF5."""
    # Python itself may need the first one to start.
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return kept | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HDF5_PLUGIN_PRELOAD": "::",
        "LC_ALL": "C.UTF-8",
    }


def _widen(pipe: int) -> None:
    with suppress(OSError, AttributeError):  # slower, and no more
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _forget() -> None:
    global _running, _lock
    _lock = threading.Lock()
    if _running is not None:
        _running.forget()
        _running = None


_running: _Worker | None = None
_lock = threading.Lock()
atexit.register(close)
os.register_at_fork(after_in_child=_forget)
