"""Recompute all that a bundle says: files, errors, tables, statistics. The bundle may be a stranger's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orca_cli import configuration, schema, storage
from orca_cli.bundles import layout, selection
from orca_cli.bundles.errors.score import CannotComputeError
from orca_cli.bundles.layout import Entry, Index
from orca_cli.bundles.recomputed import recompute, same
from orca_cli.exceptions import DataError, OrcaError
from orca_cli.progress import Reporter
from orca_cli.report.rendering.output import Page
from orca_cli.runs import studies
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.settings import FILE as SETTINGS
from orca_cli.runs.settings import as_typed
from orca_cli.untrusted import archives

AGREES, DIFFERS, UNCHECKED = "agrees", "differs", "unchecked"
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12  # of numbers that follow from the same numbers
_MOST_BYTES = 2**28  # of a report in JSON
_MOST_DIFFERENCES = 20  # of one part that are listed


@dataclass(frozen=True)
class Check:
    """One line of what was found: agrees, differs or unchecked; what it is about; how, in words."""

    verdict: str
    what: str
    text: str


def verify(bundle: Path, folder: Path, reporter: Reporter) -> tuple[Index, list[Check]]:
    """Unpack a bundle into an empty folder and return its index and what was found.

    Raises:
        DataError, UnsafeError, CheckpointError, ChecksumError: it is no bundle, not one that is safe to unpack, of a newer
            program, or its index was changed; nothing of it can be trusted.
        StorageError: the disk is too small.
    """
    if archives.kind_of(bundle) != "zip":
        raise DataError("is not a zip archive", where=str(bundle), hint="orca pack RUNS --out FILE writes a bundle")
    archives.unpack(bundle, folder, reporter, layout.MOST_BYTES)
    index = layout.read_index(folder, str(bundle))
    checks = list(_files(folder, index))
    for entry in index.runs:
        checks += _run(folder, entry)
    checks += _report(folder, index)
    return index, checks


def _files(folder: Path, index: Index) -> Iterator[Check]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {layout.INDEX}
    wrong = []
    for name in sorted(found | set(index.files)):
        if name not in found:
            wrong.append((name, f"is missing; {layout.INDEX} lists it"))
        elif name not in index.files:
            wrong.append((name, f"is not in {layout.INDEX}"))
        elif index.files[name] != (os.path.getsize(folder / name), storage.sha256_file(folder / name)):
            wrong.append((name, f"its SHA-256 is not that of {layout.INDEX}"))
    known = {entry.folder for entry in index.runs}
    under = (name.split("/") for name in found if name.startswith(f"{layout.RUNS}/"))
    folders = {"/".join(parts[1:3]) for parts in under if parts[1] != studies.FOLDER}
    wrong += [(name, f"is a run that {layout.INDEX} does not name") for name in sorted(folders - known)]
    yield from (Check(DIFFERS, name, text) for name, text in wrong)
    if not wrong:
        yield Check(AGREES, "files", f"{len(found)} files have the SHA-256 of {layout.INDEX}")


def _run(folder: Path, entry: Entry) -> Iterator[Check]:
    path = folder / layout.RUNS / entry.folder
    if ".." in Path(entry.folder).parts or not path.is_dir() or Path(entry.folder).is_absolute():
        yield Check(DIFFERS, entry.folder, "the run is not in the bundle")
        return
    wrong = [*_sealed(folder, entry)]
    result = read_or_empty(path / RESULT)
    if result:
        if result.get("identity") != entry.identity:
            wrong.append(f"its identity is not that of {layout.INDEX}")
        try:
            content = configuration.content(path / SETTINGS)
            wrong += _settings(content, result)
            found = recompute(path, content, result)
        except CannotComputeError as error:
            yield Check(UNCHECKED, entry.folder, f"its error cannot be computed again: {error}")
        except (OrcaError, OSError) as error:
            what = error.what if isinstance(error, OrcaError) else str(error)
            wrong.append(f"its error cannot be computed again: {what}")
        else:
            wrong += found.different
            if not wrong:
                yield Check(AGREES, entry.folder, _in_words(found.score, len(found.score.others)))
            for name in found.missing:
                yield Check(UNCHECKED, entry.folder, f"{name}: not saved for it")
    elif not wrong:
        yield Check(AGREES, entry.folder, "not completed: it has no error")
    yield from (Check(DIFFERS, entry.folder, text) for text in wrong)


def _in_words(score: Any, others: int) -> str:
    value = "undefined" if score.value is None else f"{score.value:.6g}"
    more = f", and {others} others" if others else ""
    return f"{score.name} {value} from its predictions (n = {score.n}{more})"


def _sealed(folder: Path, entry: Entry) -> Iterator[str]:
    """Yield which files are not what the run itself sealed when it was completed."""
    path = folder / layout.SEALED / f"{entry.folder}.json"
    if not path.is_file():
        return
    try:
        manifest = storage.read_checked_json(path)
        if manifest.get("owner") != entry.identity:
            yield "its sealed manifest is another run's"
        for name, facts in manifest["files"].items():
            file = folder / layout.RUNS / entry.folder / name
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ValueError(name)
            if name not in entry.cleaned and file.is_file() and storage.sha256_file(file) != facts["sha256"]:
                yield f"{name} is not what the run sealed"
    except OrcaError as error:
        yield f"its sealed manifest {error.what}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"its sealed manifest is not one: {type(error).__name__}"


def _settings(content: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    """Yield which settings of config.yaml are not those that the result names."""
    variant = result.get("variant")
    given = dict(variant) if isinstance(variant, dict) else {}
    given["seed"] = result.get("seed")
    for key, value in given.items():
        *above, name = key.split(".")
        inner = schema.lookup(content, ".".join(above)) if above else content
        is_there = isinstance(inner, dict) and name in inner and isinstance(value, (str, int))
        if is_there and not _is_set(inner[name], value):
            yield f"{key} is {as_typed(inner[name])[:80]} in {SETTINGS}, {str(value)[:80]} in {RESULT}"


def _is_set(composed: Any, typed: str | int) -> bool:
    """Return whether a composed value is what was typed; names that stand for something else cannot be compared."""
    text = str(typed)
    if isinstance(composed, dict) or "${" in text or "\\" in text:
        return True
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return True
    return bool(_plain(value) == _plain(composed)) or text == as_typed(composed)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    try:
        return value if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        return str(value)


def _report(folder: Path, index: Index) -> Iterator[Check]:
    """Compare every part of the report with what the runs say."""
    try:
        pages = selection.pages(folder / layout.RUNS, index.options)
    except OrcaError as error:
        yield Check(DIFFERS, "report", f"cannot be made of the runs: {error}")
        return
    for name, page in pages.items():
        path = folder / layout.REPORT / name
        record = selection.record_of(page)
        try:
            if path.with_suffix(".json").stat().st_size > _MOST_BYTES:
                raise ValueError("too large")
            recorded = json.loads(path.with_suffix(".json").read_bytes())
            text = path.with_suffix(".md").read_text(encoding="utf-8")
        except (OSError, ValueError, RecursionError) as error:
            yield Check(DIFFERS, f"{name}", f"cannot be read: {type(error).__name__}")
            continue
        found = list(differences(recorded, record))
        shown = [f"{where}: {before} in the bundle, {now} computed" for where, before, now in found]
        if not found and text != page.text("md"):
            shown = [f"{name}.md is not what {name}.json says"]
        yield from (Check(DIFFERS, name, text) for text in shown[:_MOST_DIFFERENCES])
        if len(shown) > _MOST_DIFFERENCES:
            yield Check(DIFFERS, name, f"and {len(shown) - _MOST_DIFFERENCES} more")
        if not shown:
            yield from _parts(name, page)


def _parts(name: str, page: Page) -> Iterator[Check]:
    """Yield a line for every row of a table, or every arm of a comparison, that agrees."""
    if page.comparison is None:
        for row in page.table.rows:
            cells = [cell for cell in row.cells if cell.runs or cell.unfinished.total()]
            values = sum(len(cell.values) for cell in cells)
            yield Check(AGREES, name, f"{row.method}: {len(cells)} cells, {values} errors")
    else:
        for one in page.comparison.overall:
            text = f"{one.sets} sets, {one.pairs} pairs: gain, interval, p, Holm's p and sentence"
            yield Check(AGREES, name, f"{page.comparison.axis}={one.arm}: {text}")
    yield Check(AGREES, name, f"{name}.json and {name}.md as a whole")


def differences(recorded: Any, computed: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield place, recorded and computed value of everything in which two JSON values are not the same."""
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for key in [*computed, *(key for key in recorded if key not in computed)]:
            place = f"{where}.{key}" if where else str(key)
            if key in recorded and key in computed:
                yield from differences(recorded[key], computed[key], place)
            else:
                before, now = (_short(side[key]) if key in side else "nothing" for side in (recorded, computed))
                yield place, before, now
    elif isinstance(recorded, list) and isinstance(computed, list) and len(recorded) == len(computed):
        for number, pair in enumerate(zip(recorded, computed, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif not same(recorded, computed, _RELATIVE, _ABSOLUTE):
        yield where, _short(recorded), _short(computed)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
