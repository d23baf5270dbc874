from contextlib import contextmanager

import pytest


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


@pytest.fixture
def reporter():
    return Quiet()
