"""The trials of a search: where they are kept (Optuna's storages), and what they found.

A journal is lines of JSON, locked by a symbolic link beside it, which works on shared folders; neither holds code.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_cli import storage
from orca_cli.exceptions import ConfigError, DataError, StorageError, UnavailableError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orca_cli.tuning.search import DEFAULTS, FACTS, STOPPED, Search, counted
from orca_cli.tuning.space import Plain

if TYPE_CHECKING:
    from optuna import Study


FOLDER = ".searches"  # in the folder of runs
JOURNAL = "journal.jsonl"
VARIABLE = "ORCA_TUNE_STORAGE"  # environment: as --storage, for addresses with a password
_DATABASES = ("sqlite", "mysql", "postgresql")
_URL = re.compile(r"(\w+)(\+\w+)?://.*")


def check_installed() -> None:
    """Raise UnavailableError where Optuna is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise UnavailableError(
            "a search needs the package optuna", where="tune", hint="pip install 'orca-transfer[tune]'"
        )


def optuna() -> Any:
    """Return the module, with its messages for programmers switched off."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module=r"optuna\.")
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def check_address(text: str) -> None:
    """Raise ConfigError where a text is neither a database that can be used nor a path."""
    found = _URL.fullmatch(text)
    if found is not None and found[1] not in _DATABASES:
        hint = f"allowed: {', '.join(f'{name}://...' for name in _DATABASES)}, or the path of a journal file"
        raise ConfigError(f"'{found[1]}' is no such database", where="--storage", hint=hint)


def shown(text: str) -> str:
    """Return the address without a password."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:...@", text)


def open_storage(text: str) -> BaseStorage:
    """Open the storage at a path or a database's address.

    Raises:
        StorageError: it cannot be written or reached.
        DataError: it is no such storage.
        UnavailableError: the database's driver is missing.
    """
    found = optuna()
    try:
        if _URL.fullmatch(text):
            # Optuna's own heartbeat is for its own loop; see search.py.
            return found.storages.RDBStorage(text, engine_kwargs={"pool_pre_ping": True})
        path = Path(text)
        storage.make_folder(path.parent)
        lock = found.storages.journal.JournalFileSymlinkLock(str(path))
        backend = found.storages.journal.JournalFileBackend(str(path), lock)
        lock.acquire()  # another process may be writing its line
        try:
            storage.cut_torn_line(path)
        finally:
            lock.release()
        return found.storages.JournalStorage(backend)
    except ImportError as error:
        raise UnavailableError(f"{error}", where="--storage", hint="install the database's driver") from error
    except OSError as error:
        raise storage.of_the_disk(error) or StorageError(f"{error}", where=shown(text)) from error
    except Exception as error:  # noqa: BLE001 - of SQLAlchemy, its drivers, or a file that is no journal
        line = " ".join(str(error).split())[:200]
        raise DataError(
            f"cannot be used: {type(error).__name__}: {shown(line)}", where=f"--storage {shown(text)}"
        ) from error


_STATES = {"COMPLETE": "completed", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
_FEWEST = 4  # completed trials from which on an importance means something


@dataclass(frozen=True)
class Row:
    """One trial.

    Args:
        number: in the search.
        state: completed, stopped, failed, running or waiting.
        error: mean validation error of a completed one; the last one of a stopped one.
        settings: what was drawn; None for the settings as they are.
        note: when it was stopped, or why it failed.
        facts: error's name, whether it is shown in per cent, validation samples, seconds, runs.
    """

    number: int
    state: str
    error: float | None
    settings: dict[str, Plain] | None
    note: str
    facts: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**vars(self), "defaults": self.settings is None}


@dataclass(frozen=True)
class SearchState:
    """A search's state.

    Args:
        rows: its trials.
        importance: setting -> share of the variation of the validation error; empty with few completed trials.
    """

    rows: list[Row]
    importance: dict[str, float]

    @property
    def defaults(self) -> Row | None:
        """Return the trial with the settings as they are; None until it is completed."""
        return next((row for row in self.rows if row.settings is None and row.state == "completed"), None)

    @property
    def best(self) -> Row | None:
        """Return the completed trial with the lowest validation error, the first of equals; None where none is."""
        done = [row for row in self.rows if row.state == "completed" and row.error is not None]
        return min(done, key=lambda row: (row.error, row.settings is not None, row.number), default=None)

    def history(self) -> list[float | None]:
        """Return the lowest validation error of completed trials so far, trial by trial."""
        errors = [row.error if row.state == "completed" else None for row in self.rows]
        return list(itertools.accumulate(errors, _lower))

    def count(self, *states: str) -> int:
        """Return how many trials are in some states."""
        return sum(row.state in states for row in self.rows)


def state_of(search: Search) -> SearchState:
    """Return the state of a search."""
    rows = []
    for one in counted(search.study.get_trials(deepcopy=False)):
        facts = one.user_attrs.get(FACTS)
        facts = dict(facts) if isinstance(facts, dict) else {}
        is_default = bool(one.user_attrs.get(DEFAULTS))
        has_all = set(one.params) >= set(search.space.params)
        settings = None if is_default else search.space.plain(one.params) if has_all else {}
        value = one.value if one.state.is_finished() else None
        note = str(one.user_attrs.get(STOPPED) or facts.get("why") or "")
        rows.append(Row(one.number, _STATES[one.state.name], value, settings, note, facts))
    return SearchState(rows, importance(search.study))


def importance(study: Study) -> dict[str, float]:
    """Return the importance of each setting by Optuna's evaluator (PED-ANOVA), the largest first."""
    found = optuna()
    states = (found.trial.TrialState.COMPLETE,)
    drawn = [one for one in study.get_trials(deepcopy=False, states=states) if one.params]
    if len(drawn) < _FEWEST or len({one.value for one in drawn}) < 2:
        return {}
    only = found.create_study(direction="minimize")  # without the trial that drew nothing
    only.add_trials(drawn)
    try:
        values = found.importance.get_param_importances(only)
    except (ValueError, RuntimeError):  # settings that never varied
        return {}
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


def _lower(one: float | None, other: float | None) -> float | None:
    return min((error for error in (one, other) if error is not None), default=None)
