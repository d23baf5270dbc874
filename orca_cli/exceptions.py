"""Expected failures, one class per exit code; the table of codes is in docs/runs.md.

An error says where (a key or a file), what is wrong and what to do, in one line.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# Messages of torch on CPU, CUDA and MPS, of safetensors, C++, cuBLAS and cuDNN; the last line is
# the whole message of oneDNN.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can(?:'t|not) allocate memory|bad_alloc|STATUS_ALLOC_FAILED"
    r"|could not create a (?:primitive|memory)$",
    re.IGNORECASE,
)


class OrcaError(Exception):
    """A failure that the user can understand and fix; printed as one line, without a traceback.

    Args:
        what: what is wrong, with what is allowed.
        where: configuration key, file or run that it is about.
        hint: what to do next.

    Each subclass has an exit code, which its own subclasses inherit unless they give another.
    """

    code = 1

    def __init_subclass__(cls, code: int | None = None) -> None:
        super().__init_subclass__()
        # A subclass without a code of its own keeps its parent's.
        cls.code = code or cls.code

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"; {self.hint}" if self.hint else ""
        # Messages of libraries may have line breaks, and an error is one line.
        message = f"{where}{self.what}{hint}"
        return " ".join(message.split())


# The code of wrong usage in shells and argparse.
class UsageError(OrcaError, code=2):
    """Unknown command or option."""


class SweepError(OrcaError, code=3):
    """A sweep ended, and some of its runs failed."""


# From 10 on: a setting, a file or something that the command needs is wrong or missing.
class ConfigError(OrcaError, code=10):
    """The configuration names something unknown, of a wrong type, or out of range."""


class DataError(OrcaError, code=11):
    """Input data are missing or do not have the form that was asked for."""


class UnsafeError(OrcaError, code=12):
    """A file or a configuration would execute code or leave its folder; refused."""


class ChecksumError(OrcaError, code=13):
    """A file's content is not what its checksum says."""


class UnavailableError(OrcaError, code=14):
    """An optional package or a device is missing on this machine."""


class NetworkError(OrcaError, code=15):
    """Something has to be fetched and the network or the host cannot be reached."""


# From 20 on: an earlier or another process of the same run is in the way.
class LockedError(OrcaError, code=20):
    """Another process works on the same run."""


class CheckpointError(OrcaError, code=21):
    """A run has checkpoints, but none can be used."""


class FingerprintError(OrcaError, code=22):
    """A run cannot resume exactly: code, data or machine have changed since it started."""


# From 30 on: the machine fails, or the numbers of a training do.
class StorageError(OrcaError, code=30):
    """Writing failed: disk full, read-only, or an input/output error."""


class MemoryExhaustedError(OrcaError, code=31):
    """The run needs more memory, threads or processes than there are."""


class NonFiniteError(OrcaError, code=32):
    """A loss, a gradient or a distance became NaN or infinite; no step was taken with it."""


class WorkerError(OrcaError, code=33):
    """The process that reads other people's files crashed, or reached a limit of memory or time."""


# 128 + signal, as shells report a process that a signal has ended.
class InterruptionError(OrcaError, code=128 + signal.SIGINT):
    """A signal asked to stop; the state was saved where there was one. Exit code 128 + signal."""

    @staticmethod
    def by(signum: int) -> InterruptionError:
        """Return the error for one signal.

        Its exit code is 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP; 75 for SIGUSR1
        (preemption).
        """
        name = signal.Signals(signum).name
        hint = "rerun the same command to resume"
        # A class of its own, since it has an exit code that schedulers know.
        if signum == signal.SIGUSR1:
            return PreemptionError(f"preempted by {name}", hint=hint)
        error = InterruptionError(f"stopped by {name}", hint=hint)
        # The number of the signal is known here only, so the instance has its own code.
        error.code = 128 + signum
        return error


class PreemptionError(InterruptionError, code=os.EX_TEMPFAIL):
    """Preemption asked to stop; the state was saved, and a scheduler should restart the command."""


def need(module: str, where: str, extra: str = "") -> Any:
    """Import and return a module of an optional package.

    Raises:
        UnavailableError: the package is missing. The error names `where`, the setting that needs
            the package, and the extra to install, by default the package's name.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"the package {package} is not installed",
            where=where,
            hint=f"pip install 'orca-transfer[{extra or package}]'",
        ) from error


def process_error(error: BaseException) -> MemoryExhaustedError | None:
    """Return the MemoryExhaustedError for a lack of memory, threads or processes; else None."""
    if isinstance(error, MemoryError):
        return MemoryExhaustedError("not enough memory")
    # Python has no exception of its own for a lack of threads; a failed fork raises
    # BlockingIOError.
    if "can't start new thread" not in str(error) and not isinstance(error, BlockingIOError):
        return None
    return MemoryExhaustedError(
        "cannot start more threads or processes",
        where="this machine",
        hint="raise the limit (ulimit -u)",
    )


def is_exhausted(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out; most libraries have no type for it."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # Only these types: a text such as "out of memory" in an error about data means something else.
    return isinstance(error, (RuntimeError, OSError)) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextmanager
def governed_by(where: str, hint: str = "") -> Iterator[None]:
    """Raise MemoryExhaustedError, which names the setting to lower, if memory runs out inside.

    In nested blocks the inner one raises.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        # An error that is not about memory passes unchanged, also one of a nested block.
        if not is_exhausted(error):
            raise
        raise MemoryExhaustedError("not enough memory", where=where, hint=hint) from error


def interruption_in(error: BaseException) -> InterruptionError | None:
    """Return the InterruptionError that an error is, or that it was raised because of; else None.

    A library in which a signal arrives may catch the interruption and raise an error of its own.
    """
    current: BaseException | None = error
    while current is not None and not isinstance(current, InterruptionError):
        # Both links are followed: a library may raise its own error with or without `from`.
        current = current.__cause__ or current.__context__
    return current


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest allowed name, else the list of what is allowed."""
    # Sorted, so that the message does not change from run to run.
    candidates = sorted(allowed)
    if not candidates:
        return "nothing is allowed here"
    # 0.6 is the default of difflib.
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not close:
        # In a short name, two swapped letters are too different for difflib.
        close = [candidate for candidate in candidates if sorted(candidate) == sorted(name)]
    if close:
        return f"did you mean '{close[0]}'?"
    return f"allowed: {', '.join(candidates)}"
