import pytest

from orca_cli.models.bodies import auto
from tests.checkpoints import save_tiny


@pytest.fixture(scope="session")
def family(tmp_path_factory):
    """Return a function that gives the folder of a family's tiny checkpoint."""
    root, made = tmp_path_factory.mktemp("checkpoints"), {}
    return lambda name: made.get(name) or made.setdefault(name, save_tiny(name, root / name))


@pytest.fixture(scope="session")
def load_body(family):
    return lambda name, **settings: auto.load(str(family(name)), **settings)
