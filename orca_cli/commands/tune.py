"""`orca tune`: a search for settings on validation data, and `orca run tune=asha`, which searches before it runs."""

from __future__ import annotations

import argparse
import copy
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import RenderableType
from rich.text import Text

from orca_cli import exceptions, signals, storage, terminal
from orca_cli.commands.engine import Engine, job_outcome
from orca_cli.commands.options import add_allow_module, add_config_dir, add_engine, check_engine
from orca_cli.commands.summary import percent_or_number
from orca_cli.config import configuration
from orca_cli.config.schema import Tune
from orca_cli.exceptions import ConfigError, InterruptionError, NonFiniteError, OrcaError, SweepError
from orca_cli.launching import search_plan as plans
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.launching.search import FILE, Search, Trial, check_installed
from orca_cli.runs.claim import Activity, activity
from orca_cli.runs.directory import RunDirectory
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Composed, Session

EXAMPLES = """\
examples:
  orca tune task=digits trials=20                       the defaults, and 19 trials of the space `small`
  orca tune task=digits trials=20 --at-once 2           two trials at a time; they share the threads
  orca tune task=ecg space=paper_roberta trials=50      the paper's space for text bodies; or a YAML file of yours
  orca tune task=digits trials=20 seeds=3               a trial is the mean over three seeds
  orca tune task=digits metric=none,otdd per_arm=true   a search for each metric, with as many trials
  orca run tune=asha task=digits metric=otdd            the search without alignment, then the run with what it found

Trials are runs whose test split stays closed; those that fall behind on validation data are stopped early (ASHA). Typed again,
the command goes on where it was stopped or killed; with more trials it adds to those that are done."""
_FOLDER = ".tuned"  # in the folder of runs: what searches have found
_OURS = "Found by orca tune"
_SHORT = tuple(name for name in vars(Tune()) if name != "algorithm")  # settings that `orca tune` takes without `tune.`


