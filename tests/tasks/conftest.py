import pytest

from orca_cli.config import parts
from tests.tasks import builders
from tests.untrusted.conftest import Quiet, little_memory  # noqa: F401 - a fixture


@pytest.fixture
def reporter():
    return Quiet()


@pytest.fixture
def build(tmp_path, reporter):
    """Return a function that builds a task by its name, as a run does; files lie in the test's folder."""

    def call(name, **settings):
        return builders.build(name, tmp_path, reporter, **settings)

    return call


@pytest.fixture
def check():
    """Return a function that checks a task's settings without reading any data."""

    def call(task, **settings):
        node = {"_target_": builders.target(task), **settings}
        parts.check(node, "task", reserved=("data_folder", "cache_folder", "reporter"))

    return call
