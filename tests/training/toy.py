"""A small model and samples with any targets, for tests of optimizer steps."""

from contextlib import closing, contextmanager
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from orca_cli.config.schema import Align, Config, Predictor, Train
from orca_cli.interfaces import Batch, InputLayer
from orca_cli.models.transfer import TransferModel
from orca_cli.stages.optimizer_steps import OptimizerSteps
from orca_cli.stages.plan import Plan, TrainPlan
from orca_cli.training.engine import Engine

# Of the paper, as far as settings are open.
SETTLED = {
    "outer_rate": 1.0, "epochs": 60, "batch_size": 32, "lr": 1e-4, "weight_decay": 0.0,
    "warmup_epochs": 5,
}  # fmt: skip
SETTLED |= {"clip": 0, "members": 1, "select": "last", "refit": False}


class Pairs:
    """Samples of given targets and random inputs [n, 3, L], as interfaces.Samples; notes which are read, and where."""

    def __init__(self, y, length=6):
        self.y = torch.as_tensor(y)
        self.x = torch.randn(len(self.y), 3, length, generator=torch.Generator().manual_seed(0))
        self.read = []

    def __len__(self):
        return len(self.y)

    def batch(self, indices, augment=None):
        self.read.append(list(indices))
        chosen = torch.from_numpy(np.asarray(indices))
        return Batch(self.x[chosen], self.y[chosen])

    def targets(self):
        return self.y.numpy()

    def groups(self):
        return None


class NoLayer(nn.Module, InputLayer):
    """An input layer without weights, with the default traits."""


class Dense(nn.Module):
    """Outputs [B, K, L] in the task's units, as models.transfer has them; `flat` gives [B, K]."""

    deviation = TransferModel.deviation

    def __init__(self, outputs, flat=False, scale=None):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv1d(3, 8, 3, padding=1), nn.GELU(), nn.Conv1d(8, outputs, 3, padding=1)
        )
        # Nothing of it is pretrained.
        self.body = nn.Module()
        self.embedder = NoLayer()
        self.predictor = nn.Module()
        self.flat, self.has_scale = flat, scale is not None
        if scale is not None:
            self.scale_mean, self.scale_std = map(torch.from_numpy, (scale.mean, scale.std))

    def forward(self, x, valid=None):
        raw = self.layers(x)
        raw = raw.mean(dim=2) if self.flat else raw
        return raw * self.scale_std + self.scale_mean if self.has_scale else raw


def gradient(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def engine():
    return Engine(torch.device("cpu"), "fp32")


def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@contextmanager
def plan(model, samples, loss, protocol="clean", align=None, source=None, **settings):
    """Yield the steps of a run's stage 3."""
    train, predictor = Train(**(SETTLED | settings)), Predictor(init="auto")
    config = Config(train=train, protocol=protocol, align=align or Align(), predictor=predictor)
    decided = Plan(**vars(config) | {"train": TrainPlan(**vars(config.train)), "decided": {}})
    built = SimpleNamespace(plan=decided, model=model, loss=loss, source=source)
    with closing(OptimizerSteps(built, engine(), samples, 0)) as steps:
        yield steps
