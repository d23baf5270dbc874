"""`orca run -m`: all jobs of a sweep, how each of them ended, and what is printed of it."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orca_cli import compose, experiment, signals, storage, terminal
from orca_cli.commands.summary import Ended, error_text, print_sweep, run_job
from orca_cli.exceptions import OrcaError, SweepError
from orca_cli.launching import processes
from orca_cli.runs import claim

_NOT_STARTED = Ended("not started", 0)
# Imported before the first fork, so that no job has to: reading them takes seconds. None of them computes or looks for a GPU.
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


def run(session: compose.Session, jobs: list[Any], arguments: argparse.Namespace, settings: list[str]) -> Ended:
    """Run all jobs by the launcher that hydra/launcher names, and say how each ended.

    Args:
        session: launches them.
        jobs: composed and checked.
        arguments: the command line.
        settings: of the launcher, beside the command line's.
    """
    terminal.log.info(f"sweep of {len(jobs)} runs")
    root = Path(jobs[0].config.paths.runs)
    storage.check_writable(root)
    sweep = _Sweep(jobs, arguments)
    failure: OrcaError | None = None
    try:
        session.launch([*arguments.overrides, *settings], sweep, root / ".sweeps" / storage.timestamp())
    except SystemExit:
        pass  # a launcher that works in this process was stopped by a signal
    except OrcaError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - launchers are programs of other people
        failure = SweepError(f"the launcher failed: {type(error).__name__}: {error}", where="hydra/launcher")
    outcomes = sweep.outcomes()
    with terminal.lost_output_allowed():
        print_sweep(sweep.labels, _differences([job.overrides for job in jobs]), outcomes)
    if failure is not None:
        raise failure
    signals.check()
    lost = [outcome for outcome in outcomes if outcome.state not in ("completed", "skipped")]
    if lost:
        raise SweepError(
            f"{len(lost)} of {len(jobs)} runs are not completed", where="sweep", hint="mend and repeat the command"
        )
    return Ended("completed", 0)


class _Sweep:
    """The jobs of a sweep and how they ended; a `compose.Sweep`."""

    def __init__(self, jobs: list[Any], arguments: argparse.Namespace) -> None:
        self._jobs, self._arguments = jobs, arguments
        self._ended: list[Ended] = []
        self._process = os.getpid()
        self.labels = [f"[{number}/{len(jobs)}]" for number in range(1, len(jobs) + 1)]

    def run_here(self, job: Any) -> Ended:
        """Run one job in this process, wherever the launcher has put it."""
        given = self._arguments
        outcome = run_job(
            job, force=given.force, allow_inexact=given.allow_inexact_resume, traceback_wanted=given.traceback
        )
        if os.getpid() == self._process and signals.pending():
            raise SystemExit(signals.exit_code())  # the one thing that Hydra's own launcher does not catch
        return outcome

    def in_processes(self, jobs: list[list[str]], at_once: int, time_limit_s: float | None) -> list[Ended]:
        """Run a batch, each job in a process of its own; see `compose.Sweep`."""
        labels = self.labels[len(self._ended) :]
        main = self._arguments.program
        if self._arguments.allow_module:
            main = None  # modules of the user may have computed something while they were imported
        if main is not None:
            _import(_HEAVY)
        commands = [processes.Job(label, self._words(own)) for label, own in zip(labels, jobs, strict=False)]

        def ended(place: int, end: processes.Ended) -> None:
            if end.over_limit or not end.said:
                terminal.print_error(f"{labels[place]} orca: error: {_outcome(end).note}")

        ends = processes.run_all(commands, main=main, at_once=at_once, time_limit_s=time_limit_s, ended=ended)
        outcomes = [_outcome(end) for end in ends]
        self._ended += outcomes
        return outcomes

    def outcomes(self) -> list[Ended]:
        """Return how every job ended; where another launcher ran them, as their records say."""
        if self._ended:
            return [*self._ended, *[_NOT_STARTED] * (len(self._jobs) - len(self._ended))]
        return [_recorded(job) for job in self._jobs]

    def _words(self, overrides: list[str]) -> list[str]:
        """Return the command line of one job."""
        given = self._arguments
        words = ["run", *overrides]
        if given.config_dir is not None:
            words += ["--config-dir", str(given.config_dir)]
        for module in given.allow_module:
            words += ["--allow-module", module]
        flags = ("force", "allow_inexact_resume", "verbose", "quiet", "traceback")
        return words + [f"--{flag.replace('_', '-')}" for flag in flags if getattr(given, flag)]


def _outcome(end: processes.Ended) -> Ended:
    """Return what a job said of itself, or else what its exit status says."""
    if end.status is None:
        return _NOT_STARTED
    if end.said:
        outcome = Ended(**end.said)
        if end.over_limit and outcome.state == "interrupted":
            return Ended("failed", outcome.code, outcome.run, "its time was up (--time-limit); the state is saved")
        return outcome
    if end.over_limit:
        return Ended("failed", 1, note="its time was up (--time-limit), and it did not stop by itself")
    if end.status >= 0:
        return Ended("failed", end.status or 1, note=f"the process ended itself with exit code {end.status}")
    name = signal.Signals(-end.status).name
    if -end.status == signals.pending():
        return Ended("interrupted", signals.exit_code(), note=f"stopped by {name} before it began")
    hint = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return Ended("failed", 1, note=f"the process was ended by {name}{hint}")


def _recorded(job: Any) -> Ended:
    run = claim.look(Path(job.config.paths.runs), experiment.run_name(job))
    if run is None:
        return _NOT_STARTED
    if result := run.result():
        return Ended("completed", 0, run.path.name, error_text(result))
    status = run.status()
    error = status.get("error") or {}
    state = status.get("state")
    if state in ("failed", "interrupted"):
        return Ended(str(state), int(status.get("exit_code") or 1), run.path.name, str(error.get("message", "")))
    return Ended("failed", 1, run.path.name, f"its process ended in the stage {state}, or is still at work")


def _differences(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return what tells each job from the others: the overrides that not all have."""
    common = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [" ".join(text for text in own if text not in common) for own in overrides]


def _import(names: Sequence[str]) -> None:
    import importlib

    for name in names:
        signals.check()
        importlib.import_module(name)
