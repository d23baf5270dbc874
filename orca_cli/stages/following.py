"""What the other processes of a run do (`training/team.py`): their part of each step and of each prediction, as ordered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from orca_cli.exceptions import ConfigError, DataError, NonFiniteError
from orca_cli.interfaces import Samples
from orca_cli.schema import Train
from orca_cli.stages.build import Built
from orca_cli.stages.training_plan import PLAN, STEP, TrainingPlan
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine
from orca_cli.training.loop import PREDICT, predict_part
from orca_cli.training.team import END, Team

_TEST = "test"
_CPU = torch.device("cpu")


def lead(team: Team, built: Built, engine: Engine) -> None:
    """Let the other processes build what this one has built, and wait until they have.

    Raises:
        ConfigError: the method trains more than the model, of which the others would know nothing.
        OrcaError: one of them cannot, or has read other data.
    """
    if built.config.align.method == "pare":
        what = "trains a mixing beside the model, which several processes do not share"
        raise ConfigError(what, where="align.method=pare", hint="start one process")
    team.sets = _sets(built)
    team.order("build", precision=engine.precision, splits=built.summary["splits"])
    team.gathered(lambda: {}, 0)


def check_built(order: Mapping[str, Any], built: Built, number: int) -> None:
    """Raise DataError where a process has read other data than the first one."""
    for name, split in built.summary["splits"].items():
        if split != order["splits"][name]:
            what = f"process {number} reads other data than process 0: {split['n']} samples, and {order['splits'][name]['n']}"
            raise DataError(what, where=f"task ({name})", hint="give all processes the same paths.data")


def open_to_all(engine: Engine, test: Samples) -> None:
    """Let the other processes know the test split, which they open when it is predicted."""
    if engine.team is not None:
        engine.team.sets[_TEST] = test


def follow(team: Team, built: Built, engine: Engine) -> int:
    """Do what the first process orders; returns the exit code once the run is over.

    What fails in a step fails in all processes, and the first one decides what is next.
    """
    team.sets = _sets(built)
    built.model.to(engine.device)
    plan: TrainingPlan | None = None
    while (order := team.listen())["name"] != END:
        try:
            if order["name"] == PLAN:
                if plan is not None:
                    plan.close()
                plan = _plan(team, built, engine, order)
            elif order["name"] == STEP:
                assert plan is not None
                engine.cuts = dataclasses.replace(engine.cuts, splits=order["splits"])
                plan.take(order["step"])
            elif order["name"] == PREDICT:
                _predict(team, built, engine, order)
        except NonFiniteError:
            continue
        except Exception as error:
            if error is not team.failure and error.__cause__ is not team.failure:
                raise
    if plan is not None:
        plan.close()
    return int(order["code"])


def _plan(team: Team, built: Built, engine: Engine, order: Mapping[str, Any]) -> TrainingPlan:
    config = dataclasses.replace(built.config, train=Train(**order["train"]))
    samples = team.located(order["split"], team.share({}, _CPU)["rows"])
    team.share_weights(built.model, engine.device)
    state = team.share({}, _CPU)
    plan = TrainingPlan(config, built, engine, samples=samples, seed=order["seed"])
    if state:
        checkpoint.restore_optimizer(plan.optimizer, state)
    engine.restore_scaler(order["scaler"])
    team.gathered(lambda: {}, 0)
    return plan


def _predict(team: Team, built: Built, engine: Engine, order: Mapping[str, Any]) -> None:
    """Compute a part of a split with the weights that the first process has at this moment; the own ones are kept."""
    rows = team.share({}, _CPU)["rows"]
    own = {name: value.clone() for name, value in built.model.state_dict().items()}
    try:
        team.share_weights(built.model, engine.device)
        if order["split"] == _TEST and _TEST not in team.sets:
            team.sets[_TEST] = built.task.open_test()
        predict_part(engine, built.model, team.located(order["split"], rows), order["size"])
    finally:
        built.model.load_state_dict(own)


def _sets(built: Built) -> dict[str, Samples]:
    return {"train": built.task.train, "learned": built.learned, "validation": built.task.validation}
