"""What was found about bodies on a task, beside the runs: RUNS/.selections/NAME.json, and the runs' errors that go with it.

A later selection of the same data with the same settings adds its bodies to the record. Nothing here imports torch or Hydra.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orca_cli import storage
from orca_cli.exceptions import DataError
from orca_cli.report.records.collect import collect
from orca_cli.terminal import log

FOLDER = ".selections"
SCHEMA = 2
_MOST_BYTES = 2**26


def add(root: Path, selection: Mapping[str, Any]) -> None:
    """Store a selection in a folder of runs; bodies of an earlier one with the same data and settings are kept.

    Args:
        root: folder of all runs.
        selection: JSON-able, with "task", "data" (`Identity.data`), "overrides" and "bodies", each of which has a "label".

    Raises:
        StorageError: the folder cannot be written.
    """
    facts = json.dumps([selection["data"], sorted(selection["overrides"])])
    path = root / FOLDER / f"{hashlib.sha256(facts.encode()).hexdigest()[:16]}.json"
    storage.make_folder(path.parent)
    with storage.lock(path.with_suffix(".lock"), timeout_s=60.0, what="the record of a selection"):
        known = _read(path) if path.exists() else None
        bodies = _together((known or {"bodies": []})["bodies"], selection["bodies"])
        storage.write_json(path, {"schema": SCHEMA, **selection, "bodies": bodies})


def _together(known: Iterable[dict[str, Any]], added: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all bodies, each with its newest record; the second of two with the same label is called "LABEL (2)"."""
    found = {body["settings"]: body for body in known}
    for body in added:
        others = {other["label"] for settings, other in found.items() if settings != body["settings"]}
        found[body["settings"]] = body | {"label": _not_among(others, body["label"])}
    return list(found.values())


def _not_among(others: Container[str], name: str) -> str:
    """Return a name, with the first number that tells it from all others where it is one of them."""
    names = itertools.chain([name], (f"{name} ({number})" for number in itertools.count(2)))
    return next(text for text in names if text not in others)


def read_all(root: Path) -> list[dict[str, Any]]:
    """Return all selections of a folder of runs, by task; one that cannot be read is named in a warning.

    Tasks of the same name that read other data are called "TASK (2)", ...
    """
    found = [record for path in sorted((root / FOLDER).glob("*.json")) if (record := _read(path)) is not None]
    found.sort(key=lambda record: (record["task"], record["data"], record["overrides"]))
    names: dict[tuple[str, str], str] = {}
    for record in found:
        own = (record["task"], record["data"])
        names[own] = names.get(own) or _not_among(names.values(), record["task"])
    return [record | {"task": names[record["task"], record["data"]]} for record in found]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("is far too large")
        record = json.loads(path.read_bytes())
        return _checked(record)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        text = "remove it; the same orca select makes another one"
        log.warning(
            f"{path} is left out: it is not a selection of this program ({type(error).__name__}: {error}); {text}"
        )
        return None


def _checked(record: Any) -> dict[str, Any]:
    """Return a selection's record with what is read of it, each of its type."""
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']}")
    checked: dict[str, Any] = {key: str(record[key]) for key in ("task", "data")}
    checked["overrides"] = [str(text) for text in record["overrides"]]
    bodies = []
    for body in record["bodies"]:
        known = dict(body) | {"label": str(body["label"]), "settings": str(body["settings"])}
        for key in ("distance", "before", "logme", "probe"):
            value = body.get(key)
            if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
                raise ValueError(f"{key} is not a number")
        bodies.append(known)
    return {**record, **checked, "bodies": bodies}


def errors_of(root: Path, settings: Iterable[str]) -> dict[str, list[float]]:
    """Return settings (`RunName.settings`) -> test errors of the completed runs that have them, one for each seed."""
    wanted = set(settings) - {""}
    try:
        runs = collect([root]).runs
    except DataError:  # no runs yet
        return {}
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        if run.settings in wanted and run.score is not None and run.score.value is not None:
            found.setdefault(run.settings, {})[run.seed] = run.score.value
    return {name: list(errors.values()) for name, errors in found.items()}


def mean_errors(bodies: Sequence[Mapping[str, Any]], errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return label -> mean test error, of bodies that have runs."""
    return {
        body["label"]: math.fsum(errors[body["settings"]]) / len(errors[body["settings"]])
        for body in bodies
        if body["settings"] in errors
    }
