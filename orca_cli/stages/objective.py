"""What the steps of stage 2 descend: a loss and its gradient for the embedder."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from orca_cli.models.transfer import TransferModel
from orca_cli.schema import Config
from orca_cli.stages.build import Built
from orca_cli.stages.compared import Compared
from orca_cli.stages.mona import Mona
from orca_cli.training.engine import Engine


class Objective(Protocol):
    """A loss of stage 2.

    Attributes:
        name: of its values, for people.
    """

    name: str

    def facts(self) -> dict[str, Any]:
        """Return, JSON-able, what its gradients depend on beside what every alignment does; see `trajectory.fingerprint`."""

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Add the gradient of a step to that of the embedder's parameters; returns the loss, and diagnostics by name.

        Raises:
            NonFiniteError: a value is NaN or infinite.
        """


def objective_of(config: Config, built: Built, compared: Compared, engine: Engine) -> Objective:
    """Return what `align.method` descends in stage 2.

    Raises:
        ConfigError: the method does not suit the finetune mode.
    """
    if config.align.method == "mona":
        return Mona(config, built, compared.data, engine)
    return MetricObjective(built.model, compared, engine)


class MetricObjective:
    """The metric between target classes and source, summed over all problems (paper 3.2, Algorithm 1)."""

    name = "distance"

    def __init__(self, model: TransferModel, compared: Compared, engine: Engine) -> None:
        """Take what is compared."""
        self._model, self._problem, self._engine = model, compared.problem, engine

    def facts(self) -> dict[str, Any]:
        """Return nothing: the metric and its settings are part of every alignment's."""
        return {}

    def backward(self, step: int) -> tuple[float, dict[str, float]]:
        """Add the gradients of all problems; returns the weighted sum of distances, and the worst diagnostics."""
        loss = 0.0
        worst: dict[str, float] = {}
        for distances in self._problem.parts(self._model, self._engine, self._problem.train, step):
            part = torch.stack([weight * distance.value for weight, distance in distances]).sum()
            part.backward()
            loss += float(part.detach())
            for name in ("iterations", "marginal_error"):
                values = [distance.diagnostics[name] for _, distance in distances if name in distance.diagnostics]
                if values:
                    worst[name] = max(worst.get(name, 0.0), *values)
        return loss, worst
