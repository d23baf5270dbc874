"""Settings as they are typed: KEY=VALUE, parsed by Hydra; which one is wrong, and what is allowed in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orca_cli.config import checks, schema
from orca_cli.config.configuration import key_of
from orca_cli.config.ranges import check_value, shown
from orca_cli.config.schema import NEEDED_GROUPS, Config
from orca_cli.exceptions import ConfigError

ALL_GROUPS = (*NEEDED_GROUPS, "protocol", "hparams", "departures", "study", "tracker", "augment")
_QUOTING = "write key=value; a value with commas, brackets or letters beyond ASCII in quotes: \"key='my value'\""
# Exceptions that Hydra raises where a file or an override cannot be read.
UNREADABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def parse(overrides: list[str], loader: Any = None) -> list[Override]:
    """Parse overrides; ConfigError names the first invalid one. glob() needs the loader, to find the choices."""
    parser = OverridesParser.create(config_loader=loader)
    for text in overrides:
        try:
            parser.parse_override(text)
        except HydraException as error:
            raise ConfigError(f"'{text}' is not an override", where="command line", hint=_QUOTING) from error
    return parser.parse_overrides(overrides)


def names_of(override: Override) -> list[str]:
    """Return the choices that an override names; a glob is expanded from those that exist, so it cannot name another."""
    value = override.value()
    if isinstance(value, Glob):
        return []
    if override.is_sweep_override():
        return [text.strip("'\"") for text in override.sweep_string_iterator()]
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]


def texts_of(override: Override, names: Iterable[str]) -> list[str]:
    """Return the values that an override gives a key, as they are typed; a glob chooses among names, or files of the group."""
    value = override.value()
    if isinstance(value, Glob) and (matches := value.filter(list(names))):
        return list(matches)
    if override.is_sweep_override():
        return [str(text) for text in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def check_typed(override: Override) -> None:
    """Check a typed value against its declaration; OmegaConf would accept 3 as a text and true as "True"."""
    key = override.key_or_group
    if re.match(r"(task|source)\.data(\.|$)|task\.(departures|hparams)(\.|$)", key):
        raise ConfigError("is file metadata, not a setting", where=key, hint="take it out of the command")
    if key.startswith("hydra"):
        hint = "runs go to paths.runs, -m sweeps, --on names a cluster"
        raise ConfigError("is not for the command line", where=key, hint=hint)
    if override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if key.startswith("tracker."):
        checks.check_secrets(None, key)
    value = value.text if isinstance(value, QuotedString) else value
    if key not in ALL_GROUPS and any(name.startswith(f"{key}.") for name in schema.declared()):
        hint = f"give its settings one by one, such as {key}.NAME=..."
        raise ConfigError(f"{shown(value)} is not allowed", where=key, hint=hint)
    if key in schema.declared() and not (isinstance(value, str) and "${" in value):  # what is interpolated comes later
        check_value(value, schema.declared()[key], key)


def explained(error: Exception, overrides: list[str], load: Callable[[list[str]], DictConfig]) -> ConfigError:
    """Find the override that a composition failed at, and say what is allowed in its place."""
    groups = [text for text in overrides if key_of(text) in ALL_GROUPS]
    try:
        config = load(groups)
    except UNREADABLE:
        return _unknown_in_a_file(error) or refused(error)
    for text in overrides:
        key = key_of(text)
        if text in groups or key.startswith("hydra"):
            continue
        node: Any = config
        prefix = ""
        for name in key.split("."):
            if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
                return ConfigError(f"no such setting: '{key}'", where=key, hint=f"{prefix[:-1]} is a single value")
            allowed, above = [str(word) for word in node if word != "hydra"], node
            if name not in allowed and not (text.startswith("+") and f"{prefix}{name}" == key):
                return checks.unknown(name, allowed, prefix)
            node, prefix = above._get_node(name), f"{prefix}{name}."
        try:
            load([*groups, text])
        except UNREADABLE as cause:
            if OmegaConf.is_list(node):
                what = f"{text.partition('=')[2]} is not allowed"
                return ConfigError(what, where=key, hint="allowed: a list, such as [a,b]")
            return ConfigError(_root_text(cause), where=key, hint="orca list settings shows types and defaults")
    return refused(error)


def _unknown_in_a_file(error: Exception) -> ConfigError | None:
    """Return the message for a file that sets a key the schema does not have; None for other failures."""
    text = _root_text(error)
    match, file = re.search(r"Key '([^']*)' not in '(\w+)'", text), re.search(r"In '([^']+)'", text)
    sections = {"Config": ("", Config())} | {
        type(one).__name__: (f"{name}.", one) for name, one in vars(Config()).items()
    }
    if match is None or match[2] not in sections:
        return None
    prefix, section = sections[match[2]]
    return checks.unknown(match[1], vars(section), prefix, f" in {file[1]}.yaml" if file else "")


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
