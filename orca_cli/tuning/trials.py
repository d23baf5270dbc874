"""Where the trials of a search are kept, so that machines can share them: a journal file, or a database (Optuna's storages).

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
