"""One search: what it varies, its trials, and whom ASHA (Li et al. 2020) stops, by the curves that come back while they run.

A space is a file of conf/space or the user's own:

    params:                               # setting -> its values, or a range
      train.optimizer: [sgd, adamw]
      train.lr: {low: 1.0e-5, high: 1.0e-2, log: true}
      train.batch_size: {low: 8, high: 64, step: 8}     # whole numbers where both ends are
    fixed: {train.epochs: 60}             # settings of all trials but the first, and of the run that follows

All that a search knows is in one file, RUNS/.searches/NAME/trials.json, from which the next command goes on: trials that were
running or failed are done again with the same settings, and their runs resume. Optuna proposes settings, given the trials so
far; it keeps nothing.
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
from orca_cli.config.configuration import key_of
from orca_cli.config.ranges import Count, check_value, fits
from orca_cli.exceptions import ConfigError, DataError, need, suggest
from orca_cli.runs import claim
from orca_cli.runs.settings import as_typed

if TYPE_CHECKING:  # imports Hydra
    from orca_cli.config.compose import Session

RULES = {
    "space": "small",
    "trials": "20",
}  # settings of a search that are none of a run, with their defaults
FOLDER = ".searches"  # in the folder of runs
FILE = "trials.json"
_SCHEMA = 1
_WHOLE = 900  # resource of a whole trial
_COMPARED = (100, 300)  # resources at which the best 1 in _REDUCTION go on
_REDUCTION = 3
_MOST_DRAWS = 100  # in a row of settings that were tried already
_START_AFTER = 10  # trials before what they found counts
# Settings of every trial: it is judged only on validation data that it did not train on, and never aligned. Its weights are not
# kept, since those of twenty trials can fill a disk.
_CLOSED = {
    "metric": "none",
    "test": False,
    "baselines": "none",
    "train.refit": False,
    "train.validate_on": "validation",
    "keep_weights": False,
}
# Of every search; they could once be chosen, and the folders of those that chose otherwise have other names.
_ALWAYS = {"sampler": "tpe", "seeds": 1, "reduction": _REDUCTION, "rungs": len(_COMPARED)}
# Groups that may be searched; others change the data or the meaning of the error, so that trials could not be compared, or
# act on alignment, which trials leave out.
SEARCHED = ("train", "embedder", "finetune", "predictor", "body")
_DIGITS = 3  # of a number drawn from a continuous range
_FORMS = "such as [sgd, adamw], or {low: 1.0e-5, high: 1.0e-2, log: true}, above 0 and without step; YAML reads 1e-5 as text"

Plain = str | int | float | bool | None


@dataclass(frozen=True)
class Space:
    """A space; see the module. `params` are Optuna's distributions."""

    name: str
    params: dict[str, Any]
    fixed: dict[str, Plain]

    def plain(self, drawn: Mapping[str, Any]) -> dict[str, Plain]:
        """Return drawn values as settings: a number from a continuous range has three digits."""
        return {
            key: float(f"{drawn[key]:.{_DIGITS}g}")
            if getattr(param, "step", 0) is None
            else drawn[key]
            for key, param in self.params.items()
        }

    def ends(self, key: str) -> list[Plain]:
        """Return values of a setting that suffice to check them all: its choices, or the ends of its range."""
        param = self.params[key]
        return list(param.choices) if hasattr(param, "choices") else [param.low, param.high]


@dataclass
class Trial:
    """One trial, as it is kept."""

    number: int  # in the search, from 0; the first has the settings as they are
    settings: dict[str, Plain] | None  # what was drawn; None for the settings as they are
    params: dict[str, Any]  # the same as Optuna drew it
    state: str = "waiting"  # or running, completed, stopped, failed
    error: float | None = None  # validation error of a completed one; the last one of a stopped one
    note: str = ""  # when it was stopped, or why it failed
    facts: dict[str, Any] = field(
        default_factory=dict
    )  # error's name, whether in per cent, samples, seconds, run
    curve: dict[str, float] = field(
        default_factory=dict
    )  # resource -> validation error, before the whole is reached


