"""Functions called in a process of their own, which may crash and has limits: parsers of other people's files, and fits.

A confined process gives up, before it touches its first file, what reading one does not need: the network, writing, further
processes, and memory beyond a limit that cannot be raised again. One confined process serves all reads of this process, one
without confinement all fits; both end with it. A new one is started after a crash, after a fork, and for a file that needs
more memory than the old one may use. See docs/decisions/0010-untrusted-files-in-a-worker.md.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import json
import math
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_cli import exceptions, signals
from orca_cli.data.untrusted.memory import check_memory
from orca_cli.exceptions import OrcaError, UnavailableError, WorkerError

_SLICE_S = 0.2
_MOST_BYTES = 2**33  # of the answer of a process without a limit of memory
# One thread: the last bits depend on their number, and machines that share a cache share its baselines.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# No secrets of this process, no threads, no plug-ins of HDF5.
_ENVIRONMENT = {
    "HOME": os.devnull,  # or importing SciPy asks the system for the user's folder
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",
    "LC_ALL": "C.UTF-8",
}
_START = (
    "import sys; sys.path[:] = {path!r}; from orca_cli.data.untrusted.isolation import serve; serve(int(sys.argv[1]))"
)
_CUT = 2000  # characters of a message
_MAX_TEXT = 2**28
_LENGTH = struct.Struct("<Q")
_DTYPE = re.compile(r"[<>|][biufcSU][1-9]\d*")
_MALFORMED = (ValueError, TypeError, LookupError, RecursionError, OverflowError)
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


class StoppedError(Exception):
    """There is no value; the message is a predicate, such as "failed: ZeroDivisionError: division by zero"."""


class OverTimeError(StoppedError):
    """The function needs more computing time, or gave no answer."""


@dataclass(frozen=True)
class Limits:
    """What one call may use.

    Args:
        seconds: of computing.
        wait_s: for the answer: longer, for slow disks and busy machines.
        memory: bytes of address space of a confined process; 0 for functions of our own, which may do what this process may.
    """

    seconds: int
    wait_s: float
    memory: int = 0

    @classmethod
    def for_file(cls, size: int) -> Limits:
        """Return the limits of reading a file of some bytes; the memory is rounded up, so that files share a process."""
        seconds = 5 + size // 2**18
        return cls(seconds, 12 * seconds, 3 * 2**30 + (4 * size // 2**30 + 1) * 2**30)


def read(function: Callable[..., Any], where: str, size: int, *, limits: Limits | None = None, **arguments: Any) -> Any:
    """Return what a function returns that reads a file of unknown origin, called in the confined process.

    Args:
        function: of a module; the process imports it.
        where: the file, for messages.
        size: of the file in bytes; decides how much memory and time there is.
        limits: instead of those that follow from the size.
        arguments: of the function: see `_pack`.

    Raises:
        OrcaError: as the function raises.
        WorkerError: the process crashed, or reached a limit.
        MemoryExhaustedError: the answer is larger than the free memory.
        InterruptionError: a signal asked to stop.
    """
    try:
        return isolated(function, limits or Limits.for_file(size), where, **arguments)
    except StoppedError as error:
        hint = "the file is damaged or hostile; get it from a source that you trust"
        raise WorkerError(f"reading it {error}", where=where, hint=hint) from error


def isolated(function: Callable[..., Any], limits: Limits, where: str, **arguments: Any) -> Any:
    """Return what a function returns, called in a process of its own.

    Raises:
        StoppedError: there is no value.
        OrcaError: as for `read`.
    """
    with _lock:
        is_confined = limits.memory > 0
        held = _running.get(is_confined)
        if held is not None and held.is_usable() and held.memory >= limits.memory:
            return held.call(function, arguments, limits, where)
        if held is not None:
            held.end()
        _running[is_confined] = _Process(limits.memory)
        return _running[is_confined].call(function, arguments, limits, where)


def check_installed(package: str, where: str, what: str, *, extra: str, otherwise: str = "") -> None:
    """Raise UnavailableError, which names the extra, where a package that reading needs is missing; nothing is imported."""
    if importlib.util.find_spec(package) is None:
        hint = f"pip install 'orca-transfer[{extra}]'{otherwise}"
        raise UnavailableError(f"reading {what} needs the package {package}", where=where, hint=hint)


def close() -> None:
    """End the processes, whatever they do."""
    while _running:
        _running.popitem()[1].end()


class _Process:
    """A process that calls functions, as this one sees it.

    Args:
        memory: as in `Limits`, of all its calls.
    """

    def __init__(self, memory: int) -> None:
        self.memory, self._is_idle = memory, True
        # Python may need LD_LIBRARY_PATH to start.
        kept = {name: text for name, text in os.environ.items() if name == "LD_LIBRARY_PATH"}
        variables = _ENVIRONMENT | kept if memory else os.environ | dict.fromkeys(_THREADS, "1")
        # The program's own folder first; the rest as this process finds its packages, and nothing of the current folder.
        path = [str(Path(__file__).parents[3]), *(entry for entry in sys.path if os.path.isabs(entry))]
        command = [sys.executable, "-I", "-S", "-B", "-c", _START.format(path=path), str(memory)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=variables)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)  # a process that reads nothing ends at its limit too

    def call(self, function: Callable[..., Any], arguments: dict[str, Any], limits: Limits, where: str) -> Any:
        """Return what a function returns."""
        self._is_idle = False  # until the whole answer has arrived
        self._where, self._limits, self._end = where, limits, time.monotonic() + limits.wait_s
        request = [function.__module__, function.__name__, arguments, os.getcwd(), limits.seconds]
        try:
            for part in _pack(request):
                view = memoryview(part).cast("B")
                while view:
                    self._wait([], [self._to])
                    view = view[os.write(self._to, view) :]
            kind, content = _unpack(self.memory or _MOST_BYTES, self._fill)
            error = _error_of(*content) if kind == "error" else None
        except BrokenPipeError as broken:
            raise self._ended() from broken
        except _MALFORMED as malformed:
            self.end()
            raise StoppedError(f"failed: its process returned a malformed response: {malformed}") from malformed
        except BaseException:
            self.end()  # it may still be at work
            raise
        self._is_idle = kind in ("value", "error")
        if kind == "value":
            return content
        if error is not None:
            raise error
        if kind == "memory":
            limit = f"its limit of {self.memory / 2**30:.1f} GiB of memory" if self.memory else "the free memory"
            raise StoppedError(f"needs more than {limit}")
        raise StoppedError(f"failed: {str(content)[:500]}")

    def is_usable(self) -> bool:
        """Return whether it lives, and waits for a call; after other errors than ours it has to be replaced."""
        return self._is_idle and self._process.poll() is None

    def end(self) -> None:
        """End the process, whatever it does."""
        with self._process:
            self._process.kill()

    def forget(self) -> None:
        """Close the pipes of a process that belongs to the one this was forked from."""
        os.close(self._to)
        os.close(self._from)
        self._process.returncode = 0

    def _fill(self, buffer: memoryview) -> None:
        if len(buffer) > 2**26:
            check_memory(len(buffer), self._where, hint="use a machine with more memory")
        while buffer:
            self._wait([self._from], [])
            count = os.readv(self._from, [buffer])
            if count == 0:
                raise self._ended()
            buffer = buffer[count:]

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        signals.check()
        while not any(select.select(readable, writable, [], _SLICE_S)):
            signals.check()
            if time.monotonic() > self._end:
                raise OverTimeError(f"failed: its process gave no answer in {self._limits.wait_s:g} s")

    def _ended(self) -> StoppedError:
        code = self._process.wait()
        if code == -signal.SIGXCPU:
            return OverTimeError(f"needs more than its limit of {self._limits.seconds} s of computing time")
        name = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
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


# Values between the two processes: JSON that says what they are, then the bytes of texts and arrays. No pickle, and the
# receiver trusts nothing: types and sizes are checked before anything is allocated.


def _pack(value: Any) -> list[Any]:
    """Return a value as the parts of a message, each with the buffer protocol.

    Values: None, bool, int, float, text, bytes, NumPy's scalars and arrays (of objects too), and lists, tuples and dicts of
    values; nothing may contain itself. TypeError or ValueError for any other value, and for more text than a message has.
    """
    contents: list[Any] = []
    text = json.dumps(_node(value, contents)).encode("ascii")
    if len(text) > _MAX_TEXT:
        raise ValueError(f"more than {_MAX_TEXT:,} bytes of text")
    return [_LENGTH.pack(len(text)), text, *contents]


def _unpack(max_bytes: int, fill: Callable[[memoryview], None]) -> Any:
    """Return the value of the next message, of which `fill` reads the next bytes into a buffer.

    Raises one of _MALFORMED if it is malformed, or its arrays have more than `max_bytes` together.
    """
    left = max_bytes

    def read(size: int) -> np.ndarray:
        nonlocal left
        if type(size) is not int or not 0 <= size <= left:
            raise ValueError(f"{size} bytes, and {left:,} are allowed")
        left -= size
        content = np.empty(size, np.uint8)
        if size:
            fill(content.data)
        return content

    length = bytearray(_LENGTH.size)
    fill(memoryview(length))
    (size,) = _LENGTH.unpack(length)
    if size > _MAX_TEXT:
        raise ValueError(f"declares {size:,} bytes of text")
    text = bytearray(size)
    fill(memoryview(text))
    return _value(json.loads(text), read)


def _node(value: Any, contents: list[Any]) -> Any:
    """Return a value as JSON takes it; its bytes and arrays are appended in the order in which they are met."""
    if isinstance(value, np.generic):
        return {"scalar": _node(np.array(value), contents)["array"]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_node(item, contents) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_node(item, contents) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_node(key, contents), _node(item, contents)] for key, item in value.items()]}
    if isinstance(value, bytes):
        contents.append(value)
        return {"bytes": len(value)}
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufcSUO":
        raise TypeError(f"a value of type {type(value).__name__} is not sent")
    if value.dtype.kind == "O":
        return {"objects": [list(value.shape), [_node(item, contents) for item in value.ravel()]]}
    # One that is stored by columns is sent as it is in memory.
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    if value.size:
        contents.append(np.ascontiguousarray(value.T if order == "F" else value).reshape(-1).view(np.uint8).data)
    return {"array": [value.dtype.str, list(value.shape), order]}


def _value(node: Any, read: Callable[[int], np.ndarray]) -> Any:
    if type(node) is list:
        return [_value(item, read) for item in node]
    if type(node) is not dict:
        return node
    ((kind, content),) = node.items()
    if kind == "tuple":
        return tuple([_value(item, read) for item in content])
    if kind == "dict":
        return {_value(key, read): _value(item, read) for key, item in content}
    if kind == "bytes":
        return read(content).tobytes()
    if kind == "objects":
        shape, items = content
        objects = np.empty(len(items), object)
        for place, item in enumerate(items):
            objects[place] = _value(item, read)
        return objects.reshape(shape)
    if kind not in ("array", "scalar"):
        raise ValueError("an unknown kind of value")
    dtype, shape, order = content
    if not _DTYPE.fullmatch(dtype):
        raise ValueError("an unknown type of array")
    array = read(math.prod(shape) * np.dtype(dtype).itemsize).view(dtype).reshape(shape, order=order)
    return array[()] if kind == "scalar" else array


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

    def fill(buffer: memoryview) -> None:
        if requests.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise EOFError

    with suppress(EOFError):
        while True:
            module, name, arguments, folder, seconds = _unpack(2**62, fill)
            used = resource.getrusage(resource.RUSAGE_SELF)
            # From now on the kernel lets this process compute for this long.
            _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)
            answers.writelines(_answer(module, name, arguments, folder))
            answers.flush()
            del arguments


def _answer(module: str, name: str, arguments: dict[str, Any], folder: str) -> list[Any]:
    """Return the parts of the answer: the value, or what prevents it."""
    try:
        os.chdir(folder)
        return _pack(["value", getattr(importlib.import_module(module), name)(**arguments)])
    except OrcaError as error:
        texts = [text[:_CUT] for text in (error.what, error.where, error.hint)]
        return _pack(["error", [type(error).__name__, *texts]])
    except MemoryError:
        return _pack(["memory", None])
    except Exception as error:  # noqa: BLE001 - a parser can fail in any way; the parent says so and names the file
        return _pack(["failed", f"{type(error).__name__}: {error}"[:_CUT]])


def _limit(what: int, value: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with suppress(ValueError, OSError):  # a system without this limit; the others apply
        resource.setrlimit(what, (value, value if what != resource.RLIMIT_CPU else hard))


def _confine(memory: int) -> None:
    if sys.platform == "linux":  # a network of its own without any device; this process is still single-threaded
        import ctypes

        libc = ctypes.CDLL(None)
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_NPROC, 0)
