from tests.untrusted.server import web  # noqa: F401 - a fixture
