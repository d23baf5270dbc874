"""One search: which trial a worker takes next, which are stopped, and how each ended. Workers are asynchronous.

The search is an Optuna study. Its trials are drawn under a lock, so that no two are alike, and each belongs to the worker that
drew it until that worker reports how the trial ended. A worker holds a lock file as long as it lives; on other machines a
lease counts, which the trial's own process renews. What a dead worker leaves is taken over: same trial, same folder.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import seeding, storage
from orca_cli.schema import Tune
from orca_cli.tuning.space import Choice, Plain, Range, Space
from orca_cli.tuning.trials import open_storage, optuna

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as OptunaTrial
    from optuna.trial import FrozenTrial

LEASE_S = 120.0
RENEW_S = 20.0
_UNIT = 100  # resource of the first comparison
_MOST_DRAWS = 100  # of settings that were tried already, one after the other
_START_AFTER = 10  # trials before tpe uses what they found

# Attributes of trials.
DEFAULTS, DUPLICATE, REPLACES = "defaults", "duplicate", "replaces"
WORKER, LEASE, STOPPED, FACTS = "worker", "lease", "stopped", "facts"


@dataclass(frozen=True)
class Trial:
    """A trial that this worker owns.

    Args:
        number: in the search, from 0.
        settings: what was drawn; None for the settings as they are.
        stopped: an earlier process stopped it, which only was not told: why.
    """

    number: int
    settings: dict[str, Plain] | None
    stopped: str = ""


@dataclass
class Search:
    """A search by its name; opened by every process that works on it.

    Args:
        name: the same for the same settings and space.
        address: of the storage.
        folder: for locks and runs of the trials.
        space: what is drawn.
        tune: trials, sampler, comparisons.
    """

    name: str
    address: str
    folder: Path
    space: Space
    tune: Tune
    study: Study = field(init=False)
    _token: str = ""

    def __post_init__(self) -> None:
        found, tune = optuna(), self.tune
        # Successive halving without waiting for others (ASHA, Li et al. 2020).
        halving = found.pruners.SuccessiveHalvingPruner(min_resource=_UNIT, reduction_factor=tune.reduction)
        self.study = found.create_study(
            storage=open_storage(self.address),
            study_name=self.name,
            direction="minimize",
            sampler=found.samplers.RandomSampler(),  # another one for every draw
            pruner=halving if tune.rungs else found.pruners.NopPruner(),
            load_if_exists=True,
        )

    @property
    def most(self) -> int:
        """Return the resource of a whole trial; the comparisons are at whole parts of it."""
        return int(_UNIT * self.tune.reduction**self.tune.rungs)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Be a worker inside the block."""
        token = f"{socket.gethostname()}-{os.getpid()}-{storage.timestamp()}"
        with storage.lock(self._lock_of(token), what="this worker"):
            self._token = token
            try:
                yield
            finally:
                self._token = ""
        with suppress(OSError):
            self._lock_of(token).unlink()

    def prepare(self) -> None:
        """Put the settings as they are first, and what failed back in line; called once a command."""
        with self._alone():
            trials = self._trials()
            if not trials:
                self.study.enqueue_trial({}, user_attrs={DEFAULTS: True})
            for one in counted(trials):
                if one.state.name == "FAIL":
                    is_default = {DEFAULTS: True} if one.user_attrs.get(DEFAULTS) else {}
                    self.study.enqueue_trial(one.params, user_attrs={REPLACES: one.number, **is_default})

    def take(self) -> Trial | None:
        """Return the next trial: one that a dead worker left, one in line, or a new one; None where there is none to take."""
        with self._alone():
            trials = counted(self._trials())
            for one in trials:
                if one.state.name == "RUNNING" and not self._is_alive(one):
                    # A worker that died while it drew the settings has left a part of them.
                    if one.user_attrs.get(DEFAULTS) or set(one.params) >= set(self.space.params):
                        return self._taken(one)
                    self._drop(one)
            trials = counted(self._trials())
            waiting = any(one.state.name == "WAITING" for one in trials)
            if not waiting and len(trials) >= self.tune.trials:
                return None
            for _ in range(_MOST_DRAWS):
                if (found := self._draw()) is not None:
                    return found
        return None

    def _drop(self, trial: FrozenTrial) -> None:
        """Let a trial that was drawn in part not count, and put what it was to replace back in line."""
        if (number := trial.user_attrs.get(REPLACES)) is not None:
            self.study.enqueue_trial(self._trials()[number].params, user_attrs={REPLACES: number})
        self._set(trial.number, DUPLICATE, True)
        self.study.tell(trial.number, state=_state("FAIL"))

    def is_finished(self) -> bool:
        """Return whether no trial is running or in line any more."""
        return not any(one.state.name in ("RUNNING", "WAITING") for one in counted(self._trials()))

    def _draw(self) -> Trial | None:
        """Return a new trial, or one in line; None where the settings drawn were tried already."""
        others = self._trials()
        seed = seeding.derive(self.tune.seed, "tune", len(others)) % 2**32
        samplers = optuna().samplers
        self.study.sampler = (
            samplers.TPESampler(seed=seed, n_startup_trials=_START_AFTER, constant_liar=True)
            if self.tune.sampler == "tpe"
            else samplers.RandomSampler(seed=seed)
        )
        drawn = self.study.ask()
        if drawn.user_attrs.get(DEFAULTS):
            return self._taken(drawn)
        for key, param in self.space.params.items():
            _suggest(drawn, key, param)
        settings = self.space.plain(drawn.params)
        if REPLACES not in drawn.user_attrs:
            known = [self.space.plain(one.params) for one in others if set(one.params) >= set(self.space.params)]
            if settings in known:
                drawn.set_user_attr(DUPLICATE, True)
                self.study.tell(drawn, state=_state("FAIL"))
                return None
        return self._taken(drawn)

    def _taken(self, trial: FrozenTrial | OptunaTrial) -> Trial:
        """Make a trial this worker's own."""
        self._set(trial.number, WORKER, self._token)
        self._set(trial.number, LEASE, time.time() + LEASE_S)
        found = self._trials()[trial.number]
        settings = None if found.user_attrs.get(DEFAULTS) else self.space.plain(found.params)
        return Trial(found.number, settings, str(found.user_attrs.get(STOPPED, "")))

    def tell(self, trial: Trial, state: str, facts: Mapping[str, Any], value: float | None = None) -> None:
        """Record how a trial ended: COMPLETE with its value, PRUNED early, or FAIL; the next command tries it again then."""
        with suppress(optuna().exceptions.UpdateFinishedTrialError):  # by another worker, while this one seemed dead
            self._set(trial.number, FACTS, dict(facts))
        self.study.tell(trial.number, value, state=_state(state), skip_if_finished=True)

    def give_back(self, trial: Trial) -> None:
        """Leave an interrupted trial to whoever takes it next."""
        with suppress(optuna().exceptions.UpdateFinishedTrialError):
            self._set(trial.number, LEASE, 0.0)
            self._set(trial.number, WORKER, "")

    def handle(self, number: int) -> OptunaTrial:
        """Return Optuna's own object for a trial."""
        return optuna().trial.Trial(self.study, self._trials()[number]._trial_id)

    def _set(self, number: int, key: str, value: Any) -> None:
        self.handle(number).set_user_attr(key, value)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _is_alive(self, one: FrozenTrial) -> bool:
        """Return whether the worker of a running trial lives, as far as this machine can tell."""
        token = str(one.user_attrs.get(WORKER, ""))
        if token.startswith(f"{socket.gethostname()}-") and (path := self._lock_of(token)).parent.exists():
            return storage.is_locked(path)
        return time.time() < float(one.user_attrs.get(LEASE, 0.0))

    def _lock_of(self, token: str) -> Path:
        return self.folder / "workers" / f"{''.join(c if c.isalnum() or c in '-_.' else '-' for c in token)}.lock"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with storage.lock(self.folder / "draw.lock", timeout_s=60.0, what=f"search {self.name}"):
            yield