@dataclass
class _Arm:
    """One search of a command, and where the settings that it finds go."""

    plan: plans.Plan
    search: Search
    path: Path  # DIR/hparams/NAME.yaml
    is_written: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Search for settings on validation data: ASHA, as in the paper's Appendix A.3.3."
    text = f"settings, as of `orca run`; {', '.join(_SHORT)} are those of the search"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    add_config_dir(parser, "space/x.yaml, ...; what is found is written there, else into .tuned below the runs")
    add_allow_module(parser)
    add_engine(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")


def execute(arguments: argparse.Namespace) -> Result:
    """Search, and return what was found."""
    check_engine(arguments)
    terminal.configure_logging(quiet=arguments.quiet)
    from orca_cli.config import compose

    with signals.deferred(), compose.session(arguments.config_dir) as session:
        # What is `trials=20` here is `tune.trials=20` for `orca run`.
        words = [f"tune.{text}" if text.partition("=")[0] in _SHORT else text for text in arguments.overrides]
        words = [word for word in words if word.partition("=")[0] not in ("tune", "tune.algorithm")]
        arms = _search(session, [*words, "tune=asha"], arguments)
        failures: list[OrcaError] = []
        if lost := sum(arm.search.count("failed") for arm in arms):
            hint = "fix the cause and rerun the command, which tries them again"
            failures.append(SweepError(f"{counted(lost, 'trial')} failed", where="tune", hint=hint))
        renderables = [thing for arm in arms for thing in shown(arm)]
        searches = [_record(arm) | {"next": _next_command(arm, arguments)} for arm in arms]
        renderables += [f"Next: {search['next']}" for search in searches if search["best"] is not None]
        return Result({"schema": 1, "searches": searches}, renderables, failures)


def tuned(session: Session, arguments: argparse.Namespace) -> Composed:
    """Search as the settings of `orca run tune=asha` say, and return the run with the best settings.

    In the paper the search comes after stage 1, here before it. The result is the same: a trial's stage 1 depends on
    nothing but its seed and settings.

    Raises:
        InterruptionError: a signal asked to stop; the search goes on when the command is typed again.
        OrcaError: nothing was found, since the settings as they are cannot be run.
    """
    (arm,) = _search(session, arguments.overrides, arguments)
    with terminal.lost_output_allowed():
        terminal.print_result(*shown(arm))
    best = arm.search.best
    if best is None or best.settings is None:
        return session.compose(arguments.overrides)
    return session.compose(plans.applied(arguments.overrides, arm.plan, best.settings))


def _search(session: Session, overrides: Sequence[str], arguments: argparse.Namespace) -> list[_Arm]:
    """Run the searches that overrides ask for, and write the settings that they find."""
    check_installed()
    arms = []
    for plan in plans.make(session, overrides, arguments.config_dir):
        folder = arguments.config_dir or plan.folder.parent.parent / _FOLDER
        path = hparams_path(folder, f"{plan.run}-{plan.arm}" if plan.tune.per_arm else plan.run)
        arms.append(_Arm(plan, Search(plan.name, plan.folder, plan.space, plan.tune), path))
    storage.check_writable(arms[0].plan.folder.parent)
    with ExitStack() as stack:
        for arm in arms:
            stack.enter_context(arm.search.opened())
            done, tune = arm.search.count("completed", "stopped"), arm.plan.tune
            about = f"{counted(tune.trials, 'trial')} of space={arm.plan.space.name}, {done} done; in {arm.plan.folder}"
            terminal.log.info(f"search {arm.plan.name}: {about}")
        # The trials' runs are one another's neighbours, below the folder of all runs that jobs elsewhere see.
        engine = Engine(arguments, arms[0].plan.folder.parent.parent, arms[0].plan.name, is_quiet=True)
        engine.run(_Trials(arms, session, engine), sum(arm.plan.tune.trials for arm in arms))
        signals.check()
        for arm in arms:
            _keep(arm)
    return arms


def _keep(arm: _Arm) -> None:
    """Write the best settings, where they beat the settings as they are."""
    best = arm.search.best
    if best is None or best.settings is None or arm.search.defaults is None:
        return
    # Start from the settings that the trials used; what was found replaces their values.
    content = copy.deepcopy(arm.plan.before)
    for key, value in arm.plan.run_settings(best.settings).items():
        *parents, last = key.split(".")
        node = content
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    storage.make_folder(arm.path.parent)
    about = f"search {arm.plan.name}, trial {best.number} of {len(arm.search.trials)}, on validation data only"
    storage.write_text(arm.path, f"# @package _global_\n# {_OURS}: {about}\n{yaml.safe_dump(content, sort_keys=False)}")
    arm.is_written = True


def hparams_path(folder: Path, name: str) -> Path:
    """Return where the settings that a search finds go in the user's folder of settings.

    Raises:
        ConfigError: a file is there that no search wrote, or the program has settings of that name.
    """
    path = folder / "hparams" / f"{name}.yaml"
    if name in configuration.choices("hparams"):
        raise ConfigError(f"the program has its own '{name}'", where=str(path), hint="give your task another name")
    if path.exists() and not configuration.description(path).startswith(_OURS):
        hint = "move it, or give another --config-dir"
        raise ConfigError("was not written by a search", where=str(path), hint=hint)
    return path


def shown(arm: _Arm) -> Iterator[RenderableType]:
    """Yield the table and the verdict of a search."""
    keys, state = list(arm.plan.space.params), arm.search
    rows = []
    for one in state.trials:
        style = "bold" if one is state.best else "red" if one.state == "failed" else ""
        error = "" if one.error is None else percent_or_number(one.error, one.facts.get("percent", True))
        drawn = ["as they are", *[""] * (len(keys) - 1)]
        if one.settings is not None:
            drawn = [as_typed(one.settings.get(key)) for key in keys]
        rows.append([Text(cell, style=style) for cell in (str(one.number), one.state, error, *drawn, one.note)])
    yield terminal.table(("trial", "state", "validation", *(key.removeprefix("train.") for key in keys), "note"), rows)
    yield Text(_verdict(arm), style="bold")


def _facts(state: Search) -> dict[str, Any]:
    return next((one.facts for one in state.trials if "error" in one.facts), {})


def _verdict(arm: _Arm) -> str:
    """Return in a sentence whether the search was worth it."""
    state = arm.search
    best, plain, facts = state.best, state.defaults, _facts(state)
    if best is None or best.error is None or plain is None or plain.error is None:
        return "Nothing can be said before the settings as they are have run (trial 0)."
    on = f"validation {facts['error']} on {counted(facts['n'], 'sample')}"
    lowest, usual = (percent_or_number(trial.error, bool(facts.get("percent"))) for trial in (best, plain))
    if best.settings is None:
        return f"No trial beats the settings as they are: {on} {usual}."
    return (
        f"Best: trial {best.number}, {on} {lowest}, with the settings as they are {usual} (likely too low, as the lowest of "
        f"many; the test error tells). Written to {arm.path}."
    )


def _next_command(arm: _Arm, arguments: argparse.Namespace) -> str:
    """Return the command of a run with the settings that were written, or else with those that were typed."""
    rest = plans.without(arguments.overrides, *_SHORT, "tune", *(["hparams"] if arm.is_written else []))
    if arm.plan.tune.per_arm:
        rest = [*(text for text in rest if not text.startswith("metric=")), f"metric={arm.plan.arm}"]
    folder = arm.path.parent.parent if arm.is_written else arguments.config_dir
    rest += [f"hparams={arm.path.stem}"] if arm.is_written else []
    rest += [] if folder is None else ["--config-dir", str(folder)]
    rest += [word for module in arguments.allow_module for word in ("--allow-module", module)]
    return shlex.join(["orca", "run", *rest])


def _record(arm: _Arm) -> dict[str, Any]:
    state = arm.search
    best, plain = state.best, state.defaults
    return {
        "name": arm.plan.name,
        "arm": arm.plan.arm,
        "space": arm.plan.space.name,
        "file": str(arm.plan.folder / FILE),
        "runs": str(arm.plan.folder / "runs"),
        "error": _facts(state).get("error"),
        "validation_samples": _facts(state).get("n"),
        "trials": [one.record() for one in state.trials],
        "best": None if best is None else best.record(),
        "defaults": None if plain is None else plain.error,
        "verdict": _verdict(arm),
        "hparams": str(arm.path) if arm.is_written else None,
    }


@dataclass
class _Running:
    """A trial, whose seeds run one after the other; the curve of the first decides whether the trial is stopped."""

    arm: _Arm
    trial: Trial
    seeds: list[int]
    results: list[Any] = field(default_factory=list)


@dataclass
class _Trials:
    """The trials of some searches; see `driver.Work`."""

    arms: list[_Arm]
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

    def _name(self, arm: _Arm, trial: Trial) -> str:
        return f"trial {trial.number}" + (f" of metric={arm.plan.arm}" if len(self.arms) > 1 else "")

    def _job(self, running: _Running) -> Job:
        overrides = running.arm.plan.overrides(running.trial.settings, running.seeds[0])
        job = self.engine.job(f"[{self._name(running.arm, running.trial)}]", self.session.compose(overrides))
        self._by_job[job.name.identity] = running
        return job

    def watch(self, job: Job, seen: Activity) -> bool:
        """Return whether a trial falls behind the others, by the curve of its first seed."""
        running = self._by_job[job.name.identity]
        if running.seeds[0] != running.arm.plan.tune.seed or not seen.steps_of_member:
            return False
        lines = (line for line in seen.curve if line.get("validation_error") is not None)
        curve = [(line["step"] / seen.steps_of_member, line["validation_error"]) for line in lines]
        return running.arm.search.is_behind(running.trial, curve)

    def ended(self, job: Job, end: Ended) -> None:
        """Tell the search how a trial ended, or go on with its next seed.

        Raises:
            OrcaError: trial 0, with the settings as they are, failed: no other would do better.
        """
        if (seen := activity(job.root, job.name)) is not None:
            self.watch(job, seen)  # what it wrote since the last look
        running, outcome = self._by_job.pop(job.name.identity), job_outcome(end)
        search, trial, name = running.arm.search, running.trial, self._name(running.arm, running.trial)
        error = None if outcome.failure is None else outcome.failure.error
        if trial.note or isinstance(error, NonFiniteError):  # stopped, or diverged, which no settings can do worse
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
            search.fail(trial, str(error) if outcome.path is None else f"{error} ({outcome.path})")
            if trial.settings is None:
                raise error
            terminal.print_error(f"{name} failed: {error}")
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
