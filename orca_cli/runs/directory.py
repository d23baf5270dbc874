"""One run's folder, laid out as docs/ARCHITECTURE.md shows, and its records.

status.json only repeats facts of the other files: `orca doctor RUN` can rebuild it. MANIFEST.json,
the last file of a completed run, has the checksums of all files that no longer change.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_cli import storage
from orca_cli.config.identity import SHORT
from orca_cli.exceptions import ChecksumError, FingerprintError
from orca_cli.runs.records import SCHEMA, UnreadableError, read_record
from orca_cli.terminal import log

if TYPE_CHECKING:  # it imports torch, which reading records does not need
    from orca_cli.interfaces import Recorder

LOCK = "lock"
SETTINGS = "config.yaml"
STATUS = "status.json"
RESULT = "result.json"
STAGE_FOLDERS = {"build": "1_build", "align": "2_align", "finetune": "3_finetune"}
STATES = ("created", *STAGE_FOLDERS, "completed", "failed", "interrupted")
ENVIRONMENT = "env.json"
FINGERPRINT = "fingerprint.json"
CURVE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
SUMMARY = "summary.json"
# File of stage 3: outputs and targets of the test split, and the groups of its samples.
PREDICTIONS = "predictions.npz"
# Folder of the baselines that a run keeps, each in a folder by its name.
CANDIDATES = "candidates"
# File of such a folder: the network's state before any training, if it makes the features.
START_FILE = "start.safetensors"
# Folder of a tracker's files: copies of the curves, written by other programs, not in a manifest.
TRACKER = "tracker"
# Files that change after a run is completed and so are not in its manifest.
_CHANGING = (STATUS, LOCK, "run.log", "error.log", storage.MANIFEST)
_CURVE_POINTS = 100  # largest number of lines of a short curve
_ABSENT = "nothing"  # in messages, for a value that a fingerprint does not have
_RESUME_HINT = "start a new run with --force, or resume with --allow-inexact-resume"
# Characters that are replaced in the names of folders.
_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]")
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class RunName:
    """The names and hashes that identify a run in its path and its records.

    Args:
        identity: hash of everything that can change a result.
        settings: hash of the same without the seed.
        variant: overridden settings other than the groups and the seed, such as
            {"train.epochs": "3"}.
        data: name of the data set, which is not part of the identity; "" in records without it.
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
    data: str = ""

    def data_set_folder(self, root: Path) -> Path:
        """Return the folder of the data set's runs, in the folder of all runs."""
        return root / re.sub(r"[^\w+-]", "-", self.data or self.task)

    def folder(self) -> str:
        """Return a folder name that starts with the present time."""
        # The identity comes last: `claim.find` looks for folders whose names end with it.
        fields = (self.body, self.metric, self.finetune, f"s{self.seed}", self.identity[:SHORT])
        safe_fields = [_UNSAFE.sub("-", field) for field in fields]
        return "_".join([storage.timestamp(), *safe_fields])


