"""One run's folder: found again by identity, claimed by one process, laid out as docs/ARCHITECTURE.md shows.

runs/<task>/<time>_<body>_<metric>_<finetune>_s<seed>_<hash8>/
  config.yaml overrides.txt env.json status.json result.json run.log lock MANIFEST.json
  1_build/  2_align/  3_finetune/

The artifacts are the truth and status.json a cache of it: `orca doctor RUN` writes it anew. MANIFEST.json, the last file
of a completed run, has the checksums of all others that do not change any more.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, LockedError
from orca_cli.runs.fingerprint import FILE as FINGERPRINT
from orca_cli.runs.fingerprint import settle
from orca_cli.runs.identity import SHORT
from orca_cli.runs.records import SCHEMA, NewerSchemaError, UnreadableError, read_record

LOCK = "lock"
STATUS = "status.json"
RESULT = "result.json"
STAGE_FOLDERS = {"build": "1_build", "align": "2_align", "finetune": "3_finetune"}
STATES = ("created", *STAGE_FOLDERS, "completed", "failed", "interrupted")
ENVIRONMENT = "env.json"
_CHANGING = (STATUS, LOCK, "run.log", "error.log", storage.MANIFEST)
_FOR_RESUMING = (Path("2_align/checkpoints"), Path("2_align/candidates"), Path("3_finetune/checkpoints"))
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]")


@dataclass(frozen=True)
class RunName:
    """What identifies a run in its path and its records.

    Args:
        identity: hash of all that can change a result.
        settings: the same without the seed.
        variant: settings that were given beside the groups and the seed, such as {"train.epochs": "3"}.
    """

    task: str
    body: str
    source: str
    metric: str
    finetune: str
    seed: int
    protocol: str
    identity: str
    settings: str
    variant: dict[str, str]

    def folder(self) -> str:
        """Return a folder name that starts with the present time."""
        parts = (self.body, self.metric, self.finetune, f"s{self.seed}", self.identity[:SHORT])
        return "_".join((storage.timestamp(), *(_UNSAFE.sub("-", part) for part in parts)))


class RunDirectory:
    """A claimed run folder. Made by `claim`; all paths and records of a run come from here."""

    def __init__(self, path: Path, name: RunName, *, allow_inexact: bool = False) -> None:
        self.path = path
        self.name = name
        self._allow_inexact = allow_inexact
        self._attempt: dict[str, Any] | None = None

    def stage(self, stage: str) -> Path:
        """Return the folder of a stage: build, align or finetune."""
        return self.path / STAGE_FOLDERS[stage]

    @property
    def log_file(self) -> Path:
        """Return the path of the run's log."""
        return self.path / "run.log"

    def status(self) -> dict[str, Any]:
        """Return the status record; empty where it is missing or unreadable."""
        return _read(self.path / STATUS)

    def settle(self, stage: str, now: dict[str, Any]) -> None:
        """Compare what decides the bits of a stage with what an earlier attempt found, where that is gone on from.

        Args:
            stage: build, for all that the stages share, or align.
            now: name -> plain value.

        Raises:
            FingerprintError: something differs, and the user did not allow it.
        """
        of = "*" if stage == "build" else STAGE_FOLDERS[stage]
        began = any(self.path.glob(f"{of}/checkpoints/step-*"))
        settle(
            self.stage(stage),
            now,
            owner=self.name.identity,
            has_progress=began or (self.stage("align") / storage.MANIFEST).exists(),
            allow_inexact=self._allow_inexact,
        )

    def inexact(self) -> list[str]:
        """Return what changed between the attempts with the user's leave; empty where the bits are those of one attempt."""
        names: set[str] = set()
        for path in self.path.glob(f"*/{FINGERPRINT}"):
            names.update(storage.read_checked_json(path)["inexact"])
        return sorted(names)

    def result(self) -> dict[str, Any]:
        """Return the result record; empty where the run is not completed."""
        return _read(self.path / RESULT)

    def set_state(
        self,
        state: str,
        *,
        step: int | None = None,
        code: int | None = None,
        error: Any = None,
        attempt: bool = True,
    ) -> None:
        """Replace the status record.

        Args:
            state: created, build, align, finetune, completed, failed or interrupted.
            step: progress inside a stage.
            code: exit code of a run that has ended.
            error: {"kind", "message", "hint"} of one that failed.
            attempt: this process works on the run, and does not only mend its records.
        """
        before = self.status()
        stage = state if state in STAGE_FOLDERS else before.get("stage")
        moment = storage.now().isoformat()
        earlier = before.get("attempts")
        attempts = earlier if isinstance(earlier, list) else []
        if attempt and self._attempt is None:
            self._attempt = {"pid": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": moment}
            attempts = [*attempts, self._attempt]
        if code is not None and self._attempt is not None:
            self._attempt |= {"ended": moment, "code": code}
        record = {
            "schema": SCHEMA,
            "run_id": self.path.name,
            **vars(self.name),
            "state": state,
            "stage": stage,
            "step": before.get("step") if step is None and stage == before.get("stage") else step,
            "started": before.get("started") or moment,
            "updated": moment,
            "exit_code": code,
            "error": error,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "attempts": attempts if self._attempt is None else [*attempts[:-1], self._attempt],
        }
        storage.write_json(self.path / STATUS, record)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Write what the run is and what it is made with; status.json can be made anew from it."""
        storage.write_json(self.path / ENVIRONMENT, environment | {"run": vars(self.name)})

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the result record; from then on the run is completed, and needs no checkpoints."""
        record = {"schema": SCHEMA, "run_id": self.path.name, "state": "completed", **vars(self.name)}
        storage.remove(self.path / storage.MANIFEST)  # of a result that was lost
        storage.write_json(self.path / RESULT, record | result)
        self.finish()

    def finish(self) -> None:
        """Do what a completed run still lacks: seal its files, drop its checkpoints, say that it is completed."""
        if not (self.path / storage.MANIFEST).exists():
            for folder in _FOR_RESUMING:
                if (self.path / folder).exists():
                    storage.remove(self.path / folder)
            with storage.guarded(self.path):
                files = _lasting(self.path)
            storage.seal(self.path, files, owner=self.name.identity)
        if self.status().get("state") != "completed":
            self.set_state("completed", code=0)


def _lasting(path: Path) -> list[Path]:
    """Return the files of a run that do not change once it is completed; a folder with a manifest counts by that."""
    files = []
    for file in path.rglob("*"):
        sealed = any((folder / storage.MANIFEST).exists() for folder in _between(path, file.parent))
        own = file.name == storage.MANIFEST or not sealed
        passing = any(
            storage.is_temporary(part) or storage.is_aside(part) for part in (file, *_between(path, file.parent))
        )
        if file.is_file() and own and not passing and str(file.relative_to(path)) not in _CHANGING:
            files.append(file)
    return files


def _between(top: Path, folder: Path) -> list[Path]:
    """Return a folder and those above it, below `top`."""
    return [] if folder == top else [folder, *_between(top, folder.parent)]


def _boot() -> str | None:
    """Return what tells one start of this machine from the next, where the system has such a thing."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return None


@contextmanager
def claim(root: Path, name: RunName, *, force: bool = False, allow_inexact: bool = False) -> Iterator[RunDirectory]:
    """Give the folder of this experiment to this process alone: a completed one, an unfinished one, or a new one.

    Args:
        root: folder of all runs.
        name: the experiment.
        force: make a new folder whatever there is.
        allow_inexact: go on although other bits will come out than without a stop; the result says so.

    Raises:
        LockedError: another process works on the same experiment.
        CheckpointError: a newer program made the folder.
        StorageError: the folder cannot be made.
    """
    task_folder = root / _UNSAFE.sub("-", name.task)
    storage.check_writable(task_folder)
    with _alone(task_folder, name.identity[:SHORT]):
        path = None if force else find(task_folder, name.identity)
        if path is None:
            path = storage.claim_folder(task_folder, name.folder)
        run = RunDirectory(path, name, allow_inexact=allow_inexact)
        with (
            storage.lock(path / LOCK, timeout_s=1.0, what=f"run {path.name}"),
            storage.heartbeat(path / LOCK),
            storage.held(path),
        ):
            _refuse_newer(path)
            storage.clean_temporary(path)
            if run.result():
                run.finish()
            elif not run.status():
                run.set_state("created")
            yield run


@contextmanager
def _alone(task_folder: Path, identity: str) -> Iterator[None]:
    """Hold the lock of an experiment, and leave word who holds it."""
    holder = task_folder / ".locks" / f"{identity}.json"
    with ExitStack() as stack:
        try:
            stack.enter_context(storage.lock(holder.with_suffix(".lock"), timeout_s=1.0))
        except LockedError as error:
            who = _read(holder)
            raise LockedError(
                f"process {who.get('pid', 'unknown')} on {who.get('host', 'an unknown host')} works on this run ({identity})",
                where=task_folder.name,
                hint="wait for it to end",
            ) from error
        storage.write_json(holder, {"schema": SCHEMA, "pid": os.getpid(), "host": socket.gethostname()})
        yield


def _refuse_newer(path: Path) -> None:
    """Refuse a run folder whose records are of a newer program, which this one would spoil."""
    for name in (STATUS, RESULT):
        try:
            read_record(path / name)
        except NewerSchemaError as error:
            raise CheckpointError(
                str(error), where=str(path), hint="use the newer program, or start anew with --force"
            ) from error
        except (UnreadableError, OSError):
            continue


def find(task_folder: Path, identity: str) -> Path | None:
    """Return the newest folder of an experiment, a completed one before an unfinished one; None where there is none."""
    unfinished = None
    with storage.guarded(task_folder):
        paths = sorted(task_folder.glob(f"*_{identity[:SHORT]}"), reverse=True)
    for path in paths:
        if _read(path / STATUS).get("identity", identity) != identity:
            continue
        if _read(path / RESULT).get("state") == "completed":
            return path
        unfinished = unfinished or path
    return unfinished


def look(root: Path, name: RunName) -> RunDirectory | None:
    """Return the folder that `find` finds, to be read only; None where there is none."""
    path = find(root / _UNSAFE.sub("-", name.task), name.identity)
    return None if path is None else RunDirectory(path, name)


def peek(root: Path, name: RunName) -> str:
    """Return what typing this run's command would do: "new", "resume", "completed" or "running"."""
    task_folder = root / _UNSAFE.sub("-", name.task)
    path = find(task_folder, name.identity)
    if path is None:
        return "new"
    if _read(path / RESULT):
        return "completed"
    return "running" if storage.is_locked(path / LOCK) else "resume"


def _read(path: Path) -> dict[str, Any]:
    """Return a record; empty where it is missing or unreadable."""
    try:
        return read_record(path) or {}
    except (UnreadableError, OSError):
        return {}
