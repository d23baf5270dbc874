"""Call functions in a separate process, which has limits and may crash.

The functions are parsers of untrusted files, and fits.

Before a confined process opens its first file, it gives up everything that reading does not need:
the network, writing, further processes, and memory beyond a limit that cannot be raised again. One
confined process serves all reads of this process, and a second process without confinement runs all
fits; both end together with this process. A new process is started after a crash, after a fork, and
for a file that needs more memory than the old process may use. Requests and answers are pickles.
Both sides read them with the machine for pickles of unknown origin, because a parser under the
control of a malicious file may answer anything. See
docs/decisions/0010-untrusted-files-in-a-worker.md.
"""

import atexit
import importlib
import io
import math
import os
import pickle  # for writing only; `pickle_machine` reads
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
from typing import Any, NamedTuple

from orca_cli import exceptions, signals
from orca_cli.data.untrusted import pickle_machine
from orca_cli.exceptions import DataError, OrcaError, UnsafeError, WorkerError

# Seconds between two checks for signals during a wait.
_SLICE_S = 0.2
# Largest answer, in bytes, of a process that has no memory limit.
_MAX_ANSWER = 2**33
# Variables that are set to one thread: the last bits of fits depend on the number of threads, and
# machines that share a cache share the baselines in it.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Environment of a confined process: without the secrets of this process, and with one thread.
_ENVIRONMENT = {
    # Otherwise the import of SciPy would ask the system for the user's home folder.
    "HOME": os.devnull,
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}
# -I and -S omit the folders of packages, so `sys.path` is set before any import from this package.
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from orca_cli.data.untrusted.isolation import serve; serve(int(sys.argv[1]))"
)
# Largest number of characters in a message.
_MAX_MESSAGE = 2000
# Constants from Linux's <sched.h>; the module os has them from Python 3.12 on.
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


class StoppedError(Exception):
    """A call returned no value; the message is a predicate, such as "failed: KeyError: 'a'"."""


class Limits(NamedTuple):
    """The limits of a call."""

    # Computing time in seconds.
    seconds: int
    # Time-out for the answer in seconds.
    wait_s: float
    # Address space in bytes.
    memory: int


def read(function: Callable[..., Any], where: str, size: int, **arguments: Any) -> Any:
    """Call a function that reads a file of unknown origin in the confined process.

    Args:
        function: function at the top level of a module, which that process imports.
        where: name of the file in messages.
        size: size of the file in bytes, which determines the limits of memory and time.
        arguments: plain containers, texts, numbers and NumPy arrays, which `unpickle` can read; the
            returned value has to be of the same types.

    Returns:
        The value that the function returned.

    Raises:
        OrcaError: the function raised this error.
        WorkerError: the process crashed, or reached a limit.
        MemoryExhaustedError: the answer is larger than the free memory.
        InterruptionError: a signal asked to stop.
    """
    try:
        return isolated(function, where, *limits(size), **arguments)
    except StoppedError as error:
        raise WorkerError(
            f"reading this file {error}; the file is probably damaged or malicious",
            where=where,
            hint="get it from a source that you trust",
        ) from error


def limits(size: int) -> Limits:
    """Return the limits for reading a file of `size` bytes."""
    seconds = 5 + size // 2**18
    # Rounded to GiB, so that small files share a process.
    memory_gib = 4 + 4 * size // 2**30
    return Limits(seconds=seconds, wait_s=12 * seconds, memory=memory_gib * 2**30)


def isolated(
    function: Callable[..., Any],
    where: str,
    seconds: int,
    wait_s: float,
    memory: int = 0,
    **arguments: Any,
) -> Any:
    """Call a function in a separate process.

    Args:
        function, where, arguments: as in `read`.
        seconds: limit of the process's computing time, in seconds.
        wait_s: time-out for the answer in seconds; longer than `seconds`, because disks may be slow
            and machines busy.
        memory: limit of the address space of a confined process, in bytes; 0 for trusted functions,
            which may do everything that this process may do.

    Returns:
        The value that the function returned.

    Raises:
        StoppedError: the function raised an error that is not an OrcaError, or its process crashed
            or reached a limit.
        OrcaError, MemoryExhaustedError, InterruptionError: as in `read`.
    """
    is_confined = memory > 0
    with _lock:
        # Under the lock, because the threads of this process share the pipes.
        process = _running.get(is_confined)
        # A memory limit cannot be raised again, so a larger file needs a new process.
        if process is not None and (not process.lives() or process.memory < memory):
            process.end()
            process = None
        if process is None:
            process = _running[is_confined] = _Process(memory)
        return process.call(function, arguments, where=where, seconds=seconds, wait_s=wait_s)


