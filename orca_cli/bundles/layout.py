"""What is in a bundle, and under which names.

bundle.json              schema, options, runs, what was left out, SHA-256 of every file, and of itself: the digest
report/table.json .md    the table that `orca report` shows of these runs
report/comparison.json .md   with --against: arms in pairs with a baseline
sealed/TASK/RUN.json     the manifest that the run itself wrote when it was completed
runs/                    the runs, as a folder of runs: `orca report`, `orca runs` and `orca score` read it once unpacked
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import CheckpointError, ChecksumError, DataError
from orca_cli.report.records.collect import Run

SCHEMA = 1
INDEX = "bundle.json"
RUNS, SEALED, REPORT = "runs", "sealed", "report"
MOST_BYTES = 16 * 2**30  # of all files of a bundle together
_MOST_INDEX_BYTES = 2**26
_UNSAFE = re.compile(r"[^A-Za-z0-9.+_-]")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Options:
    """Which runs are in a bundle, and what they are compared with; as the options of `orca report`.

    Args:
        study: name of a study; None for none.
        task, metric: names, of which a run has one; empty for all.
        where: KEY=VALUE that a run has.
        against: KEY=VALUE of the baseline; None without a comparison.
        margin: of the comparison.
    """

    study: str | None = None
    task: Sequence[str] = ()
    metric: Sequence[str] = ()
    where: Sequence[str] = ()
    against: str | None = None
    margin: float = 0.5


@dataclass(frozen=True)
class Entry:
    """A run of a bundle.

    Args:
        folder: its place in a bundle's `runs/`.
        identity: see `runs.identity`.
        cleaned: files whose content is not the run's own any more: paths and secrets of a machine were taken out.
    """

    folder: str
    identity: str
    cleaned: Sequence[str] = ()


@dataclass(frozen=True)
class Index:
    """The content of bundle.json.

    Args:
        program: version of the program that wrote it.
        options: see `Options`.
        weights: whether the runs' weights are in it.
        runs: every run.
        left_out: name -> why, of runs that were there and are not in it.
        files: name -> size and SHA-256 of every other file.
        digest: SHA-256 of all of this.
    """

    program: str
    options: Options
    weights: bool
    runs: Sequence[Entry]
    left_out: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]
    digest: str = ""


def folder_of(run: Run, task: str) -> str:
    """Return the place of a run, of a task as its own records name it, in a bundle's `runs/`."""
    return "/".join(_UNSAFE.sub("-", name).lstrip(".-") or "run" for name in (task, run.path.name))


def write_index(folder: Path, index: Index) -> str:
    """Write bundle.json into a folder and return the digest of the bundle."""
    files = {name: {"size": size, "sha256": digest} for name, (size, digest) in sorted(index.files.items())}
    record = {"schema": SCHEMA} | {field.name: getattr(index, field.name) for field in fields(Index)}
    record |= {"options": asdict(index.options), "runs": [asdict(entry) for entry in index.runs], "files": files}
    del record["digest"]
    storage.write_checked_json(folder / INDEX, record)
    return digest_of(folder)


def digest_of(folder: Path) -> str:
    """Return the digest of an unpacked bundle: the SHA-256 of its bundle.json, which has those of all other files."""
    return storage.sha256_file(folder / INDEX)


def read_index(folder: Path, where: str) -> Index:
    """Return the content of the bundle.json of an unpacked bundle; `where` names the bundle.

    Raises:
        DataError: there is none, or it is not one.
        ChecksumError: it was changed.
        CheckpointError: a newer program wrote it.
    """
    path = folder / INDEX
    if not path.is_file() or path.stat().st_size > _MOST_INDEX_BYTES:
        raise DataError(f"holds no {INDEX}: not a bundle", where=where, hint="orca pack RUNS --out FILE writes one")
    try:
        record = storage.read_checked_json(path)
    except ChecksumError as error:
        raise ChecksumError(f"{INDEX} {error.what}", where=where, hint="get the bundle again") from error
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        what = f"{INDEX}: schema {schema} is of a newer program; this one reads up to {SCHEMA}"
        raise CheckpointError(what, where=where, hint="use a newer orca")
    try:
        if type(schema) is not int or schema != SCHEMA:
            raise ValueError(f"schema {schema!r}")
        return _parsed(record, digest_of(folder))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{INDEX} is not the index of a bundle: {type(error).__name__}"
        raise DataError(what, where=where, hint="get the bundle again") from error


def _parsed(record: Mapping[str, Any], digest: str) -> Index:
    options = record["options"]
    margin = options["margin"]
    if isinstance(margin, bool) or not 0 <= float(margin) < float("inf"):
        raise ValueError("margin")
    kinds = {"options": dict, "files": dict, "left_out": dict, "runs": list}
    if not all(type(record[key]) is kind for key, kind in kinds.items()):
        raise TypeError("not of its kind")
    files = {}
    for name, entry in record["files"].items():
        if not isinstance(entry["size"], int) or not _DIGEST.fullmatch(entry["sha256"]):
            raise ValueError("files")
        files[_text(name)] = (entry["size"], entry["sha256"])
    return Index(
        program=_text(record["program"]),
        options=Options(
            study=None if options["study"] is None else _text(options["study"]),
            task=_texts(options["task"]),
            metric=_texts(options["metric"]),
            where=_texts(options["where"]),
            against=None if options["against"] is None else _text(options["against"]),
            margin=float(margin),
        ),
        weights=record["weights"] is True,
        runs=[Entry(_text(run["folder"]), _text(run["identity"]), _texts(run["cleaned"])) for run in record["runs"]],
        left_out={_text(name): _text(why) for name, why in record["left_out"].items()},
        files=files,
        digest=digest,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(map(_text, value))
