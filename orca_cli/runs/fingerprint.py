"""What decides the bits of a run: data, weights, builds, threads. A run is resumed only if they are unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import ChecksumError, FingerprintError
from orca_cli.runs.records import SCHEMA

FILE = "fingerprint.json"
_ABSENT = "nothing"
_WAYS = "start again with --force, or resume with --allow-inexact-resume"


def check_fingerprint(
    folder: Path, now: dict[str, Any], *, owner: str, has_progress: bool, allow_inexact: bool = False
) -> list[str]:
    """Write what decides the bits of a stage, and compare with what an earlier attempt wrote, if that is resumed.

    Args:
        folder: of the stage.
        now: name -> plain value of all that can change a bit.
        owner: the run's identity.
        has_progress: an earlier attempt left something to resume from; otherwise nothing is compared.
        allow_inexact: resume although something differs, and remember it.

    Returns:
        names of what has changed since the stage started, with the user's permission; empty for an exact run.

    Raises:
        FingerprintError: something differs, or the record is lost.
    """
    path = folder / FILE
    values = now | {"settings": owner}
    inexact: set[str] = set()
    try:
        if has_progress:
            record = storage.read_checked_json(path)
            inexact = {*record["inexact"], *_changed(folder, record["values"], values, allow_inexact)}
    except ChecksumError as error:
        if not allow_inexact:
            what = f"cannot check what this run started with: its record {error.what}"
            raise FingerprintError(what, where=str(path), hint=_WAYS) from error
        inexact = {FILE}
    storage.write_checked_json(path, {"schema": SCHEMA, "values": values, "inexact": sorted(inexact)})
    return sorted(inexact)


def _changed(folder: Path, start: dict[str, Any], now: dict[str, Any], allow_inexact: bool) -> set[str]:
    both = {name: (start.get(name, _ABSENT), now.get(name, _ABSENT)) for name in sorted(start.keys() | now.keys())}
    changed = {name: values for name, values in both.items() if values[0] != values[1]}
    if not changed or allow_inexact:
        return set(changed)
    changes = ", ".join(f"{name} ({_short(old)}, now {_short(new)})" for name, (old, new) in changed.items())
    hint = _WAYS
    if "threads" in changed and set(changed) <= {"threads", "blas_threads"}:
        hint = f"set OMP_NUM_THREADS={changed['threads'][0]}, {_WAYS}"
    raise FingerprintError(
        f"cannot resume exactly; changed since the run started: {changes}", where=folder.parent.name, hint=hint
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
