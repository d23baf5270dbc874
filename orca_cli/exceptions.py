"""Expected failures, one class per exit code; docs/runs.md has the table of codes.

An error says in one line where it occurred (a key or a file), what is wrong, and what to do.
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

# Messages about missing memory: of torch on CPU, CUDA and MPS, of safetensors, C++, cuBLAS and
# cuDNN; the last line is the complete message of oneDNN.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can(?:'t|not) allocate memory|bad_alloc|STATUS_ALLOC_FAILED"
    r"|could not create a (?:primitive|memory)$",
    re.IGNORECASE,
)


# Name in other programs -> name of the same setting or value here.
_SYNONYMS = {
    "learning_rate": "lr",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "regression": "values",
    "classification": "classes",
    "multilabel": "labels",
    "segmentation": "dense",
}


class OrcaError(Exception):
    """A failure that the user can understand and fix; printed as one line, without a traceback.

    Args:
        what: description of the failure and of the allowed values.
        where: configuration key, file or run that the failure is about.
        hint: instruction for the user.

    Each subclass has an exit code, which its subclasses inherit unless they set another one.
    """

    code = 1

    def __init_subclass__(cls, code: int | None = None) -> None:
        super().__init_subclass__()
        # A subclass that sets no code has its parent's code.
        cls.code = code or cls.code

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"; {self.hint}" if self.hint else ""
        # Messages of libraries may have line breaks, but an error is one line.
        message = f"{where}{self.what}{hint}"
        return " ".join(message.split())


# Code 2 means wrong usage in shells and argparse.
class UsageError(OrcaError, code=2):
    """Unknown command or option."""


class SweepError(OrcaError, code=3):
    """A sweep ended, and some of its runs failed."""


# From 10 on: a setting, a file or another requirement of the command is wrong or missing.
class ConfigError(OrcaError, code=10):
    """The configuration has an unknown name, or a value of a wrong type or out of range."""


class DataError(OrcaError, code=11):
    """Input data are missing or do not have the required form."""


class UnsafeError(OrcaError, code=12):
    """A file or configuration was refused, since it would execute code or leave its folder."""


class ChecksumError(OrcaError, code=13):
    """The content of a file does not match its checksum."""


class UnavailableError(OrcaError, code=14):
    """An optional package or a device is missing on this machine."""


class NetworkError(OrcaError, code=15):
    """A file has to be fetched, but the network or the host cannot be reached."""


# From 20 on: an earlier or another process of the same run prevents this one from working.
class LockedError(OrcaError, code=20):
    """Another process works on the same run."""


class CheckpointError(OrcaError, code=21):
    """A run has checkpoints, but no checkpoint can be used."""


class FingerprintError(OrcaError, code=22):
    """A run cannot resume exactly: code, data or machine have changed since it started."""


# From 30 on: the machine fails, or a training produces invalid numbers.
class StorageError(OrcaError, code=30):
    """Writing failed: disk full, read-only, or an input/output error."""


class MemoryExhaustedError(OrcaError, code=31):
    """The run needs more memory, threads or processes than are available."""


class NonFiniteError(OrcaError, code=32):
    """A loss, a gradient or a distance became NaN or infinite; no optimizer step used it."""


class WorkerError(OrcaError, code=33):
    """The process that reads untrusted files crashed, or reached a limit of memory or time."""


# 128 + signal is the code by which shells report a process that a signal has ended.
class InterruptionError(OrcaError, code=128 + signal.SIGINT):
    """A signal asked to stop; the state, if any, was saved. The exit code is 128 + signal."""

    @staticmethod
    def by(signum: int) -> InterruptionError:
        """Return the error for one signal.

        Its exit code is 130 for SIGINT, 143 for SIGTERM, 129 for SIGHUP; 75 for SIGUSR1
        (preemption).
        """
        name = signal.Signals(signum).name
        hint = "rerun the same command to resume"
        # A separate class, since it has an exit code that schedulers know.
        if signum == signal.SIGUSR1:
            return PreemptionError(f"preempted by {name}", hint=hint)
        error = InterruptionError(f"stopped by {name}", hint=hint)
        # The signal's number is known only here, so the instance has its own code.
        error.code = 128 + signum
        return error


class PreemptionError(InterruptionError, code=os.EX_TEMPFAIL):
    """A scheduler asked to stop; the state was saved, and it should restart the command later."""


def need(module: str, where: str, extra: str = "") -> Any:
    """Import and return a module of an optional package.

    Raises:
        UnavailableError: the package is missing. The error names the setting that needs the
            package (`where`), and the extra to install, by default the package's name.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"needs the package '{package}'",
            where=where,
            hint=f"install it: pip install 'orca-transfer[{extra or package}]'",
        ) from error


def process_error(error: BaseException) -> MemoryExhaustedError | None:
    """Return the MemoryExhaustedError for a lack of memory, threads or processes; else None."""
    if isinstance(error, MemoryError):
        return MemoryExhaustedError("not enough memory")
    # Python has no separate exception for a lack of threads; a failed fork raises
    # BlockingIOError.
    if "can't start new thread" not in str(error) and not isinstance(error, BlockingIOError):
        return None
    return MemoryExhaustedError(
        "cannot start more threads or processes",
        where="this machine",
        hint="end other processes, or raise the limit with `ulimit -u`",
    )


def is_exhausted(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, for which libraries lack a type."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # Only these types, since "out of memory" in an error about data may have another meaning.
    return isinstance(error, (RuntimeError, OSError)) and bool(_OUT_OF_MEMORY.search(str(error)))


@contextmanager
def governed_by(where: str, hint: str = "") -> Iterator[None]:
    """Raise MemoryExhaustedError if memory runs out inside the block.

    `where` is the setting to lower. In nested blocks, the inner block raises the error.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        # An error that is not about memory passes unchanged, also from a nested block.
        if not is_exhausted(error):
            raise
        raise MemoryExhaustedError("not enough memory", where=where, hint=hint) from error


def interruption_in(error: BaseException) -> InterruptionError | None:
    """Return the error if it is an InterruptionError, or the one that caused it; else None.

    If a signal arrives inside a library, the library may catch the interruption and raise another
    error.
    """
    current: BaseException | None = error
    while current is not None and not isinstance(current, InterruptionError):
        # Both links are followed, since a library may raise its error with or without `from`.
        current = current.__cause__ or current.__context__
    return current


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the closest allowed name, else a list of all allowed names."""
    # Sorted, so that the message is the same in every run.
    candidates = sorted(allowed)
    if not candidates:
        return "no name is allowed here"
    synonym = _SYNONYMS.get(name.lower(), name.lower())
    if synonym in candidates:
        return f"did you mean '{synonym}'?"
    # 0.6 is the default of difflib.
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if not close:
        # In a short name, two swapped letters are too different for difflib.
        close = [candidate for candidate in candidates if sorted(candidate) == sorted(name)]
    if close:
        return f"did you mean '{close[0]}'?"
    return f"allowed: {', '.join(candidates)}"