class RunDirectory:
    """A claimed run folder, made by `claim`; it provides all paths and records of a run."""

    def __init__(self, path: Path, name: RunName, *, allow_inexact: bool = False) -> None:
        self.path = path
        self.name = name
        self._allow_inexact = allow_inexact
        self.trackers: list[Recorder] = []  # they receive the lines of the run's curves
        self._shown: Counter[str] = Counter()  # stage -> number of lines that trackers received

    def stage(self, stage: str) -> Path:
        """Return the folder of a stage: build, align or finetune."""
        return self.path / STAGE_FOLDERS[stage]

    def part(self, path: Path) -> RunDirectory:
        """Return a folder for a part of the work that is resumed separately, without trackers."""
        return RunDirectory(path, self.name, allow_inexact=self._allow_inexact)

    def status(self) -> dict[str, Any]:
        """Return the status record; empty if it is missing or unreadable."""
        return read_or_empty(self.path / STATUS)

    def check_fingerprint(self, stage: str, now: dict[str, Any]) -> None:
        """Write a stage's fingerprint, after comparing it with that of an earlier attempt.

        Args:
            stage: build, for the values that all stages share, or align.
            now: name -> plain value of everything that can change a bit.

        Raises:
            FingerprintError: a value differs, or the earlier record is lost, and the user did not
                allow to resume inexactly.
        """
        values = now | {"settings": self.name.identity}
        record: dict[str, Any] = {"schema": SCHEMA, "values": values, "inexact": []}
        earlier = self._earlier_fingerprint(stage, record)
        changed = _changed_values(earlier["values"], values)
        if changed and not self._allow_inexact:
            changes = []
            for name, (value_then, value_now) in changed.items():
                changes.append(f"{name} ({value_then!s:.24}, now {value_now!s:.24})")
            change_list = ", ".join(changes)
            hint = _RESUME_HINT
            # The user can restore this value and then resume exactly.
            if "threads" in changed:
                hint = f"set OMP_NUM_THREADS={changed['threads'][0]}, {_RESUME_HINT}"
            raise FingerprintError(
                f"cannot resume exactly; changed since the run started: {change_list}",
                where=self.path.name,
                hint=hint,
            )
        # Changes add up: a third attempt that equals the second remains inexact.
        record["inexact"] = sorted({*earlier["inexact"], *changed})
        storage.write_checked_json(self.stage(stage) / FINGERPRINT, record)

    def _earlier_fingerprint(self, stage: str, record: dict[str, Any]) -> dict[str, Any]:
        """Return the fingerprint that an earlier attempt at a stage wrote.

        It is `record`, the present fingerprint, if the attempt left no work to resume; for build,
        no work of any stage.
        """
        # `seal` removes the checkpoints of a finished alignment, which its manifest then proves.
        stage_pattern = "*" if stage == "build" else STAGE_FOLDERS[stage]
        unfinished_work = self.path.glob(f"{stage_pattern}/{CHECKPOINTS}/step-*")
        finished_alignment = self.path.glob(f"2_align/{storage.MANIFEST}")
        if not any(unfinished_work) and not any(finished_alignment):
            return record
        path = self.stage(stage) / FINGERPRINT
        try:
            return storage.read_checked_json(path)
        except ChecksumError as error:
            # The changed values are unknown, so the lost record itself is named.
            if self._allow_inexact:
                return record | {"inexact": [FINGERPRINT]}
            raise FingerprintError(
                "cannot check whether conditions have changed since this run started: the file "
                f"{error.what}",
                where=str(path),
                hint=_RESUME_HINT,
            ) from error

    def record(self, stage: str, line: Mapping[str, Any]) -> None:
        """Append the next line of a stage's curve to metrics.jsonl; pass it to every tracker."""
        storage.append_json_line(self.stage(stage) / CURVE, dict(line))
        self.show(stage, [line])

    def rewind(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Make these lines the curve of a stage, when the stage starts or resumes.

        Trackers receive the lines that they have not yet received.
        """
        # The whole file is rewritten: a killed process may have left more lines than its
        # checkpoint.
        # NaN is not JSON: other programs could not read the curve.
        json_lines = [json.dumps(dict(line), allow_nan=False) + "\n" for line in lines]
        storage.write_text(self.stage(stage) / CURVE, "".join(json_lines))
        lines_shown = self._shown[stage]
        self.show(stage, lines[lines_shown:])

    def show(self, stage: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Pass the next lines of a stage's curve to every tracker, without writing them."""
        self._shown[stage] += len(lines)
        for tracker in self.trackers:
            for line in lines:
                tracker.record(stage, line)

    def ended(self, state: str, result: Mapping[str, Any]) -> None:
        """Tell every tracker how the run ended; `result` is empty unless the run is completed."""
        for tracker in self.trackers:
            tracker.ended(state, result)

    def write_summary(self, stage: str, summary: dict[str, Any]) -> None:
        """Write a stage's summary record."""
        storage.write_json(self.stage(stage) / SUMMARY, {"schema": SCHEMA, **summary})

    def write_arrays(self, stage: str, name: str, **arrays: np.ndarray) -> None:
        """Write an .npz file into a stage's folder.

        `name` ends with .npz, so that its temporary name does too: NumPy appends it otherwise.
        """

        def save(path: Path) -> None:
            np.savez(path, **arrays)  # type: ignore[arg-type]

        storage.write_with(self.stage(stage) / name, save)

    def seal(self, stage: str) -> None:
        """Write the manifest of a finished stage's files, and remove the stage's checkpoints."""
        folder = self.stage(stage)
        files = (file for file in folder.iterdir() if file.is_file())
        storage.seal(folder, files, owner=self.name.identity)
        # Last, since a process that is killed before the manifest is written resumes from them.
        storage.remove(folder / CHECKPOINTS)

    def sealed_summary(self, stage: str) -> dict[str, Any] | None:
        """Return the summary of a stage that an earlier attempt finished, else None.

        A damaged stage is moved aside with a warning, and has to be run again.
        """
        folder = self.stage(stage)
        manifest = folder / storage.MANIFEST
        if not manifest.exists():
            return None
        try:
            if storage.verify_folder(folder, extra_allowed=True) != self.name.identity:
                raise ChecksumError("belongs to another run", where=str(folder))
        except ChecksumError as error:
            log.warning(f"{stage}: files are damaged, so this stage is run again: {error}")
            # The manifest is moved first: without it the stage counts as unfinished.
            for damaged_file in [manifest, folder / SUMMARY, *folder.glob("*.safetensors")]:
                if damaged_file.exists():
                    storage.quarantine(damaged_file)
            return None
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))

    def count_test_read(self) -> int:
        """Record that the test split is about to be opened; return how often that was recorded.

        A run that was killed while testing opens the split twice; baselines of a completed run may
        open it again.
        """
        # The manifest becomes invalid; `finish` seals a completed run again.
        storage.remove(self.path / storage.MANIFEST)
        # A file of lines, so that the line of a process killed while testing remains.
        path = self.stage("finetune") / "test_reads.jsonl"
        moment = storage.now().isoformat()
        storage.append_json_line(path, {"time": moment})
        return len(storage.read_json_lines(path))

    def inexact(self) -> list[str]:
        """Return the names of values that changed between attempts, as the user allowed."""
        changed_names: set[str] = set()
        for path in self.path.glob(f"*/{FINGERPRINT}"):
            changed_names.update(storage.read_checked_json(path)["inexact"])
        return sorted(changed_names)

    def result(self) -> dict[str, Any]:
        """Return the result record; empty if the run is not completed."""
        return read_or_empty(self.path / RESULT)

    def set_state(
        self,
        state: str,
        *,
        step: int | None = None,
        code: int | None = None,
        error: Mapping[str, str] | None = None,
        is_repeat: bool = False,
    ) -> None:
        """Replace the status record.

        Args:
            state: created, build, align, finetune, completed, failed or interrupted.
            step: progress inside a stage.
            code: exit code of a run that has ended.
            error: {"kind", "message", "hint"} of a run that failed.
            is_repeat: whether the run repeats a completed run (--force); later records keep that.
        """
        earlier_status = self.status()
        # A state that is not a stage, such as failed, keeps the stage and the step before it.
        stage = state if state in STAGE_FOLDERS else earlier_status.get("stage")
        if step is None and stage == earlier_status.get("stage"):
            step = earlier_status.get("step")
        moment = storage.now().isoformat()
        record = {
            "schema": SCHEMA,
            "run_id": self.path.name,
            **vars(self.name),
            "state": state,
            "stage": stage,
            "step": step,
            # A resumed run keeps the time of its first start.
            "started": earlier_status.get("started") or moment,
            "updated": moment,
            "exit_code": code,
            "error": error,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "is_repeat": is_repeat or earlier_status.get("is_repeat", False),
        }
        storage.write_json(self.path / STATUS, record)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Write the run's name and environment, from which status.json can be rebuilt."""
        record = environment | {"run": vars(self.name)}
        storage.write_json(self.path / ENVIRONMENT, record)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the result record, which makes the run completed, and finish it."""
        record = {
            "schema": SCHEMA,
            "run_id": self.path.name,
            "state": "completed",
            **vars(self.name),
        }
        # An existing manifest can only belong to an earlier result, which was lost.
        storage.remove(self.path / storage.MANIFEST)
        storage.write_json(self.path / RESULT, record | result)
        self.finish()

    def finish(self) -> None:
        """Finish a run that has a result: remove its checkpoints, and seal it.

        With keep_weights=false, also remove all weights that it trained, and its baselines.
        """
        manifest = self.path / storage.MANIFEST
        # The manifest is written last: if it exists, nothing is left to remove.
        if not manifest.exists():
            obsolete_folders = [self.stage(stage) / CHECKPOINTS for stage in ("align", "finetune")]
            if self.result().get("keep_weights") is False:
                obsolete_folders += [*_weight_folders(self.path), self.path / CANDIDATES]
            for folder in obsolete_folders:
                storage.remove(folder)
            with storage.guarded(self.path):
                lasting_files = _lasting_files(self.path)
            storage.seal(self.path, lasting_files, owner=self.name.identity)
        # A completed run that is claimed again keeps its record.
        state = self.status().get("state")
        if state != "completed":
            self.set_state("completed", code=0)


def _changed_values(earlier: dict[str, Any], present: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return name -> (earlier value, present value) for names in which two fingerprints differ."""
    changed = {}
    for name in sorted({*earlier, *present}):
        value_then = earlier.get(name, _ABSENT)
        value_now = present.get(name, _ABSENT)
        if value_then != value_now:
            changed[name] = (value_then, value_now)
    return changed


