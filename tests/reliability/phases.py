"""Faults at the n-th call of a chosen function of a run; functions that take one text are hooks of the fork server."""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

Place = tuple[str, str]  # module, attribute; "Class.method" names one of a class

# phase -> what is called again and again while a run is in it
PHASES: dict[str, Place] = {
    "build": ("orca_cli.stages.build", "build_model"),
    "features": ("orca_cli.stages.source_features", "select_points"),
    "metric": ("orca_cli.stages.problem", "prepared_metric"),
    "align": ("orca_cli.stages.align", "Trainer._epoch"),
    "checkpoint": ("orca_cli.training.checkpoint", "save_tensors"),
    "prune": ("orca_cli.storage", "remove"),
    "finetune": ("orca_cli.stages.optimizer_steps", "OptimizerSteps.take"),
    "validate": ("orca_cli.stages.member_training", "MemberTraining._end_epoch"),
    "test": ("orca_cli.stages.finetune", "test"),
    "result": ("orca_cli.runs.directory", "RunDirectory.write_result"),
}
# Where GPU memory is allocated, inside the work that the error message names.
_GPU: dict[str, Place] = {
    "step": ("orca_cli.stages.optimizer_steps", "train_step"),
    "batch": ("orca_cli.training.engine", "Engine.move"),
    "align": PHASES["align"],
}


def replace(place: Place, make: Callable[[Callable], Callable]) -> None:
    """Replace an attribute by what `make` returns for it."""
    owner: Any = importlib.import_module(place[0])
    *path, name = place[1].split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, make(getattr(owner, name)))


def before(place: Place, number: int, act: Callable[[], object]) -> None:
    """Do something before the n-th call of a function."""
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


def kill(argument: str) -> None:
    """Kill the process some seconds after the n-th call of a phase's function: "phase:n:seconds"."""
    phase, number, seconds = argument.split(":")

    def act() -> None:
        if float(seconds) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, float(seconds))  # its signal ends the process just so

    before(PHASES[phase], int(number), act)


def starve(argument: str) -> None:
    """Limit the address space to what is in use and some MiB, from the n-th call of a phase on: "phase:n:MiB"."""
    phase, number, room = argument.split(":")

    def limit() -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(room) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    before(PHASES[phase], int(number), limit)


def exhaust(argument: str) -> None:
    """Run out of GPU memory at the n-th call of a place: "step:n", "batch:n" or "align:n"."""
    import torch

    place, number = argument.split(":")

    def fail() -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has 15.77 GiB in all"
        )

    # How many steps are timed before the run depends on the machine; the calls that count are the run's.
    replace(("orca_cli.stages.expected_time", "time_steps"), lambda original: lambda *words: None)
    before(_GPU[place], int(number), fail)


def lose(what: str) -> None:
    """Lose one piece of the state that a resumed run goes on from; each must be noticed in what the run ends with."""
    LOST[what]()


def _lose_rate() -> None:
    """Count the schedule's steps from the first that the process takes."""

    def make(original: Callable) -> Callable:
        def call(plan: Any, step: int) -> float:
            vars(plan).setdefault(
                "first_step", step
            )  # of this plan: another one measures how long a step takes
            return original(plan, step - plan.first_step)

        return call

    replace(("orca_cli.stages.optimizer_steps", "OptimizerSteps.rate"), make)


def _draw_by_count(place: Place, draw: str) -> None:
    """Draw by the number of draws that this process has made, as a global generator does."""
    seen: dict[tuple, int] = {}

    def make(original: Callable) -> Callable:
        def call(seed: int, *names: Any) -> Any:
            if names[:2] == ("finetune", draw):
                names = (*names[:2], seen.setdefault(names, len(seen)), *names[3:])
            return original(seed, *names)

        return call

    replace(place, make)


def _change_checkpoint(change: Callable[[Any], object]) -> None:
    def make(original: Callable) -> Callable:
        def call(*words: Any, **more: Any) -> Any:
            loaded = original(*words, **more)
            if loaded is not None:
                change(loaded)
            return loaded

        return call

    replace(("orca_cli.training.checkpoint", "load_latest"), make)


def _forget_best(loaded: Any) -> None:
    loaded.kept = dict(loaded.weights)
    loaded.records["lines"] = [
        line | {"validation_error": -1.0} for line in loaded.records["lines"]
    ]


LOST: dict[str, Callable[[], None]] = {
    "optimizer": lambda: replace(
        ("orca_cli.training.checkpoint", "restore_optimizer"), lambda _: lambda *words: None
    ),
    "rate": _lose_rate,
    "dropout": lambda: _draw_by_count(("orca_cli.training.loop", "seeding.seed_torch"), "dropout"),
    "order": lambda: _draw_by_count(("orca_cli.stages.optimizer_steps", "seeding.numpy_generator"), "order"),
    "position": lambda: _change_checkpoint(lambda loaded: setattr(loaded, "step", loaded.step - 1)),
    "weights": lambda: _change_checkpoint(lambda loaded: next(iter(loaded.weights.values())).mul_(1 + 1e-6)),
    "best": lambda: _change_checkpoint(_forget_best),
    "loss": lambda: _change_checkpoint(lambda loaded: loaded.records.update(loss_sum=0.0)),
}  # fmt: skip
