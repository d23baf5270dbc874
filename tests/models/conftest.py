import pytest

from orca_cli.models.assembly import build_model
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


def build(body, **settings):
    """Build a model, by default one of three classes for series of two channels."""
    usual = {"kind": "classes", "input_shape": (2, 20), "num_outputs": 3, "seed": 0}
    return build_model(body=body, **(usual | settings))
