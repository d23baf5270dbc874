import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

from orca_cli import signals
from tests.untrusted.server import web  # noqa: F401 - a fixture


class Quiet:
    """Records what is reported."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    @contextmanager
    def track(self, description, total):
        self.lines.append(description)
        yield lambda steps=1, note="": None


@contextmanager
def pending_signal():
    """Run a block while a SIGTERM is pending."""
    with signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        yield
    with signals.deferred():  # forgets the signal
        pass


@pytest.fixture
def reporter():
    return Quiet()


@pytest.fixture
def little_memory(monkeypatch):
    """Let the system say that a kilobyte of memory is free."""
    read_text = Path.read_text

    def read(path, *words, **settings):
        return (
            "MemAvailable: 1 kB\n"
            if path == Path("/proc/meminfo")
            else read_text(path, *words, **settings)
        )

    monkeypatch.setattr(Path, "read_text", read)