def keeps_weights(path: Path) -> bool:
    """Return whether a completed run has its trained weights.

    Trials and runs with keep_weights=false do not.
    """
    return bool(_weight_folders(path))


def _weight_folders(path: Path) -> list[Path]:
    """Return the folders of a run that contain the weights that stage 3 trained."""
    # The only other folder of stage 3 is that of checkpoints, which a completed run does not have.
    entries = (path / STAGE_FOLDERS["finetune"]).glob("*")
    return sorted(entry for entry in entries if entry.is_dir())


def _lasting_files(path: Path) -> list[Path]:
    """Return the files of a run that do not change once it is completed.

    A folder that is sealed itself contributes only its manifest.
    """
    lasting_files = []
    for file in path.rglob("*"):
        if not file.is_file() or is_passing(file, path):
            continue
        # The folders between the run and the file.
        folders = [folder for folder in file.parents if path in folder.parents]
        is_changing = str(file.relative_to(path)) in _CHANGING
        is_of_tracker = path / TRACKER in folders
        if is_changing or is_of_tracker:
            continue
        # The manifest of a sealed folder already has the checksums of the files in it.
        is_sealed = any((folder / storage.MANIFEST).exists() for folder in folders)
        if file.name == storage.MANIFEST or not is_sealed:
            lasting_files.append(file)
    return lasting_files


