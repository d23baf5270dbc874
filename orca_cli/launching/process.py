"""One job as a process of this machine: a command line of this program that reports through a pipe how it ended.

If this process is the program itself and nothing in it has started a thread or a GPU, the job is a fork, which has all packages
imported already; otherwise it is a new interpreter. Either way it ends with the process that started it.
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

GRACE_S = 60.0  # from the SIGTERM, upon which a job saves its state, to the SIGKILL
LOOK_EVERY_S = 0.05
OPTION = "--job"
_LONGEST = 2**14  # bytes of a report; fits into a pipe that nobody reads yet
_LONGEST_TEXT = 1000  # characters of each part of an error in a report
_LAST_WORDS = 400  # characters of standard error that are kept
_PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)

Main = Callable[[list[str]], int]


@dataclass(frozen=True)
class Command:
    """What one job runs; JSON-able, since it travels to other machines."""

    label: str  # starts each line that the job prints, such as "[2/6]"
    words: list[
        str
    ]  # command line without the program's name; its command takes the option --job, see `Place`
    variables: dict[str, str] = field(
        default_factory=dict
    )  # of the environment, on top of those of who starts it
    folder: str = ""  # where it runs; empty for that of the process that starts it
    identity: str = ""  # hash of the run that it has to be; empty to take any
    program: str = ""  # digest of the program that has to run it; empty to take any
    time_limit_s: float | None = None  # after which it gets SIGTERM, and GRACE_S later SIGKILL
    seen: str = (
        ""  # a file that every machine has to see, in the shared folder of runs; empty for none
    )


@dataclass(frozen=True)
class Place:
    """What a job knows of the process that started it."""

    label: str
    pipe: int  # where the job reports how it ended
    parent: int  # the process that the job ends with
    identity: str  # hash of the run that the job has to be; empty for any
    program: str  # digest of the program that has to run it; empty for any

    @classmethod
    def read(cls, values: Sequence[str]) -> Place:
        """Return what the option's values mean."""
        label, pipe, parent, identity, program, *_ = values
        return cls(label, int(pipe), int(parent), identity, program)


@dataclass(frozen=True)
class Ended:
    """How a job ended; JSON-able."""

    status: int | None = None  # exit code; -N if signal N ended it; None if it was not started
    report: Mapping[str, Any] = field(
        default_factory=dict
    )  # what it reported; empty if it could not
    over_limit: bool = False  # it was stopped because it exceeded the time limit
    lost: str = ""  # why its worker or its machine was lost, in words; empty if they were not
    last_words: str = ""  # the end of what it wrote to standard error, if it could not report