@dataclass
class Search:
    """A search: which settings a trial gets, and which trials go on."""

    folder: Path  # of its file and of the runs of its trials; its name is the same for the same settings and space
    space: Space  # what is searched
    most: int  # trials
    seed: int  # of the trials and of what is drawn
    typed: dict[str, str] = field(
        default_factory=dict
    )  # overrides of all trials that were typed; key -> override
    fixed: dict[str, Plain] = field(
        default_factory=dict
    )  # settings of the trials that draw, and of the run that follows
    before: dict[str, Any] = field(
        default_factory=dict
    )  # `hparams` that the trials start from, as they are written
    trials: list[Trial] = field(default_factory=lambda: [Trial(0, None, {})])

    def overrides(self, settings: Mapping[str, Plain] | None) -> list[str]:
        """Return the overrides of a trial; `settings` is None for the settings as they are."""
        drawn = {} if settings is None else self.fixed | dict(settings)
        runs = configuration.quoted((self.folder / "runs").absolute())
        given = {
            key: f"{key}={as_typed(value)}"
            for key, value in (_CLOSED | drawn | {"seed": self.seed}).items()
        }
        return list((self.typed | given | {"paths.runs": f"paths.runs={runs}"}).values())

    @contextmanager
    def opened(self) -> Iterator[Search]:
        """Read the search and keep others off it inside the block.

        Raises:
            LockedError: another process searches.
            DataError, ChecksumError: the file is not one of this program.
        """
        with claim.alone(self.folder.parent, self.folder.name):
            if (path := self.folder / FILE).exists():
                record = storage.read_checked_json(path)
                if record.get("schema") != _SCHEMA:
                    what = f"has schema {record.get('schema')}, this program reads {_SCHEMA}"
                    raise DataError(what, where=str(path), hint="move it away to search anew")
                known = Trial.__dataclass_fields__
                self.trials = [
                    Trial(**{key: value for key, value in one.items() if key in known})
                    for one in record["trials"]
                ]
            for one in self.trials:
                if one.state not in ("completed", "stopped"):
                    one.state, one.note, one.curve = "waiting", "", {}
            yield self

    def ask(self) -> Trial | None:
        """Return the next trial, which runs from now on; None if there is none to run now."""
        trial = next((one for one in self.trials if one.state == "waiting"), None)
        if trial is None and len(self.trials) < self.most and (drawn := self._drawn()) is not None:
            trial = Trial(len(self.trials), self.space.plain(drawn), drawn)
            self.trials.append(trial)
        if trial is not None:
            trial.state = "running"
            self._write()
        return trial

    def _drawn(self) -> dict[str, Any] | None:
        """Return what Optuna draws after the trials so far; None where it draws only settings that were tried."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # its messages are for programmers
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        states = optuna.trial.TrialState
        ends = {"completed": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}
        earlier = [
            optuna.trial.create_trial(
                state=ends.get(one.state, states.RUNNING),
                value=one.error if one.state == "completed" else None,
                params=one.params,
                distributions=self.space.params,
                intermediate_values={int(resource): error for resource, error in one.curve.items()},
            )
            for one in self.trials[1:]
        ]
        for attempt in range(_MOST_DRAWS):
            seed = seeding.derive(self.seed, "tune", len(self.trials), attempt) % 2**32
            tpe = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=_START_AFTER, constant_liar=True
            )
            study = optuna.create_study(sampler=tpe)
            study.add_trials(earlier)
            drawn = dict(study.ask(self.space.params).params)
            if self.space.plain(drawn) not in [one.settings for one in self.trials]:
                return drawn
        return None

    def is_behind(self, trial: Trial, curve: Sequence[tuple[float, float]]) -> bool:
        """Return whether ASHA stops a trial by what its curve says so far.

        Args:
            trial: that runs. The settings as they are run to the end: the others are compared with them.
            curve: (part of its optimizer steps, validation error) of its epochs so far; each call repeats the earlier ones.
        """
        before = max(map(int, trial.curve), default=0)
        for part, error in curve:
            resource = int(_WHOLE * part)
            if trial.note or part >= 1 or not math.isfinite(error) or resource <= before:
                continue
            trial.curve[str(resource)] = error
            for least in (one for one in _COMPARED if before < one <= resource):
                reached = sorted(
                    one for one in (_at(other, least) for other in self.trials) if one is not None
                )
                is_behind = error > reached[max(len(reached) // _REDUCTION, 1) - 1]
                if is_behind and trial.settings is not None:
                    trial.note = f"stopped by the search after {100 * part:.0f} % of its steps"
            before = resource
        return bool(trial.note)

    def end(self, trial: Trial, state: str, **ended: Any) -> None:
        """Record how a trial ended: completed, stopped, or failed and to be done again; `ended` are fields of the trial."""
        last = next(reversed(trial.curve.values()), None) if state == "stopped" else None
        vars(trial).update({"state": state, "error": last} | ended)
        self._write()

    def _write(self) -> None:
        record = {"schema": _SCHEMA, "trials": [asdict(one) for one in self.trials]}
        storage.write_checked_json(self.folder / FILE, record)

    @property
    def best(self) -> Trial | None:
        """Return the completed trial with the lowest validation error, the first of equals; None where none is."""
        done = [one for one in self.trials if one.state == "completed"]
        return min(done, key=lambda one: (one.error, one.number), default=None)

    def count(self, *states: str) -> int:
        """Return how many trials are in some states."""
        return sum(one.state in states for one in self.trials)


def _at(trial: Trial, least: int) -> float | None:
    """Return the validation error of a trial when it reached a comparison; None where it has not."""
    return next((error for resource, error in trial.curve.items() if int(resource) >= least), None)


def find_space(text: str, extra: Path | None) -> Space:
    """Return the space of a name in conf/space, or in the user's own folder, or of a file; ConfigError where none is right."""
    spaces = configuration.choices("space", extra)
    path = spaces.get(text, Path(text).expanduser())
    if text not in spaces and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"no such space: '{text}'",
            where="space",
            hint=f"{suggest(text, spaces)} or give a YAML file",
        )
    content = configuration.mapping(configuration.content(path), str(path), ("params", "fixed"))
    params, fixed = (
        configuration.mapping(content.get(part), f"{path}: {part}") for part in ("params", "fixed")
    )
    for key in [*params, *fixed]:
        group, dot, _ = key.partition(".")
        if group not in SEARCHED or not dot or key == "train.validate_on":
            hint = f"allowed: settings of {', '.join(SEARCHED)}, such as train.lr"
            raise ConfigError(f"'{key}' is not for a search", where=str(path), hint=hint)
    return Space(
        path.stem, {key: _param(one, f"{path}: {key}") for key, one in params.items()}, fixed
    )


