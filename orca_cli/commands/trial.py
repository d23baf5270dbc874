"""The trials of a search: a worker that takes one after the other, and one run of a trial in a process of its own."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orca_cli import exceptions, experiment, signals, terminal
from orca_cli.commands.job import message, outcome_of, print_traceback, program_to_fork
from orca_cli.commands.options import forwarded
from orca_cli.commands.summary import percent_or_number
from orca_cli.exceptions import InterruptionError, MemoryExhaustedError, NonFiniteError, OrcaError, PrunedError
from orca_cli.launching import processes
from orca_cli.outcome import Outcome, ended_by
from orca_cli.runs.directory import RunDirectory
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result
from orca_cli.tracking.pruning import Pruning
from orca_cli.tuning.plan import Plan
from orca_cli.tuning.search import Search, Trial, TrialJudge
from orca_cli.tuning.space import Space
from orca_cli.tuning.trials import VARIABLE

OPTION = "--trial"
_LOOK_EVERY_S = 2.0


def work(plan: Plan, search: Search, arguments: argparse.Namespace, *, wait: bool = False) -> None:
    """Take trials and run them, until there are none left or a signal asks to stop.

    Args:
        plan, search: of the search.
        arguments: the command line.
        wait: until the trials of other workers have ended too; those of workers that die are taken over.

    Raises:
        OrcaError: the settings as they are cannot be run, so that no trial could.
    """
    main = program_to_fork(arguments)
    with search.worker(), _told_to_jobs(search.address):
        while not signals.pending():
            trial = search.take()
            if trial is not None:
                _run(trial, plan, search, arguments, main)
            elif wait and not search.is_finished():
                time.sleep(_LOOK_EVERY_S)
            else:
                break


@contextmanager
def _told_to_jobs(address: str) -> Iterator[None]:
    """Tell the processes of trials the storage; not on a command line, where everybody could read a password."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = address
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def _run(trial: Trial, plan: Plan, search: Search, arguments: argparse.Namespace, main: processes.Main | None) -> None:
    """Run all seeds of a trial, and tell the search how it ended."""
    name = f"trial {trial.number}"
    drawn = " ".join(f"{key}={as_typed(value)}" for key, value in (trial.settings or {}).items())
    terminal.log.info(f"{name}: {drawn or 'the settings as they are'}")
    results: list[Mapping[str, Any]] = []
    stopped: str = trial.stopped
    for seed in plan.seeds if not stopped else ():
        decides = seed == plan.tune.seed and trial.settings is not None
        words = ["tune", *plan.overrides(trial.settings, seed), *forwarded(arguments, "verbose", "traceback")]
        words += [OPTION, search.name, str(trial.number), str(int(decides))]
        (end,) = processes.run_all([processes.Job(f"[{name}]", words)], main=main)
        outcome = outcome_of(end)
        error = None if outcome.failure is None else outcome.failure.error
        if isinstance(error, PrunedError):
            stopped = error.what
            break
        if end.status is None or isinstance(error, InterruptionError):
            search.give_back(trial)
            return
        if isinstance(error, NonFiniteError):  # as bad as a setting can be
            stopped = str(error)
            break
        if error is not None:
            _failed(trial, search, error, outcome)
            return
        if outcome.result["validation_error"] is None:
            what = f"the validation {outcome.result['error']['name']} is undefined"
            _failed(trial, search, exceptions.DataError(what, where=name), outcome)
            return
        results.append(outcome.result)
    facts = _facts(results)
    if stopped:
        search.tell(trial, "PRUNED", facts | {"why": stopped})
        terminal.log.info(f"{name}: {stopped}")
        return
    value = sum(float(result["validation_error"]) for result in results) / len(results)
    search.tell(trial, "COMPLETE", facts, value)
    shown = percent_or_number(value, facts["percent"])
    terminal.log.info(f"{name}: validation {facts['error']} {shown} in {facts['seconds']:.0f} s")


def _failed(trial: Trial, search: Search, error: OrcaError, outcome: Outcome) -> None:
    where = "" if outcome.path is None else f" ({outcome.path})"
    search.tell(trial, "FAIL", {"why": f"{error}{where}"})
    if trial.settings is None:
        raise error
    terminal.print_error(f"trial {trial.number} failed: {error}")
    if isinstance(error, MemoryExhaustedError):
        terminal.log.info("a smaller batch needs less memory; trials that fail are tried again by the next command")


def _facts(results: list[Mapping[str, Any]]) -> dict[str, Any]:
    if not results:
        return {}
    first = results[0]
    judged = first["selected"].get("n") or first["splits"].get("val", {}).get("n")
    return {
        "error": first["error"]["name"],
        "percent": first["error"]["percent"],
        "n": judged,
        "seconds": round(sum(sum(result["seconds"].values()) for result in results), 1),
        "errors": [result["validation_error"] for result in results],
        "runs": [result["run_id"] for result in results],
    }


def execute(arguments: argparse.Namespace) -> Result:
    """Run one seed of a trial, as a job of a worker, and report how it ended."""
    place = processes.Place.read(arguments.job)
    processes.end_with_parent(place.parent)
    terminal.configure_logging(verbose=arguments.verbose, quiet=True, prefix=f"{place.label} ", bars=False)
    with signals.deferred(insistent=False):
        try:
            outcome = _trained(arguments)
        except OrcaError as error:
            outcome = ended_by(error)
        if outcome.failure is not None and not isinstance(outcome.failure.error, PrunedError):
            print_traceback(arguments, outcome.failure.cause)
    processes.say(place.pipe, message(outcome))
    return Result({}, code=outcome.code)


def _trained(arguments: argparse.Namespace) -> Outcome:
    from orca_cli import compose

    name, number, decides = arguments.trial
    with compose.session(arguments.config_dir) as session:
        job = session.compose(arguments.overrides)
    folder = Path(job.config.paths.runs or "").parent
    search = Search(name, os.environ[VARIABLE], folder, Space("", {}, {}, {}), job.config.tune)
    judge = TrialJudge(search, int(number), may_stop=decides == "1")
    pruning = Pruning(judge, search.most)

    def built(summary: experiment.Summary) -> None:
        pruning.total = summary["steps"]["finetune"] // summary["members"]

    first = job.config.seed == job.config.tune.seed
    with judge.leased():
        outcome = experiment.run(job, on_build=built, recorders=[pruning] if first else [])
    is_over = outcome.failure is None or isinstance(outcome.failure.error, PrunedError)
    if outcome.path is not None and is_over:  # settings are wanted, not models: those of twenty trials can fill a disk
        RunDirectory(outcome.path, experiment.run_name(job)).drop_weights()
    return outcome
