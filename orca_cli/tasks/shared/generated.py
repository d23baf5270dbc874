"""Generated data sets: made once, kept in the cache folder with checksums, verified whenever they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from orca_cli import signals, storage
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
    waiting_for = f"generates {name}"
    with storage.cached(path, waiting_for=waiting_for, say=reporter.say, check=signals.check) as is_whole:
        if not is_whole:
            reporter.say(f"generating {name} once into {path}")
            with storage.commit_folder(path) as temporary:
                make(temporary)
                storage.write_json(temporary / "parameters.json", parameters)
    return path
