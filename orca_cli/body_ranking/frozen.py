"""What the frozen body's features say about the task before any fine-tuning: LogME, and the error of a linear probe.

A sample's features are what the predictor would see: the body's outputs, pooled. LogME is of training samples; the probe is
fitted to them, and its error, the task's own, is that on the validation split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from orca_cli import seeding
from orca_cli.baselines import isolated
from orca_cli.baselines.isolated import FitError
from orca_cli.body_ranking.evidence import logme
from orca_cli.interfaces import Samples
from orca_cli.models.transfer import TransferModel
from orca_cli.scoring.classification import Balanced
from orca_cli.stages.build import Built
from orca_cli.tasks.shared.fraction import Part
from orca_cli.training.engine import Engine
from orca_cli.training.loop import predict, score

MOST_SAMPLES = 2000  # of a split
_PROBE_S = 60.0  # of computing
_SEED = 0  # not the run's: all seeds of all bodies are judged on the same samples


@dataclass(frozen=True)
class Frozen:
    """What the features say.

    Args:
        logme: higher is better; None where it is undefined.
        probe: validation error of a linear model, lower is better; None where there is none.
        reason: why one of them is None; empty where none is.
    """

    logme: float | None
    probe: float | None
    reason: str = ""


class _Pooled(nn.Module):
    """The transfer model up to what its predictor's linear layer sees, [B, F]."""

    def __init__(self, model: TransferModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Return the pooled features."""
        features: Tensor = self.model.predictor.pool(self.model.features(x, valid))  # type: ignore[operator]
        return features


def judge(built: Built, engine: Engine) -> Frozen:
    """Return LogME and the probe's error of the model as it is.

    Args:
        built: task and model; the embedder as alignment leaves it.
        engine: the device.
    """
    task = built.task
    if task.kind == "dense":
        return Frozen(None, None, "dense outputs have neither LogME nor a probe")
    train, held_out = _some(task.train, "train"), _some(task.validation, "validation")
    model, size = _Pooled(built.model), built.config.train.eval_batch_size
    (x, _), (new, truth) = predict(engine, model, train, size), predict(engine, model, held_out, size)
    if not (torch.isfinite(x).all() and torch.isfinite(new).all()):
        return Frozen(None, None, "the body's features are not finite")
    targets = np.asarray(train.targets())
    known = targets >= 0 if task.kind == "classes" else np.ones(len(targets), dtype=bool)  # -100 stands for no class
    if not known.any():
        return Frozen(None, None, "no training sample has a target")
    inputs, targets = x.numpy()[known], targets[known]
    found = logme(inputs, columns(task.kind, targets))
    groups = train.groups()
    try:
        fitted = isolated.fit(
            _PROBE_S,
            model="linear",
            form=task.kind,
            x=inputs,
            y=targets,
            new=new.numpy(),
            groups=None if groups is None else np.asarray(groups)[known],
            k=task.num_outputs,
            causal=False,
            balanced=isinstance(built.error, Balanced),
            seed=_SEED,
        )
    except FitError as error:
        return Frozen(found, None, f"the probe: {error}")
    probe = score(built.error, torch.from_numpy(fitted["outputs"]), held_out, truth).value
    undefined = "" if probe is not None else "the error is undefined on the validation split"
    return Frozen(found, probe, undefined)


def columns(kind: str, targets: np.ndarray) -> np.ndarray:
    """Return the targets as LogME takes them: classes [n] one-hot, labels as they are, numbers in units of their deviation."""
    if kind == "classes":
        return (targets[:, None] == np.unique(targets)).astype(np.float64)
    values = np.asarray(targets, dtype=np.float64)
    if kind == "labels":
        return values
    known = ~np.isnan(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0) / count
    deviation = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(0) / count)
    return (values - mean) / np.where(deviation > 0, deviation, 1)


def _some(samples: Samples, name: str) -> Samples:
    """Return a split, or a drawn part of a large one."""
    if len(samples) <= MOST_SAMPLES:
        return samples
    generator = seeding.numpy_generator(_SEED, "body_ranking", name)
    return Part(samples, np.sort(generator.choice(len(samples), MOST_SAMPLES, replace=False)))
