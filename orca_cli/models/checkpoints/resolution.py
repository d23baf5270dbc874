"""Where a body's weights come from: a local folder, an installed package, or the model hub and its cache.

Only safetensors and JSON are read, and the pickled weights of a package whose SHA-256 is recorded; code in a checkpoint's
repository is never run.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from orca_cli import storage
from orca_cli.data.untrusted.downloads import hub_answers
from orca_cli.exceptions import ChecksumError, ConfigError, DataError, NetworkError, UnsafeError
from orca_cli.models.checkpoints.config_file import CONFIG, KEY
from orca_cli.models.checkpoints.packages import PACKAGED, absent, packaged_folder

_TIMEOUT_S = 8
_HUB_ID = r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?(@\w[\w./-]{0,95})?"


def resolve(checkpoint: str) -> Path:
    """Return a local folder with config.json and safetensors.

    Args:
        checkpoint: a folder, or a hub id such as "roberta-base", optionally with "@" and a commit, tag or branch.

    Raises:
        ConfigError: no such folder, or no such revision on the hub.
        DataError, UnsafeError: the folder is not a checkpoint, or has pickled weights only.
        ChecksumError: the packaged weights differ from the published ones.
        UnavailableError: they are in a package that is not installed, or were not taken out of its wheel, and nowhere else.
        NetworkError: it is not in the hub's cache and the hub cannot be reached.
    """
    if (local := local_folder(checkpoint)) is not None:
        return _checked(local)
    check_name(checkpoint)
    packaged = PACKAGED.get(checkpoint)
    folder = packaged_folder(packaged) if packaged else None
    if packaged is None or folder is None:
        if packaged is not None and "/" not in checkpoint:  # no name of the hub
            raise absent(checkpoint)
        return _checked(_from_hub(checkpoint))
    if packaged.wheel is not None:
        try:
            storage.verify_folder(folder)
        except ChecksumError as error:
            raise ChecksumError(error.what, where=error.where, hint=f"orca body get {checkpoint}") from error
    elif _sha256(folder / packaged.weights) != packaged.sha256:
        where, hint = str(folder / packaged.weights), f"reinstall the package {packaged.package.replace('_', '-')}"
        raise ChecksumError("the weights differ from the published ones", where=where, hint=hint)
    return folder


def local_folder(checkpoint: str) -> Path | None:
    """Return the folder of this machine that is named, or None."""
    try:
        folder = Path(checkpoint).expanduser()
        return folder if checkpoint and folder.is_dir() else None
    except (OSError, RuntimeError):  # a name that is too long, or the home of nobody
        return None


def check_name(checkpoint: str) -> None:
    """Raise ConfigError for what is neither a folder nor a valid hub id; nothing is read."""
    if local_folder(checkpoint) is None and not re.fullmatch(_HUB_ID, checkpoint):
        raise ConfigError(f"no such folder: '{checkpoint}'", where=KEY, hint="give a folder or a hub id")


def _checked(folder: Path) -> Path:
    has_config, where = (folder / CONFIG).is_file(), f"{KEY}={folder}"
    if has_config and any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.pth") for path in folder.glob(pattern))
    if has_config and pickled:
        hint = "convert it with save_pretrained(FOLDER), which writes safetensors"
        raise UnsafeError(f"'{pickled[0]}' is a pickle, which can run code", where=where, hint=hint)
    what = "no *.safetensors" if has_config else "no config.json"
    raise DataError(what, where=where, hint="give the folder of a saved checkpoint")


def _from_hub(name: str) -> Path:
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_TIMEOUT_S))  # read when the package is first imported
    from huggingface_hub import errors, snapshot_download

    model, _, reference = name.partition("@")
    fetch = functools.partial(
        snapshot_download, model, revision=reference or None, allow_patterns=["*.safetensors", "*.json", "*.txt"]
    )
    try:
        return Path(fetch(local_files_only=True))
    except errors.HFValidationError as error:
        raise ConfigError(f"'{name}' is neither a folder nor a hub id", where=KEY) from error
    except errors.LocalEntryNotFoundError:
        pass  # not in the hub's cache
    hint = f"give {KEY}=FOLDER"
    if packaged := PACKAGED.get(model):
        hint = f"pip install 'orca-transfer[{packaged.extra}]' or {hint}"
    if not hub_answers():
        what = f"'{name}' is not on this machine and the model hub cannot be reached"
        raise NetworkError(what, where=KEY, hint=hint)
    try:
        return Path(fetch(etag_timeout=_TIMEOUT_S))
    except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
        raise ConfigError(f"the hub has no '{name}'", where=KEY, hint=hint) from error
    except Exception as error:
        raise NetworkError(f"'{name}' could not be fetched: {error}", where=KEY, hint=hint) from error


def revision(folder: Path) -> str | None:
    """Return the hub's commit of a folder of its cache; None for any other folder."""
    parent, name = folder.parent, folder.name
    is_snapshot = parent.name == "snapshots" and parent.parent.name.startswith("models--")
    return name if is_snapshot and re.fullmatch("[0-9a-f]{40}", name) else None


def digest(folder: Path) -> str:
    """Return the SHA-256 over a checkpoint's config.json and weights."""
    return _digest([folder / CONFIG, *weight_files(folder)])


def preparation_digest(folder: Path) -> str:
    """Return the SHA-256 over the files that say how data become inputs: a tokenizer's, and those of pixels or sounds."""
    patterns = ("*preprocessor_config.json", "*token*.json", "vocab*", "merges.txt", "*.model")
    return _digest(sorted({file for pattern in patterns for file in folder.glob(pattern)}))


def _digest(files: Sequence[Path]) -> str:
    lines = "".join(f"{file.name} {_sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights: safetensors, or the recorded one of a package."""
    names = {packaged.weights for packaged in PACKAGED.values() if folder == packaged_folder(packaged)}
    return sorted({*folder.glob("*.safetensors"), *(folder / name for name in names)})


def _sha256(file: Path) -> str:
    facts = file.stat()
    return _sha256_of(file, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache
def _sha256_of(file: Path, size: int, changed_ns: int) -> str:
    """Return a file's SHA-256, read once in a process unless the file changes."""
    return storage.sha256_file(file)
