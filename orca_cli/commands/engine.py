"""The jobs of a command, run by a driver: what each job runs, where, and how it ended."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import exceptions, experiment, signals, storage
from orca_cli.exceptions import OrcaError
from orca_cli.launching import local, process
from orca_cli.launching.driver import Driver, Executor, Job, Table, Work
from orca_cli.launching.process import Command, Ended
from orca_cli.launching.ray import Ray
from orca_cli.launching.slurm import Slurm
from orca_cli.runs.directory import RESULT, read_or_empty
from orca_cli.runs.outcome import Failure, Outcome, ended_by
from orca_cli.training import gpus

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed

FOLDER = ".sweeps"  # in the folder of runs: what executors leave there while they work
NOT_STARTED = Outcome("not started")
_FORWARDED = ("force", "allow_inexact_resume", "quiet", "traceback", "json")  # options without a value
_TRAVELLING = ("ORCA_", "HF_", "TRANSFORMERS_")  # environment variables that jobs on other machines inherit
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
    """Where the jobs of a command run.

    Args:
        arguments: the command line, with the options of `options.add_engine`.
        root: folder of all runs.
        name: of the sweep or the search, for lists of others such as SLURM's.
        time_limit_s: of each job.
        is_quiet: jobs print warnings and errors only.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        root: Path,
        name: str,
        time_limit_s: float | None = None,
        *,
        is_quiet: bool = False,
    ) -> None:
        self._arguments, self._root, self._name, self._time_limit_s = arguments, root.absolute(), name, time_limit_s
        self._is_quiet = is_quiet
        self._on = getattr(arguments, "on", None) or "local"
        self._is_drawn = sys.stderr.isatty() and not arguments.quiet
        self.is_shown = self._on == "local" and not self._is_drawn  # jobs print here themselves
        self._folder = self._root / FOLDER / f"{storage.timestamp()}-{name}"

    def job(self, label: str, composed: Composed, settings: str = "") -> Job:
        """Return a composed run as a job."""
        arguments, is_local = self._arguments, self._on == "local"
        words = ["run", *composed.overrides]
        words += [] if arguments.config_dir is None else ["--config-dir", str(arguments.config_dir)]
        words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
        words += [f"--{name.replace('_', '-')}" for name in _FORWARDED if getattr(arguments, name, False)]
        words += ["-q", "--json"] * self._is_quiet
        command = Command(
            label,
            words,
            self._variables(),
            folder="" if is_local else os.getcwd(),
            identity=composed.identity.run,
            time_limit_s=self._time_limit_s,
            seen="" if is_local else str(self._folder),
        )
        is_forced = bool(getattr(arguments, "force", False))
        return Job(command, self._root, experiment.run_name(composed), settings, is_forced)

    def _variables(self) -> dict[str, str]:
        """Return the environment variables that a job needs on top of those of the process that starts it."""
        variables: dict[str, str] = {}
        if self._on != "local":
            variables |= {name: value for name, value in os.environ.items() if name.startswith(_TRAVELLING)}
            variables |= {"ORCA_RUNS": str(self._root), "PYTHONPATH": process.search_path()}
        if (threads := self._threads()) is not None and os.environ.get("OMP_NUM_THREADS") != str(threads):
            variables["OMP_NUM_THREADS"] = str(threads)
        if self._arguments.gpus is not None and 0 < self._arguments.gpus < 1:
            variables[gpus.JOBS_PER_GPU] = str(math.floor(1 / self._arguments.gpus))
        if self._arguments.gpus == 0:
            variables[gpus.VISIBLE] = ""
        return variables

    def _threads(self) -> int | None:
        omp_threads = os.environ.get("OMP_NUM_THREADS", "")
        if self._on == "local":
            return local.shared_threads(self._arguments.at_once or 1, self._arguments.threads)
        return self._arguments.threads or (int(omp_threads) if omp_threads.isdigit() else 1)

    def run(self, work: Work, total: int) -> None:
        """Run all jobs, of which there are `total`.

        Raises:
            OrcaError: of the executor or of the work.
        """
        with self._executor() as executor, Table(total, self._is_drawn).shown() as table:
            Driver(work, executor, table).run()

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        at_once, threads = self._arguments.at_once or math.inf, self._threads() or 1
        if self._on == "local":
            main: process.Main | None = self._arguments.program
            # Jobs are new interpreters where they need other variables, or where the user's modules may have started threads.
            if self._variables() or self._arguments.allow_module:
                main = None
            for name in _HEAVY if main is not None else ():
                signals.check()
                importlib.import_module(name)
            yield local.Local(self._arguments.at_once or 1, main, is_shown=self.is_shown)
            return
        storage.make_folder(self._folder)
        try:
            executor: Ray | Slurm
            if self._on == "ray":
                executor = Ray(threads, self._arguments.gpus, at_once)
            else:
                share = self._arguments.gpus or 0.0
                executor = Slurm(self._folder, f"orca-{self._name}", threads, share, at_once, self._time_limit_s)
            with executor.opened() as opened:
                yield opened
        finally:
            if signals.pending() is None:
                storage.remove(self._folder)


def job_report(outcome: Outcome) -> dict[str, Any]:
    """Return what a job reports to its driver, which reads the result from the run's folder."""
    path = None if outcome.path is None else str(outcome.path)
    if outcome.failure is not None:
        return process.failure_report(outcome.failure.error, outcome.state, path) | {"code": outcome.code}
    return {"state": outcome.state, "code": outcome.code, "path": path}


def job_outcome(end: Ended) -> Outcome:
    """Return how a job's run ended, by what the job reported, or else by its exit status."""
    if end.report:
        return _reported(end)
    if not end.lost and end.status is None:
        return NOT_STARTED
    code, status = 1, end.status or 0
    if end.lost:
        text = end.lost
    elif end.over_limit:
        text = "exceeded --time-limit and had to be killed"
    elif status >= 0:
        code = status or 1
        text = f"the process exited with code {status}: {(end.last_words.splitlines() or ['no output'])[-1]}"
    elif -status == signals.pending():
        stopped = exceptions.InterruptionError(f"stopped by {signal.Signals(-status).name} before it began")
        stopped.code = signals.exit_code()
        return ended_by(stopped)
    else:
        hint = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
        text = f"the process was killed by {signal.Signals(-status).name}{hint}"
    error = OrcaError(text)
    error.code = code
    return ended_by(error)


def _reported(end: Ended) -> Outcome:
    report = end.report
    path = None if report["path"] is None else Path(report["path"])
    state, failure, result = report["state"], None, {}
    facts = report.get("error")
    if end.over_limit and state == "interrupted":
        state, facts = (
            "failed",
            {"kind": "OrcaError", "what": "exceeded --time-limit; the state is saved", "where": "", "hint": ""},
        )
    if facts is not None:
        kind = getattr(exceptions, facts["kind"], OrcaError)
        error = kind(facts["what"], where=facts["where"], hint=facts["hint"])
        error.code = report["code"]
        failure = Failure(error, error)
    # A completed run may come with a failure: its baselines may have been stopped.
    if path is not None and state in ("completed", "skipped"):
        result = read_or_empty(path / RESULT)
    return Outcome(state, report["code"], path, result, failure)