def _param(declaration: Any, where: str) -> Any:
    """Return what a parameter is drawn from."""
    from optuna import distributions

    try:
        if fits(declaration, list[Plain]):
            return distributions.CategoricalDistribution(declaration)
        numbers = [value for key, value in declaration.items() if key != "log"]
        if not fits(numbers, list[float]):
            raise ValueError("its ends are not numbers")
        is_whole = fits(numbers, list[int])
        with warnings.catch_warnings(
            action="ignore"
        ):  # the last step is the highest inside the range
            return (distributions.IntDistribution if is_whole else distributions.FloatDistribution)(
                **declaration
            )
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{declaration} cannot be drawn from: {error}", where=where, hint=_FORMS
        ) from error


def make(session: Session, overrides: Sequence[str], extra: Path | None) -> Search:
    """Return the search that overrides ask for: `space` and `trials`, and settings of a run; `extra` as in `find_space`.

    Raises:
        UnavailableError: Optuna is missing.
        ConfigError: a setting, the space, or a value in it is wrong.
    """
    need("optuna", "tune", "tune")
    typed = {key_of(text): text for text in overrides}
    rules = {
        key: typed.pop(key, f"{key}={default}").partition("=")[2].strip("'\"")
        for key, default in RULES.items()
    }
    most: Any = int(rules["trials"]) if rules["trials"].isdecimal() else rules["trials"]
    check_value(most, Count, "trials")
    job, space = session.compose(list(typed.values())), find_space(rules["space"], extra)
    for key in (key for key in space.params if key in typed):
        hint = f"leave it out, or take {key} out of the space"
        raise ConfigError(f"is searched by space={space.name}", where=typed[key], hint=hint)
    # Without alignment nothing depends on its settings; so whatever metric is typed, the search is the same.
    left_out = (*_CLOSED, "paths.runs")
    kept = {
        key: text
        for key, text in typed.items()
        if key not in left_out and not key.startswith(("metric.", "align."))
    }
    fixed = {key: value for key, value in space.fixed.items() if key not in typed}
    run = f"{job.choices['task']}-{job.choices['body']}"
    # The settings that the job has: those typed by name, else those of its task and body.
    name = typed.get("hparams", "").partition("=")[2].strip("'\"") or f"{job.config.protocol}/{run}"
    known = configuration.variants("hparams", extra)
    before = known[name].settings if name in known else {}
    search = Search(Path(), space, most, job.config.seed, kept, fixed, before)
    plain = session.compose(search.overrides(None))
    ends = {key: space.ends(key) for key in space.params}
    try:  # so that a wrong value is refused before the first trial
        for place in range(max(map(len, ends.values()), default=1)):
            session.compose(
                search.overrides({key: values[place % len(values)] for key, values in ends.items()})
            )
    except ConfigError as error:
        raise ConfigError(
            error.what, where=f"space={space.name}: {error.where}", hint=error.hint
        ) from error
    params = {key: repr(param) for key, param in space.params.items()}
    varied = {"params": params, "baseline": {"metric": "none"}, "fixed": space.fixed}
    parts = [plain.identity.settings, varied, fixed, _ALWAYS | {"seed": search.seed}]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return replace(
        search, folder=Path(job.config.paths.runs or "") / FOLDER / f"{run}-none-{digest[:8]}"
    )
