"""`orca tune`: a search for settings on validation data."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from orca_cli import signals, storage, terminal
from orca_cli.commands.jobs import JobRunner, job_outcome
from orca_cli.commands.options import (
    ALLOW_MODULE,
    CONFIG_DIR,
    add_job_options,
    argument,
    own_code_words,
)
from orca_cli.commands.summary import run_result
from orca_cli.commands.sweep import SweepWork
from orca_cli.exceptions import (
    ConfigError,
    DataError,
    InterruptionError,
    NonFiniteError,
    OrcaError,
    SweepError,
)
from orca_cli.launching.driver import Job
from orca_cli.launching.process import Ended
from orca_cli.launching.search import FILE, Search, Trial, make
from orca_cli.runs import claim
from orca_cli.runs.directory import CURVE, SUMMARY, read_or_empty
from orca_cli.runs.settings import as_typed
from orca_cli.terminal import Result, counted, percent_or_number

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

EXAMPLES = """\
examples:
  orca tune task=arrays task.kind=classes task.train=my.npz   \
which recipe suits your data, in 10 minutes
  orca tune task=digits minutes=30 --at-once 2           \
three times as long; two trials at a time, which share the threads
  orca tune task=digits space=small trials=20           \
the settings as they are, and 19 trials of another space
  orca tune task=ecg space=paper_roberta trials=50 metric=none      \
the paper's space for text bodies; or a YAML file of yours

