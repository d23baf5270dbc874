"""The progress of a run, read from its records, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.runs.claim import look
from orca_cli.runs.directory import STAGE_FOLDERS, SUMMARY, RunName, read_or_empty

_CURVE = "metrics.jsonl"


@dataclass(frozen=True)
class Activity:
    """What a run's records say.

    Args:
        path: its folder.
        host: where it runs or ran.
        stage: build, align or finetune.
        step: optimizer steps of the stage so far.
        steps: of the whole stage; 0 while unknown.
        curve: lines of stage 3 of its first member: epoch, step, validation_error and more.
        steps_of_member: of stage 3, that each of its members takes; 0 while unknown.
    """

    path: Path
    host: str
    stage: str
    step: int
    steps: int
    curve: list[dict[str, Any]] = field(default_factory=list)
    steps_of_member: int = 0

    @property
    def error(self) -> float | None:
        """Return the latest validation error."""
        return next((line["validation_error"] for line in reversed(self.curve) if "validation_error" in line), None)


def activity(root: Path, name: RunName) -> Activity | None:
    """Return how far a run is; None where it has no folder yet."""
    run = look(root, name)
    if run is None:
        return None
    status, summary = run.status(), read_or_empty(run.stage("build") / SUMMARY)
    stage = str(status.get("stage") or "build")
    planned = summary.get("steps") or {}
    lines = storage.read_json_lines(run.path / STAGE_FOLDERS[stage] / _CURVE) if stage in STAGE_FOLDERS else []
    step = max([int(status.get("step") or 0), *(int(line.get("step") or 0) for line in lines)])
    first = [line for line in lines if line.get("member", 0) == 0] if stage == "finetune" else []
    each = int(planned.get("finetune") or 0) // int(summary.get("members") or 1)
    return Activity(run.path, str(status.get("host") or ""), stage, step, int(planned.get(stage) or 0), first, each)
