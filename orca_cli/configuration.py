"""Where the configuration files and the program's folders lie, and what one can read off the files without composing.

A file name in `conf/GROUP/` is a name that the user types; the first comment of the file is its description.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from orca_cli.exceptions import ConfigError

_ROOT = "config.yaml"
_SUFFIX = ".yaml"
# The program has no settings in its own package folder other than these.
_PACKAGE = Path(__file__).resolve().parent


def config_dir() -> Path:
    """Return the folder of the program's own configuration: inside the package (wheel) or beside it (checkout).

    Raises:
        ConfigError: neither holds config.yaml; the installation is damaged.
    """
    candidates = (_PACKAGE / "conf", _PACKAGE.parent / "conf")
    for folder in candidates:
        if (folder / _ROOT).is_file():
            return folder
    places = " or ".join(map(str, candidates))
    raise ConfigError(f"no {_ROOT} in {places}", where="conf", hint="install the program again")


def choices(group: str, extra: Path | None = None) -> dict[str, Path]:
    """Return name -> file of what a group offers, sorted by name.

    Args:
        group: folder of conf/, such as `task`.
        extra: the user's own folder of the same layout.

    Raises:
        ConfigError: `extra` is not a folder, or one of its files has the name of one of the program's, which Hydra would
            take in its place.
    """
    if extra is not None and not extra.is_dir():
        raise ConfigError(
            "no such folder", where=f"--config-dir {extra}", hint="give a folder that holds task/, body/, ... of yours"
        )
    own = _files(config_dir() / group)
    users = {} if extra is None else _files(extra / group)
    for name in users:
        if name in own:
            raise ConfigError(
                f"'{name}' is the name of one of the program's own", where=str(users[name]), hint="rename it"
            )
    return dict(sorted((own | users).items()))


def _files(folder: Path) -> dict[str, Path]:
    """Return name -> file; files in folders below have names such as `paper/deepsea-roberta`."""
    return {file.relative_to(folder).as_posix().removesuffix(_SUFFIX): file for file in folder.rglob(f"*{_SUFFIX}")}


def default_folders() -> dict[str, Path]:
    """Return where runs, data and cache go unless the configuration says otherwise.

    Runs: $ORCA_RUNS, else ./runs. Data and cache: below $ORCA_HOME, else below the user's cache folder.
    """
    import platformdirs

    home = Path(os.environ.get("ORCA_HOME") or platformdirs.user_cache_dir("orca_cli"))
    return {"runs": Path(os.environ.get("ORCA_RUNS") or "runs"), "data": home / "data", "cache": home / "cache"}


def description(path: Path) -> str:
    """Return the first comment line of a file that is not a directive such as `# @package`; empty where none is.

    Raises:
        ConfigError: the file cannot be read.
    """
    for line in _text(path).splitlines():
        text = line.strip()
        comment = text.lstrip("#").strip()
        if text.startswith("#") and comment and not comment.startswith("@"):
            return comment
    return ""


def content(path: Path) -> dict[str, Any]:
    """Return a file's settings as they are written; nothing is composed, and interpolations stay text.

    Raises:
        ConfigError: the file cannot be read or is not a mapping of settings.
    """
    try:
        value = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"is not valid YAML: {error}", where=str(path)) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError("has to hold settings of the form 'key: value'", where=str(path))
    return {str(key): entry for key, entry in value.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from error
