from contextlib import contextmanager

import pytest

from orca_cli import parts


class SilentReporter:
    """Keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    @contextmanager
    def track(self, description, total):
        yield lambda steps=1, note="": None


@pytest.fixture
def reporter():
    return SilentReporter()


@pytest.fixture
def check():
    """Return a function that raises what a task's settings raise before anything is read."""

    def call(task, **settings):
        node = {"_target_": f"orca_cli.tasks.{task}.load", **settings}
        parts.check(node, "task", given=("data_folder", "cache_folder", "reporter"))

    return call
