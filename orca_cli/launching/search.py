"""One search: which settings it varies, its trials, and those that ASHA (Li et al. 2020) stops.

A space is a file of conf/space or the user's own:

    params:                               # setting -> its values, or a range
      train.optimizer: [sgd, adamw]
      train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
      train.batch_size: {low: 8, high: 64, step: 8}     # whole numbers, as both ends are
    fixed: {train.epochs: 60}             # of all trials but the first, and of the run that follows

The state of a search is one file, RUNS/.searches/NAME/trials.json, from which the next command goes
on: trials that were running or failed are run again with the same settings, and their runs resume.
Optuna only proposes settings, given the trials so far. Trials are stopped because of the validation
curves that they write while they run.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import seeding, storage
from orca_cli.config import configuration
from orca_cli.config.configuration import key_of, value_of
from orca_cli.config.ranges import Count, check_value, fits
from orca_cli.exceptions import ConfigError, DataError, need, suggest
from orca_cli.launching.needs import missing_error
from orca_cli.runs import claim
from orca_cli.runs.settings import as_typed

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

# Settings of a search that a run does not have, with their defaults.
RULES = {"space": "small", "trials": "20"}
FOLDER = ".searches"  # in the folder of runs
FILE = "trials.json"
_SCHEMA = 1
_WHOLE = 900  # resource of a whole trial, which is proportional to its optimizer steps
_COMPARED = (100, 300)  # resources at which only the best 1 in _REDUCTION go on
_REDUCTION = 3
_MOST_DRAWS = 100  # until settings are drawn that were not tried yet
_START_AFTER = 10  # trials drawn at random, before their errors count
# Settings of every trial. It is judged by validation data that it did not train on, and is never
# aligned. Its weights are not kept, since those of twenty trials can fill a disk.
_CLOSED = {
    "metric": "none",
    "test": False,
    "baselines": "none",
    "train.refit": False,
    "train.validate_on": "validation",
    "keep_weights": False,
}
# Groups that may be searched. The others change the data or the meaning of the error, so that
# trials could not be compared, or matter only for alignment, which trials leave out.
SEARCHED = ("train", "embedder", "finetune", "predictor", "body")
_DIGITS = 3  # of a number drawn from a continuous range
_FORMS = (
    "such as [sgd, adamw], or {low: 1.0e-5, high: 1.0e-2, log: true}, above 0 and without step; "
    "YAML reads 1e-5 as text"
)

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Space:
    """A space; see the module. `params` are Optuna's distributions."""

    name: str
    params: dict[str, Any]
    fixed: dict[str, Plain]

    def plain(self, drawn: Mapping[str, Any]) -> dict[str, Plain]:
        """Return drawn values as settings, numbers from continuous ranges with three digits."""
        settings: dict[str, Plain] = {}
        for setting, distribution in self.params.items():
            settings[setting] = drawn[setting]
            # Only the distribution of a continuous range has a step that is None.
            if getattr(distribution, "step", 0) is None:
                settings[setting] = float(f"{drawn[setting]:.{_DIGITS}g}")
        return settings

    def corners(self) -> Iterator[dict[str, Plain]]:
        """Yield settings in which every choice and both ends of every range occur."""
        values = {}
        for setting, distribution in self.params.items():
            if hasattr(distribution, "choices"):
                values[setting] = list(distribution.choices)
            else:
                values[setting] = [distribution.low, distribution.high]
        n_corners = max(map(len, values.values()), default=1)
        for corner in range(n_corners):
            yield {setting: listed[corner % len(listed)] for setting, listed in values.items()}


@dataclass
class Trial:
    """One trial, as the file of the search records it."""

    number: int  # in the search, from 0
    settings: dict[str, Plain] | None  # as drawn; None for trial 0, which has those of a plain run
    params: dict[str, Any]  # the same as Optuna drew them, before rounding
    state: str = "waiting"  # or running, completed, stopped, failed
    error: float | None = None  # validation error; the last one of a stopped trial
    note: str = ""  # at which point it was stopped, or why it failed
    # Name of the error, whether it is in per cent, samples, seconds, run.
    facts: dict[str, Any] = field(default_factory=dict)
    # Resource -> validation error, for resources below _WHOLE.
    curve: dict[str, float] = field(default_factory=dict)