class Process:
    """A running job; `main` as in `Local`. Unless `is_shown`, its output is dropped, but for the end of its errors.

    Raises:
        StorageError: no process can be started.
    """

    def __init__(self, command: Command, *, main: Main | None = None, is_shown: bool = False):
        self._readable, writable = os.pipe()
        self._deadline = time.monotonic() + (command.time_limit_s or math.inf)
        self._over_limit = False
        self._popen: subprocess.Popen[bytes] | None = None  # unless forked
        self._errors: IO[bytes] | None = None if is_shown else tempfile.TemporaryFile()  # noqa: SIM115
        place = [command.label, str(writable), str(os.getpid()), command.identity, command.program]
        words = [*command.words, OPTION, *place]
        torch = sys.modules.get("torch")  # a GPU driver does not work in a fork
        has_gpu = torch is not None and torch.cuda.is_initialized()
        is_forked = (
            sys.platform == "linux"
            and not command.variables
            and not has_gpu
            and threading.active_count() == 1
        )
        _flush()  # or a fork would write it once more
        signals.block()
        try:
            if main is not None and is_forked:
                parent = os.getpid()
                self.pid = os.fork()
                if self.pid == 0:
                    _become(words, main, parent)
            else:
                quiet = None if self._errors is None else subprocess.DEVNULL
                self._popen = subprocess.Popen(
                    [sys.executable, "-P", "-m", "orca_cli", *words],
                    env=os.environ | {"PYTHONPATH": search_path()} | command.variables,
                    cwd=command.folder or None,
                    pass_fds=(writable,),
                    process_group=0,  # the terminal's signals reach only the parent, which passes them on once
                    stdin=quiet,
                    stdout=quiet,
                    stderr=self._errors,
                )
                self.pid = self._popen.pid
        except OSError as error:
            os.close(self._readable)
            raise StorageError(
                f"cannot start a process: {error}", hint="end other processes and retry"
            ) from error
        finally:
            os.close(writable)
            signals.unblock()

    def signal(self, number: int) -> None:
        """Send a signal to the job."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ended(self) -> Ended | None:
        """Return how the job ended; None if it is still running. A job over its limit is stopped here."""
        if time.monotonic() > self._deadline:
            self.signal(signal.SIGKILL if self._over_limit else signal.SIGTERM)
            self._over_limit, self._deadline = True, time.monotonic() + GRACE_S
        if self._popen is not None:
            status = self._popen.poll()
        else:
            done, wait_status = os.waitpid(self.pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(wait_status) if done else None
        if status is None:
            return None
        os.set_blocking(
            self._readable, False
        )  # a process that the job left behind may hold the other end open
        try:
            report = json.loads(os.read(self._readable, _LONGEST))
        except (BlockingIOError, ValueError):
            report = {}
        os.close(self._readable)
        last_words = ""
        if self._errors is not None:
            self._errors.seek(0)
            last_words = (
                ""
                if report
                else self._errors.read().decode(errors="replace").strip()[-_LAST_WORDS:]
            )
            self._errors.close()
        return Ended(status, report, self._over_limit, last_words=last_words)


@dataclass
class Local:
    """The executor of this machine: jobs as processes."""

    at_once: float
    main: Main | None = (
        None  # the program's main function if this process may be forked; None starts interpreters
    )
    name: str = "local"
    ended, signal = staticmethod(Process.ended), staticmethod(Process.signal)

    def start(self, commands: Sequence[Command]) -> list[Process]:
        """Start processes."""
        return [Process(one, main=self.main, is_shown=True) for one in commands]


def attend(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run a `Command` on a machine of a cluster until it ends; it comes and returns `Ended` as plain values.

    Signals that this process gets are passed on, KeyboardInterrupt as SIGTERM: the job saves its state, and its end comes back.
    """
    command = Command(**order)
    if command.seen and not os.path.exists(command.seen):
        hint = "set ORCA_RUNS to a folder that all machines see under the same path"
        error = ConfigError(
            f"{socket.gethostname()} does not see {command.seen}", where="paths.runs", hint=hint
        )
        return asdict(Ended(error.code, failure_report(error)))
    process = Process(command)
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {
            one: signal.signal(one, lambda number, _: process.signal(number)) for one in _PASSED_ON
        }
    try:
        while True:
            try:
                while (end := process.ended()) is None:
                    time.sleep(LOOK_EVERY_S)
                return asdict(end)
            except KeyboardInterrupt:
                process.signal(signal.SIGTERM)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def failure_report(
    error: OrcaError, state: str = "failed", path: str | None = None
) -> dict[str, Any]:
    """Return the report of a job that an error ended."""
    texts = {"what": error.what, "where": error.where, "hint": error.hint}
    short = {key: text[:_LONGEST_TEXT] for key, text in texts.items()}
    return {
        "state": state,
        "code": error.code,
        "path": path,
        "error": {"kind": type(error).__name__, **short},
    }


def report(pipe: int, record: Mapping[str, Any]) -> None:
    """Report, in a job, how it ends, if the process that started it still listens."""
    content = json.dumps(record).encode()
    if len(content) <= _LONGEST:
        with suppress(OSError):
            os.write(pipe, content)


def search_path() -> str:
    """Return this process' search path for modules, without what belongs to the interpreter, as PYTHONPATH has it."""
    outside = (
        path for path in sys.path if path and not path.startswith((sys.prefix, sys.base_prefix))
    )
    return os.pathsep.join(outside)


def _become(words: list[str], main: Main, parent: int) -> NoReturn:
    """Turn a fork into the job. Signals are blocked until the job handles them."""
    code = 1
    try:
        os.setpgid(0, 0)
        signals.end_with_parent(parent)
        signals.reset_in_fork()
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # None, lost or closed
            stream.flush()
