"""Functions called in a process of their own, which has limits, and which may crash.

They are parsers of other people's files, and fits.

A confined process gives up, before it touches its first file, all that reading does not need: the
network, writing, further processes, and memory beyond a limit that cannot be raised again. One
confined process serves all reads of this process, another without confinement all fits; both end
with this one. A new process is started after a crash, after a fork, and for a file that needs more
memory than the old process may use. Requests and answers are pickles. Both sides read them with the
machine for pickles of unknown origin, since a parser that was taken over can answer anything. See
docs/decisions/0010-untrusted-files-in-a-worker.md.
"""

import atexit
import importlib
import io
import math
import os
import pickle  # to write; `pickle_machine` reads
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

# Seconds after which a wait looks for signals.
_SLICE_S = 0.2
# Bytes of an answer by a process that has no limit of memory.
_MAX_ANSWER = 2**33
# One thread: the last bits of fits depend on the number of threads, and machines that share a cache
# share its baselines.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Without this process's secrets, and without threads.
_ENVIRONMENT = {
    # Otherwise importing SciPy would ask the system for the user's folder.
    "HOME": os.devnull,
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}
# -I and -S leave out the folders of packages, so `sys.path` is set before any import of ours.
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from orca_cli.data.untrusted.isolation import serve; serve(int(sys.argv[1]))"
)
# Characters of a message.
_MAX_MESSAGE = 2000
# Numbers of Linux's <sched.h>, which the module os has from Python 3.12 on.
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


class StoppedError(Exception):
    """A call that returned no value; the message is a predicate, as "failed: KeyError: 'a'"."""


class Limits(NamedTuple):
    """The limits of a call."""

    # Seconds of computing.
    seconds: int
    # Seconds until the answer.
    wait_s: float
    # Bytes of address space.
    memory: int


def read(function: Callable[..., Any], where: str, size: int, **arguments: Any) -> Any:
    """Call a function that reads a file of unknown origin in the confined process.

    Args:
        function: at the top level of a module, which that process imports; errors of ours that the
            function raises are raised here.
        where: names the file in messages.
        size: of the file in bytes, which decides the limits of memory and time.
        arguments: values that `unpickle` reads, as the returned value is: plain containers, texts,
            numbers, NumPy's arrays.

    Returns:
        The function's value.

    Raises:
        OrcaError: as the function raises.
        WorkerError: the process crashed, or reached a limit.
        MemoryExhaustedError: the answer is larger than the free memory.
        InterruptionError: a signal asked to stop.
    """
    try:
        return isolated(function, where, *limits(size), **arguments)
    except StoppedError as error:
        raise WorkerError(
            f"reading it {error}",
            where=where,
            hint="the file is damaged or hostile; get it from a source that you trust",
        ) from error


def limits(size: int) -> Limits:
    """Return the limits of reading a file of `size` bytes."""
    seconds = 5 + size // 2**18
    # Whole GiB, so that small files share a process.
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
    """Call a function in a process of its own.

    Args:
        function, where, arguments: as those of `read`.
        seconds: of computing that the process may use.
        wait_s: seconds within which the answer has to arrive; more than `seconds`, for slow disks
            and busy machines.
        memory: bytes of address space of a confined process; 0 for functions of our own, which may
            do whatever this process may do.

    Returns:
        The function's value.

    Raises:
        StoppedError: the function raised an error that is not ours, or its process crashed or
            reached a limit.
        OrcaError, MemoryExhaustedError, InterruptionError: as `read`.
    """
    is_confined = memory > 0
    with _lock:
        # Under the lock, since the threads of this process share the pipes.
        process = _running.get(is_confined)
        # A limit of memory cannot be raised again, so a larger file needs a new process.
        if process is not None and (not process.lives() or process.memory < memory):
            process.end()
            process = None
        if process is None:
            process = _running[is_confined] = _Process(memory)
        return process.call(function, arguments, where=where, seconds=seconds, wait_s=wait_s)


def close() -> None:
    """End the processes, whatever they are doing."""
    while _running:
        _, process = _running.popitem()
        process.end()


