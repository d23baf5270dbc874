"""Settings as they are typed: KEY=VALUE, parsed by Hydra, and what of them is refused before anything is composed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.errors import HydraException

from orca_cli import credentials, schema
from orca_cli.exceptions import ConfigError
from orca_cli.ranges import check_value, shown
from orca_cli.schema import NEEDED_GROUPS

ALL_GROUPS = (*NEEDED_GROUPS, "protocol", "hparams", "departures", "study", "tracker", "augment", "tune")
_QUOTING = "write key=value; a value with commas, brackets or letters beyond ASCII in quotes: \"key='my value'\""


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
    if isinstance(value, Glob) and (found := value.filter(list(names))):
        return list(found)
    if override.is_sweep_override():
        return [str(text) for text in override.sweep_string_iterator()]
    return [override.get_value_element_as_str()]


def check_typed(override: Override) -> None:
    """Check a typed value against its declaration; OmegaConf would accept 3 as a text and true as "True"."""
    key = override.key_or_group
    if re.match(r"(task|source)\.data(\.|$)", key):
        raise ConfigError("is file metadata, not a setting", where=key, hint="take it out of the command")
    if key.startswith("hydra") and not re.match(r"hydra[./]launcher(\.|$)", key):
        raise ConfigError("is not for the command line", where=key, hint="runs go to paths.runs; -m sweeps")
    if override.is_delete() or override.is_sweep_override():
        return
    value = override.value()
    if key.startswith("tracker."):
        credentials.check(None, key)
    value = value.text if isinstance(value, QuotedString) else value
    if schema.is_section(key) and key not in ALL_GROUPS:
        hint = f"give its settings one by one, such as {key}.NAME=..."
        raise ConfigError(f"{shown(value)} is not allowed", where=key, hint=hint)
    if key in schema.declared() and not (isinstance(value, str) and "${" in value):  # what is interpolated comes later
        check_value(value, schema.declared()[key], key)
