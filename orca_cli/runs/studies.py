"""The runs that belong to a study, with their choices on its axes: RUNS/.studies/NAME.json.

A run that two studies share is run once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_cli import storage
from orca_cli.exceptions import DataError
from orca_cli.runs.records import SCHEMA, UnreadableError, read_record

_MOST_BYTES = 2**28  # 10,000 runs have some 3 MB


@dataclass(frozen=True)
class Member:
    """One run of a study."""

    identity: str  # identity of the run; see `identity.Identity`
    labels: dict[str, str]  # axis -> name of the choice


def path_of(root: Path, study: str) -> Path:
    """Return the file of a study in a folder of runs."""
    # Hidden, like all of the program's own folders among the runs.
    return root / ".studies" / f"{study}.json"


def names(root: Path) -> list[str]:
    """Return the studies that have runs in a folder of runs."""
    return sorted(path.stem for path in root.glob(".studies/*.json"))


def add(root: Path, study: str, members: Sequence[Member]) -> None:
    """Add runs to the record of a study; each replaces an earlier run with the same labels.

    Raises:
        DataError: the record of the study is damaged.
        StorageError: the folder cannot be written.
    """
    path = path_of(root, study)
    storage.make_folder(path.parent)
    # Two sweeps may add runs at the same time, and each reads the record before it writes it.
    lock_path = path.with_suffix(".lock")
    with storage.lock(lock_path, timeout_s=60.0, what=f"the record of study {study}"):
        earlier = read(root, study) if path.exists() else []
        # Later members replace earlier ones, as dicts do.
        by_labels = {}
        for member in (*earlier, *members):
            labels = tuple(sorted(member.labels.items()))
            by_labels[labels] = member
        records = [vars(member) for member in by_labels.values()]
        storage.write_json(path, {"schema": SCHEMA, "study": study, "runs": records})


def read(root: Path, study: str) -> list[Member]:
    """Return the runs of a study.

    Raises:
        DataError: the record is missing or damaged.
    """
    path = path_of(root, study)
    try:
        record = read_record(path, _MOST_BYTES) or {}
        members = []
        for member in record["runs"]:
            labels = {str(axis): str(name) for axis, name in member["labels"].items()}
            members.append(Member(identity=str(member["identity"]), labels=labels))
        return members
    except (OSError, UnreadableError, KeyError, TypeError, AttributeError) as error:
        error_name = type(error).__name__
        raise DataError(
            f"cannot be read: {error_name}: {error}",
            where=str(path),
            hint=f"move the file away; `orca run -m study={study}` writes a new file, and"
            " repeats no completed run",
        ) from error
