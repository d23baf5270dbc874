"""One search: the one process that searches asks Optuna for the settings of a trial, and tells it how the trial ended.

All that a search knows is in one file, RUNS/.searches/NAME/trials.json, from which the next command goes on: trials that were
running or failed are done again with the same settings, and their runs resume. ASHA (Li et al. 2020) stops trials by the
curves that come back while they run.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import seeding, storage
from orca_cli.config.schema import Tune
from orca_cli.config.search_space import Plain, Space
from orca_cli.exceptions import DataError, UnavailableError
from orca_cli.runs import claim

if TYPE_CHECKING:
    from optuna.trial import Trial as OptunaTrial

FOLDER = ".searches"  # in the folder of runs
FILE = "trials.json"
_SCHEMA = 1
_UNIT = 100  # resource of the first comparison
_MOST_DRAWS = 100  # in a row of settings that were tried already
_START_AFTER = 10  # trials before tpe uses what they found


def check_installed() -> None:
    """Raise UnavailableError where Optuna is missing."""
    if importlib.util.find_spec("optuna") is None:
        hint = "pip install 'orca-transfer[tune]'"
        raise UnavailableError("a search needs the package optuna", where="tune", hint=hint)


@dataclass
class Trial:
    """One trial, as it is kept."""

    number: int  # in the search, from 0; the first has the settings as they are
    settings: dict[str, Plain] | None  # what was drawn; None for the settings as they are
    params: dict[str, Any]  # the same as Optuna drew it
    state: str = "waiting"  # or running, completed, stopped, failed
    error: float | None = None  # mean validation error of a completed one; the last one of a stopped one
    note: str = ""  # when it was stopped, or why it failed
    facts: dict[str, Any] = field(default_factory=dict)  # error's name, whether in per cent, samples, seconds, runs
    curve: dict[str, float] = field(default_factory=dict)  # resource -> validation error, of one that has ended
    rungs: dict[str, float] = field(default_factory=dict)  # what Optuna keeps of the comparisons of one that has ended


@dataclass
class Search:
    """A search: which settings a trial gets, and which trials go on."""

    folder: Path  # of its file and of the runs of its trials; its name is the same for the same settings and space
    space: Space
    tune: Tune  # the rules
    trials: list[Trial] = field(default_factory=list)
    _draws: int = 0
    _running: dict[int, OptunaTrial] = field(default_factory=dict)  # Optuna's side of the running ones

    @contextmanager
    def opened(self) -> Iterator[Search]:
        """Read the search and keep others off it inside the block.

        Raises:
            LockedError: another process searches.
            DataError, ChecksumError: the file is not one of this program.
        """
        with claim.alone(self.folder.parent, self.folder.name):
            self._read()
            yield self

    def _read(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # its messages are for programmers
        warnings.filterwarnings("ignore", module=r"optuna\.")
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._optuna: Any = optuna
        path = self.folder / FILE
        new: dict[str, Any] = {"schema": _SCHEMA, "draws": 0, "trials": [asdict(Trial(0, None, {}))]}
        record = storage.read_checked_json(path) if path.exists() else new
        if record.get("schema") != _SCHEMA:
            what = f"has schema {record.get('schema')}, this program reads {_SCHEMA}"
            raise DataError(what, where=str(path), hint="move it away to search anew")
        self._draws, self.trials = record["draws"], [Trial(**one) for one in record["trials"]]
        halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=_UNIT, reduction_factor=self.tune.reduction)
        pruner = halving if self.tune.rungs else optuna.pruners.NopPruner()
        self._study = optuna.create_study(direction="minimize", pruner=pruner)
        for one in self.trials:
            if one.state not in ("completed", "stopped"):
                one.state, one.note, one.curve, one.rungs = "waiting", "", {}, {}
                continue
            states = optuna.trial.TrialState
            frozen = optuna.trial.create_trial(
                state=states.COMPLETE if one.state == "completed" else states.PRUNED,
                value=one.error,
                params=one.params,
                distributions=self.space.params if one.params else {},
                intermediate_values={int(resource): error for resource, error in one.curve.items()},
                system_attrs=one.rungs,
            )
            self._study.add_trial(frozen)

    def _write(self) -> None:
        record = {"schema": _SCHEMA, "draws": self._draws, "trials": [asdict(one) for one in self.trials]}
        storage.write_checked_json(self.folder / FILE, record)

    def ask(self) -> Trial | None:
        """Return the next trial, which runs from now on; None if there is none to run now."""
        trial = next((one for one in self.trials if one.state == "waiting"), None)
        if trial is not None:
            self._study.enqueue_trial(trial.params)
            self._running[trial.number] = self._study.ask(self.space.params if trial.params else {})
        elif len(self.trials) >= self.tune.trials or (trial := self._drawn()) is None:
            return None
        trial.state = "running"
        self._write()
        return trial

    def _drawn(self) -> Trial | None:
        """Return a new trial; None if only settings are drawn that were tried already."""
        samplers, tried = self._optuna.samplers, [one.settings for one in self.trials]
        for _ in range(_MOST_DRAWS):
            seed = seeding.derive(self.tune.seed, "tune", self._draws) % 2**32
            self._draws += 1
            tpe = samplers.TPESampler(seed=seed, n_startup_trials=_START_AFTER, constant_liar=True)
            self._study.sampler = tpe if self.tune.sampler == "tpe" else samplers.RandomSampler(seed=seed)
            drawn = self._study.ask(self.space.params)
            settings = self.space.plain(drawn.params)
            if settings not in tried:
                trial = Trial(len(self.trials), settings, dict(drawn.params))
                self.trials.append(trial)
                self._running[trial.number] = drawn
                return trial
            self._study.tell(drawn, state=self._optuna.trial.TrialState.FAIL)
        return None

    def is_behind(self, trial: Trial, curve: Sequence[tuple[float, float]]) -> bool:
        """Return whether ASHA stops a trial by what its curve says so far.

        Args:
            trial: that runs. The settings as they are run to the end: the others are compared with them.
            curve: (part of its optimizer steps, validation error) of its epochs so far; each call repeats the earlier ones.
        """
        running, most = self._running[trial.number], _UNIT * self.tune.reduction**self.tune.rungs
        for part, error in curve:
            resource = int(most * part)
            if trial.note or not math.isfinite(error) or resource <= max(map(int, trial.curve), default=0):
                continue
            trial.curve[str(resource)] = error
            running.report(error, resource)
            if part < 1 and running.should_prune() and trial.settings is not None:
                trial.note = f"stopped by the search after {100 * part:.0f} % of its steps"
        return bool(trial.note)

    def tell(self, trial: Trial, error: float | None, facts: Mapping[str, Any]) -> None:
        """Record how a trial ended: with the mean validation error of its seeds, or None where it was stopped."""
        running, states = self._running.pop(trial.number), self._optuna.trial.TrialState
        trial.facts, trial.state = dict(facts), "stopped" if error is None else "completed"
        trial.error = error if error is not None else next(reversed(trial.curve.values()), None)
        self._study.tell(running, error, state=states.PRUNED if error is None else states.COMPLETE)
        trial.rungs = dict(self._study.trials[running.number].system_attrs)
        trial.rungs.pop("fixed_params", None)
        self._write()

    def fail(self, trial: Trial, why: str) -> None:
        """Record that a trial failed; the next command does it again."""
        self._study.tell(self._running.pop(trial.number), state=self._optuna.trial.TrialState.FAIL)
        trial.state, trial.note = "failed", why
        self._write()

    @property
    def defaults(self) -> Trial | None:
        """Return the trial with the settings as they are; None until it is completed."""
        return self.trials[0] if self.trials and self.trials[0].state == "completed" else None

    @property
    def best(self) -> Trial | None:
        """Return the completed trial with the lowest validation error, the first of equals; None where none is."""
        done = [one for one in self.trials if one.state == "completed"]
        return min(done, key=lambda one: (one.error, one.settings is not None, one.number), default=None)

    def count(self, *states: str) -> int:
        """Return how many trials are in some states."""
        return sum(one.state in states for one in self.trials)