Trials are runs whose test split stays closed; those that fall behind on validation data are \
stopped early (ASHA). Then the best settings are run as `orca run` runs them. Typed again, the \
command goes on where it was stopped or killed; with more minutes or trials it adds to those that \
are done."""
ARGUMENTS = (
    argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings, as of `orca run`; space=NAME, minutes=M and trials=N are those of the "
        "search",
    ),
    CONFIG_DIR,
    ALLOW_MODULE,
    add_job_options,
    argument("-q", "--quiet", action="store_true", help="log warnings only"),
)
# Starts the lines of the run that follows the trials.
_LAST = "[best]"


def execute(arguments: argparse.Namespace) -> Result:
    """Search, run the best settings, and return both."""
    terminal.configure_logging(quiet=arguments.quiet)
    from orca_cli.config import compose

    # Open for the whole search: a trial is composed when it is drawn.
    with signals.deferred(), compose.session(arguments.config_dir) as session:
        search = make(session, arguments.overrides, arguments.config_dir)
        searches = search.folder.parent
        storage.check_writable(searches)
        # The trials' runs are one another's neighbours, below the folder of all runs that jobs
        # elsewhere see.
        runner = JobRunner(arguments, searches.parent, search.folder.name, is_quiet=True)
        best, shrunk_text = _search(search, session, runner)
        terminal.log.info(f"{_LAST} {_settings_text(best)}")
        last_job = session.compose(search.overrides(best.settings))
        # A job as those of a sweep: not started if an earlier command has completed it.
        last = SweepWork(runner=runner, waiting=iter([(_LAST, last_job)]), is_forced=False)
        runner.run(last, 1)
        signals.check()
    outcome = last.outcomes[_LAST]
    if outcome.state == "skipped":
        # Shown like a run that was completed just now.
        outcome = replace(outcome, state="completed")
    end = run_result(outcome, alone=True, pictured=not arguments.quiet)
    # Trial 0 is completed, or `_search` would have raised an error, so that it has facts.
    is_percent = search.trials[0].facts["percent"]
    errors = [percent_or_number(trial.error, is_percent) for trial in search.trials]
    verdict = _verdict(search, best, errors)
    words = ["orca", "run", *search.overrides(best.settings)]
    words += own_code_words(arguments.config_dir, arguments.allow_module)
    command = shlex.join(words)
    record = {
        "name": search.folder.name,
        "space": search.space.name,
        "file": str(search.folder / FILE),
        "trials": [asdict(trial) for trial in search.trials],
        "best": asdict(best),
        "defaults": search.trials[0].error,
        "verdict": verdict,
        "shrunk": shrunk_text,
        "command": command,
    }
    shown = [_trials_table(search, errors), verdict]
    if shrunk_text:
        shown.append(shrunk_text)
    shown += [f"As typed: {command}", "", *end.shown]
    failures = [*end.failures, *_failures(search)]
    return Result({**end.record, "search": record}, shown, failures, end.code)


def _failures(search: Search) -> Iterator[OrcaError]:
    """Yield the error of a search with trials that failed."""
    failed_count = search.count("failed")
    if failed_count:
        message = f"{counted(failed_count, 'trial')} failed"
        hint = "fix the cause and rerun the command, which tries them again"
        yield SweepError(message, where="tune", hint=hint)


def _search(search: Search, session: Session, runner: JobRunner) -> tuple[Trial, str]:
    """Run the trials that are not done yet.

    Returns:
        the best trial, which may be trial 0, with the settings as they are; how the time has cut
        the search short, or "".

    Raises:
        SweepError: trial 0 is not completed.
    """
    with search.opened():
        trials_text = counted(search.max_trials, "trial")
        done_count = search.count("completed", "stopped")
        terminal.log.info(
            f"search {search.folder.name}: {trials_text} of space={search.space.name}, "
            f"{done_count} done; in {search.folder}"
        )
        runner.run(_Trials(search=search, session=session, runner=runner), search.max_trials)
        # After a signal nothing is chosen, since the search is not over.
        signals.check()
        best = search.best
        plain = search.trials[0]
        # Every trial is compared with trial 0. Without its error nothing can be called better.
        if best is None or plain.state != "completed":
            reason = plain.note or plain.state
            raise SweepError(
                f"trial 0, with the settings as they are, is not completed: {reason}",
                where="tune",
                hint="rerun the command, or give other settings",
            )
        return best, search.shrunk()


def _verdict(search: Search, best: Trial, errors: Sequence[str]) -> str:
    """Return in a sentence which trial is the best, by which samples, and by how much.

    `errors` are those of all trials, as they are shown.
    """
    facts = search.trials[0].facts
    judge = counted(facts["n"], "sample")
    judge += " out of fold" if facts["on"] == "folds" else " of validation"
    text = f"{facts['error']} on {judge}: {errors[0]} with the settings as they are, "
    if best.settings is None:
        return f"{text}which no trial beats."
    return (
        f"{text}{errors[best.number]} with {_settings_text(best)} (trial {best.number}; likely too "
        "low, as the lowest of many)."
    )


def _trials_table(search: Search, errors: Sequence[str]) -> RenderableType:
    rows = []
    for trial, error in zip(search.trials, errors, strict=True):
        settings = _settings_text(trial).replace("train.", "")
        rows.append((str(trial.number), trial.state, error, settings, trial.note))
    return terminal.table(("trial", "state", "validation", "settings", "note"), rows)


def _settings_text(trial: Trial) -> str:
    settings = trial.settings or {}
    texts = [f"{key}={as_typed(value)}" for key, value in settings.items()]
    return " ".join(texts) or "as they are"


@dataclass
class _Trials:
    """The trials of a search; see `driver.Work`."""

    search: Search
    session: Session
    runner: JobRunner
    # Identity of the run -> trial.
    _by_run: dict[str, Trial] = field(default_factory=dict)

    def next(self) -> Job | None:
        """Return the run of the next trial."""
        trial = self.search.ask()
        if trial is None:
            return None
        terminal.log.info(f"trial {trial.number}: {_settings_text(trial)}")
        composed = self.session.compose(self.search.trial_overrides(trial.settings))
        job = self.runner.job(f"[trial {trial.number}]", composed)
        self._by_run[job.name.identity] = trial
        return job

    def watch(self, job: Job) -> bool:
        """Return whether a trial falls behind, by its first member's curve, or its time is over."""
        if self.search.is_over(self._by_run[job.name.identity]):
            return True
        run = claim.look(job.root, job.name)
        if run is None:
            return False
        # Missing until the model is built.
        summary = read_or_empty(run.stage("build") / SUMMARY)
        steps_by_stage = summary.get("steps", {})
        # Steps of a member; 0 while they are unknown.
        steps = steps_by_stage.get("finetune", 0) // summary.get("members", 1)
        curve_lines = storage.read_json_lines(run.stage("finetune") / CURVE) if steps else []
        curve = []
        for line in curve_lines:
            error = line.get("validation_error")
            # The members of a run follow one another, and only the first is compared.
            if not line.get("member") and error is not None:
                # A share of the member's steps, in 0..1.
                curve.append((line["step"] / steps, error))
        return self.search.is_behind(self._by_run[job.name.identity], curve)

    def ended(self, job: Job, end: Ended) -> None:
        """Tell the search how a trial ended.

        Raises:
            OrcaError: trial 0, with the settings as they are, failed: no other would do better.
        """
        # The run may have written to its curve since the last look.
        self.watch(job)
        trial = self._by_run.pop(job.name.identity)
        outcome = job_outcome(end)
        error = None if outcome.failure is None else outcome.failure.error
        # `Search.is_behind` has left a note on a trial that it stops.
        # No settings can do worse than those that diverge.
        if trial.note or isinstance(error, NonFiniteError):
            self._end_stopped(trial, job, trial.note or str(error))
            return
        # The next command runs the trial again; with more minutes, it goes on.
        if outcome.state == "not started" or isinstance(error, InterruptionError):
            note = ""
            if self.search.is_over(trial):
                note = f"stopped: {self.search.minutes:g} minutes leave time for the last run only"
            self.search.end(trial, "waiting", note=note)
            return
        # A grid has settings that not every task takes, such as a causal one.
        if isinstance(error, ConfigError) and trial.settings is not None:
            self._end_stopped(trial, job, str(error))
            return
        if error is None:
            error = self._end_completed(trial, outcome.result)
        if error is None:
            return
        note = str(error)
        if outcome.path is not None:
            note = f"{error} ({outcome.path})"
        # Recorded even if it ends the search: the next command tries the trial again.
        self.search.end(trial, "failed", note=note)
        if trial.settings is None:
            raise error
        terminal.print_error(f"trial {trial.number} failed: {error}")

    def _end_stopped(self, trial: Trial, job: Job, reason: str) -> None:
        """End a trial that fell behind or diverged, without its weights and saved state."""
        run = claim.look(job.root, job.name)
        if run is not None:
            # Weights are in folders; the curve is a file beside them, and stays.
            for folder in run.stage("finetune").glob("*/"):
                storage.remove(folder)
        self.search.end(trial, "stopped", note=reason)
        terminal.log.info(f"trial {trial.number}: {reason}")

    def _end_completed(self, trial: Trial, result: Mapping[str, Any]) -> OrcaError | None:
        """End a trial whose run is completed; return why it counts as failed, else None."""
        error = result["error"]
        # Without it the trial cannot be compared with any other.
        if result["validation_error"] is None:
            return DataError(
                f"the validation {error['name']} is undefined",
                where=f"trial {trial.number}",
                hint="give more validation samples, or judge by all: train.folds=5",
            )
        judge = result["selected"]
        facts = {
            "error": error["name"],
            "percent": error["percent"],
            "run": result["run_id"],
            "n": judge["n"],
            "on": judge["on"],
        }
        self.search.end(trial, "completed", error=result["validation_error"], facts=facts)
        if trial.settings is None:
            forecast = self.search.shrunk()
            if forecast:
                terminal.log.info(forecast)
        return None
