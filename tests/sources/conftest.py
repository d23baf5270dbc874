import pytest

from tests.untrusted.conftest import Quiet


@pytest.fixture
def reporter():
    return Quiet()
