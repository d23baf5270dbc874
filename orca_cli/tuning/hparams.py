"""Settings that a search has found, as a file of the user's own folder of settings: hparams/TASK-BODY.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orca_cli import configuration, storage
from orca_cli.exceptions import ConfigError

FOLDER = ".tuned"  # in the folder of runs
_GROUP = "hparams"
_OURS = "Found by orca tune"


def path_of(folder: Path, name: str) -> Path:
    """Return where settings of a name stand in a folder of settings.

    Raises:
        ConfigError: there is such a file that no search wrote, or the program has settings of that name.
    """
    path = folder / _GROUP / f"{name}.yaml"
    if name in configuration.choices(_GROUP):
        raise ConfigError(f"the program has its own '{name}'", where=str(path), hint="give your task another name")
    if path.exists() and not configuration.description(path).startswith(_OURS):
        raise ConfigError(
            "was not written by a search", where=str(path), hint="move it, or give another folder by --to"
        )
    return path


def write(path: Path, about: str, before: Path | None, settings: Mapping[str, Any]) -> None:
    """Write settings, with those of the file that the trials took them in place of.

    Args:
        path: as `path_of` returns it.
        about: the search and its result, in one line.
        before: the file of settings of the trials' own task and body; None where there is none.
        settings: dotted key -> value.

    Raises:
        StorageError: it cannot be written.
    """
    content = {} if before is None else configuration.content(before)
    for key, value in settings.items():
        *parents, last = key.split(".")
        node = content
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    storage.make_folder(path.parent)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    storage.write_text(path, f"# @package _global_\n# {_OURS}: {about}\n{text}")
