"""Settings as they are typed: KEY=VALUE, parsed by Hydra; which one is wrong, and what is allowed in its place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from orca_cli.config import checks, schema
from orca_cli.config.configuration import calls_resolver
from orca_cli.config.ranges import check_value, shown
from orca_cli.config.schema import NEEDED_GROUPS
from orca_cli.config.variants import BLOCKS
from orca_cli.exceptions import ConfigError

ALL_GROUPS = (*NEEDED_GROUPS, "protocol", "hparams", "departures", "study", "tracker", "augment", "tune")
_QUOTING = "write key=value; a value with commas, brackets or letters beyond ASCII in quotes: \"key='my value'\""
# Exceptions that Hydra raises where a file or an override cannot be read.
UNREADABLE = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError)


def parse(overrides: list[str], loader: Any = None) -> list[Override]:
    """Parse overrides; ConfigError names the first invalid one. glob() needs the loader, to find the choices."""
    try:
        return OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    except OverrideParseException as error:
        raise ConfigError(f"'{error.override}' is not an override", where="command line", hint=_QUOTING) from error


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
    if calls_resolver(str(override.input_line)):
        raise ConfigError(
            f"{override.input_line} runs a resolver", where=key, hint="give the value itself, or $NAME of the shell"
        )
    section = key[: key.rfind(".") + 1]
    if key.partition(".")[0] not in checks.PARTS and key not in ALL_GROUPS:
        known = {one.removeprefix(section).partition(".")[0] for one in schema.declared() if one.startswith(section)}
        if override.is_delete():
            raise ConfigError("cannot be left out", where=key, hint=f"take ~{key} out of the command")
        if (override.is_add() or override.is_force_add()) and key.removeprefix(section) not in known:
            raise checks.unknown(key.removeprefix(section), known, section)
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


def refused(error: BaseException) -> ConfigError:
    """Return an error of Hydra or OmegaConf as one line about the key that it is about, with what is allowed there."""
    cause, file = error, re.search(r"In '([^']+)'", str(error))
    while not getattr(cause, "full_key", None) and (inner := cause.__cause__ or cause.__context__):
        cause = inner
    key, section = str(getattr(cause, "full_key", None) or ""), getattr(cause, "parent_node", None)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(section, DictConfig):
        prefix, dot, name = key.rpartition(".")
        known = [word for word in section if word not in ("hydra", *BLOCKS)]
        return checks.unknown(name, known, prefix + dot, f" in {file[1]}.yaml" if file else "")
    lines = map(str.strip, str(cause if key else error).splitlines())
    kept = (line for line in lines if line and not re.match(r"(full_key|object_type|reference_type)\s*[:=]", line))
    text = " ".join(kept) or type(error).__name__
    return ConfigError(text, where=key or "configuration", hint="orca list settings shows types and defaults")