@dataclass
class Search:
    """A search: it decides which settings a trial gets, and which trials go on."""

    # Has its file and the runs of its trials; named by a digest of settings and space.
    folder: Path
    space: Space
    max_trials: int
    seed: int  # of the trials and of the draws
    # Key -> override, of those that were typed and count in all trials.
    typed: dict[str, str] = field(default_factory=dict)
    # Settings of all trials but the first, and of the run that follows.
    fixed: dict[str, Plain] = field(default_factory=dict)
    # Settings of `hparams` that the trials start from, as they are written.
    before: dict[str, Any] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=lambda: [Trial(number=0, settings=None, params={})])

    def overrides(self, settings: Mapping[str, Plain] | None) -> list[str]:
        """Return the overrides of a trial with drawn settings, or None for the first trial."""
        runs_folder = (self.folder / "runs").absolute()
        overrides = dict(self.typed)
        drawn = {} if settings is None else self.fixed | dict(settings)
        values = _CLOSED | drawn | {"seed": self.seed}
        for key, value in values.items():
            overrides[key] = f"{key}={as_typed(value)}"
        overrides["paths.runs"] = f"paths.runs={configuration.quoted(runs_folder)}"
        return list(overrides.values())

    @contextmanager
    def opened(self) -> Iterator[Search]:
        """Read the search, and lock it inside the block.

        Raises:
            LockedError: another process works on the same search.
            DataError, ChecksumError: the file is not one of this program.
        """
        with claim.alone(self.folder.parent, self.folder.name):
            self._read()
            for trial in self.trials:
                if trial.state not in ("completed", "stopped"):
                    trial.state = "waiting"
                    trial.note = ""
                    trial.curve = {}
            yield self

    def _read(self) -> None:
        path = self.folder / FILE
        if not path.exists():
            return
        record = storage.read_checked_json(path)
        schema = record.get("schema")
        if schema != _SCHEMA:
            raise DataError(
                f"has schema {schema}, this program reads {_SCHEMA}",
                where=str(path),
                hint="move it away to search anew",
            )
        self.trials = []
        for entry in record["trials"]:
            fields = {name: entry[name] for name in entry if name in Trial.__dataclass_fields__}
            self.trials.append(Trial(**fields))

    def ask(self) -> Trial | None:
        """Return the next trial, in state running; None if no trial is left to start."""
        trial = next((trial for trial in self.trials if trial.state == "waiting"), None)
        if trial is None:
            drawn = self._drawn() if len(self.trials) < self.max_trials else None
            if drawn is None:
                return None
            settings = self.space.plain(drawn)
            trial = Trial(number=len(self.trials), settings=settings, params=drawn)
            self.trials.append(trial)
        trial.state = "running"
        self._write()
        return trial

    def _drawn(self) -> dict[str, Any] | None:
        """Return the values that Optuna draws, given the trials so far.

        None if it draws only settings that were tried already.
        """
        import optuna

        # Its messages are for programmers.
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

        The first trial is never stopped, since the others are compared with it.

        Args:
            trial: gets the points, and a note if it is stopped.
            curve: (share of its optimizer steps, validation error) of all its epochs so far, those
                of earlier calls included.
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
                    trial.note = f"stopped by the search after {100 * share:.0f} % of its steps"
            last_resource = resource
        return bool(trial.note)

    def _bound(self, comparison: int) -> float:
        """Return the largest error with which a trial goes on at a comparison.

        It is that of the worst among the best 1 in _REDUCTION trials that have reached it.
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
        """Record how a trial ended: completed, stopped or failed. A failed one is run again later.

        `fields` are other fields of the trial that change.
        """
        trial.state = state
        trial.error = None
        if state == "stopped" and trial.curve:
            trial.error = list(trial.curve.values())[-1]
        for name, value in fields.items():
            setattr(trial, name, value)
        self._write()

    def _write(self) -> None:
        record = {"schema": _SCHEMA, "trials": [asdict(trial) for trial in self.trials]}
        storage.write_checked_json(self.folder / FILE, record)

    @property
    def best(self) -> Trial | None:
        """Return the completed trial with the lowest validation error, the earliest of equals.

        None if no trial is completed.
        """
        completed = [trial for trial in self.trials if trial.state == "completed"]
        return min(completed, key=lambda trial: (trial.error, trial.number), default=None)

    def count(self, *states: str) -> int:
        """Return how many trials are in some states."""
        return sum(trial.state in states for trial in self.trials)


def _error_at(trial: Trial, comparison: int) -> float | None:
    """Return the validation error with which a trial reached a comparison; None if it has not.

    A comparison is a resource of `_COMPARED`.
    """
    for resource, error in trial.curve.items():
        if int(resource) >= comparison:
            return error
    return None


def find_space(text: str, extra: Path | None) -> Space:
    """Return the space with a name in conf/space or in the user's folder `extra`, or of a file.

    ConfigError if there is no such space, or the file does not hold one.
    """
    spaces = configuration.choices("space", extra)
    path = spaces.get(text, Path(text).expanduser())
    if text not in spaces and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"no such space: '{text}'",
            where="space",
            hint=f"{suggest(text, spaces)} or give a YAML file",
        )
    content = configuration.mapping(configuration.content(path), str(path), ("params", "fixed"))
    params = configuration.mapping(content.get("params"), f"{path}: params")
    fixed_settings = configuration.mapping(content.get("fixed"), f"{path}: fixed")
    for setting in [*params, *fixed_settings]:
        group, separator, _ = setting.partition(".")
        if group not in SEARCHED or not separator or setting == "train.validate_on":
            raise ConfigError(
                f"'{setting}' is not for a search",
                where=str(path),
                hint=f"allowed: settings of {', '.join(SEARCHED)}, such as train.lr",
            )
    distributions = {}
    for setting, declaration in params.items():
        distributions[setting] = _distribution(declaration, f"{path}: {setting}")
    return Space(name=path.stem, params=distributions, fixed=fixed_settings)


def _distribution(declaration: Any, where: str) -> Any:
    """Return the distribution that a parameter is drawn from."""
    from optuna import distributions

    try:
        if fits(declaration, list[Plain]):
            return distributions.CategoricalDistribution(declaration)
        numbers = [value for name, value in declaration.items() if name != "log"]
        if not fits(numbers, list[float]):
            raise ValueError("its ends are not numbers")
        distribution_class: Any = distributions.FloatDistribution
        if fits(numbers, list[int]):
            distribution_class = distributions.IntDistribution
        with warnings.catch_warnings(action="ignore"):
            # Optuna warns if the step does not divide the range, and then lowers the upper end.
            return distribution_class(**declaration)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{declaration} cannot be drawn from: {error}", where=where, hint=_FORMS
        ) from error


def make(session: Session, overrides: Sequence[str], extra: Path | None) -> Search:
    """Return the search that overrides ask for: `space`, `trials`, and settings of its runs.

    `extra` is as in `find_space`.

    Raises:
        UnavailableError: Optuna is missing.
        ConfigError: a setting, the space, or a value in it is wrong.
        OrcaError: data or weights that the trials need are missing.
    """
    need("optuna", "tune", "tune")
    typed_by_key = {key_of(text): text for text in overrides}
    trials_text = _typed_rule("trials", typed_by_key)
    max_trials: Any = int(trials_text) if trials_text.isdecimal() else trials_text
    check_value(max_trials, Count, "trials")
    space_name = _typed_rule("space", typed_by_key)
    run_overrides = {key: text for key, text in typed_by_key.items() if key not in RULES}
    job = session.compose(list(run_overrides.values()))
    space = find_space(space_name, extra)
    for key in space.params:
        if key in run_overrides:
            raise ConfigError(
                f"is searched by space={space.name}",
                where=typed_by_key[key],
                hint=f"leave it out, or take {key} out of the space",
            )
    task_and_body = f"{job.choices['task']}-{job.choices['body']}"
    fixed = {key: value for key, value in space.fixed.items() if key not in run_overrides}
    search = Search(
        folder=Path(),
        space=space,
        max_trials=max_trials,
        seed=job.config.seed,
        typed=_of_all_trials(run_overrides),
        fixed=fixed,
        before=_hparams(run_overrides, f"{job.config.protocol}/{task_and_body}", extra),
    )
    first_trial = session.compose(search.overrides(None))
    _check_values(session, search)
    # Before the first trial, since all of them would fail in the same way.
    missing = missing_error([first_trial], list(run_overrides.values()), extra)
    if missing is not None:
        raise missing
    search_digest = _digest(search, first_trial.identity.settings)
    searches = Path(job.config.paths.runs or "") / FOLDER
    return replace(search, folder=searches / f"{task_and_body}-none-{search_digest[:8]}")


def _typed_rule(name: str, typed: Mapping[str, str]) -> str:
    """Return a setting of the search as it was typed, or its default."""
    if name not in typed:
        return RULES[name]
    return value_of(typed[name])


def _of_all_trials(settings: Mapping[str, str]) -> dict[str, str]:
    """Return key -> typed override, without those that trials do not take.

    Trials are not aligned, so that the search is the same whatever settings of metric and alignment
    are typed.
    """
    closed_settings = (*_CLOSED, "paths.runs")
    counting = {}
    for setting, override in settings.items():
        if setting not in closed_settings and not setting.startswith(("metric.", "align.")):
            counting[setting] = override
    return counting


def _hparams(settings: Mapping[str, str], default: str, extra: Path | None) -> dict[str, Any]:
    """Return the settings of the `hparams` whose name is typed, else of those named `default`."""
    variants = configuration.variants("hparams", extra)
    name = value_of(settings.get("hparams", "")) or default
    return variants[name].settings if name in variants else {}


def _check_values(session: Session, search: Search) -> None:
    """Raise ConfigError for a wrong value in the space, before the first trial."""
    try:
        for settings in search.space.corners():
            session.compose(search.overrides(settings))
    except ConfigError as error:
        where = f"space={search.space.name}: {error.where}"
        raise ConfigError(error.what, where=where, hint=error.hint) from error


def _digest(search: Search, settings: str) -> str:
    """Return a SHA-256 of all that defines a search; `settings` is that of its first trial."""
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
