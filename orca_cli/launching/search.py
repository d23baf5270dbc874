"""One search: which settings it tries, how long, and which trials ASHA (Li et al. 2020) stops.

The state of a search is in one file, RUNS/.searches/NAME/trials.json, from which the next command
continues: trials that were running or failed are run again with the same settings, and their runs
resume. Trials are stopped because of the validation curves that they write while they run, or
because the time of the search is over. If the space is not a grid, Optuna proposes settings, given
the earlier trials.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import seeding, storage
from orca_cli.config import configuration
from orca_cli.config.configuration import key_of, value_of
from orca_cli.config.ranges import Count, Positive, check_value
from orca_cli.exceptions import ConfigError, DataError
from orca_cli.launching.needs import missing_error
from orca_cli.launching.space import Plain, Space, find_space
from orca_cli.runs import claim
from orca_cli.runs.settings import as_typed

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

# Settings that a search has and a run does not have.
RULES = ("space", "trials", "minutes")
_SPACE = "recipes"
_TRIALS = "20"  # default for a space that is not a grid
_MINUTES = "10"  # default for a grid
FOLDER = ".searches"  # name of a folder in the folder of runs
FILE = "trials.json"
_SCHEMA = 1
_ENDED = ("completed", "stopped")  # states of trials that are not run again
_WHOLE = 900  # resource of a complete trial; resources are proportional to optimizer steps
_COMPARED = (100, 300)  # resources after which only the best 1 in _REDUCTION trials continue
_REDUCTION = 3
_MOST_DRAWS = 100  # largest number of draws until one has settings that were not tried yet
_START_AFTER = 10  # number of trials drawn at random, before errors of trials guide the draws
# Settings of every trial. Weights are not kept, since those of twenty trials can fill a disk.
_CLOSED: dict[str, Plain] = {
    "test": False,
    "baselines": "none",
    "train.validate_on": "validation",
    "keep_weights": False,
}


@dataclass
class Trial:
    """One trial, as the file of the search records it."""

    number: int  # position in the search, from 0
    settings: dict[str, Plain] | None  # drawn settings; None for trial 0, which changes no setting
    params: dict[str, Any]  # the settings as Optuna drew them, before rounding
    state: str = "waiting"  # or running, completed, stopped, failed
    error: float | None = None  # validation error; of a stopped trial, its last one
    note: str = ""  # after how many steps the trial was stopped, or why it failed
    # Name of the error, whether it is in per cent, number and kind of samples, name of the run.
    facts: dict[str, Any] = field(default_factory=dict)
    ended_s: float = 0.0  # time of its end, in seconds of the search; 0 before the end
    # Resource -> validation error, for resources below _WHOLE.
    curve: dict[str, float] = field(default_factory=dict)


@dataclass
class Search:
    """A search, which decides the settings of each trial, and which trials continue."""

    # Folder of the search's file and of its trials' runs, named by a digest of settings and space.
    folder: Path
    space: Space
    max_trials: int
    seed: int  # seed of the trials and of the draws
    # Key -> override of the runs on the command line.
    typed: dict[str, str] = field(default_factory=dict)
    # Settings of all trials except trial 0, and of the run that follows.
    fixed: dict[str, Plain] = field(default_factory=dict)
    # Time limit of the trials and the run that follows, together; None: no limit.
    minutes: float | None = None
    trials: list[Trial] = field(default_factory=lambda: [Trial(number=0, settings=None, params={})])
    clock: Callable[[], float] = time.monotonic  # in seconds
    _start_s: float = 0.0  # start on the clock, moved back by the seconds of earlier commands

    def overrides(self, settings: Mapping[str, Plain] | None) -> list[str]:
        """Return the overrides of a run; `settings` are drawn, or None for unchanged settings."""
        overrides = dict(self.typed)
        if settings is not None:
            overrides |= _typed(self.fixed | dict(settings))
        return list(overrides.values())

    def trial_overrides(self, settings: Mapping[str, Plain] | None) -> list[str]:
        """Return the overrides of a trial; for `settings` see `overrides`."""
        overrides = {key_of(text): text for text in self.overrides(settings)}
        overrides |= _typed(_CLOSED | {"seed": self.seed})
        runs_folder = (self.folder / "runs").absolute()
        overrides["paths.runs"] = f"paths.runs={configuration.quoted(runs_folder)}"
        return list(overrides.values())

    @contextmanager
    def opened(self) -> Iterator[Search]:
        """Read the search, and lock it inside the block.

        Raises:
            LockedError: another process works on the same search.
            DataError, ChecksumError: this program cannot read the file.
        """
        with claim.alone(self.folder.parent, self.folder.name):
            self._read()
            for trial in self.trials:
                if trial.state not in _ENDED:
                    trial.state = "waiting"
                    trial.curve = {}
            yield self

    def _read(self) -> None:
        self._start_s = self.clock()
        path = self.folder / FILE
        if not path.exists():
            return
        record = storage.read_checked_json(path)
        schema = record.get("schema")
        if schema != _SCHEMA:
            raise DataError(
                f"has schema {schema}, but this program can only read schema {_SCHEMA}",
                where=str(path),
                hint="move the file away to start the search from scratch",
            )
        self._start_s -= record.get("seconds", 0.0)
        self.trials = []
        for entry in record["trials"]:
            fields = {name: entry[name] for name in entry if name in Trial.__dataclass_fields__}
            self.trials.append(Trial(**fields))

    def ask(self) -> Trial | None:
        """Return the next trial, in state running; None if no trial is left or may start now."""
        trial = next((trial for trial in self.trials if trial.state == "waiting"), None)
        if trial is not self.trials[0] and not self._may_start():
            return None
        if trial is None:
            drawn = self._drawn() if len(self.trials) < self.max_trials else None
            if drawn is None:
                return None
            settings = self.space.plain(drawn)
            trial = Trial(number=len(self.trials), settings=settings, params=drawn)
            self.trials.append(trial)
        trial.state = "running"
        trial.note = ""
        self._write()
        return trial

    @property
    def _spent_s(self) -> float:
        return self.clock() - self._start_s

    def _has_time_for(self, n_runs: int) -> bool:
        """Return whether `n_runs` runs as long as trial 0 fit into the remaining time."""
        if self.minutes is None:
            return True
        return self._spent_s + n_runs * self.trials[0].ended_s <= 60 * self.minutes

    def _may_start(self) -> bool:
        """Return whether the time suffices for another trial after trial 0 and the last run."""
        is_measured = self.minutes is None or self.trials[0].state == "completed"
        return is_measured and self._has_time_for(2)

    def is_over(self, trial: Trial) -> bool:
        """Return whether a running trial must stop, since the last run needs the remaining time.

        Trial 0 is never stopped.
        """
        return trial.settings is not None and not self._has_time_for(1)

    def shrunk(self) -> str:
        """Return a sentence about the trials for which the time does not suffice, or "".

        The time of each trial is assumed to be that of trial 0.
        """
        ended = [trial.settings for trial in self.trials if trial.state in _ENDED]
        open_points = [point for point in self.space.points() if point not in ended]
        n_open = self.max_trials - len(ended)
        n_allowed = n_open
        # The run that follows takes the time of one trial.
        while n_allowed and not self._has_time_for(n_allowed + 1):
            n_allowed -= 1
        if n_allowed == n_open:
            return ""
        names = ["/".join(map(as_typed, point.values())) for point in open_points]
        names_text = ", ".join(names[n_allowed:n_open]) or "the last trials"
        enough_s = self._spent_s + (n_open + 1) * self.trials[0].ended_s
        return (
            f"{self.minutes:g} minutes suffice for {len(ended) - 1 + n_allowed} of "
            f"{self.max_trials - 1} trials of space={self.space.name}; left out: {names_text}; "
            f"minutes={math.ceil(enough_s / 60)} would suffice for all"
        )

    def _drawn(self) -> dict[str, Any] | None:
        """Return the next point of a grid, or a draw by Optuna, given the earlier trials.

        None if no point is left, or if Optuna draws only settings that were already tried.
        """
        if self.space.is_grid:
            # Trial 0 is not a point of the grid.
            points = self.space.points()[len(self.trials) - 1 :]
            return points[0] if points else None
        import optuna

        # Optuna's messages are for programmers.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        trial_states = optuna.trial.TrialState
        optuna_states = {
            "completed": trial_states.COMPLETE,
            "stopped": trial_states.PRUNED,
            "failed": trial_states.FAIL,
        }
        earlier_trials = []
        for trial in self.trials[1:]:
            curve = {int(resource): error for resource, error in trial.curve.items()}
            frozen_trial = optuna.trial.create_trial(
                state=optuna_states.get(trial.state, trial_states.RUNNING),
                value=trial.error if trial.state == "completed" else None,
                params=trial.params,
                distributions=self.space.params,
                intermediate_values=curve,
            )
            earlier_trials.append(frozen_trial)
        tried_settings = [trial.settings for trial in self.trials]
        for attempt in range(_MOST_DRAWS):
            sampler_seed = seeding.derive(self.seed, "tune", len(self.trials), attempt) % 2**32
            sampler = optuna.samplers.TPESampler(
                seed=sampler_seed, n_startup_trials=_START_AFTER, constant_liar=True
            )
            study = optuna.create_study(sampler=sampler)
            study.add_trials(earlier_trials)
            proposal = study.ask(self.space.params)
            drawn = dict(proposal.params)
            if self.space.plain(drawn) not in tried_settings:
                return drawn
        return None

    def is_behind(self, trial: Trial, curve: Sequence[tuple[float, float]]) -> bool:
        """Add new points to the curve of a running trial, and return whether ASHA stops it.

        Trial 0 is never stopped, since the other trials are compared with it.

        Args:
            trial: running trial, to which the points are added, and a note if it is stopped.
            curve: (share of its optimizer steps, validation error) of all its epochs so far,
                including those of earlier calls.
        """
        last_resource = max(map(int, trial.curve), default=0)
        for share, error in curve:
            resource = int(_WHOLE * share)
            is_new = last_resource < resource and share < 1
            if trial.note or not is_new or not math.isfinite(error):
                continue
            trial.curve[str(resource)] = error
            for comparison in _COMPARED:
                is_due = last_resource < comparison <= resource
                if is_due and trial.settings is not None and error > self._bound(comparison):
                    done = f"{100 * share:.0f} % of its steps"
                    trial.note = f"stopped after {done}, since other trials had lower errors"
            last_resource = resource
        return bool(trial.note)

    def _bound(self, comparison: int) -> float:
        """Return the largest error with which a trial continues after a comparison.

        It is the largest error among the best 1 in _REDUCTION trials that have reached the
        comparison.
        """
        errors = []
        for trial in self.trials:
            error = _error_at(trial, comparison)
            if error is not None:
                errors.append(error)
        errors.sort()
        n_going_on = max(len(errors) // _REDUCTION, 1)
        return errors[n_going_on - 1]

    def end(self, trial: Trial, state: str, **fields: Any) -> None:
        """Record how a trial ended: completed or stopped; or failed or waiting, to be run again.

        `fields` are new values of other fields of the trial.
        """
        trial.state = state
        trial.ended_s = self._spent_s
        trial.error = None
        if state == "stopped" and trial.curve:
            trial.error = list(trial.curve.values())[-1]
        for name, value in fields.items():
            setattr(trial, name, value)
        self._write()

    def _write(self) -> None:
        trials = [asdict(trial) for trial in self.trials]
        record = {"schema": _SCHEMA, "seconds": self._spent_s, "trials": trials}
        storage.write_checked_json(self.folder / FILE, record)

    @property
    def best(self) -> Trial | None:
        """Return the completed trial with the lowest validation error, the earliest among equals.

        None if no trial is completed.
        """
        completed = [trial for trial in self.trials if trial.state == "completed"]
        return min(completed, key=lambda trial: (trial.error, trial.number), default=None)

    def count(self, *states: str) -> int:
        """Return the number of trials in any of these states."""
        return sum(trial.state in states for trial in self.trials)


def _error_at(trial: Trial, comparison: int) -> float | None:
    """Return the validation error of a trial at a comparison; None if it has not reached it.

    A comparison is a resource in `_COMPARED`.
    """
    for resource, error in trial.curve.items():
        if int(resource) >= comparison:
            return error
    return None


def make(session: Session, overrides: Sequence[str], extra: Path | None) -> Search:
    """Return the search that the overrides describe: `RULES`, and settings of its runs.

    For `extra` see `find_space`.

    Raises:
        UnavailableError: the space needs Optuna, which is missing.
        ConfigError: a setting, the space, or a value in the space is wrong.
        OrcaError: data or weights that the trials need are missing.
    """
    typed_by_key = {key_of(text): text for text in overrides}
    rules = {key: value_of(text) for key, text in typed_by_key.items() if key in RULES}
    run_overrides = {key: text for key, text in typed_by_key.items() if key not in RULES}
    job = session.compose(list(run_overrides.values()))
    space = find_space(rules.get("space", _SPACE), extra)
    for key in space.params:
        if key in run_overrides:
            raise ConfigError(
                f"cannot be combined with space={space.name}, which varies {key}",
                where=typed_by_key[key],
                hint=f"remove it from the command line, or remove {key} from the file of the space",
            )
    defaults = {"trials": _TRIALS}
    if space.is_grid:
        defaults = {"trials": str(1 + len(space.points())), "minutes": _MINUTES}
    rules = defaults | rules
    max_trials = _number(rules["trials"])
    check_value(max_trials, Count, "trials")
    if space.is_grid:
        max_trials = min(max_trials, 1 + len(space.points()))
    minutes = _number(rules.get("minutes", "null"))
    check_value(minutes, Positive | None, "minutes")
    task_and_body = f"{job.choices['task']}-{job.choices['body']}"
    fixed = {key: value for key, value in space.fixed.items() if key not in run_overrides}
    search = Search(
        folder=Path(),
        space=space,
        max_trials=max_trials,
        seed=job.config.seed,
        typed=run_overrides,
        fixed=fixed,
        minutes=minutes,
    )
    first_trial = session.compose(search.trial_overrides(None))
    _check_values(session, search)
    # Before the first trial, since all trials would fail in the same way.
    missing = missing_error([first_trial], list(run_overrides.values()), extra)
    if missing is not None:
        raise missing
    search_digest = _digest(search, first_trial.identity.settings)
    searches = Path(job.config.paths.runs or "") / FOLDER
    return replace(search, folder=searches / f"{task_and_body}-{search_digest[:8]}")


def _number(text: str) -> Any:
    """Return a number from the command line; any other text unchanged, to be refused later."""
    if text.isdecimal():
        return int(text)
    with suppress(ValueError):
        return float(text)
    return None if text == "null" else text


def _typed(settings: Mapping[str, Plain]) -> dict[str, str]:
    """Return key -> override of some settings."""
    return {key: f"{key}={as_typed(value)}" for key, value in settings.items()}


def _check_values(session: Session, search: Search) -> None:
    """Raise ConfigError for a wrong value in the space, before the first trial."""
    try:
        for settings in search.space.corners():
            session.compose(search.trial_overrides(settings))
    except ConfigError as error:
        where = f"space={search.space.name}: {error.where}"
        raise ConfigError(error.what, where=where, hint=error.hint) from error


def _digest(search: Search, settings: str) -> str:
    """Return a SHA-256 of a search's definition; `settings` is the digest of its first trial."""
    space = search.space
    distribution_texts = {setting: repr(param) for setting, param in space.params.items()}
    facts = {
        "settings": settings,
        "params": distribution_texts,
        "fixed of the space": space.fixed,
        "fixed": search.fixed,
        "seed": search.seed,
    }
    content = json.dumps(facts, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()
