"""The jobs of a command, run by a driver: what each job runs, where, and how it ended."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import exceptions, experiment, signals, storage
from orca_cli.exceptions import OrcaError
from orca_cli.launching import process
from orca_cli.launching.driver import Driver, Job, Work
from orca_cli.launching.process import Command, Ended
from orca_cli.launching.ray import Ray
from orca_cli.launching.slurm import Slurm
from orca_cli.runs import program
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.outcome import Failure, Outcome, ended_by
from orca_cli.training import gpus

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed

FOLDER = ".sweeps"  # in the folder of runs: what executors leave there while they work
NOT_STARTED = Outcome("not started")
_FORWARDED = (
    "force",
    "allow_inexact_resume",
    "quiet",
    "traceback",
    "json",
)  # options without a value
_TRAVELLING = (
    "ORCA_",
    "HF_",
    "TRANSFORMERS_",
)  # environment variables that jobs on other machines inherit
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


class Engine:
    """Where the jobs of a command line with the options of `options.add_engine` run.

    Args:
        arguments: the command line.
        root: folder of runs, which all machines see.
        name: part of the name of a slurm job, and of the folder that executors write to while they work.
        is_quiet: whether jobs log warnings only and print no result.
    """

    def __init__(
        self, arguments: argparse.Namespace, root: Path, name: str, *, is_quiet: bool = False
    ) -> None:
        self._arguments, self._root, self._name, self._is_quiet = (
            arguments,
            root.absolute(),
            name,
            is_quiet,
        )
        self.is_local = arguments.on in (None, "local")  # jobs print here themselves
        self._time_limit_s = getattr(arguments, "time_limit", None)  # of each job
        self._folder = self._root / FOLDER / f"{storage.timestamp()}-{name}"

    def job(self, label: str, composed: Composed) -> Job:
        """Return a composed run as a job; `label` starts its lines."""
        arguments = self._arguments
        words = ["run", *composed.overrides]
        words += [] if arguments.config_dir is None else ["--config-dir", str(arguments.config_dir)]
        words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
        words += [
            f"--{name.replace('_', '-')}" for name in _FORWARDED if getattr(arguments, name, False)
        ]
        words += ["-q", "--json"] * self._is_quiet
        command = Command(
            label,
            words,
            self._variables(),
            folder="" if self.is_local else os.getcwd(),
            identity=composed.identity.run,
            program=program.digest(),
            time_limit_s=self._time_limit_s,
            shared_file="" if self.is_local else str(self._folder),
        )
        return Job(
            command,
            Path(composed.config.paths.runs or "").absolute(),
            experiment.run_name(composed),
        )

    def _variables(self) -> dict[str, str]:
        """Return the environment variables that a job needs on top of those of the process that starts it."""
        variables: dict[str, str] = {}
        if not self.is_local:
            variables |= {
                name: value for name, value in os.environ.items() if name.startswith(_TRAVELLING)
            }
            variables |= {"ORCA_RUNS": str(self._root), "PYTHONPATH": process.search_path()}
        if (threads := self._threads()) is not None and os.environ.get("OMP_NUM_THREADS") != str(
            threads
        ):
            variables["OMP_NUM_THREADS"] = str(threads)
        if self._arguments.gpus is not None and 0 < self._arguments.gpus < 1:
            variables[gpus.JOBS_PER_GPU] = str(math.floor(1 / self._arguments.gpus))
        if self._arguments.gpus == 0:
            variables[gpus.VISIBLE] = ""
        return variables

    def _threads(self) -> int | None:
        """Return the threads of each job: as typed, else on this machine its share of them; None for the default."""
        at_once, typed = self._arguments.at_once or 1, self._arguments.threads
        if typed is not None or (self.is_local and at_once == 1):
            return typed
        processors = (
            len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        )
        variable = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(variable) if variable.isdigit() else processors if self.is_local else 1
        return max(1, threads // at_once) if self.is_local else threads

    def run(self, work: Work, total: int) -> None:
        """Run all jobs, of which there are `total`; raises the OrcaError of the executor or of the work."""
        at_once, share = self._arguments.at_once, self._arguments.gpus
        if self.is_local:
            # Jobs are new interpreters where they need other variables, or where the user's modules may have started threads.
            is_apart = self._variables() or self._arguments.allow_module
            main: process.Main | None = None if is_apart else self._arguments.program
            for name in _HEAVY if main is not None else ():
                signals.check()
                importlib.import_module(name)
            Driver(work, process.Local(at_once or 1, main), total).run()
            return
        storage.make_folder(self._folder)
        threads, most = self._threads() or 1, at_once or math.inf
        executor: Ray | Slurm = Ray(threads, share, most)
        if self._arguments.on == "slurm":
            executor = Slurm(
                self._folder, f"orca-{self._name}", threads, share or 0.0, most, self._time_limit_s
            )
        try:
            with executor.opened() as opened:
                Driver(work, opened, total).run()
        finally:
            if signals.pending() is None:
                storage.remove(self._folder)


def job_report(outcome: Outcome) -> dict[str, Any]:
    """Return what a job reports to its driver, which reads the result from the run's folder."""
    path = None if outcome.path is None else str(outcome.path)
    if outcome.failure is not None:
        return process.failure_report(outcome.failure.error, outcome.state, path) | {
            "code": outcome.code
        }
    return {"state": outcome.state, "code": outcome.code, "path": path}


def job_outcome(end: Ended) -> Outcome:
    """Return how a job's run ended, by what the job reported, or else by its exit status."""
    if not end.report:
        return NOT_STARTED if end.status is None and not end.lost else ended_by(_unreported(end))
    state, code, facts = end.report["state"], end.report["code"], end.report.get("error")
    path, failure = None if end.report["path"] is None else Path(end.report["path"]), None
    if facts is not None:
        error = getattr(exceptions, facts["kind"], OrcaError)(
            facts["what"], where=facts["where"], hint=facts["hint"]
        )
        if end.over_limit and state == "interrupted":
            state, error = "failed", OrcaError("exceeded --time-limit; the state is saved")
        error.code = code
        failure = Failure(error, error)
    # A completed run may come with a failure: its baselines may have been stopped.
    result = (
        read_or_empty(path / RESULT)
        if path is not None and state in ("completed", "skipped")
        else {}
    )
    return Outcome(state, code, path, result, failure)


def _unreported(end: Ended) -> OrcaError:
    """Return why a job ended that could not report."""
    status = end.status or 0
    if end.lost or end.over_limit:
        return OrcaError(end.lost or "exceeded --time-limit and had to be killed")
    if status >= 0:
        error = OrcaError(
            f"the process exited with code {status}: {(end.last_words.splitlines() or ['no output'])[-1]}"
        )
        error.code = status or 1
        return error
    name = signal.Signals(-status).name
    if -status != signals.pending():
        why = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
        return OrcaError(f"the process was killed by {name}{why}")
    stop = exceptions.InterruptionError(f"stopped by {name} before it began")
    stop.code = signals.exit_code()
    return stop
