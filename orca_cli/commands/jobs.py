"""The jobs of a sweep or search: their command lines, their executor, and how they ended."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orca_cli import exceptions, experiment, signals, storage
from orca_cli.commands.options import Record, own_code_words
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
    from orca_cli.config.composed import Composed

# Name of a folder, in the folder of runs, with the files of executors while they work.
FOLDER = ".sweeps"
NOT_STARTED = Outcome("not started")
# Options without a value that a job inherits from the command line of the sweep.
_FORWARDED = ("force", "allow_inexact_resume", "quiet", "traceback", "json")
# Prefixes of the environment variables that jobs on other machines inherit.
_TRAVELLING = ("ORCA_", "HF_", "TRANSFORMERS_")
# Modules that are imported before the first fork, since importing them in each job would take
# seconds. None of them computes anything or looks for a GPU.
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


class JobRunner:
    """Runs the jobs of a sweep or search on this machine, a Ray cluster or SLURM.

    Args:
        arguments: the parsed command line, with `options.add_job_options`.
        root: folder of runs, which all machines can read and write.
        name: part of the name of a SLURM job, and of the folder that executors write to while they
            work.
        is_quiet: whether jobs only log warnings and print no result.
    """

    def __init__(
        self, arguments: argparse.Namespace, root: Path, name: str, *, is_quiet: bool = False
    ) -> None:
        self._arguments = arguments
        self._root = root.absolute()
        self._name = name
        self._is_quiet = is_quiet
        # Jobs on this machine print to the terminal of the command.
        self.is_local = arguments.on in (None, "local")
        # `orca tune` has no option --time-limit.
        self._time_limit_s = getattr(arguments, "time_limit", None)
        # The name contains the time, so that two drivers of one sweep do not share the folder.
        folder_name = f"{storage.timestamp()}-{name}"
        self._folder = self._root / FOLDER / folder_name

    def job(self, label: str, composed: Composed) -> Job:
        """Return a composed run as a job; `label` is the prefix of its output lines."""
        # A local job inherits the driver's working folder. A job on another machine has to be given
        # it, since settings may contain relative paths.
        folder = ""
        shared_file = ""
        if not self.is_local:
            folder = os.getcwd()
            shared_file = str(self._folder)
        command = Command(
            label=label,
            words=self._words(composed.overrides),
            variables=self._variables(),
            folder=folder,
            # The job compares these two with its own, since data and program may differ on its
            # machine.
            identity=composed.identity.run,
            program=program.digest(),
            time_limit_s=self._time_limit_s,
            shared_file=shared_file,
        )
        # The folder of runs of this job; the trials of a search have a different folder.
        root = runs_root(composed).absolute()
        return Job(command=command, root=root, name=experiment.run_name(composed))

    def _words(self, overrides: list[str]) -> list[str]:
        """Return the command line of a job, without the program's name."""
        words = ["run", *overrides]
        words += own_code_words(self._arguments.config_dir, self._arguments.allow_module)
        for name in _FORWARDED:
            if getattr(self._arguments, name, False):
                words.append(f"--{name.replace('_', '-')}")
        if self._is_quiet:
            # With --json a job does not print its result (`run._execute_job`).
            words += ["-q", "--json"]
        return words

    def _variables(self) -> dict[str, str]:
        """Return the environment variables of a job, in addition to those of its parent process."""
        variables: dict[str, str] = {}
        if not self.is_local:
            for name, text in os.environ.items():
                if name.startswith(_TRAVELLING):
                    variables[name] = text
            variables["ORCA_RUNS"] = str(self._root)
            # So that jobs on other machines find the same program, and the user's own modules.
            variables["PYTHONPATH"] = process.search_path()
        threads = self._threads()
        # A variable that already has this value is left out: a job with variables cannot be a fork.
        if threads is not None and os.environ.get("OMP_NUM_THREADS") != str(threads):
            variables["OMP_NUM_THREADS"] = str(threads)
        share = self._arguments.gpus
        if share == 0:
            # An empty list of visible devices hides all GPUs.
            variables[gpus.VISIBLE] = ""
        elif share is not None and share < 1:
            # Half a GPU for each job means two jobs on each GPU (`gpus.take`).
            variables[gpus.JOBS_PER_GPU] = str(math.floor(1 / share))
        return variables

    def _threads(self) -> int | None:
        """Return the number of threads of each job; None leaves it to the job.

        It is the option --threads if that is set. Otherwise it is the job's share of all threads on
        this machine, and OMP_NUM_THREADS or 1 on a cluster.
        """
        at_once = self._arguments.at_once or 1
        typed: int | None = self._arguments.threads
        if typed is not None or (self.is_local and at_once == 1):
            return typed
        variable = os.environ.get("OMP_NUM_THREADS", "")
        is_set = variable.isdigit()
        if not self.is_local:
            return int(variable) if is_set else 1
        if is_set:
            threads = int(variable)
        elif sys.platform == "linux":
            # The processors that this process may use, which can be fewer than the machine has.
            threads = len(os.sched_getaffinity(0))
        else:
            threads = os.cpu_count() or 1
        return max(1, threads // at_once)

    def run(self, work: Work, total: int) -> None:
        """Run all jobs of the work, at most `total` in number.

        Raises:
            OrcaError: the executor or the work failed.
        """
        if self.is_local:
            executor = process.Local(self._arguments.at_once or 1, self._forked_main())
            Driver(work, executor, total).run()
            return
        # Before any job starts: jobs check that this folder exists on their machine.
        storage.make_folder(self._folder)
        cluster = self._cluster()
        try:
            with cluster.opened() as opened:
                Driver(work, opened, total).run()
        finally:
            # After a signal, SLURM jobs may continue and still write how they ended.
            if signals.pending() is None:
                storage.remove(self._folder)

    def _forked_main(self) -> process.Main | None:
        """Return the program's main function if jobs may be forks of this process, else None.

        Jobs are new interpreters if they need other environment variables, or if the user's modules
        may have started threads.
        """
        if self._variables() or self._arguments.allow_module:
            return None
        main: process.Main | None = self._arguments.program
        if main is not None:
            for name in _HEAVY:
                signals.check()
                # Each import takes a while, so a signal ends the work between two imports.
                importlib.import_module(name)
        return main

    def _cluster(self) -> Ray | Slurm:
        threads = self._threads() or 1
        # A cluster has its own queue, so all jobs may be submitted at once.
        at_once = self._arguments.at_once or math.inf
        if self._arguments.on != "slurm":
            # Without --gpus, Ray gives a job one GPU if any node has GPUs, and SLURM gives none.
            return Ray(threads=threads, gpus=self._arguments.gpus, at_once=at_once)
        return Slurm(
            folder=self._folder,
            sweep=f"orca-{self._name}",
            threads=threads,
            gpus=self._arguments.gpus or 0.0,
            at_once=at_once,
            time_limit_s=self._time_limit_s,
        )


def runs_root(composed: Composed) -> Path:
    """Return the folder of runs of a composed run."""
    # `compose` always sets it; only the schema allows None.
    return Path(composed.config.paths.runs or "")


def job_report(outcome: Outcome) -> Record:
    """Return a job's report to its driver, which reads the result from the run's folder."""
    path = None if outcome.path is None else str(outcome.path)
    if outcome.failure is None:
        return {"state": outcome.state, "code": outcome.code, "path": path}
    report = process.failure_report(outcome.failure.error, outcome.state, path)
    return report | {"code": outcome.code}


def job_outcome(end: Ended) -> Outcome:
    """Return how a job's run ended, from the job's report or else from its exit status."""
    if not end.report:
        if end.status is None and not end.lost:
            return NOT_STARTED
        return ended_by(_unreported(end))
    state = end.report["state"]
    code = end.report["code"]
    path = None
    if end.report["path"] is not None:
        path = Path(end.report["path"])
    failure = None
    # A completed run may have a failure, for example if its baselines were stopped.
    reported = end.report.get("error")
    if reported is not None:
        # By name: a report is JSON, since nothing from another machine is unpickled.
        kind = getattr(exceptions, reported["kind"], OrcaError)
        error: OrcaError = kind(reported["what"], where=reported["where"], hint=reported["hint"])
        # The driver's own SIGTERM stopped the job; no signal asked the sweep to stop.
        if end.over_limit and state == "interrupted":
            state = "failed"
            error = OrcaError("the run exceeded --time-limit; its state is saved")
        # The exit code of a job may differ from that of its error's class, such as 75 for
        # preemption.
        error.code = code
        failure = Failure(error=error, cause=error)
    result: Record = {}
    if path is not None and state in ("completed", "skipped"):
        # Read from the folder, since a result may be too large for the pipe of the report.
        result = read_or_empty(path / RESULT)
    return Outcome(state=state, code=code, path=path, result=result, failure=failure)


def _unreported(end: Ended) -> OrcaError:
    """Return the error of a job that ended without a report."""
    if end.lost:
        return OrcaError(end.lost)
    if end.over_limit:
        return OrcaError("the run exceeded --time-limit and had to be killed")
    status = end.status or 0
    if status >= 0:
        # The last words may be a traceback, whose last line names the error.
        lines = end.last_words.splitlines() or ["no output"]
        error = OrcaError(f"the process exited with code {status}: {lines[-1]}")
        # An exit with code 0 but without a report is a failure, too.
        error.code = status or 1
        return error
    signal_name = signal.Signals(-status).name
    # The driver passes its own signal on to its jobs.
    if -status != signals.pending():
        cause = ""
        if -status == signal.SIGKILL:
            cause = ", probably because memory ran out"
        return OrcaError(f"the process was killed by {signal_name}{cause}")
    stop = exceptions.InterruptionError(f"the run was stopped by {signal_name} before it began")
    # For example 75 for preemption.
    stop.code = signals.exit_code()
    return stop
