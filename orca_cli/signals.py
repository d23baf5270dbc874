"""Signals set a flag that every long loop polls, so that state is saved before the process ends.

SIGTERM, SIGHUP (unless it is ignored, as under nohup), SIGINT and the signal of preemption set the
flag, however often they arrive. A second SIGINT ends the process at once, without waiting for a
loop; the last saved state is intact.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType

from orca_cli.exceptions import InterruptionError

# A scheduler sends this signal before it takes the machine away.
PREEMPTION = signal.SIGUSR1
_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PREEMPTION)

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

_pending: int | None = None  # the first signal that has asked this process to stop
_deferred = False  # whether signals set the flag
_insistent = True  # whether a second SIGINT ends the process at once
_immediate = False  # whether a signal also raises an error


@contextmanager
def deferred(*, insistent: bool = True) -> Iterator[None]:
    """Turn signals inside the block into a flag.

    A block inside another such block, or in a thread other than the main thread, changes nothing.
    With `insistent`, a second SIGINT ends the process at once; a job of a sweep leaves that to the
    sweep.
    """
    global _pending, _deferred, _insistent
    # Python lets only the main thread set handlers.
    if _deferred or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A signal of an earlier run in this process does not concern this one.
    _pending = None
    _deferred = True
    _insistent = insistent
    signal_numbers = list(_ALL)
    # Under nohup, SIGHUP has to stay ignored.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal_numbers.remove(signal.SIGHUP)
    previous_handlers = {number: signal.signal(number, _set) for number in signal_numbers}
    # The process may have been started with signals blocked by `block`; the handlers are set now.
    unblock()
    try:
        yield
    finally:
        _deferred = False
        for number, handler in previous_handlers.items():
            # None means a handler that was not set from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _set(signum: int, frame: FrameType | None) -> None:
    global _pending
    # The first signal counts. A second Ctrl-C means that the user does not want to wait.
    if _insistent and signum == signal.SIGINT and _pending is not None:
        _leave()
    if _pending is None:
        _pending = signum
        if _immediate:
            raise InterruptionError.by(signum)


@contextmanager
def immediate(*, enabled: bool = True) -> Iterator[None]:
    """Let a signal raise InterruptionError anywhere inside the block, for waits without a loop.

    A pending signal raises before the block. This applies only within `deferred`; elsewhere signals
    have their default effect. `enabled=False` suspends the effect of an outer block.
    """
    global _immediate
    was_immediate = _immediate
    _immediate = enabled
    try:
        if enabled:
            check()
        yield
    finally:
        _immediate = was_immediate
    # A signal that came while an inner block postponed it raises now.
    if was_immediate:
        check()


def postponed() -> AbstractContextManager[None]:
    """Keep signals from raising inside the block, even within `immediate`.

    It is for blocks that must not be interrupted.
    """
    return immediate(enabled=False)


def note(signum: int) -> None:
    """Treat a signal of another process of the run as if this process had received it."""
    global _pending
    if _pending is None:
        _pending = signum


@contextmanager
def watched() -> Iterator[None]:
    """Notice a second SIGINT even while the main thread is inside a long operation of a library.

    Python's own handlers wait until the operation returns. Therefore each signal also writes a byte
    into a pipe at once, and a thread reads it.
    """
    if not (_deferred and _insistent) or threading.current_thread() is not threading.main_thread():
        yield
        return
    readable, writable = os.pipe()
    # A full pipe must not block the signal.
    os.set_blocking(writable, False)
    watcher = threading.Thread(target=_watch, args=(readable, _pending is not None), daemon=True)
    previous_descriptor = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        # Before the pipe is closed, since the descriptor may then be reused for another file.
        signal.set_wakeup_fd(previous_descriptor)
        # The end of the pipe ends the watcher's read.
        os.close(writable)
        watcher.join()
        os.close(readable)


def _watch(readable: int, is_stopping: bool) -> None:
    """Read signal numbers from a pipe until it is closed; end the process at a second SIGINT."""
    signal_numbers = os.read(readable, 64)
    while signal_numbers:
        for number in signal_numbers:
            if is_stopping and number == signal.SIGINT:
                _leave()
            is_stopping = is_stopping or number in _ALL
        signal_numbers = os.read(readable, 64)


def _leave() -> None:
    """End the process at once; the system frees its locks, and temporary files remain."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    # A progress bar may have hidden the cursor.
    show_cursor = "\x1b[?25h\n" if is_terminal else ""
    message = (
        f"{show_cursor}orca: error: stopped at once by a second SIGINT; rerun the same command to"
        " resume from the last checkpoint\n"
    )
    try:
        # Written to the descriptor, since the main thread may have the lock of Python's stream.
        os.write(2, message.encode())
    finally:
        # Without clean-up, which could wait for the operation of the main thread.
        os._exit(InterruptionError.code)


@contextmanager
def raised() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt(number), as SIGINT does.

    It is for commands that have no state to save.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Handlers and ignored signals of a surrounding program are not changed.
            if signal.getsignal(number) is signal.SIG_DFL:
                previous = signal.signal(number, _raise)
                stack.callback(signal.signal, number, previous)
        yield


def _raise(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signum)


def block() -> None:
    """Block signals until `unblock`, so that no signal is lost while a process is started.

    The new process inherits the blocked state.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)


def unblock() -> None:
    """Deliver the signals that `block` holds back, whether this process or its parent called it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ALL)


def reset_in_fork() -> None:
    """Reset, in a fork, the signals and handlers of the parent process."""
    global _pending, _deferred, _immediate
    # Otherwise signals of the fork would be written into the pipe of its parent.
    signal.set_wakeup_fd(-1)
    _pending = None
    _deferred = False
    _immediate = False


def pending() -> int | None:
    """Return the signal that has asked this process to stop; None if no signal has arrived."""
    return _pending


def exit_code() -> int:
    """Return the exit code of the signal that asked this process to stop; 0 without a signal.

    The code applies even if the work ended before it could be stopped.
    """
    if _pending is None:
        return 0
    return InterruptionError.by(_pending).code


def check() -> None:
    """Raise InterruptionError if a signal has asked this process to stop."""
    if _pending is not None:
        raise InterruptionError.by(_pending)


def end_with_parent(parent: int) -> None:
    """Let the system kill this process when the process with the id `parent` ends (Linux).

    So a driver that is killed leaves no running jobs behind.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    # If the parent ended before this request, no signal will arrive.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