def close() -> None:
    """End the processes at once."""
    while _running:
        _, process = _running.popitem()
        process.end()


class _Process(io.RawIOBase):
    """Another process that calls functions, as the stream of its requests and answers."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        if memory:
            variables = dict(_ENVIRONMENT)
            # Python may need this variable to start.
            if "LD_LIBRARY_PATH" in os.environ:
                variables["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        else:
            variables = os.environ | dict.fromkeys(_THREADS, "1")
        # The folder of this program, then the folders in which this process finds its packages, but
        # never the current folder, because it may contain a planted module.
        program_folder = Path(__file__).parents[3]
        module_folders = [str(program_folder), *filter(os.path.isabs, sys.path)]
        # -I ignores the user's variables and folders. -S ignores .pth files, which may contain
        # code. With -B, no compiled modules are written.
        command = [
            sys.executable,
            "-I",
            "-S",
            "-B",
            "-c",
            _START.format(path=module_folders),
            str(memory),
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables,
        )
        stdin: Any = self._process.stdin
        stdout: Any = self._process.stdout
        self._to: int = stdin.fileno()
        self._from: int = stdout.fileno()
        # Otherwise a process that does not read its requests could block this process for ever.
        os.set_blocking(self._to, False)
        self._answers = io.BufferedReader(self)

    def call(
        self,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        *,
        where: str,
        seconds: int,
        wait_s: float,
    ) -> Any:
        """Return the value of a function; the process ends after any error except an OrcaError."""
        self._seconds = seconds
        self._wait_s = wait_s
        # A single deadline for the whole call, even if the answer arrives in several parts.
        self._deadline = time.monotonic() + wait_s
        # The function is sent by name, because the machine that reads requests refuses functions.
        request = [function.__module__, function.__name__, arguments, os.getcwd(), seconds]
        # Raised at the end, because the handlers below would take it for a malformed answer.
        error: Exception | None = None
        try:
            pickle.dump(request, self, protocol=5)
            max_answer_bytes = self.memory or _MAX_ANSWER
            answer_kind, content = pickle_machine.read(self._answers, where, max_answer_bytes)
            if answer_kind == "error":
                error = _error_of(*content)
        except BrokenPipeError as broken:
            raise self._ended() from broken
        except (DataError, UnsafeError, TypeError, ValueError, KeyError) as malformed:
            self.end()
            raise StoppedError(
                f"failed: the worker process returned a malformed answer: {malformed}"
            ) from malformed
        except BaseException:
            # The process may still be at work on this call.
            self.end()
            raise
        if answer_kind == "value":
            return content
        if error is not None:
            raise error
        self.end()
        raise StoppedError(str(content)[:500])

    def lives(self) -> bool:
        """Return whether the process is still running."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process at once."""
        with self._process:
            self._process.kill()

    def forget(self) -> None:
        """Close the pipes of a process that belongs to the parent of this fork."""
        os.close(self._to)
        os.close(self._from)
        # So that Popen does not wait for a process that is not a child of this process.
        self._process.returncode = 0

    def readable(self) -> bool:
        """Return True, because answers can be read from this stream."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes of the answer into a buffer, and return their number."""
        self._wait([self._from], [])
        num_read = os.readv(self._from, [buffer])
        # The pipe is at its end because the process has ended.
        if num_read == 0:
            raise self._ended()
        return num_read

    def write(self, content: Any) -> int:
        """Write a part of a request completely, and return its size in bytes."""
        unwritten = memoryview(content).cast("B")
        num_bytes = len(unwritten)
        while unwritten:
            self._wait([], [self._to])
            num_written = os.write(self._to, unwritten)
            unwritten = unwritten[num_written:]
        return num_bytes

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        signals.check()
        while not any(select.select(readable, writable, [], _SLICE_S)):
            signals.check()
            if time.monotonic() > self._deadline:
                raise StoppedError(
                    f"failed: the worker process did not answer within {self._wait_s:g} s"
                )

    def _ended(self) -> StoppedError:
        exit_code = self._process.wait()
        # The kernel sends this signal at the limit of computing time.
        if exit_code == -signal.SIGXCPU:
            return StoppedError(f"needs more computing time than the limit of {self._seconds} s")
        if exit_code < 0:
            signal_name = signal.Signals(-exit_code).name
            return StoppedError(f"failed: the worker process was ended by the signal {signal_name}")
        return StoppedError(f"failed: the worker process ended with exit code {exit_code}")


