"""One job of a sweep as a process of its own: its command line, and how it ended."""

from __future__ import annotations

import argparse
import importlib
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orca_cli import exceptions, signals
from orca_cli.exceptions import OrcaError
from orca_cli.launching import processes
from orca_cli.outcome import Failure, Outcome
from orca_cli.runs.directory import RESULT, read_or_empty

NOT_STARTED = Outcome("not started")
# Imported before the first fork, so that no job has to: that takes seconds. None of them computes or looks for a GPU.
_HEAVY = (
    "orca_cli.stages.build",
    "orca_cli.stages.align",
    "orca_cli.stages.finetune",
    "sklearn.datasets",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
)


def program_to_fork(arguments: argparse.Namespace) -> processes.Main | None:
    """Return the program's main function, all that jobs need imported; None if they have to be new interpreters."""
    # The user's modules may have started threads when they were imported.
    if arguments.allow_module or arguments.program is None:
        return None
    for name in _HEAVY:
        signals.check()
        importlib.import_module(name)
    main: processes.Main = arguments.program
    return main


def words_of(overrides: list[str], arguments: argparse.Namespace) -> list[str]:
    """Return the command line of one job, with the options of the command that starts it."""
    words = ["run", *overrides]
    if arguments.config_dir is not None:
        words += ["--config-dir", str(arguments.config_dir)]
    for module in arguments.allow_module:
        words += ["--allow-module", module]
    flags = ("force", "allow_inexact_resume", "verbose", "quiet", "traceback", "json")
    return words + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(arguments, flag, False)]


def outcome_of(end: processes.Ended) -> Outcome:
    """Return what a job reported, or else what its exit status says."""
    if end.status is None:
        return NOT_STARTED
    if end.said:
        return _reported(end.said, end.over_limit)
    if end.over_limit:
        return failed("exceeded --time-limit and had to be killed")
    if end.status >= 0:
        return failed(f"the process exited with code {end.status}", code=end.status or 1)
    name = signal.Signals(-end.status).name
    if -end.status == signals.pending():
        stopped = exceptions.InterruptionError(f"stopped by {name} before it began")
        return Outcome("interrupted", signals.exit_code(), failure=Failure(stopped, stopped))
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return failed(f"the process was killed by {name}{hint}")


def _reported(said: Mapping[str, Any], over_limit: bool) -> Outcome:
    path = None if said["path"] is None else Path(said["path"])
    if over_limit and said["state"] == "interrupted":
        return failed("exceeded --time-limit; the state is saved", code=said["code"], path=path)
    failure, result = None, {}
    if (facts := said.get("error")) is not None:
        kind = getattr(exceptions, facts["kind"], OrcaError)
        error = kind(facts["what"], where=facts["where"], hint=facts["hint"])
        error.code = said["code"]
        failure = Failure(error, error)
    elif path is not None:
        result = read_or_empty(path / RESULT)
    return Outcome(said["state"], said["code"], path, result, failure)


def failed(text: str, *, code: int = 1, path: Path | None = None) -> Outcome:
    """Return the outcome of a job that failed."""
    error = OrcaError(text)
    error.code = code
    return Outcome("failed", code, path, failure=Failure(error, error))
