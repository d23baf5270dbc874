"""The executor of this machine: processes, a GPU each where there are some."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from orca_cli.launching.process import Command, Ended, Main, Process


@dataclass
class Local:
    """Runs jobs as processes of this machine.

    Args:
        at_once: how many at a time.
        main: the program's main function if this process may be forked; None starts interpreters.
        is_shown: jobs write to this process' standard output and error.
    """

    at_once: float
    main: Main | None = None
    is_shown: bool = True
    name: str = "local"

    def start(self, commands: Sequence[Command]) -> list[Process]:
        """Start processes."""
        return [Process(one, main=self.main, is_shown=self.is_shown) for one in commands]

    def ended(self, handle: Process) -> Ended | None:
        """Return how a process ended; None while it runs."""
        return handle.ended()

    def signal(self, handle: Process, number: int) -> None:
        """Send a signal to a process."""
        handle.signal(number)


def shared_threads(at_once: float, threads: int | None) -> int | None:
    """Return the threads of each job: as typed, else the machine's divided by the jobs; None for the default."""
    if threads is not None or at_once == 1:
        return threads
    omp_threads = os.environ.get("OMP_NUM_THREADS", "")
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, (int(omp_threads) if omp_threads.isdigit() else processors) // int(at_once))
