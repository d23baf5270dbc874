"""`orca tune`: a search for settings on validation data."""

from __future__ import annotations

import argparse
import copy
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
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
from orca_cli.config.configuration import key_of
from orca_cli.exceptions import (
    DataError,
    InterruptionError,
    NonFiniteError,
    OrcaError,
    SweepError,
)
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
  orca tune task=digits trials=20                       \
the defaults, and 19 trials of the space `small`
  orca tune task=digits trials=20 --at-once 2           two trials at a time; they share the threads
  orca tune task=ecg space=paper_roberta trials=50      \
the paper's space for text bodies; or a YAML file of yours

Trials are runs without alignment whose test split stays closed; those that fall behind on \
validation data are stopped early
(ASHA). What is found is written into DIR, else into .tuned below the runs. Typed again, the \
command goes on where it was
stopped or killed; with more trials it adds to those that are done."""
# In the folder of runs: the settings that searches found.
_FOLDER = ".tuned"
ARGUMENTS = (
    argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings, as of `orca run`; space=NAME and trials=N are those of the search",
    ),
    CONFIG_DIR,
    ALLOW_MODULE,
    add_job_options,
    argument("-q", "--quiet", action="store_true", help="log warnings only"),
)


def execute(arguments: argparse.Namespace) -> Result:
    """Search, write the settings that are found, and return them."""
    terminal.configure_logging(quiet=arguments.quiet)
    from orca_cli.config import compose

    # Open for the whole search: a trial is composed when it is drawn.
    with signals.deferred(), compose.session(arguments.config_dir) as session:
        search = make(session, arguments.overrides, arguments.config_dir)
        best, file = _search(search, session, arguments)
    # Trial 0 has the settings as they are.
    plain = search.trials[0]
    # Trial 0 is completed, or `_search` would have raised an error, so that it has facts.
    is_percent = plain.facts["percent"]
    errors = [percent_or_number(trial.error, is_percent) for trial in search.trials]
    samples = counted(plain.facts["n"], "sample")
    verdict = f"Validation {plain.facts['error']} on {samples}: {errors[0]} as they are, "
    if file is None:
        verdict += "which no trial beats."
    else:
        verdict += f"{errors[best.number]} in trial {best.number} "
        verdict += f"(likely too low, as the lowest of many); see {file}."
    record = {
        "name": search.folder.name,
        "space": search.space.name,
        "file": str(search.folder / FILE),
        "trials": [asdict(trial) for trial in search.trials],
        "best": asdict(best),
        "defaults": plain.error,
        "verdict": verdict,
        "hparams": None if file is None else str(file),
        "next": shlex.join(_next_command(file, arguments)),
    }
    failures = []
    failed_count = search.count("failed")
    if failed_count:
        message = f"{counted(failed_count, 'trial')} failed"
        hint = "fix the cause and rerun the command, which tries them again"
        failures.append(SweepError(message, where="tune", hint=hint))
    shown = [_trials_table(search, errors), verdict, f"Next: {record['next']}"]
    return Result({"schema": 1, "search": record}, shown, failures)


def _search(
    search: Search, session: Session, arguments: argparse.Namespace
) -> tuple[Trial, Path | None]:
    """Run the trials that are not done yet.

    Returns:
        the best trial, which may be trial 0, with the settings as they are; the file with the best
        settings, None if no trial beats trial 0.

    Raises:
        SweepError: trial 0 is not completed.
    """
    searches = search.folder.parent
    name = search.folder.name
    storage.check_writable(searches)
    with search.opened():
        trials_text = counted(search.max_trials, "trial")
        done_count = search.count("completed", "stopped")
        terminal.log.info(
            f"search {name}: {trials_text} of space={search.space.name}, "
            f"{done_count} done; in {search.folder}"
        )
        # The trials' runs are one another's neighbours, below the folder of all runs that jobs
        # elsewhere see.
        runner = JobRunner(arguments, searches.parent, name, is_quiet=True)
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
        if best is plain:
            return best, None
        # A folder of configuration, which the next command names by --config-dir.
        folder = arguments.config_dir or searches.parent / _FOLDER
        file = folder / "hparams" / f"{name}.yaml"
        _write(search, best, file)
        return best, file


def _write(search: Search, best: Trial, file: Path) -> None:
    """Write a file of `hparams`: the best settings within those that the trials started from."""
    content = copy.deepcopy(search.before)
    # Drawn settings come after the fixed ones, as in the trials.
    best_settings = search.fixed | (best.settings or {})
    for key, setting in best_settings.items():
        *groups, name = key.split(".")
        node = content
        # train.lr becomes {train: {lr: ...}}.
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = setting
    about = (
        f"Found by orca tune: trial {best.number} of {len(search.trials)}, on validation data only"
    )
    text = yaml.safe_dump(content, sort_keys=False)
    # Hydra's directive puts the keys at the top, not below `hparams`.
    storage.write_text(file, f"# @package _global_\n# {about}\n{text}")


def _next_command(file: Path | None, arguments: argparse.Namespace) -> list[str]:
    """Return the words of the command that runs the best settings; `file` as in `_search`."""
    # Keys of what is typed that do not belong to that command.
    dropped_keys = [*RULES]
    config_dir = arguments.config_dir
    if file is not None:
        # The new file contains the settings of the one that was typed.
        dropped_keys.append("hparams")
        # The file is DIR/hparams/NAME.yaml.
        config_dir = file.parent.parent
    words = ["orca", "run"]
    words += [text for text in arguments.overrides if key_of(text) not in dropped_keys]
    if file is not None:
        words.append(f"hparams={file.stem}")
    return words + own_code_words(config_dir, arguments.allow_module)


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
        composed = self.session.compose(self.search.overrides(trial.settings))
        job = self.runner.job(f"[trial {trial.number}]", composed)
        self._by_run[job.name.identity] = trial
        return job

    def watch(self, job: Job) -> bool:
        """Return whether a trial falls behind, by the curve of its run's first member."""
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
        # The next command runs the trial again.
        if outcome.state == "not started" or isinstance(error, InterruptionError):
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
                f"the validation {error['name']} is undefined", where=f"trial {trial.number}"
            )
        n_samples = result["selected"].get("n")
        if not n_samples:
            validation_split = result["splits"].get("val", {})
            n_samples = validation_split.get("n")
        facts = {
            "error": error["name"],
            "percent": error["percent"],
            "run": result["run_id"],
            "n": n_samples,
        }
        self.search.end(trial, "completed", error=result["validation_error"], facts=facts)
        return None
