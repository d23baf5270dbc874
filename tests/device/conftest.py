"""The emulated device (`emulated.py`) as the device that a run finds, and the small runs of tests/cli."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from orca_cli.training import engine
from tests.cli.conftest import environment, fork, home, orca, small, tiny  # noqa: F401 - fixtures
from tests.device.emulated import emulated


@pytest.fixture
def device():
    """The emulated device exists."""
    with emulated() as found:
        yield found


@pytest.fixture
def on_cpu(monkeypatch):
    """Return a block inside which runs compute on the CPU."""

    @contextmanager
    def block():
        with monkeypatch.context() as patch:
            patch.setattr(engine, "choose_device", lambda wanted: torch.device("cpu"))
            yield

    return block


@pytest.fixture
def on_device(device, monkeypatch):
    """Every run of the test computes on the emulated device."""
    monkeypatch.setattr(engine, "choose_device", lambda wanted: device)
    return device
