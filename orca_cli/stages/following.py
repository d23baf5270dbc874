"""What the other processes of a run do (`training/team.py`): their part of each step and of each prediction, as ordered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch

from orca_cli.config.schema import Config
from orca_cli.exceptions import ConfigError, DataError, NonFiniteError, OrcaError
from orca_cli.interfaces import Samples
from orca_cli.progress import Silent
from orca_cli.stages.build import Built, build
from orca_cli.stages.optimizer_steps import PLAN, STEP, OptimizerSteps
from orca_cli.training import checkpoint
from orca_cli.training.engine import Engine, choose_device
from orca_cli.training.loop import PREDICT, predict_part
from orca_cli.training.team import END, Team

_TEST = "test"
_CPU = torch.device("cpu")


def share(team: Team, settings: Callable[[], Config]) -> int:
    """Share the work of a run that another process leads; returns the exit code once it is over.

    Args:
        team: the processes of the run.
        settings: composes those of the same run; called once the first process has read the data, and so has
            made what others share.
    """
    order = team.listen()
    if order["name"] == END:
        return int(order["code"])
    made: list[tuple[Built, Engine]] = []

    def make() -> dict[int, float]:
        config = settings()
        device = team.device(choose_device(config.device))
        built = build(config, Silent(), order)
        _check_built(order, built, team.rank.number)
        made.append((built, Engine(device, order["precision"], team)))
        return {}

    with suppress(OrcaError):  # already reported to the first process
        team.gathered(make, 0)
    if made:
        return _follow(team, *made[0])
    while (order := team.listen())["name"] != END:
        continue
    return int(order["code"])


def lead(team: Team, built: Built, engine: Engine) -> None:
    """Let the other processes build what this one has built, and wait until they have.

    Raises:
        ConfigError: the method trains more than the model, of which the others would know nothing.
        OrcaError: one of them cannot, or has read other data.
    """
    if built.plan.align.method == "pare":
        what = "trains a mixing beside the model, which several processes do not share"
        raise ConfigError(what, where="align.method=pare", hint="start one process")
    team.sets = _sets(built)
    team.order("build", precision=engine.precision, **{name: built.summary[name] for name in ("splits", "decided")})
    team.gathered(lambda: {}, 0)


def _check_built(order: Mapping[str, Any], built: Built, number: int) -> None:
    """Raise DataError where a process has read other data than the first one."""
    for name, split in built.summary["splits"].items():
        if split != order["splits"][name]:
            what = f"process {number} reads other data than process 0: {split['n']} samples, and {order['splits'][name]['n']}"
            raise DataError(what, where=f"task ({name})", hint="give all processes the same paths.data")


def open_to_all(engine: Engine, test: Samples) -> None:
    """Let the other processes know the test split, which they open when it is predicted."""
    if engine.team is not None:
        engine.team.sets[_TEST] = test


def _follow(team: Team, built: Built, engine: Engine) -> int:
    """Do what the first process orders; returns the exit code once the run is over.

    What fails in a step fails in all processes, and the first one decides what is next.
    """
    team.sets = _sets(built)
    built.model.to(engine.device)
    plan: OptimizerSteps | None = None
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


def _plan(team: Team, built: Built, engine: Engine, order: Mapping[str, Any]) -> OptimizerSteps:
    samples = team.located(order["split"], team.share({}, _CPU)["rows"])
    planned = dataclasses.replace(built, plan=built.plan.with_train(**order["train"]))
    team.share_weights(built.model, engine.device)
    state = team.share({}, _CPU)
    plan = OptimizerSteps(planned, engine, samples=samples, seed=order["seed"])
    if state:
        checkpoint.restore_optimizer(plan.optimizer, state)
    engine.restore_scaler(order["scaler"])
    team.gathered(lambda: {}, 0)
    return plan


def _predict(team: Team, built: Built, engine: Engine, order: Mapping[str, Any]) -> None:
    """Compute a part of a split with the first process's current weights, then restore this process's own."""
    rows = team.share({}, _CPU)["rows"]
    own_weights = {name: value.clone() for name, value in built.model.state_dict().items()}
    try:
        team.share_weights(built.model, engine.device)
        if order["split"] == _TEST and _TEST not in team.sets:
            team.sets[_TEST] = built.task.open_test()
        predict_part(engine, built.model, team.located(order["split"], rows), order["size"])
    finally:
        built.model.load_state_dict(own_weights)


def _sets(built: Built) -> dict[str, Samples]:
    return {"train": built.task.train, "learned": built.learned, "validation": built.task.validation}
