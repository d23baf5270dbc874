"""Functions called in a process of their own, which may crash and has limits: parsers of other people's files, and fits.

A confined process gives up, before it touches its first file, what reading one does not need: the network, writing, further
processes, and memory beyond a limit that cannot be raised again. One confined process serves all reads of this process, one
without confinement all fits; both end with it. A new one is started after a crash, after a fork, and for a file that needs
more memory than the old one may use. Requests and answers are pickles; both sides read them with the machine for pickles of
unknown origin, since a parser that was taken over can answer anything. See docs/decisions/0010-untrusted-files-in-a-worker.md.
"""

import atexit
import importlib
import io
import math
import os
import pickle  # written alone
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orca_cli import exceptions, signals
from orca_cli.data.untrusted import pickle_machine
from orca_cli.exceptions import DataError, OrcaError, UnsafeError, WorkerError

_SLICE_S = 0.2
_MOST_BYTES = 2**33  # of the answer of a process without a limit of memory
# One thread: the last bits depend on their number, and machines that share a cache share its baselines.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# No secrets of this process, no threads.
_ENVIRONMENT = {
    "HOME": os.devnull,  # or importing SciPy asks the system for the user's folder
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}
_START = "import sys; sys.path[:] = {path!r}; from orca_cli.data.untrusted.isolation import serve; serve(int(sys.argv[1]))"
_CUT = 2000  # characters of a message
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


class StoppedError(Exception):
    """There is no value; the message is a predicate, such as "failed: ZeroDivisionError: division by zero"."""


def read(function: Callable[..., Any], where: str, size: int, **arguments: Any) -> Any:
    """Return what a function returns that reads a file of unknown origin, called in the confined process, which imports it.

    Args:
        function: of a module's top level; errors of ours that it raises are raised here.
        where: names the file in messages.
        size: of the file in bytes, which decides how much memory and time there is.
        arguments: like the value that is returned, what `unpickle` reads: plain containers, texts, numbers, NumPy's arrays.

    Raises:
        OrcaError: as the function raises.
        WorkerError: the process crashed, or reached a limit.
        MemoryExhaustedError: the answer is larger than the free memory.
        InterruptionError: a signal asked to stop.
    """
    try:
        return isolated(function, where, *limits(size), **arguments)
    except StoppedError as error:
        hint = "the file is damaged or hostile; get it from a source that you trust"
        raise WorkerError(f"reading it {error}", where=where, hint=hint) from error


