"""Check whether a run's files are as they were written, and rebuild a lost status.

The contents of records are read, but never tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.config import configuration
from orca_cli.config.identity import digest_of
from orca_cli.exceptions import CheckpointError, ChecksumError, DataError, LockedError, OrcaError
from orca_cli.runs.claim import LIVING, is_worked_on
from orca_cli.runs.directory import (
    CANDIDATES,
    CHECKPOINTS,
    CURVE,
    ENVIRONMENT,
    FINGERPRINT,
    LOCK,
    RESULT,
    SETTINGS,
    STAGE_FOLDERS,
    STATES,
    STATUS,
    SUMMARY,
    RunDirectory,
    RunName,
    checkpoints,
    is_passing,
    read_or_empty,
)
from orca_cli.runs.records import UnreadableError, newer_schema, read_record

# Records with a schema. They are read even if no manifest covers them yet.
_RECORDS = (
    RESULT,
    ENVIRONMENT,
    f"{STAGE_FOLDERS['build']}/{SUMMARY}",
)


@dataclass
class Checked:
    """The state of a run folder.

    Args:
        path: the folder.
        files: number of files whose checksum was compared.
        candidates: number of baselines that the run keeps.
        candidates_bytes: size of their files in bytes.
        state: state of the run; dead if its process ended without recording a reason.
        damaged: files that have changed since they were written, one line each.
        notes: further facts about the run, one line each.
        stale: data files that have changed since the run began; files that are not on this machine
            cannot be compared.
        rebuilt: why status.json was rebuilt; empty if it was not.
        code: exit code: 0, 13 for damage, 21 for a newer program's run.
    """

    path: Path
    files: int = 0
    candidates: int = 0
    candidates_bytes: int = 0
    state: str = ""
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    rebuilt: str = ""
    code: int = 0


def check(path: Path) -> Checked:
    """Verify all checksums of a run.

    Rebuild status.json, and nothing else, where it is missing, unreadable or wrong.

    Raises:
        DataError: the folder is not a run.
        LockedError: a process works on the run.
        StorageError: a file cannot be read, or the status cannot be written.
    """
    if not any((path / name).exists() for name in (STATUS, RESULT, ENVIRONMENT)):
        raise DataError(
            "is not a run: it has no records",
            where=str(path),
            hint="name the folder of a run, or start the run by its command",
        )
    # Files that a process is writing would look damaged.
    if is_worked_on(path, read_or_empty(path / STATUS)):
        raise LockedError("a process works on this run", where=str(path), hint="wait until it ends")
    report = Checked(path)
    # This program cannot check the files of a newer program.
    newer_program_error = newer_schema(path / STATUS, *(path / name for name in _RECORDS))
    if newer_program_error:
        return _of_newer_program(report, str(newer_program_error))
    try:
        _verify(report)
    except CheckpointError as error:
        return _of_newer_program(report, error.what)
    _restore_status(report)
    _compare_data(report)
    inexact = read_or_empty(path / RESULT).get("inexact")
    if inexact:
        changed_values = ", ".join(inexact)
        report.notes.append(f"resumed inexactly: {changed_values}")
    # No process works on the run, as was checked at the beginning.
    if report.state in LIVING:
        report.notes.append(f"the run's process died while the run was in state {report.state}")
        report.state = "dead"
    if report.damaged:
        report.code = ChecksumError.code
    return report


def _of_newer_program(report: Checked, message: str) -> Checked:
    """Return the report on a run that a newer program wrote."""
    report.state = "of a newer program"
    report.code = CheckpointError.code
    report.notes.append(f"{message}; nothing was changed")
    return report


def _compare_data(report: Checked) -> None:
    """Compare the data files that the run has read with the present files."""
    environment = read_or_empty(report.path / ENVIRONMENT)
    recorded_files = environment.get("files")
    if isinstance(recorded_files, dict):
        for name, recorded_digest in sorted(recorded_files.items()):
            # None: the file is not on this machine.
            if digest_of(Path(str(name))) not in (None, recorded_digest):
                report.stale.append(str(name))
    if report.stale:
        stale_names = ", ".join(report.stale)
        report.notes.append(
            "stale: data files have changed since the run began, so rerunning its command starts a"
            f" new run: {stale_names}"
        )


def _verify(report: Checked) -> None:
    """Compare all files with the manifests, and records with their own checksums.

    Raises:
        CheckpointError: a newer program wrote a manifest.
    """
    path = report.path
    # The run, its finished stages and its checkpoints each have a manifest.
    manifests = path.rglob(storage.MANIFEST)
    sealed_folders = sorted({file.parent for file in manifests if not is_passing(file, path)})
    for folder in sealed_folders:
        name = str(folder.relative_to(path)) if folder != path else "the run"
        # A run, or a stage with a curve, may have files that are in no manifest; a checkpoint may
        # not.
        extra_allowed = folder == path or (folder / CURVE).exists()
        n_files, problems = storage.folder_problems(folder, extra_allowed=extra_allowed)
        if folder.parent == path / CANDIDATES:
            report.candidates += 1
            report.candidates_bytes += storage.size(folder)
        report.files += n_files
        report.damaged += [f"{name}: {problem}" for problem in problems]
    for name in _RECORDS:
        _try_to_read(report, path / name, read_record)
    if path in sealed_folders:
        return
    # No manifest of the run covers its fingerprints and settings, so they are checked separately.
    for file in sorted(path.glob(f"*/{FINGERPRINT}")):
        report.files += 1
        _try_to_read(report, file, storage.read_checked_json)
    for file in path.glob(SETTINGS):
        _try_to_read(report, file, configuration.content)


def _try_to_read(report: Checked, file: Path, read: Callable[[Path], Any]) -> None:
    """Read a file, and report it as damaged if that fails."""
    try:
        read(file)
    except (OrcaError, UnreadableError, OSError) as error:
        name = file.relative_to(report.path)
        reason = error.what if isinstance(error, OrcaError) else error
        report.damaged.append(f"{name}: {reason}")


def _restore_status(report: Checked) -> None:
    """Rebuild status.json from the run's other files if it contradicts them."""
    path = report.path
    status_path = path / STATUS
    result = read_or_empty(path / RESULT)
    status = read_or_empty(status_path)
    report.state = str(status.get("state") or "")
    # A result that cannot be read does not contradict any status.
    is_result_lost = (path / RESULT).exists() and not result
    is_consistent = is_result_lost or (report.state == "completed") == bool(result)
    if is_consistent and report.state in STATES and _run_name(status) is not None:
        return
    reason = "it was wrong" if status_path.exists() else "it was missing"
    # The run's name is in both records; env.json has it from the start of the run.
    run_name = _run_name(result)
    if run_name is None:
        environment = read_or_empty(path / ENVIRONMENT)
        run_name = _run_name(environment.get("run"))
    if run_name is None:
        report.damaged.append(
            f"status.json: {reason}, and cannot be rebuilt from result.json or env.json; rerun the"
            " command"
        )
        return
    code: int | None = None
    step: int | None = None
    if result:
        report.state = "completed"
        code = 0
    else:
        report.state, step = _progress(path)
    # A process may have started to work on the run in the meantime.
    with storage.lock(path / LOCK, timeout_s=1.0, what=f"run {path.name}"):
        # A file cannot replace a folder; its content is kept.
        if status_path.is_dir():
            storage.quarantine(status_path)
        RunDirectory(path, run_name).set_state(report.state, step=step, code=code)
    report.rebuilt = reason


def _progress(path: Path) -> tuple[str, int | None]:
    """Return the last stage that an unfinished run began, and the step of its newest checkpoint."""
    state = "created"
    step: int | None = None
    # Stages are checked in their order, so that the last folder that exists decides.
    for stage, folder_name in STAGE_FOLDERS.items():
        folder = path / folder_name
        if folder.exists():
            state = stage
            step = max(checkpoints(folder / CHECKPOINTS), default=None)
    return state, step


def _run_name(record: object) -> RunName | None:
    """Return the run's name from a record; None if the record has no complete name."""
    if not isinstance(record, dict):
        return None
    # All other fields are texts.
    field_types = {"seed": int, "variant": dict}
    fields: dict[str, Any] = {}
    # Older records lack the name of the data set, which is not part of the identity.
    record = {**record, "data": str(record.get("data") or "")}
    for name in RunName.__dataclass_fields__:
        fields[name] = record.get(name)
        if not isinstance(fields[name], field_types.get(name, str)):
            return None
    return RunName(**fields)
