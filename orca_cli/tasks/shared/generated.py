"""Generated data sets: made once, kept in the cache folder with checksums, verified whenever they are read."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

from orca_cli import signals, storage
from orca_cli.exceptions import ChecksumError
from orca_cli.interfaces import Reporter


def folder_of(
    cache_folder: Path,
    name: str,
    parameters: dict[str, int | float | str],
    make: Callable[[Path], None],
    reporter: Reporter,
) -> Path:
    """Return a folder with the data that `parameters` determine; it is made where it is missing or damaged.

    Args:
        cache_folder: where generated data are kept.
        name: of the task.
        parameters: all that the data depend on, with the version of the generator.
        make: fills an empty folder with files.
        reporter: shows what is made or found damaged.

    Raises:
        StorageError, InterruptionError: nothing half-made remains.
    """
    text = json.dumps(parameters, sort_keys=True)
    path = cache_folder / "generated" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    announce = functools.cache(lambda: reporter.say(f"waiting for another process that generates {name}"))

    def wait() -> None:
        signals.check()
        announce()

    lock = path.with_name(f"{path.name}.lock")
    with storage.lock(lock, timeout_s=math.inf, what=name, while_waiting=wait):
        if path.exists():
            try:
                storage.verify_folder(path)
                return path
            except ChecksumError as error:
                aside = storage.quarantine(path)
                reporter.say(f"warning: {error}; moved to {aside.name}, making it again")
        reporter.say(f"generating {name} once into {path}")
        with storage.commit_folder(path) as temporary:
            make(temporary)
            storage.write_json(temporary / "parameters.json", parameters)
    return path
