"""Hooks that mark when a run reaches a chosen point, so that a test can kill it there, and hooks that lose state.

The fork server (see forked.py) calls them in the child: they change the program there alone.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# phase -> (module, attribute) of what is called again and again while a run is in it
PHASES = {
    "build": ("orca_cli.stages.build", "build_model"),
    "features": ("orca_cli.stages.source_features", "select_points"),
    "metric": ("orca_cli.stages.compared", "prepared_metric"),
    "align": ("orca_cli.stages.align", "Trainer._epoch"),
    "checkpoint": ("orca_cli.training.checkpoint", "save_file"),
    "prune": ("orca_cli.storage", "remove"),
    "finetune": ("orca_cli.training.averaging", "RunningMean.add"),  # once a step of training itself
    "validate": ("orca_cli.stages.member_training", "MemberTraining._end_epoch"),
    "test": ("orca_cli.stages.finetune", "test"),
    "result": ("orca_cli.runs.directory", "RunDirectory.write_result"),
}


def replace(place: tuple[str, str], make: Callable[[Callable], Callable]) -> None:
    """Replace an attribute by what `make` returns for it; "Class.method" names one of a class."""
    owner: Any = importlib.import_module(place[0])
    *path, name = place[1].split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, make(getattr(owner, name)))


def mark(argument: str) -> None:
    """Touch a file at the n-th call of a phase's function, and linger a moment before it: "phase:n:file"."""
    phase, number, file = argument.split(":")
    calls = 0

    def make(original: Callable) -> Callable:
        def call(*words: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == int(number):
                Path(file).touch()
                time.sleep(0.02)
            return original(*words, **more)

        return call

    replace(PHASES[phase], make)


def lose(what: str) -> None:
    """Lose one piece of the state that a resumed run goes on from; each must be noticed in what the run ends with."""
    {
        "optimizer": _lose_optimizer,
        "rate": _lose_rate,
        "dropout": _lose_dropout,
        "order": _lose_order,
        "position": _lose_position,
        "weights": _lose_weights,
        "best": _lose_best,
        "loss": _lose_loss,
    }[what]()


def _lose_optimizer() -> None:
    replace(("orca_cli.training.checkpoint", "restore_optimizer"), lambda original: lambda *words: None)


def _lose_rate() -> None:
    """Count the schedule's steps from the first that the process takes."""

    def make(original: Callable) -> Callable:
        def call(plan: Any, step: int) -> float:
            vars(plan).setdefault("first_step", step)  # of this plan: another one measures how long a step takes
            return original(plan, step - plan.first_step)

        return call

    replace(("orca_cli.stages.training_plan", "TrainingPlan.rate"), make)


def _lose_dropout() -> None:
    """Draw by the number of draws so far, as a global generator does."""
    replace(("orca_cli.training.loop", "seeding.seed_torch"), _counted("dropout"))


def _lose_order() -> None:
    """Draw by the number of epochs that this process has seen."""
    replace(("orca_cli.stages.training_plan", "seeding.numpy_generator"), _counted("order"))


def _counted(draw: str) -> Callable[[Callable], Callable]:
    seen: dict[tuple, int] = {}

    def make(original: Callable) -> Callable:
        def call(seed: int, *names: Any) -> Any:
            if names[:2] != ("finetune", draw):
                return original(seed, *names)
            number = seen.setdefault(names, len(seen))
            return original(seed, "finetune", draw, number, *names[3:])

        return call

    return make


def _changed_checkpoint(change: Callable[[Any], None]) -> None:
    def make(original: Callable) -> Callable:
        def call(*words: Any, **more: Any) -> Any:
            loaded = original(*words, **more)
            if loaded is not None:
                change(loaded)
            return loaded

        return call

    replace(("orca_cli.training.checkpoint", "load_latest"), make)


def _lose_position() -> None:
    def change(loaded: Any) -> None:
        loaded.step -= 1

    _changed_checkpoint(change)


def _lose_weights() -> None:
    def change(loaded: Any) -> None:
        loaded.weights = {name: value * (1 + 1e-6) for name, value in loaded.weights.items()}

    _changed_checkpoint(change)


def _lose_best() -> None:
    def change(loaded: Any) -> None:
        loaded.kept = dict(loaded.weights)
        loaded.records["lines"] = [line | {"validation_error": -1.0} for line in loaded.records["lines"]]

    _changed_checkpoint(change)


def _lose_loss() -> None:
    def change(loaded: Any) -> None:
        loaded.records["loss_sum"] = 0.0

    _changed_checkpoint(change)
