"""Fit a model in a process of its own, with a limit of computing time; a crash there is an error here."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from orca_cli import signals
from orca_cli.untrusted import transfer

_START = "import sys; sys.path[:] = {path!r}; from orca_cli.baselines.process import main; main()"
_SLICE_S = 0.2
_WAIT = 5  # times the computing time: for slow disks and busy machines
_MOST_BYTES = 2**33
# One thread: its number would decide the last bits, and a baseline is computed once for all machines that share a cache.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class FitError(Exception):
    """A model could not be fitted; the message says why."""


def fit(limit_s: float, **request: Any) -> dict[str, Any]:
    """Return what `process.fitted` returns for the same arguments.

    Raises:
        FitError: it failed, crashed, or needs more than `limit_s` seconds of computing.
        InterruptionError: a signal asked to stop.
    """
    # The program's own folder first; the rest as this process finds its packages, and nothing of the current folder.
    path = [str(Path(__file__).parents[2]), *(entry for entry in sys.path if os.path.isabs(entry))]
    command = [sys.executable, "-I", "-S", "-c", _START.format(path=path), str(os.getpid()), str(math.ceil(limit_s))]
    variables = os.environ | dict.fromkeys(_THREADS, "1")
    # Files, not pipes: neither side waits for the other to read.
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        asked.writelines(transfer.pack(request))
        asked.seek(0)
        with subprocess.Popen(command, stdin=asked, stdout=answer, stderr=said, env=variables) as process:
            try:
                is_over = not _wait(process, _WAIT * limit_s)
            finally:
                process.kill()  # where it has not ended
        if is_over or process.returncode == -signal.SIGXCPU:
            raise FitError(f"it needs more than {limit_s:g} s")
        answer.seek(0)
        said.seek(0)
        return _value(answer, process.returncode, said)


def _wait(process: subprocess.Popen[bytes], most_s: float) -> bool:
    """Return whether a process ends in time."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SLICE_S)
            return True
        signals.check()
    return False


def _value(answer: IO[bytes], code: int, said: IO[bytes]) -> dict[str, Any]:
    def fill(buffer: memoryview) -> None:
        if answer.readinto(buffer) != len(buffer):  # type: ignore[attr-defined]
            raise transfer.TransferError("cut off")

    try:
        content = transfer.unpack(_MOST_BYTES, fill)
    except transfer.TransferError:
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise FitError(f"its process {ended}{f': {last}' if last else ''}") from None
    if "failed" in content:
        raise FitError(content["failed"])
    value: dict[str, Any] = content["value"]
    return value
