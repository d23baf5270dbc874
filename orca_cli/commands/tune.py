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
try several recipes on your data for about 10 minutes; a recipe is a choice of embedder and of the \
weights that are fine-tuned
  orca tune task=digits minutes=30 --at-once 2           \
30 minutes instead of 10; two trials at a time, which share the CPU threads
  orca tune task=digits space=small trials=20           \
20 trials: the default settings, and 19 draws from the space `small` (orca list spaces)
  orca tune task=ecg space=paper_roberta trials=50 metric=none      \
the space of the ORCA paper for bodies that read text; space=FILE.yaml uses your own space

A trial is a run that does not read the test split. Trial 0 has your settings unchanged; the other \
trials change them. The method ASHA stops a trial early if the trial is worse than others on \
validation data. After the trials, `orca tune` runs the best settings in the same way as `orca \
run`, with a test.

If the command is stopped or killed, the same command continues the search. If you rerun it with \
more minutes or trials, it adds trials to the earlier ones."""
ARGUMENTS = (
    argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings as for `orca run`, and settings of the search: space=NAME (the values to "
        "try; `orca list spaces`), minutes=M (time limit), trials=N (number of trials)",
    ),
    CONFIG_DIR,
    ALLOW_MODULE,
    add_job_options,
    argument("-q", "--quiet", action="store_true", help="log warnings only"),
)
# Prefix of the lines of the run that follows the trials.
_LAST = "[best]"


def execute(arguments: argparse.Namespace) -> Result:
    """Search, run the best settings, and return the results of both."""
    terminal.configure_logging(quiet=arguments.quiet)
    from orca_cli.config import compose

    # Open for the whole search: a trial is composed when it is drawn.
    with signals.deferred(), compose.session(arguments.config_dir) as session:
        search = make(session, arguments.overrides, arguments.config_dir)
        searches = search.folder.parent
        storage.check_writable(searches)
        # The trials are below the folder of all runs, which jobs on other machines can access.
        runner = JobRunner(arguments, searches.parent, search.folder.name, is_quiet=True)
        best, shrunk_text = _search(search, session, runner)
        terminal.log.info(f"{_LAST} {_settings_text(best)}")
        last_job = session.compose(search.overrides(best.settings))
        # The same as a job of a sweep: not started if an earlier command has completed it.
        last = SweepWork(runner=runner, waiting=iter([(_LAST, last_job)]), is_forced=False)
        runner.run(last, 1)
        signals.check()
    outcome = last.outcomes[_LAST]
    if outcome.state == "skipped":
        # Shown like a run that was completed just now.
        outcome = replace(outcome, state="completed")
    end = run_result(outcome, alone=True, pictured=not arguments.quiet)
    # Trial 0 has facts, since it is completed; otherwise `_search` would have raised an error.
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
    shown += [f"The best settings as a command: {command}", "", *end.shown]
    failures = [*end.failures, *_failures(search)]
    return Result({**end.record, "search": record}, shown, failures, end.code)


def _failures(search: Search) -> Iterator[OrcaError]:
    """Yield the error of a search with trials that failed."""
    failed_count = search.count("failed")
    if failed_count:
        message = f"{counted(failed_count, 'trial')} failed"
        hint = "fix the cause and rerun the command, which repeats the failed trials"
        yield SweepError(message, where="tune", hint=hint)


def _search(search: Search, session: Session, runner: JobRunner) -> tuple[Trial, str]:
    """Run the trials that have not ended yet.

    Returns:
        the best trial, which may be trial 0 with the unchanged settings; and a sentence about the
        trials that the time limit left out, or "".

    Raises:
        SweepError: trial 0 is not completed.
    """
    with search.opened():
        trials_text = counted(search.max_trials, "trial")
        done_count = search.count("completed", "stopped")
        terminal.log.info(
            f"search {search.folder.name}: {trials_text} with space={search.space.name}, "
            f"{done_count} of them done; folder {search.folder}"
        )
        runner.run(_Trials(search=search, session=session, runner=runner), search.max_trials)
        # After a signal no trial is chosen, since the search is not finished.
        signals.check()
        best = search.best
        plain = search.trials[0]
        # Every trial is compared with trial 0, so its error is needed.
        if best is None or plain.state != "completed":
            reason = plain.note or plain.state
            raise SweepError(
                f"trial 0, which has your unchanged settings, is not completed: {reason}",
                where="tune",
                hint="rerun the command, or use other settings",
            )
        return best, search.shrunk()


def _verdict(search: Search, best: Trial, errors: Sequence[str]) -> str:
    """Return a sentence about the best trial, its error, and the samples it was measured on.

    `errors` are the errors of all trials as texts.
    """
    facts = search.trials[0].facts
    samples = counted(facts["n"], "validation sample")
    if facts["on"] == "folds":
        samples = f"{counted(facts['n'], 'sample')}, measured by cross-validation (out of fold)"
    text = f"{facts['error']} on {samples}: {errors[0]} with the unchanged settings (trial 0), "
    if best.settings is None:
        return f"{text}and no trial has a lower error."
    return (
        f"{text}{errors[best.number]} with {_settings_text(best)} (trial {best.number}). As the "
        "lowest of many errors, this error is probably a little too low."
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
    return " ".join(texts) or "unchanged settings"


@dataclass
class _Trials:
    """The trials of a search; see `driver.Work`."""

    search: Search
    session: Session
    runner: JobRunner
    # Identity of a run -> its trial.
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
        """Return whether a trial has to stop: its first member falls behind, or time is over."""
        if self.search.is_over(self._by_run[job.name.identity]):
            return True
        run = claim.look(job.root, job.name)
        if run is None:
            return False
        # The summary is missing until the model is built.
        summary = read_or_empty(run.stage("build") / SUMMARY)
        steps_by_stage = summary.get("steps", {})
        # Number of steps of each member; 0 while it is unknown.
        steps = steps_by_stage.get("finetune", 0) // summary.get("members", 1)
        curve_lines = storage.read_json_lines(run.stage("finetune") / CURVE) if steps else []
        curve = []
        for line in curve_lines:
            error = line.get("validation_error")
            # The members of a run are trained one after another, and only the first is compared.
            if not line.get("member") and error is not None:
                # The share of the member's steps that are done, in 0..1.
                curve.append((line["step"] / steps, error))
        return self.search.is_behind(self._by_run[job.name.identity], curve)

    def ended(self, job: Job, end: Ended) -> None:
        """Tell the search how a trial ended.

        Raises:
            OrcaError: trial 0, with the unchanged settings, failed; the others would fail as well.
        """
        # The run may have extended its curve since the last check.
        self.watch(job)
        trial = self._by_run.pop(job.name.identity)
        outcome = job_outcome(end)
        error = None if outcome.failure is None else outcome.failure.error
        # `Search.is_behind` writes a note to each trial that it stops.
        # Settings with which training diverges are as bad as possible, so they are not run again.
        if trial.note or isinstance(error, NonFiniteError):
            self._end_stopped(trial, job, trial.note or str(error))
            return
        # The next command runs the trial again; with more minutes, the trial continues.
        if outcome.state == "not started" or isinstance(error, InterruptionError):
            note = ""
            if self.search.is_over(trial):
                note = (
                    f"stopped: the final run needs the rest of the {self.search.minutes:g} minutes"
                )
            self.search.end(trial, "waiting", note=note)
            return
        # A grid may contain settings that some tasks do not allow, such as causal tasks.
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
        # Recorded even if the error ends the search: the next command runs the trial again.
        self.search.end(trial, "failed", note=note)
        if trial.settings is None:
            raise error
        terminal.print_error(f"trial {trial.number} failed: {error}")

    def _end_stopped(self, trial: Trial, job: Job, reason: str) -> None:
        """End a trial that fell behind or diverged; remove its weights and saved state."""
        run = claim.look(job.root, job.name)
        if run is not None:
            # Weights are in folders and are removed; the curve is a file next to them, and stays.
            for folder in run.stage("finetune").glob("*/"):
                storage.remove(folder)
        self.search.end(trial, "stopped", note=reason)
        terminal.log.info(f"trial {trial.number}: {reason}")

    def _end_completed(self, trial: Trial, result: Mapping[str, Any]) -> OrcaError | None:
        """End a trial whose run is completed; return an error if it counts as failed, else None."""
        error = result["error"]
        # A trial without a validation error cannot be compared with other trials.
        if result["validation_error"] is None:
            return DataError(
                f"the {error['name']} on the validation samples is undefined",
                where=f"trial {trial.number}",
                hint="provide more validation samples, or set train.folds=5 to validate on all "
                "samples",
            )
        selected = result["selected"]
        facts = {
            "error": error["name"],
            "percent": error["percent"],
            "run": result["run_id"],
            "n": selected["n"],
            "on": selected["on"],
        }
        self.search.end(trial, "completed", error=result["validation_error"], facts=facts)
        if trial.settings is None:
            forecast = self.search.shrunk()
            if forecast:
                terminal.log.info(forecast)
        return None
