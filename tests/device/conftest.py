"""The emulated device (`emulated.py`) as the device that a run finds, and the small runs of tests/cli."""

import numpy as np
import pytest

from orca_cli.training import engine
from tests.cli.conftest import environment, fork, home, orca, run, small, tiny  # noqa: F401 - fixtures
from tests.device.emulated import emulated

RUN = [
    "source.size=60", "align.epochs=2", "align.source_points=60", "align.max_samples=6", "align.check_every=1",
    "align.exact=true", "align.classes_per_problem=0", "train.epochs=2", "train.warmup_epochs=0",
    "train.batch_size=4", "train.accumulation=2", "train.clip=0.5", "train.lr=1e-3",
]  # fmt: skip


@pytest.fixture
def device():
    with emulated() as emulated_device:
        yield emulated_device


@pytest.fixture
def on_device(device, monkeypatch):
    monkeypatch.setattr(engine, "choose_device", lambda setting: device)
    return device


def _arrays(path, shape, targets, missing=0.0):
    """Write 24 samples; targets are classes, labels [n, 3], or a map of the input's extent."""
    draw = np.random.default_rng(0)
    y = np.arange(24) % 2
    x = draw.normal(size=(24, *shape)).astype(np.float32) + y.reshape(-1, *[1] * len(shape))
    if targets == "labels":
        y = (draw.random((24, 3)) < 0.4).astype(np.float32)
    elif targets == "dense":
        y = x.mean(1) * 3 + 1
    if missing:
        y[draw.random(y.shape) < missing] = np.nan
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def words(tiny, tmp_path):  # noqa: F811 - the fixture
    """Return a function that gives the command of a small run on arrays; computed features are not found in a cache."""

    def command(body="bert", shape=(2, 12), targets="classes", *, missing=0.0):
        file = _arrays(tmp_path / "arrays.npz", shape, targets, missing)
        group = {"bert": "minilm", "swin": "swin_tiny"}.get(body, body)
        source = "stdlib_docs" if body == "bert" else "digits"
        return [
            "task=arrays", f"task.kind={targets}", f"task.train={file}", f"body={group}",
            f"body.checkpoint={tiny[body]}", f"source={source}", f"task.missing_targets={str(missing > 0).lower()}",
            f"paths.cache={tmp_path / 'cold'}", "train.folds=0", *RUN,
        ]  # fmt: skip

    return command
