import pytest

from tests.tasks import builders
from tests.untrusted.conftest import little_memory, reporter  # noqa: F401 - fixtures


@pytest.fixture
def build(tmp_path, reporter):  # noqa: F811 - the fixture
    """Return a function that builds a task by its name from files in the test's folder."""

    def call(name, **settings):
        return builders.build(name, tmp_path, reporter, **settings)

    return call
