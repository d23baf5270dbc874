"""Memory that runs out at a chosen point of a run; hooks of the fork server (see forked.py), which change the child alone."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.reliability.phases import PHASES, replace

# Where GPU memory is allocated: (module, attribute) inside the work that the error message names.
_GPU = {
    "step": ("orca_cli.stages.training_plan", "train_step"),
    "batch": ("orca_cli.training.engine", "Engine.move"),
    "align": ("orca_cli.stages.align", "Trainer._epoch"),
}
_CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 15.77 GiB"


def starve(argument: str) -> None:
    """Limit the address space to what is in use and some MiB, from the n-th call of a phase on: "phase:n:MiB"."""
    phase, number, room = argument.split(":")

    def limit() -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(room) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    _before(PHASES[phase], int(number), limit)


def exhaust(argument: str) -> None:
    """Run out of GPU memory at the n-th call of a place: "step:n", "batch:n" or "align:n"."""
    place, number = argument.split(":")

    def fail() -> None:
        raise torch.OutOfMemoryError(_CUDA)

    # How many steps are timed before the run depends on the machine; the calls that count are the run's.
    replace(("orca_cli.stages.expected_time", "measure"), lambda original: lambda *words: None)
    _before(_GPU[place], int(number), fail)


def _before(place: tuple[str, str], number: int, act: Callable[[], None]) -> None:
    calls = 0

    def make(original: Callable) -> Callable:
        def call(*words: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                act()
            return original(*words, **more)

        return call

    replace(place, make)
