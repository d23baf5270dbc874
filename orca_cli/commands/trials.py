"""The trials of searches as the jobs of a driver: runs whose test split stays closed, stopped where they fall behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import exceptions, terminal
from orca_cli.commands.engine import Engine, job_outcome
from orca_cli.commands.summary import percent_or_number
from orca_cli.exceptions import InterruptionError, NonFiniteError, OrcaError
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.launching.search import Search, Trial
from orca_cli.launching.search_plan import Plan
from orca_cli.runs.activity import Activity, activity
from orca_cli.runs.directory import RunDirectory
from orca_cli.runs.outcome import Outcome
from orca_cli.runs.settings import as_typed

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session


@dataclass
class Arm:
    """One search of a command.

    Args:
        plan, search: of it.
        folder: for the settings found.
        path: of the file of these settings.
        written: the file holds what was found.
    """

    plan: Plan
    search: Search
    folder: Path
    path: Path
    written: bool = False


@dataclass
class _Running:
    """A trial whose seeds are run one after the other; the first one decides whether it is stopped."""

    arm: Arm
    trial: Trial
    seeds: list[int]
    results: list[Any] = field(default_factory=list)


@dataclass
class Trials:
    """The trials of some searches; see `driver.Work`."""

    arms: list[Arm]
    session: Session
    engine: Engine
    _begun: list[_Running] = field(default_factory=list)  # with a seed to be run
    _by_job: dict[str, _Running] = field(default_factory=dict)  # by the identity of the run

    def next(self) -> Job | None:
        """Return the next run: of a trial that has begun, else of a new one."""
        if self._begun:
            return self._job(self._begun.pop(0))
        for arm in self.arms:
            if (trial := arm.search.ask()) is not None:
                drawn = " ".join(f"{key}={as_typed(value)}" for key, value in (trial.settings or {}).items())
                terminal.log.info(f"{self._name(arm, trial)}: {drawn or 'the settings as they are'}")
                return self._job(_Running(arm, trial, list(arm.plan.seeds)))
        return None

    def _name(self, arm: Arm, trial: Trial) -> str:
        return f"trial {trial.number}" + (f" of metric={arm.plan.arm}" if len(self.arms) > 1 else "")

    def _job(self, running: _Running) -> Job:
        overrides = running.arm.plan.overrides(running.trial.settings, running.seeds[0])
        job = self.engine.job(f"[{self._name(running.arm, running.trial)}]", self.session.compose(overrides))
        self._by_job[job.name.identity] = running
        return job

    def watch(self, job: Job, seen: Activity) -> bool:
        """Return whether a trial falls behind by the curve of its first seed."""
        running = self._by_job[job.name.identity]
        if running.seeds[0] != running.arm.plan.tune.seed or not seen.steps_of_member:
            return False
        lines = (line for line in seen.curve if line.get("validation_error") is not None)
        curve = [(line["step"] / seen.steps_of_member, line["validation_error"]) for line in lines]
        return running.arm.search.is_behind(running.trial, curve)

    def ended(self, job: Job, end: Ended) -> None:
        """Tell the search how a trial ended, or go on with its next seed.

        Raises:
            OrcaError: the settings as they are cannot be run, so that no trial could.
        """
        if (seen := activity(job.root, job.name)) is not None:
            self.watch(job, seen)  # what it wrote since the last look
        running, outcome = self._by_job.pop(job.name.identity), job_outcome(end)
        search, trial, name = running.arm.search, running.trial, self._name(running.arm, running.trial)
        error = None if outcome.failure is None else outcome.failure.error
        if trial.note or isinstance(error, NonFiniteError):  # the latter is as bad as settings can be
            trial.note = trial.note or str(error)
            if seen is not None:
                RunDirectory(seen.path, job.name).drop_weights()
            search.tell(trial, None, _trial_facts(running.results))
            terminal.log.info(f"{name}: {trial.note}")
            return
        if outcome.state == "not started" or isinstance(error, InterruptionError):
            return  # the next command does it again
        if error is None and outcome.result["validation_error"] is None:
            error = exceptions.DataError(f"the validation {outcome.result['error']['name']} is undefined", where=name)
        if error is not None:
            self._fail(running, error, outcome, name)
            return
        running.results.append(outcome.result)
        running.seeds.pop(0)
        if running.seeds:
            self._begun.append(running)
            return
        value = sum(float(result["validation_error"]) for result in running.results) / len(running.results)
        facts = _trial_facts(running.results)
        search.tell(trial, value, facts)
        text = f"validation {facts['error']} {percent_or_number(value, facts['percent'])} in {facts['seconds']:.0f} s"
        terminal.log.info(f"{name}: {text}")

    def _fail(self, running: _Running, error: OrcaError, outcome: Outcome, name: str) -> None:
        where = "" if outcome.path is None else f" ({outcome.path})"
        running.arm.search.fail(running.trial, f"{error}{where}")
        if running.trial.settings is None:
            raise error
        terminal.print_error(f"{name} failed: {error}")
        if isinstance(error, exceptions.MemoryExhaustedError):
            terminal.log.info("a smaller batch needs less memory; trials that fail are tried again by the next command")


def _trial_facts(results: list[Any]) -> dict[str, Any]:
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
