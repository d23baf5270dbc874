import os
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from orca_cli import signals


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


def damaged(content, rounds, cuts=0.3):
    """Yield a content with one bit flipped, or cut off, and whether it was cut; the same ones at every run."""
    generator = np.random.default_rng(0)
    for _ in range(rounds):
        if generator.random() < cuts:
            yield content[: generator.integers(len(content))], True
        else:
            changed = bytearray(content)
            changed[generator.integers(len(changed))] ^= 1 << int(generator.integers(8))
            yield bytes(changed), False


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
        return "MemAvailable: 1 kB\n" if path == Path("/proc/meminfo") else read_text(path, *words, **settings)

    monkeypatch.setattr(Path, "read_text", read)
