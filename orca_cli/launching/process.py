"""One job as a process of this machine: a command line that reports through a pipe how it ended.

If this process runs the program and has started neither a thread nor a GPU, the job is a fork,
which has already imported all packages. Otherwise the job is a new interpreter. Either way the job
ends when the process that started it ends.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import IO, Any, NoReturn

from orca_cli import signals
from orca_cli.exceptions import ConfigError, OrcaError, StorageError

# Seconds from SIGTERM, after which a job saves its state, to SIGKILL.
GRACE_S = 60.0
LOOK_EVERY_S = 0.05
OPTION = "--job"
# Largest report in bytes; a pipe can buffer this many bytes before they are read.
_LONGEST = 2**14
# Largest number of characters of each text of an error in a report, and of standard error.
_LONGEST_TEXT = 1000
_LAST_WORDS = 400
_PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

Main = Callable[[list[str]], int]


@dataclass(frozen=True)
class Command:
    """The command of one job; JSON-able, since it is sent to other machines."""

    # Prefix of each line that the job prints, such as "[2/6]".
    label: str
    # The command line without the program's name; its command has the option --job, see `Place`.
    words: list[str]
    # Environment variables of the job, in addition to those of the process that starts it.
    variables: dict[str, str] = field(default_factory=dict)
    # Working folder of the job; empty: the folder of the process that starts it.
    folder: str = ""
    # Required identity hash of the job's run; empty: any.
    identity: str = ""
    # Required digest of the program that runs the job; empty: any.
    program: str = ""
    # After this time the job gets SIGTERM, and GRACE_S seconds later SIGKILL.
    time_limit_s: float | None = None
    # A path in the shared folder of runs that every machine has to see; empty: no check.
    shared_file: str = ""


@dataclass(frozen=True)
class Place:
    """The process that started a job, and its demands: the five texts of the option --job."""

    label: str
    pipe: int  # descriptor to which the job reports how it ended
    parent: int  # id of the process whose end also ends the job
    identity: str  # required identity hash of the run; empty: any
    program: str  # required digest of the program; empty: any

    @classmethod
    def read(cls, texts: Sequence[str]) -> Place:
        """Return the place that the texts of the option describe."""
        label, pipe, parent, identity, program = texts
        return cls(
            label=label,
            pipe=int(pipe),
            parent=int(parent),
            identity=identity,
            program=program,
        )


@dataclass(frozen=True)
class Ended:
    """How a job ended; JSON-able."""

    # Exit code; -N if signal N ended the job; None if it was not started.
    status: int | None = None
    # Report of the job; empty if it could not report.
    report: Mapping[str, Any] = field(default_factory=dict)
    # Whether the job was stopped because it exceeded its time limit.
    over_limit: bool = False
    # How the worker or machine of the job was lost; empty if neither was lost.
    lost: str = ""
    # The end of the job's standard error, if the job could not report.
    last_words: str = ""


class Process:
    """A running job.

    The output of the job is shown if `is_shown`; otherwise only the end of its standard error is
    kept. `main` has the same meaning as in `Local`.

    Raises:
        StorageError: no process can be started.
    """

    def __init__(self, command: Command, *, main: Main | None = None, is_shown: bool = False):
        self._readable, writable = os.pipe()
        self._deadline = time.monotonic() + (command.time_limit_s or math.inf)
        self._over_limit = False
        # None for a fork.
        self._popen: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        if not is_shown:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # The texts that `Place.read` takes.
        place_texts = [
            command.label,
            str(writable),
            str(os.getpid()),
            command.identity,
            command.program,
        ]
        arguments = [*command.words, OPTION, *place_texts]
        # Otherwise a fork would print the content of the output buffers a second time.
        _flush()
        signals.block()
        try:
            if main is not None and _can_fork(command):
                self.pid = _fork(arguments, main)
            else:
                self._popen = self._interpreter(command, arguments, writable)
                self.pid = self._popen.pid
        except OSError as error:
            os.close(self._readable)
            raise StorageError(
                f"cannot start a process: {error}",
                hint="end other processes and rerun the command",
            ) from error
        finally:
            os.close(writable)
            signals.unblock()

    def _interpreter(
        self, command: Command, arguments: Sequence[str], writable: int
    ) -> subprocess.Popen[bytes]:
        """Start the job as a new interpreter, which inherits the writable end of the pipe."""
        redirection = None if self._errors is None else subprocess.DEVNULL
        variables = os.environ | {"PYTHONPATH": search_path()} | command.variables
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "orca_cli", *arguments],
            env=variables,
            cwd=command.folder or None,
            pass_fds=(writable,),
            # Signals of the terminal reach only the parent, which passes them on once.
            process_group=0,
            stdin=redirection,
            stdout=redirection,
            stderr=self._errors,
        )

    def signal(self, number: int) -> None:
        """Send a signal to the job."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self) -> Ended | None:
        """Return how the job ended; None if it is still running.

        A job over its time limit is stopped here.
        """
        # The first deadline is the time limit; each signal sets the next deadline.
        if time.monotonic() > self._deadline:
            self.signal(signal.SIGKILL if self._over_limit else signal.SIGTERM)
            self._over_limit = True
            self._deadline = time.monotonic() + GRACE_S
        status = self._status()
        if status is None:
            return None
        report = self._report()
        last_words = self._last_words()
        return Ended(
            status=status,
            report=report,
            over_limit=self._over_limit,
            last_words="" if report else last_words,
        )

    def _status(self) -> int | None:
        """Return the exit code, -N for signal N; None while the job runs."""
        if self._popen is not None:
            return self._popen.poll()
        ended_pid, wait_status = os.waitpid(self.pid, os.WNOHANG)
        if ended_pid == 0:
            return None
        return os.waitstatus_to_exitcode(wait_status)

    def _report(self) -> dict[str, Any]:
        """Return the report of a job that has ended; empty if it did not report."""
        # If the job did not report, a blocking read would wait for processes that it left behind.
        os.set_blocking(self._readable, False)
        try:
            return json.loads(os.read(self._readable, _LONGEST))
        except (BlockingIOError, ValueError):
            return {}
        finally:
            os.close(self._readable)

    def _last_words(self) -> str:
        """Return the end of the job's standard error, and close the file."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        content = self._errors.read()
        self._errors.close()
        error_text = content.decode(errors="replace").strip()
        return error_text[-_LAST_WORDS:]


@dataclass
class Local:
    """The executor of this machine, which runs jobs as processes."""

    at_once: float
    # The program's main function if this process may be forked; None starts new interpreters.
    main: Main | None = None
    name: str = "local"
    # The handle of a job is its process.
    ended = staticmethod(Process.ended)
    signal = staticmethod(Process.signal)

    def start(self, commands: Sequence[Command]) -> list[Process]:
        """Start a process for each command."""
        return [Process(command, main=self.main, is_shown=True) for command in commands]


def attend(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run a command on a machine of a cluster until it ends.

    Signals are passed on to the job, KeyboardInterrupt as SIGTERM, so that the job saves its state.

    Args:
        order: the fields of a `Command`.

    Returns:
        the fields of `Ended`.
    """
    command = Command(**order)
    if command.shared_file and not os.path.exists(command.shared_file):
        message = f"the machine {socket.gethostname()} cannot access '{command.shared_file}'"
        hint = "set ORCA_RUNS to a folder that all machines can access by the same path"
        error = ConfigError(message, where="paths.runs", hint=hint)
        return asdict(Ended(status=error.code, report=failure_report(error)))
    process = Process(command)
    previous_handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in _PASSED_ON:
            previous_handlers[number] = signal.signal(
                number, lambda number, _: process.signal(number)
            )
    try:
        return asdict(_wait(process))
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _wait(process: Process) -> Ended:
    """Wait until a process has ended, and return how; pass KeyboardInterrupt on as SIGTERM."""
    while True:
        try:
            end = process.ended()
            if end is not None:
                return end
            time.sleep(LOOK_EVERY_S)
        except KeyboardInterrupt:
            process.signal(signal.SIGTERM)


