"""Fit a model in a process of its own, with a limit of computing time; a crash there is an error here."""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any

from orca_cli.baselines import process
from orca_cli.untrusted.worker import CrashedError, OverTimeError, StoppedError, Worker

_WAIT = 5  # times the computing time: for slow disks and busy machines
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
    variables = os.environ | dict.fromkeys(_THREADS, "1")
    with tempfile.TemporaryFile() as errors:
        worker = Worker(0, variables, errors)
        try:
            arguments = {"parent": os.getpid(), "request": request}
            value: dict[str, Any] = worker.ask(process.fit, arguments, "baselines", math.ceil(limit_s), _WAIT * limit_s)
            return value
        except OverTimeError as error:
            raise FitError(f"it needs more than {limit_s:g} s") from error
        except StoppedError as error:
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().rpartition("\n")[2][:300]
            raise FitError(f"it {error}{f': {last}' if last and isinstance(error, CrashedError) else ''}") from error
        finally:
            worker.end()