class _Process(io.RawIOBase):
    """Another process that calls functions: a stream of requests to it, and of its answers."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        if memory:
            variables = dict(_ENVIRONMENT)
            # Python may need it to start.
            if "LD_LIBRARY_PATH" in os.environ:
                variables["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        else:
            variables = os.environ | dict.fromkeys(_THREADS, "1")
        # The folder of the program, then those where this process finds its packages, but never the
        # current folder, in which a module could have been planted.
        program_folder = Path(__file__).parents[3]
        module_folders = [str(program_folder), *filter(os.path.isabs, sys.path)]
        # -I: no variables and no folders of the user; -S: no .pth files, which may hold code; -B:
        # no compiled modules are written.
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
        # Otherwise a process that reads nothing would block this one beyond the limit.
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
        """Return a function's value; after an error that is not ours the process has ended."""
        self._seconds = seconds
        self._wait_s = wait_s
        # For the whole call, whatever number of parts the answer comes in.
        self._deadline = time.monotonic() + wait_s
        # Names instead of the function: the machine that reads requests knows no functions.
        request = [function.__module__, function.__name__, arguments, os.getcwd(), seconds]
        # Raised at the end: the handlers below would take it for a malformed answer.
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
                f"failed: its process returned a malformed response: {malformed}"
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
        """Return whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, whatever it is doing."""
        with self._process:
            self._process.kill()

    def forget(self) -> None:
        """Close the pipes of a process that belongs to the parent of this fork."""
        os.close(self._to)
        os.close(self._from)
        # So that Popen does not wait for a process that is not a child of this one.
        self._process.returncode = 0

    def readable(self) -> bool:
        """Return True: answers can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with some of the answer."""
        self._wait([self._from], [])
        num_read = os.readv(self._from, [buffer])
        # The end of a pipe: its process has ended.
        if num_read == 0:
            raise self._ended()
        return num_read

    def write(self, content: Any) -> int:
        """Write all of a part of a request, and return its size."""
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
                raise StoppedError(f"failed: its process gave no answer in {self._wait_s:g} s")

    def _ended(self) -> StoppedError:
        exit_code = self._process.wait()
        # The kernel sends it at the limit of computing time.
        if exit_code == -signal.SIGXCPU:
            return StoppedError(f"needs more than its limit of {self._seconds} s of computing time")
        if exit_code < 0:
            signal_name = signal.Signals(-exit_code).name
            return StoppedError(f"failed: its process was ended by {signal_name}")
        return StoppedError(f"failed: its process ended with exit code {exit_code}")


def _error_of(class_name: str, message: str, where: str, hint: str) -> Exception:
    """Return one of our errors, as the process wrote it.

    Raises:
        KeyError, TypeError: it wrote something else.
    """
    error_class = vars(exceptions)[class_name]
    # The module has other names, such as imported ones.
    if not issubclass(error_class, OrcaError):
        raise TypeError(class_name)
    return error_class(str(message), where=str(where), hint=str(hint))


def _forget() -> None:
    """Leave the processes to the parent of this fork."""
    global _lock
    _lock = threading.Lock()
    while _running:
        _, process = _running.popitem()
        process.forget()


# The processes by whether they are confined.
_running: dict[bool, _Process] = {}
_lock = threading.Lock()
atexit.register(close)
os.register_at_fork(after_in_child=_forget)


# The other process runs all that follows.


def serve(memory: int) -> None:
    """Call functions until standard input, which has the requests, ends.

    Answers go to the first standard output.

    Args:
        memory: bytes of address space of a confined process; 0 for one without confinement.
    """
    # A copy of standard output, before it is redirected.
    answers = os.fdopen(os.dup(1), "wb", buffering=2**20)
    # Texts that a library prints must not get among the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # These signals are for the parent, which ends this process or closes its input.
    for signal_number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(signal_number, signal.SIG_IGN)
    # A crash leaves no file of this process's memory.
    _limit(resource.RLIMIT_CORE, 0)
    if memory:
        _confine(memory)
    requests = os.fdopen(0, "rb", buffering=2**20)
    while requests.peek(1):  # type: ignore[attr-defined]
        # Any size: requests come from the parent.
        request = pickle_machine.read(requests, "a request", 2**62)
        answer = _answer(request, memory)
        pickle.dump(answer, answers, protocol=5)
        answers.flush()
        # So that the next request can use all of the memory.
        del request, answer


def _answer(request: list[Any], memory: int) -> tuple[str, Any]:
    """Return the kind of an answer, which is value, error or failed, and its content."""
    module_name, function_name, arguments, working_folder, seconds = request
    # The limit counts from the start of the process, which has served others before.
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds_used = math.ceil(usage.ru_utime + usage.ru_stime)
    # From now on the kernel lets this process compute for this long.
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
        memory_limit = "the free memory"
        if memory:
            memory_limit = f"its limit of {memory / 2**30:.1f} GiB of memory"
        return "failed", f"needs more than {memory_limit}"
    except Exception as error:  # noqa: BLE001 - a parser can fail in any way
        message = f"failed: {type(error).__name__}: {error}"
        return "failed", message[:_MAX_MESSAGE]


def _limit(resource_number: int, limit: int) -> None:
    """Set a limit of this process, but never above the one that it inherited."""
    hard_limit = resource.getrlimit(resource_number)[1]
    if hard_limit != resource.RLIM_INFINITY:
        limit = min(limit, hard_limit)
    new_hard_limit = limit
    # The limit of computing time grows with each request; the others cannot be raised again.
    if resource_number == resource.RLIMIT_CPU:
        new_hard_limit = hard_limit
    # A system may lack this limit; the others apply.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource_number, (limit, new_hard_limit))


def _confine(memory: int) -> None:
    """Give up all that reading does not need."""
    # A network of its own without any device; this process is still single-threaded.
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        # Without privileges it takes a user namespace as well. Where the kernel refuses both, the
        # process keeps the network.
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    _limit(resource.RLIMIT_AS, memory)
    # No file can grow; pipes are not affected.
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    # No further processes, except for root.
    _limit(resource.RLIMIT_NPROC, 0)