def failure_report(
    error: OrcaError, state: str = "failed", path: str | None = None
) -> dict[str, Any]:
    """Return the report of a job that ended with an error."""
    error_texts = {
        "kind": type(error).__name__,
        "what": error.what[:_LONGEST_TEXT],
        "where": error.where[:_LONGEST_TEXT],
        "hint": error.hint[:_LONGEST_TEXT],
    }
    return {"state": state, "code": error.code, "path": path, "error": error_texts}


def report(pipe: int, record: Mapping[str, Any]) -> None:
    """Report from a job how it ends, if the process that started the job still listens."""
    encoded_record = json.dumps(record).encode()
    if len(encoded_record) <= _LONGEST:
        with suppress(OSError):
            os.write(pipe, encoded_record)


def search_path() -> str:
    """Return PYTHONPATH for a new interpreter that finds the modules of this process.

    Folders of the interpreter itself are left out.
    """
    of_interpreter = (sys.prefix, sys.base_prefix)
    module_folders = [path for path in sys.path if path and not path.startswith(of_interpreter)]
    return os.pathsep.join(module_folders)


def _can_fork(command: Command) -> bool:
    """Return whether the job can be a fork: threads and a GPU driver do not survive a fork."""
    torch = sys.modules.get("torch")
    has_gpu = torch is not None and torch.cuda.is_initialized()
    has_threads = threading.active_count() > 1
    is_linux = sys.platform == "linux"
    return is_linux and not (command.variables or has_gpu or has_threads)


def _fork(arguments: list[str], main: Main) -> int:
    """Fork this process into a job, and return its process id."""
    parent = os.getpid()
    child_pid = os.fork()
    if child_pid == 0:
        _become(arguments, main, parent)
    return child_pid


def _become(arguments: list[str], main: Main, parent: int) -> NoReturn:
    """Turn a fork into the job. Signals are blocked until the job handles them."""
    code = 1
    try:
        os.setpgid(0, 0)
        signals.end_with_parent(parent)
        signals.reset_in_fork()
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A stream may be None, lost or closed.
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()