@dataclass(frozen=True)
class TrialJudge:
    """The search's side of one trial, in the trial's own process (`tracking.pruning.Judge`).

    Args:
        search: opened in this process.
        number: of the trial.
        may_stop: the settings as they are run to the end: the others are compared with them.
    """

    search: Search
    number: int
    may_stop: bool = True

    def report(self, resource: int, error: float) -> bool:
        """Keep the error, and return whether successive halving stops the trial here."""
        trial = self.search.handle(self.number)
        trial.report(error, resource)
        if resource >= self.search.most or not trial.should_prune() or not self.may_stop:
            return False
        trial.set_user_attr(STOPPED, f"after {100 * resource / self.search.most:.0f} %")
        return True

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Renew the lease of the trial inside the block."""
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(RENEW_S):
                with suppress(Exception):  # a storage that is away for a moment: the lease lasts longer than that
                    self.search._set(self.number, LEASE, time.time() + LEASE_S)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: neither drawn twice, nor done again."""
    replaced = {one.user_attrs[REPLACES] for one in trials if REPLACES in one.user_attrs}
    return [one for one in trials if not one.user_attrs.get(DUPLICATE) and one.number not in replaced]


def _suggest(trial: OptunaTrial, key: str, param: Choice | Range) -> None:
    """Draw one parameter of a trial."""
    if isinstance(param, Choice):
        trial.suggest_categorical(key, param.values)
        return
    high = param.high
    if param.step is not None:
        high = param.low + math.floor((param.high - param.low) / param.step + 1e-9) * param.step
    if param.is_whole:
        trial.suggest_int(key, int(param.low), int(high), log=param.log, step=int(param.step or 1))
    else:
        trial.suggest_float(key, float(param.low), float(high), log=param.log, step=param.step)


def _state(name: str) -> Any:
    return optuna().trial.TrialState[name]
