import pytest

from tests.tasks import builders
from tests.untrusted.conftest import Quiet, little_memory  # noqa: F401 - a fixture


@pytest.fixture
def reporter():
    return Quiet()


@pytest.fixture
def build(tmp_path, reporter):
    """Return a function that builds a task by its name from files in the test's folder."""

    def call(name, **settings):
        return builders.build(name, tmp_path, reporter, **settings)

    return call
