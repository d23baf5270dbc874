"""Whether a run's files are as they were written; rebuilds a lost status. Reads records, never tensors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.config import configuration
from orca_cli.config.identity import digest_of
from orca_cli.exceptions import CheckpointError, ChecksumError, DataError, LockedError, OrcaError
from orca_cli.runs import directory
from orca_cli.runs.claim import LIVING, is_worked_on
from orca_cli.runs.directory import RunDirectory, RunName, checkpoints, is_passing, read_or_empty
from orca_cli.runs.records import UnreadableError, newer_schema, read_record

_RECORDS = (
    directory.RESULT,
    directory.ENVIRONMENT,
    f"{directory.STAGE_FOLDERS['build']}/{directory.SUMMARY}",
)


@dataclass
class Checked:
    """What was found in a run folder.

    Args:
        path: the folder.
        files: number of files whose checksum was compared.
        state: state of the run; dead if its process ended without recording why.
        damaged: what has changed since it was written, one line each.
        notes: what else is worth knowing, one line each.
        stale: data files that have changed since the run began; those that are not on this machine cannot be compared.
        rebuilt: why status.json was rebuilt; empty if it was not.
        code: exit code: 0, 13 for damage, 21 for a newer program's run.
    """

    path: Path
    files: int = 0
    state: str = ""
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    rebuilt: str = ""
    code: int = 0


def check(path: Path) -> Checked:
    """Verify all checksums of a run; rebuild status.json, and nothing else, where it is missing, unreadable or wrong.

    Raises:
        DataError: the folder is not a run.
        LockedError: a process works on the run.
        StorageError: a file cannot be read, or the status not written.
    """
    if not any(
        (path / name).exists()
        for name in (directory.STATUS, directory.RESULT, directory.ENVIRONMENT)
    ):
        raise DataError(
            "not a run: it has no records", where=str(path), hint="rerun the command to start it"
        )
    report = Checked(path)
    if is_worked_on(path, read_or_empty(path / directory.STATUS)):
        raise LockedError("a process works on this run", where=str(path), hint="wait for it to end")
    try:
        if newer := newer_schema(path / directory.STATUS, *(path / name for name in _RECORDS)):
            raise CheckpointError(str(newer))
        _verify(report)
    except CheckpointError as error:
        report.state, report.code = "of a newer program", CheckpointError.code
        report.notes.append(f"{error.what}; nothing was changed")
        return report
    _restore_status(report)
    files = read_or_empty(path / directory.ENVIRONMENT).get("files")
    for name, digest in sorted(files.items()) if isinstance(files, dict) else ():
        if digest_of(Path(str(name))) not in (None, digest):
            report.stale.append(str(name))
    if report.stale:
        names = ", ".join(report.stale)
        report.notes.append(
            f"stale: changed since the run began, so rerunning its command starts a new run: {names}"
        )
    if inexact := read_or_empty(path / directory.RESULT).get("inexact"):
        report.notes.append(f"resumed inexactly: {', '.join(inexact)}")
    if report.state in LIVING:
        report.notes.append(f"its process died in state {report.state}")
        report.state = "dead"
    if report.damaged:
        report.code = ChecksumError.code
    return report


def _verify(report: Checked) -> None:
    """Compare the files of all folders that have a manifest, and the records that carry a checksum of themselves."""
    path = report.path
    folders = sorted(
        {
            manifest.parent
            for manifest in path.rglob(storage.MANIFEST)
            if not is_passing(manifest, path)
        }
    )
    for folder in folders:
        name = str(folder.relative_to(path)) if folder != path else "the run"
        sealed = folder == path or (folder / directory.CURVE).exists()
        files, problems = storage.folder_problems(folder, extra_allowed=sealed)
        report.files += files
        report.damaged += [f"{name}: {problem}" for problem in problems]
    readers: list[tuple[Path, Callable[[Path], Any]]] = [
        (path / name, read_record) for name in _RECORDS
    ]
    if path not in folders:
        fingerprints = sorted(path.glob(f"*/{directory.FINGERPRINT}"))
        report.files += len(fingerprints)
        readers += [(file, storage.read_checked_json) for file in fingerprints]
        readers += [(file, configuration.content) for file in path.glob(directory.SETTINGS)]
    for file, read in readers:
        try:
            read(file)
        except (OrcaError, UnreadableError, OSError) as error:
            report.damaged.append(f"{file.relative_to(path)}: {getattr(error, 'what', error)}")


def _restore_status(report: Checked) -> None:
    """Rebuild status.json from the artifacts where it contradicts them."""
    path = report.path
    completed, status = (
        read_or_empty(path / directory.RESULT),
        read_or_empty(path / directory.STATUS),
    )
    report.state = str(status.get("state") or "")
    is_lost = (path / directory.RESULT).exists() and not completed
    is_known = is_lost or (report.state == "completed") == bool(completed)
    if is_known and report.state in directory.STATES and _name(status) is not None:
        return
    reason = "it was wrong" if (path / directory.STATUS).exists() else "it was missing"
    name = _name(completed) or _name(read_or_empty(path / directory.ENVIRONMENT).get("run"))
    if name is None:
        report.damaged.append(
            f"status.json: {reason}; result.json and env.json cannot replace it: rerun the command"
        )
        return
    # An unfinished run has reached the last stage that it has begun, and the step of its newest checkpoint.
    begun = [stage for stage, folder in directory.STAGE_FOLDERS.items() if (path / folder).exists()]
    report.state, step = "completed" if completed else begun[-1] if begun else "created", None
    if begun and not completed:
        step = max(
            checkpoints(path / directory.STAGE_FOLDERS[begun[-1]] / directory.CHECKPOINTS),
            default=None,
        )
    with storage.lock(path / directory.LOCK, timeout_s=1.0, what=f"run {path.name}"):
        if (path / directory.STATUS).is_dir():
            storage.quarantine(path / directory.STATUS)
        RunDirectory(path, name).set_state(report.state, step=step, code=0 if completed else None)
    report.rebuilt = reason


def _name(record: object) -> RunName | None:
    """Return the run's name from a record, None if incomplete."""
    if not isinstance(record, dict):
        return None
    kinds = {"seed": int, "variant": dict}
    values: dict[str, Any] = {key: record.get(key) for key in RunName.__dataclass_fields__}
    is_whole = all(isinstance(value, kinds.get(key, str)) for key, value in values.items())
    return RunName(**values) if is_whole else None
