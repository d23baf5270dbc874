"""`orca tune`: a search for settings on validation data."""

from __future__ import annotations

import argparse
import copy
import functools
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from orca_cli import signals, storage, terminal
from orca_cli.commands.engine import Engine, job_outcome
from orca_cli.commands.options import ALLOW_MODULE, CONFIG_DIR, add_engine, argument
from orca_cli.config.configuration import key_of
from orca_cli.exceptions import DataError, InterruptionError, NonFiniteError, SweepError
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.launching.search import FILE, RULES, Search, Trial, make
from orca_cli.runs import claim
from orca_cli.runs.directory import CURVE, SUMMARY, read_or_empty
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted, percent_or_number

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

EXAMPLES = """\
examples:
  orca tune task=digits trials=20                       the defaults, and 19 trials of the space `small`
  orca tune task=digits trials=20 --at-once 2           two trials at a time; they share the threads
  orca tune task=ecg space=paper_roberta trials=50      the paper's space for text bodies; or a YAML file of yours

Trials are runs without alignment whose test split stays closed; those that fall behind on validation data are stopped early
(ASHA). What is found is written into DIR, else into .tuned below the runs. Typed again, the command goes on where it was
stopped or killed; with more trials it adds to those that are done."""
_FOLDER = ".tuned"  # in the folder of runs: what searches have found
_SETTINGS = "settings, as of `orca run`; space=NAME and trials=N are those of the search"
ARGUMENTS = (
    argument("overrides", nargs="*", metavar="KEY=VALUE", help=_SETTINGS),
    CONFIG_DIR,
    ALLOW_MODULE,
    add_engine,
    argument("-q", "--quiet", action="store_true", help="log warnings only"),
)


def execute(arguments: argparse.Namespace) -> Result:
    """Search, write the settings that are found, and return them."""
    terminal.configure_logging(quiet=arguments.quiet)
    from orca_cli.config import compose

    with signals.deferred(), compose.session(arguments.config_dir) as session:
        search = make(session, arguments.overrides, arguments.config_dir)
        searches, name = search.folder.parent, search.folder.name
        path = (arguments.config_dir or searches.parent / _FOLDER) / "hparams" / f"{name}.yaml"
        storage.check_writable(searches)
        with search.opened():
            done = search.count("completed", "stopped")
            about = f"{counted(search.max_trials, 'trial')} of space={search.space.name}, {done} done; in {search.folder}"
            terminal.log.info(f"search {name}: {about}")
            # The trials' runs are one another's neighbours, below the folder of all runs that jobs elsewhere see.
            engine = Engine(arguments, searches.parent, name, is_quiet=True)
            engine.run(_Trials(search, session, engine), search.max_trials)
            signals.check()
            best, plain = search.best, search.trials[0]
            if best is None or plain.state != "completed":
                what = f"trial 0, with the settings as they are, is not completed: {plain.note or plain.state}"
                raise SweepError(
                    what, where="tune", hint="rerun the command, or give other settings"
                )
            if best is not plain:
                _write(search, best, path)
    named = [f"hparams={path.stem}"] if best is not plain else []
    words = [
        text
        for text in arguments.overrides
        if key_of(text) not in (*RULES, *["hparams"] * len(named))
    ] + named
    if folder := path.parent.parent if named else arguments.config_dir:
        words += ["--config-dir", str(folder)]
    words += [word for module in arguments.allow_module for word in ("--allow-module", module)]
    errors = [percent_or_number(one.error, plain.facts["percent"]) for one in search.trials]
    verdict = f"Validation {plain.facts['error']} on {counted(plain.facts['n'], 'sample')}: {errors[0]} as they are, "
    better = f"{errors[best.number]} in trial {best.number} (likely too low, as the lowest of many); see {path}."
    verdict += better if named else "which no trial beats."
    record = {
        "name": name,
        "space": search.space.name,
        "file": str(search.folder / FILE),
        "trials": [asdict(one) for one in search.trials],
        "best": asdict(best),
        "defaults": plain.error,
        "verdict": verdict,
        "hparams": str(path) if named else None,
        "next": shlex.join(["orca", "run", *words]),
    }
    rows = [
        (f"{one.number}", one.state, error, _settings(one).replace("train.", ""), one.note)
        for one, error in zip(search.trials, errors, strict=True)
    ]
    shown = [
        terminal.table(("trial", "state", "validation", "settings", "note"), rows),
        verdict,
        f"Next: {record['next']}",
    ]
    failures = []
    if lost := search.count("failed"):
        hint = "fix the cause and rerun the command, which tries them again"
        failures.append(SweepError(f"{counted(lost, 'trial')} failed", where="tune", hint=hint))
    return Result({"schema": 1, "search": record}, shown, failures)


