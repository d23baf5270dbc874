"""One run's folder: found again by identity, claimed by one process, laid out as docs/ARCHITECTURE.md shows.

runs/<task>/<time>_<body>_<metric>_<finetune>_s<seed>_<hash8>/
  config.yaml overrides.txt env.json status.json result.json run.log lock
  1_build/  2_align/  3_finetune/
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.runs.identity import SHORT

SCHEMA = 1
LOCK = "lock"
STATUS = "status.json"
RESULT = "result.json"
_STAGE_FOLDERS = {"build": "1_build", "align": "2_align", "finetune": "3_finetune"}
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

    def __init__(self, path: Path, name: RunName) -> None:
        self.path = path
        self.name = name

    def stage(self, stage: str) -> Path:
        """Return the folder of a stage: build, align or finetune."""
        return self.path / _STAGE_FOLDERS[stage]

    @property
    def log_file(self) -> Path:
        """Return the path of the run's log."""
        return self.path / "run.log"

    def status(self) -> dict[str, Any]:
        """Return the status record; empty where it is missing or unreadable."""
        return _read(self.path / STATUS)

    def result(self) -> dict[str, Any]:
        """Return the result record; empty where the run is not completed."""
        return _read(self.path / RESULT)

    def set_state(self, state: str, *, step: int | None = None, code: int | None = None, error: Any = None) -> None:
        """Replace the status record.

        Args:
            state: created, build, align, finetune, completed, failed or interrupted.
            step: progress inside a stage.
            code: exit code of a run that has ended.
            error: {"kind", "message"} of one that failed.
        """
        before = self.status()
        stage = state if state in _STAGE_FOLDERS else before.get("stage")
        record = {
            "schema": SCHEMA,
            "run_id": self.path.name,
            **vars(self.name),
            "state": state,
            "stage": stage,
            "step": before.get("step") if step is None and stage == before.get("stage") else step,
            "started": before.get("started") or storage.now().isoformat(),
            "updated": storage.now().isoformat(),
            "exit_code": code,
            "error": error,
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        storage.write_json(self.path / STATUS, record)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the result record; from then on the run is completed."""
        record = {"schema": SCHEMA, "run_id": self.path.name, "state": "completed", **vars(self.name)}
        storage.write_json(self.path / RESULT, record | result)


@contextmanager
def claim(root: Path, name: RunName, *, force: bool = False) -> Iterator[RunDirectory]:
    """Give the folder of this experiment to this process alone: a completed one, an unfinished one, or a new one.

    Args:
        root: folder of all runs.
        name: the experiment.
        force: make a new folder whatever there is.

    Raises:
        LockedError: another process works on the same experiment.
        StorageError: the folder cannot be made.
    """
    task_folder = root / _UNSAFE.sub("-", name.task)
    storage.check_writable(task_folder)
    with storage.lock(
        task_folder / ".locks" / f"{name.identity[:SHORT]}.lock",
        timeout_s=1.0,
        what=f"this run ({name.identity[:SHORT]})",
    ):
        path = None if force else find(task_folder, name.identity)
        if path is None:
            path = storage.claim_folder(task_folder, name.folder)
        run = RunDirectory(path, name)
        with storage.lock(path / LOCK, timeout_s=1.0, what=f"run {path.name}"):
            storage.clean_temporary(path)
            if not run.status():
                run.set_state("created")
            yield run


def find(task_folder: Path, identity: str) -> Path | None:
    """Return the newest folder of an experiment, a completed one before an unfinished one; None where there is none."""
    unfinished = None
    for path in sorted(task_folder.glob(f"*_{identity[:SHORT]}"), reverse=True):
        if _read(path / STATUS).get("identity", identity) != identity:
            continue
        if _read(path / RESULT).get("state") == "completed":
            return path
        unfinished = unfinished or path
    return unfinished


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
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