def _error_of(class_name: str, message: str, where: str, hint: str) -> Exception:
    """Return the OrcaError that the process described in its answer.

    Raises:
        KeyError, TypeError: the answer does not describe an OrcaError.
    """
    error_class = vars(exceptions)[class_name]
    # The module also has names that are not errors, such as imported modules.
    if not issubclass(error_class, OrcaError):
        raise TypeError(class_name)
    return error_class(str(message), where=str(where), hint=str(hint))


def _forget() -> None:
    """Leave the processes to the parent of this fork; called in the child."""
    global _lock
    _lock = threading.Lock()
    while _running:
        _, process = _running.popitem()
        process.forget()


# Whether a process is confined -> the process.
_running: dict[bool, _Process] = {}
_lock = threading.Lock()
atexit.register(close)
os.register_at_fork(after_in_child=_forget)


# All functions below run in the other process.


def serve(memory: int) -> None:
    """Read requests from standard input until it ends, call their functions and write answers.

    Answers are written to the standard output that the process had at its start.

    Args:
        memory: limit of the address space of a confined process, in bytes; 0 without confinement.
    """
    # A copy of standard output, before it is redirected.
    answers = os.fdopen(os.dup(1), "wb", buffering=2**20)
    # Texts that a library prints must not mix with the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # These signals are for the parent, which then ends this process or closes its input.
    for signal_number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(signal_number, signal.SIG_IGN)
    # A crash must not write a core dump of this process's memory.
    _limit(resource.RLIMIT_CORE, 0)
    if memory:
        _confine(memory)
    requests = os.fdopen(0, "rb", buffering=2**20)
    while requests.peek(1):  # type: ignore[attr-defined]
        # Requests may have any size, because they come from the parent.
        request = pickle_machine.read(requests, "a request", 2**62)
        answer = _answer(request, memory)
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
        # Released, so that the next request can use all of the memory.
        del request, answer


def _answer(request: list[Any], memory: int) -> tuple[str, Any]:
    """Return the kind of an answer (value, error or failed), and its content."""
    module_name, function_name, arguments, working_folder, seconds = request
    # The kernel counts computing time from the start of the process, including earlier requests.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds_used = math.ceil(usage.ru_utime + usage.ru_stime)
    # So this request may use `seconds` from now on.
    _limit(resource.RLIMIT_CPU, seconds_used + seconds)
    try:
        # Paths in the arguments may be relative to the parent's working folder.
        os.chdir(working_folder)
        function = getattr(importlib.import_module(module_name), function_name)
        return "value", function(**arguments)
    except OrcaError as error:
        texts = [text[:_MAX_MESSAGE] for text in (error.what, error.where, error.hint)]
        return "error", [type(error).__name__, *texts]
    except MemoryError:
        memory_limit = "is free"
        if memory:
            memory_limit = f"the limit of {memory / 2**30:.1f} GiB"
        return "failed", f"needs more memory than {memory_limit}"
    except Exception as error:  # noqa: BLE001 - a parser can fail in any way
        message = f"failed: {type(error).__name__}: {error}"
        return "failed", message[:_MAX_MESSAGE]


def _limit(resource_number: int, limit: int) -> None:
    """Set a limit of this process, but never above the limit that it inherited."""
    hard_limit = resource.getrlimit(resource_number)[1]
    if hard_limit != resource.RLIM_INFINITY:
        limit = min(limit, hard_limit)
    new_hard_limit = limit
    # The limit of computing time grows with each request; other limits cannot be raised again.
    if resource_number == resource.RLIMIT_CPU:
        new_hard_limit = hard_limit
    # A system may not support this limit; the other limits apply then.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource_number, (limit, new_hard_limit))


def _confine(memory: int) -> None:
    """Give up everything that reading does not need."""
    # A separate network without any device. This works because the process has a single thread.
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        # Without privileges, a user namespace is needed as well. If the kernel refuses both, the
        # process keeps the network.
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    _limit(resource.RLIMIT_AS, memory)
    # Files cannot grow; pipes are not affected.
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    # The process cannot start further processes, unless it runs as root.
    _limit(resource.RLIMIT_NPROC, 0)
