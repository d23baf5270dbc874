"""Why a configuration cannot be composed: the setting that is wrong, and what is allowed in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orca_cli import setting_checks
from orca_cli.compose.overrides import ALL_GROUPS
from orca_cli.configuration import key_of
from orca_cli.exceptions import ConfigError, suggest
from orca_cli.schema import Config

# What Hydra lets through when a file or an override cannot be read.
UNREADABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def explained(error: Exception, overrides: list[str], load: Callable[[list[str]], DictConfig]) -> ConfigError:
    """Find the override that a composition failed at, and say what is allowed in its place."""
    groups = [text for text in overrides if key_of(text) in ALL_GROUPS]
    try:
        known = load(groups)
    except UNREADABLE:
        return _unknown_in_a_file(error) or refused(error)
    for text in overrides:
        key = key_of(text)
        if text in groups or key.startswith("hydra"):
            continue
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(known, parent, throw_on_missing=False) if parent else known
        if node is not None and not isinstance(node, DictConfig):
            return ConfigError(f"no such setting: '{key}'", where=key, hint=f"{parent} is a single value")
        if not isinstance(node, DictConfig):
            return ConfigError(f"there is no '{parent}'", where=key, hint=suggest(parent, _keys(known)))
        allowed = [word for word in node if word != "hydra"]
        if name not in allowed and not text.startswith("+"):
            return setting_checks.unknown(name, allowed, f"{parent}." if parent else "")
        try:
            load([*groups, text])
        except UNREADABLE as cause:
            if OmegaConf.is_list(node._get_node(name)):
                what = f"{text.partition('=')[2]} is not allowed"
                return ConfigError(what, where=key, hint="allowed: a list, such as [a,b]")
            return ConfigError(_root_text(cause), where=key, hint="orca list settings shows types and defaults")
    return refused(error)


def _unknown_in_a_file(error: Exception) -> ConfigError | None:
    """Return the message for a file that sets a key the schema does not have; None for other failures."""
    text = _root_text(error)
    found, file = re.search(r"Key '([^']*)' not in '(\w+)'", text), re.search(r"In '([^']+)'", text)
    nested = {f"{name}.": value for name, value in vars(Config()).items() if is_dataclass(value)}
    for prefix, section in ({"": Config()} | nested).items():
        if found is not None and found[2] == type(section).__name__:
            return setting_checks.unknown(found[1], vars(section), prefix, f" in {file[1]}.yaml" if file else "")
    return None


def refused(error: BaseException) -> ConfigError:
    """Return an error of Hydra or OmegaConf as one line about the key that it is about."""
    key, cause = None, error
    while not (key := getattr(cause, "full_key", None)) and cause.__cause__ is not None:
        cause = cause.__cause__
    return ConfigError(_root_text(error), where=str(key or "configuration"))


def _root_text(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = map(str.strip, str(error).splitlines())
    kept = (line for line in lines if line and not re.match(r"(full_key|object_type|reference_type)\s*[:=]", line))
    return " ".join(kept) or type(error).__name__


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in (str(name) for name in node if name != "hydra"):
        yield f"{prefix}{name}"
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing()):
            yield from _keys(child, f"{prefix}{name}.")
