import importlib

import pytest

from tests.checkpoints import save_tiny_bert, save_tiny_roberta, save_tiny_swin, save_tiny_vit

SAVERS = {"bert": save_tiny_bert, "roberta": save_tiny_roberta, "swin": save_tiny_swin, "vit": save_tiny_vit}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save(root / name) for name, save in SAVERS.items()}


@pytest.fixture(scope="session")
def load_body(folders):
    def load(name):
        family = name if name in ("swin", "vit") else "text"
        return importlib.import_module(f"orca_cli.models.bodies.{family}").load(str(folders[name]))

    return load
