"""`orca run -m ... --enqueue`: put the jobs of a sweep into the folder of runs, for workers."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from orca_cli import storage
from orca_cli.commands.sweep import settings_of, study_of
from orca_cli.compose import Sweep
from orca_cli.launching import queue
from orca_cli.terminal import Result


def enqueue(sweep: Sweep, arguments: argparse.Namespace) -> Result:
    """Put the jobs there, and return the sweep's name and the command of its workers. Jobs that failed are tried again."""
    root = Path(sweep.jobs[0].config.paths.runs or "").absolute()
    storage.check_writable(root)
    study_of(sweep, root)
    jobs = [
        queue.Job(settings, [text for text in job.overrides if not text.startswith("paths.runs=")], job.identity.run)
        for settings, job in zip(settings_of(sweep.experiments), sweep.experiments, strict=True)
    ]
    put = queue.put(root, sweep.study or sweep.jobs[0].choices["task"], sweep.study, jobs)
    again = put.again()
    words = ["orca", "worker", put.name, *_options(arguments)]
    command = shlex.join(words)
    record = {
        "schema": 1,
        "sweep": put.name,
        "folder": str(put.folder),
        "jobs": len(jobs),
        "again": again,
        "command": command,
    }
    lines = [f"sweep {put.name}: {len(jobs)} jobs in {put.folder}"]
    if again:
        lines.append(f"{again} jobs that had failed are tried again")
    lines += [
        f"on every machine that sees this folder, with ORCA_RUNS={shlex.quote(str(root))}: {command}",
        f"its state: orca worker --list {put.name}",
    ]
    return Result(record, lines)


def _options(arguments: argparse.Namespace) -> list[str]:
    """Return the options of the command line that its workers need too: a file in a shared folder may not give them."""
    words = []
    if arguments.config_dir is not None:
        words += ["--config-dir", str(arguments.config_dir)]
    for module in arguments.allow_module:
        words += ["--allow-module", module]
    return words + (["--allow-inexact-resume"] if arguments.allow_inexact_resume else [])
