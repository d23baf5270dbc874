"""`orca tune`: a search for settings on validation data."""

from __future__ import annotations

import argparse
import copy
import functools
import shlex
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import RenderableType
from rich.text import Text

from orca_cli import exceptions, signals, storage, terminal
from orca_cli.commands.engine import Engine, job_outcome
from orca_cli.commands.options import add_allow_module, add_config_dir, add_engine
from orca_cli.config import configuration, ranges
from orca_cli.config.configuration import key_of
from orca_cli.config.schema import Tune
from orca_cli.exceptions import ConfigError, InterruptionError, NonFiniteError, SweepError
from orca_cli.launching import search_plan as plans
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.launching.search import FILE, Search, Trial, check_installed
from orca_cli.runs.claim import Activity, activity
from orca_cli.runs.directory import RunDirectory
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted, percent_or_number

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

EXAMPLES = """\
examples:
  orca tune task=digits trials=20                       the defaults, and 19 trials of the space `small`
  orca tune task=digits trials=20 --at-once 2           two trials at a time; they share the threads
  orca tune task=ecg space=paper_roberta trials=50      the paper's space for text bodies; or a YAML file of yours
  orca tune task=digits trials=20 seeds=3               a trial is the mean over three seeds

Trials are runs without alignment whose test split stays closed; those that fall behind on validation data are stopped early
(ASHA). Typed again, the command goes on where it was stopped or killed; with more trials it adds to those that are done.

settings of the search:
""" + "\n".join(f"  {f'{key}={getattr(Tune(), key)}':<13}{ranges.meaning(hint)}" for key, hint in plans.RULES.items())
_FOLDER = ".tuned"  # in the folder of runs: what searches have found
_OURS = "Found by orca tune"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    text = f"settings, as of `orca run`; {', '.join(plans.RULES)} are those of the search"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    add_config_dir(parser, "space/x.yaml, ...; what is found is written there, else into .tuned below the runs")
    add_allow_module(parser)
    add_engine(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")


def execute(arguments: argparse.Namespace) -> Result:
    """Search, write the settings that are found, and return them."""
    terminal.configure_logging(quiet=arguments.quiet)
    from orca_cli.config import compose

    check_installed()
    with signals.deferred(), compose.session(arguments.config_dir) as session:
        plan = plans.make(session, arguments.overrides, arguments.config_dir)
        name, searches, trials = plan.folder.name, plan.folder.parent, plan.tune.trials
        place = hparams_path(arguments.config_dir or searches.parent / _FOLDER, plan.run)
        search = Search(plan.folder, plan.space, plan.tune)
        storage.check_writable(searches)
        with search.opened():
            done = search.count("completed", "stopped")
            about = f"{counted(trials, 'trial')} of space={plan.space.name}, {done} done; in {plan.folder}"
            terminal.log.info(f"search {name}: {about}")
            # The trials' runs are one another's neighbours, below the folder of all runs that jobs elsewhere see.
            engine = Engine(arguments, searches.parent, name, is_quiet=True)
            engine.run(_Trials(plan, search, session, engine), trials)
            signals.check()
            path = place if _keep(plan, search, place) else None
    best, plain = search.best, search.defaults
    facts: dict[str, Any] = next((one.facts for one in search.trials if "error" in one.facts), {})
    verdict = _verdict(search, facts, path)
    record = {
        "name": name,
        "space": plan.space.name,
        "file": str(plan.folder / FILE),
        "runs": str(plan.folder / "runs"),
        "error": facts.get("error"),
        "validation_samples": facts.get("n"),
        "trials": [asdict(one) for one in search.trials],
        "best": None if best is None else asdict(best),
        "defaults": None if plain is None else plain.error,
        "verdict": verdict,
        "hparams": None if path is None else str(path),
        "next": _next_command(arguments, path),
    }
    shown = [_table(search), Text(verdict, style="bold"), *[f"Next: {record['next']}"] * (best is not None)]
    failures = []
    if lost := search.count("failed"):
        hint = "fix the cause and rerun the command, which tries them again"
        failures.append(SweepError(f"{counted(lost, 'trial')} failed", where="tune", hint=hint))
    return Result({"schema": 1, "search": record}, shown, failures)


def hparams_path(folder: Path, name: str) -> Path:
    """Return where the settings that a search finds go in the user's folder of settings.

    Raises:
        ConfigError: a file is there that no search wrote.
    """
    path = folder / "hparams" / f"{name}.yaml"
    if path.exists() and not configuration.description(path).startswith(_OURS):
        hint = "move it, or give another --config-dir"
        raise ConfigError("was not written by a search", where=str(path), hint=hint)
    return path


def _keep(plan: plans.Plan, search: Search, path: Path) -> bool:
    """Write the best settings where they beat the settings as they are; returns whether they do."""
    best = search.best
    if best is None or best.settings is None or search.defaults is None:
        return False
    # Start from the settings that the trials used; what was found replaces their values.
    content = copy.deepcopy(plan.before)
    for key, value in (plan.fixed | best.settings).items():
        *parents, last = key.split(".")
        functools.reduce(lambda node, name: node.setdefault(name, {}), parents, content)[last] = value
    storage.make_folder(path.parent)
    about = f"search {plan.folder.name}, trial {best.number} of {len(search.trials)}, on validation data only"
    storage.write_text(path, f"# @package _global_\n# {_OURS}: {about}\n{yaml.safe_dump(content, sort_keys=False)}")
    return True


def _table(search: Search) -> RenderableType:
    rows = []
    for one in search.trials:
        style = "bold" if one is search.best else "red" if one.state == "failed" else ""
        error = "" if one.error is None else percent_or_number(one.error, one.facts.get("percent", True))
        cells = str(one.number), one.state, error, _settings_of(one).replace("train.", ""), one.note
        rows.append([Text(cell, style=style) for cell in cells])
    return terminal.table(("trial", "state", "validation", "settings", "note"), rows)


def _settings_of(trial: Trial) -> str:
    return " ".join(f"{key}={as_typed(value)}" for key, value in (trial.settings or {}).items()) or "as they are"


def _verdict(search: Search, facts: dict[str, Any], path: Path | None) -> str:
    """Return in a sentence whether the search was worth it; `path` is where settings were written."""
    best, plain = search.best, search.defaults
    if best is None or plain is None:
        return "Nothing can be said before the settings as they are have run (trial 0)."
    on = f"validation {facts['error']} on {counted(facts['n'], 'sample')}"
    lowest, usual = (percent_or_number(trial.error, bool(facts.get("percent"))) for trial in (best, plain))
    if path is None:
        return f"No trial beats the settings as they are: {on} {usual}."
    return (
        f"Best: trial {best.number}, {on} {lowest}, with the settings as they are {usual} (likely too low, as the lowest of "
        f"many; the test error tells). Written to {path}."
    )


def _next_command(arguments: argparse.Namespace, path: Path | None) -> str:
    """Return the command of a run with the settings that were written, or else with those that were typed."""
    replaced = {*plans.RULES, *(["hparams"] if path else [])}
    words = [text for text in arguments.overrides if key_of(text) not in replaced]
    words += [f"hparams={path.stem}"] if path else []
    if folder := path.parent.parent if path else arguments.config_dir:
        words += ["--config-dir", str(folder)]
    words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
    return shlex.join(["orca", "run", *words])


@dataclass
class _Trials:
    """The trials of a search, whose seeds run one after the other; see `driver.Work`."""

    plan: plans.Plan
    search: Search
    session: Session
    engine: Engine
    _begun: list[Trial] = field(default_factory=list)  # with a seed to be run
    _by_job: dict[str, Trial] = field(default_factory=dict)  # by the identity of the run
    _results: dict[int, list[Any]] = field(default_factory=lambda: defaultdict(list))  # number -> of the seeds so far

    def next(self) -> Job | None:
        """Return the next run: of a trial that has begun, else of a new one."""
        if not self._begun:
            if (drawn := self.search.ask()) is None:
                return None
            terminal.log.info(f"trial {drawn.number}: {_settings_of(drawn)}")
            self._begun.append(drawn)
        trial = self._begun.pop(0)
        seed = self.plan.tune.seed + len(self._results[trial.number])
        composed = self.session.compose(self.plan.overrides(trial.settings, seed))
        job = self.engine.job(f"[trial {trial.number}]", composed)
        self._by_job[job.name.identity] = trial
        return job

    def watch(self, job: Job, seen: Activity) -> bool:
        """Return whether a trial falls behind the others, by the curve of its first seed."""
        trial = self._by_job[job.name.identity]
        if self._results[trial.number] or not seen.steps_of_member:
            return False
        lines = (line for line in seen.curve if line.get("validation_error") is not None)
        curve = [(line["step"] / seen.steps_of_member, line["validation_error"]) for line in lines]
        return self.search.is_behind(trial, curve)

    def ended(self, job: Job, end: Ended) -> None:
        """Tell the search how a trial ended, or go on with its next seed.

        Raises:
            OrcaError: trial 0, with the settings as they are, failed: no other would do better.
        """
        if (seen := activity(job.root, job.name)) is not None:
            self.watch(job, seen)  # what it wrote since the last look
        trial, outcome = self._by_job.pop(job.name.identity), job_outcome(end)
        name, results = f"trial {trial.number}", self._results[trial.number]
        error = None if outcome.failure is None else outcome.failure.error
        if trial.note or isinstance(error, NonFiniteError):  # stopped, or diverged, which no settings can do worse
            trial.note = trial.note or str(error)
            if seen is not None:
                RunDirectory(seen.path, job.name).drop_weights()
            self.search.tell(trial, None, _trial_facts(results))
            terminal.log.info(f"{name}: {trial.note}")
            return
        if outcome.state == "not started" or isinstance(error, InterruptionError):
            return  # the next command does it again
        if error is None and outcome.result["validation_error"] is None:
            error = exceptions.DataError(f"the validation {outcome.result['error']['name']} is undefined", where=name)
        if error is not None:
            self.search.fail(trial, str(error) if outcome.path is None else f"{error} ({outcome.path})")
            if trial.settings is None:
                raise error
            terminal.print_error(f"{name} failed: {error}")
            return
        results.append(outcome.result)
        if len(results) < self.plan.tune.seeds:
            self._begun.append(trial)
            return
        facts = _trial_facts(results)
        value = sum(facts["errors"]) / len(results)
        self.search.tell(trial, value, facts)
        shown = percent_or_number(value, facts["percent"])
        terminal.log.info(f"{name}: validation {facts['error']} {shown} in {facts['seconds']:.0f} s")


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