def is_passing(file: Path, run: Path) -> bool:
    """Return whether a file of a run, or a folder around it, is incomplete or was moved aside."""
    # Only names below the run count: the folders above it may have any name.
    for name in map(Path, file.relative_to(run).parts):
        if storage.is_temporary(name) or storage.is_aside(name):
            return True
    return False


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return step -> checkpoint, by step, without checkpoints that were moved aside as damaged."""
    by_step = {}
    for path in sorted(folder.glob("step-*")):
        match = _STEP.fullmatch(path.name)
        if match:
            by_step[int(match[1])] = path
    # Sorted by number, since names of different lengths do not sort by step.
    return dict(sorted(by_step.items()))


def read_or_empty(path: Path) -> dict[str, Any]:
    """Return a record; empty if the file is missing or unreadable."""
    try:
        return read_record(path) or {}
    except (UnreadableError, OSError):
        return {}


def short_curve(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return some columns of a curve: at most 100 lines, evenly spread, from first to last."""
    n_points = min(_CURVE_POINTS, len(lines))
    last_row = len(lines) - 1
    # `max` avoids a division by 0 for a curve of a single line.
    n_gaps = max(n_points - 1, 1)
    rows = {round(point * last_row / n_gaps) for point in range(n_points)}
    points = []
    for row in sorted(rows):
        line = lines[row]
        points.append({name: line[name] for name in names if name in line})
    return points
