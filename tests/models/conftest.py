import pytest

from tests.checkpoints import save_tiny_bert, save_tiny_roberta, save_tiny_swin

SAVERS = {"bert": save_tiny_bert, "roberta": save_tiny_roberta, "swin": save_tiny_swin}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save(root / name) for name, save in SAVERS.items()}


@pytest.fixture(scope="session")
def load_body(folders):
    from orca_cli.models.bodies import swin, text

    def load(name):
        return swin.load(str(folders[name])) if name == "swin" else text.load(str(folders[name]))

    return load