def _write(search: Search, best: Trial, path: Path) -> None:
    """Write the best settings as a file of hparams: those that the trials started from, with what was found in them."""
    content = copy.deepcopy(search.before)
    for key, value in (search.fixed | (best.settings or {})).items():
        *parents, last = key.split(".")
        functools.reduce(lambda node, name: node.setdefault(name, {}), parents, content)[last] = (
            value
        )
    about = (
        f"Found by orca tune: trial {best.number} of {len(search.trials)}, on validation data only"
    )
    storage.write_text(
        path, f"# @package _global_\n# {about}\n{yaml.safe_dump(content, sort_keys=False)}"
    )


def _settings(trial: Trial) -> str:
    return (
        " ".join(f"{key}={as_typed(value)}" for key, value in (trial.settings or {}).items())
        or "as they are"
    )


@dataclass
class _Trials:
    """The trials of a search; see `driver.Work`."""

    search: Search
    session: Session
    engine: Engine
    _by_job: dict[str, Trial] = field(default_factory=dict)  # by the identity of the run

    def next(self) -> Job | None:
        """Return the run of the next trial."""
        if (trial := self.search.ask()) is None:
            return None
        terminal.log.info(f"trial {trial.number}: {_settings(trial)}")
        job = self.engine.job(
            f"[trial {trial.number}]", self.session.compose(self.search.overrides(trial.settings))
        )
        self._by_job[job.name.identity] = trial
        return job

    def watch(self, job: Job) -> bool:
        """Return whether a trial falls behind the others, by the curve of its run's first member."""
        if (run := claim.look(job.root, job.name)) is None:
            return False
        summary = read_or_empty(run.stage("build") / SUMMARY)
        steps = summary.get("steps", {}).get("finetune", 0) // summary.get(
            "members", 1
        )  # 0 while unknown
        lines = storage.read_json_lines(run.stage("finetune") / CURVE) if steps else []
        first = [
            line
            for line in lines
            if not line.get("member") and line.get("validation_error") is not None
        ]
        curve = [(line["step"] / steps, line["validation_error"]) for line in first]
        return self.search.is_behind(self._by_job[job.name.identity], curve)

    def ended(self, job: Job, end: Ended) -> None:
        """Tell the search how a trial ended.

        Raises:
            OrcaError: trial 0, with the settings as they are, failed: no other would do better.
        """
        self.watch(job)  # what it wrote since the last look
        trial, outcome = self._by_job.pop(job.name.identity), job_outcome(end)
        error, result = None if outcome.failure is None else outcome.failure.error, outcome.result
        if trial.note or isinstance(
            error, NonFiniteError
        ):  # stopped, or diverged, which no settings can do worse
            run = claim.look(job.root, job.name)
            for folder in () if run is None else run.stage("finetune").glob("*/"):
                storage.remove(folder)  # its weights and what it would resume from
            self.search.end(trial, "stopped", note=trial.note or str(error))
            terminal.log.info(f"trial {trial.number}: {trial.note}")
            return
        if outcome.state == "not started" or isinstance(error, InterruptionError):
            return  # the next command does it again
        if error is None and result["validation_error"] is None:
            error = DataError(
                f"the validation {result['error']['name']} is undefined",
                where=f"trial {trial.number}",
            )
        if error is None:
            facts = {
                "error": result["error"]["name"],
                "percent": result["error"]["percent"],
                "run": result["run_id"],
            }
            facts["n"] = result["selected"].get("n") or result["splits"].get("val", {}).get("n")
            self.search.end(trial, "completed", error=result["validation_error"], facts=facts)
            return
        self.search.end(
            trial,
            "failed",
            note=str(error) if outcome.path is None else f"{error} ({outcome.path})",
        )
        if trial.settings is None:
            raise error
        terminal.print_error(f"trial {trial.number} failed: {error}")