def limits(size: int) -> tuple[int, float, int]:
    """Return the limits of reading a file of some bytes: seconds of computing, seconds until the answer, bytes of memory.

    The memory is rounded up, so that files share a process.
    """
    seconds = 5 + size // 2**18
    return seconds, 12 * seconds, 3 * 2**30 + (4 * size // 2**30 + 1) * 2**30


def isolated(
    function: Callable[..., Any],
    where: str,
    seconds: int,
    wait_s: float,
    memory: int = 0,
    **arguments: Any,
) -> Any:
    """Return what a function returns, called in a process of its own; StoppedError where there is no value, or as `read`.

    Args:
        seconds: of computing that the process may use.
        wait_s: seconds until the answer has to be here: more than that, for slow disks and busy machines.
        memory: bytes of address space of a confined process; 0 for functions of our own, which may do what this process may.
    """
    with _lock:
        held = _running.get(memory > 0)
        if held is None or not held.lives() or held.memory < memory:
            if held is not None:
                held.end()
            held = _running[memory > 0] = _Process(memory)
        return held.call(function, arguments, where, seconds, wait_s)


def close() -> None:
    """End the processes, whatever they do."""
    while _running:
        _running.popitem()[1].end()


class _Process(io.RawIOBase):
    """A process that calls functions, as this one sees it: a stream of requests and answers."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        # Python may need LD_LIBRARY_PATH to start.
        kept = {name: text for name, text in os.environ.items() if name == "LD_LIBRARY_PATH"}
        variables = _ENVIRONMENT | kept if memory else os.environ | dict.fromkeys(_THREADS, "1")
        # The program's own folder first; the rest as this process finds its packages, and nothing of the current folder.
        path = [
            str(Path(__file__).parents[3]),
            *(entry for entry in sys.path if os.path.isabs(entry)),
        ]
        command = [sys.executable, "-I", "-S", "-B", "-c", _START.format(path=path), str(memory)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=variables
        )
        self._to, self._from = (
            end.fileno() for end in (self._process.stdin, self._process.stdout) if end
        )
        os.set_blocking(self._to, False)  # a process that reads nothing ends at its limit too
        self._answers = io.BufferedReader(self)

    def call(
        self,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        where: str,
        seconds: int,
        wait_s: float,
    ) -> Any:
        """Return what a function returns; after other errors than ours the process has ended."""
        self._seconds, self._wait_s, self._end = seconds, wait_s, time.monotonic() + wait_s
        request = [function.__module__, function.__name__, arguments, os.getcwd(), seconds]
        try:
            pickle.dump(request, self, protocol=5)
            kind, content = pickle_machine.read(self._answers, where, self.memory or _MOST_BYTES)
            error = _error_of(*content) if kind == "error" else None
        except BrokenPipeError as broken:
            raise self._ended() from broken
        except (DataError, UnsafeError, TypeError, ValueError, KeyError) as malformed:
            self.end()
            raise StoppedError(
                f"failed: its process returned a malformed response: {malformed}"
            ) from malformed
        except BaseException:
            self.end()  # it may still be at work
            raise
        if kind == "value":
            return content
        if error is None:
            self.end()
        raise error or StoppedError(str(content)[:500])

    def lives(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._process:
            self._process.kill()

    def forget(self) -> None:
        """Close the pipes of a process that belongs to the one this was forked from."""
        os.close(self._to)
        os.close(self._from)
        self._process.returncode = 0

    def readable(self) -> bool:
        """Answers can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with some of the answer."""
        self._wait([self._from], [])
        count = os.readv(self._from, [buffer])
        if count == 0:
            raise self._ended()
        return count

    def write(self, content: Any) -> int:
        """Write all of a part of a request."""
        left = memoryview(content).cast("B")
        size = len(left)
        while left:
            self._wait([], [self._to])
            left = left[os.write(self._to, left) :]
        return size

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        signals.check()
        while not any(select.select(readable, writable, [], _SLICE_S)):
            signals.check()
            if time.monotonic() > self._end:
                raise StoppedError(f"failed: its process gave no answer in {self._wait_s:g} s")

    def _ended(self) -> StoppedError:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return StoppedError(f"needs more than its limit of {self._seconds} s of computing time")
        name = (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with exit code {code}"
        )
        return StoppedError(f"failed: its process {name}")


def _error_of(name: str, what: str, where: str, hint: str) -> Exception:
    """Return one of our errors, as the process wrote it; TypeError or KeyError where it wrote something else."""
    kind = vars(exceptions)[name]
    if not issubclass(kind, OrcaError):
        raise TypeError(name)
    return kind(str(what), where=str(where), hint=str(hint))


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    while _running:
        _running.popitem()[1].forget()


_running: dict[bool, _Process] = {}  # by whether it is confined
_lock = threading.Lock()
atexit.register(close)
os.register_at_fork(after_in_child=_forget)


# What follows runs in the other process.


def serve(memory: int) -> None:
    """Call functions, as requests on standard input ask for, until it ends; answers go to what standard output was."""
    answers = os.fdopen(os.dup(1), "wb", buffering=2**20)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is not an answer
    # Meant for the parent, which ends this process or closes its input.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)
    if memory:
        _confine(memory)
    requests = os.fdopen(0, "rb", buffering=2**20)
    while requests.peek(1):  # type: ignore[attr-defined]
        module, name, arguments, folder, seconds = pickle_machine.read(requests, "a request", 2**62)
        used = resource.getrusage(resource.RUSAGE_SELF)
        # From now on the kernel lets this process compute for this long.
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)
        answer: tuple[str, Any]
        try:
            os.chdir(folder)
            answer = "value", getattr(importlib.import_module(module), name)(**arguments)
        except OrcaError as error:
            answer = (
                "error",
                [
                    type(error).__name__,
                    *(text[:_CUT] for text in (error.what, error.where, error.hint)),
                ],
            )
        except MemoryError:
            limit = (
                f"its limit of {memory / 2**30:.1f} GiB of memory" if memory else "the free memory"
            )
            answer = "failed", f"needs more than {limit}"
        except Exception as error:  # noqa: BLE001 - a parser can fail in any way; the parent says so and names the file
            answer = "failed", f"failed: {type(error).__name__}: {error}"[:_CUT]
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
        del arguments, answer


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # a system without this limit; the others apply
        resource.setrlimit(what, (value, value if what != resource.RLIMIT_CPU else hard))


def _confine(memory: int) -> None:
    if (
        sys.platform == "linux"
    ):  # a network of its own without any device; this process is still single-threaded
        import ctypes

        libc = ctypes.CDLL(None)
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_NPROC, 0)
