"""What is recognised as a secret: names of settings, keys of services, logins in addresses."""

from __future__ import annotations

import re
from typing import Any

from orca_cli.exceptions import ConfigError

NAMES = re.compile(
    r"(?:^|[._-])(?:token|password|passwd|secret|credentials?|auth|api_?key|access_?key|private_?key)$", re.I
)
KEYS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|sk-[\w-]{16,}|AKIA[A-Z0-9]{12,}|xox[a-z]-[\w-]{8,})"
)
LOGIN = re.compile(r"(\w+://)[^\s/@]+@")
_HINT = "settings are written into the run's folder; give it as an environment variable, such as WANDB_API_KEY"


def check(value: Any, key: str) -> None:
    """Raise ConfigError, which does not repeat it, where a setting or one inside it is a secret by its name or its form."""
    if NAMES.search(key):
        raise ConfigError("a secret is not a setting", where=key, hint=_HINT)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        check(one, f"{key}.{name}")
    if isinstance(value, str) and (KEYS.search(value) or LOGIN.search(value)):
        raise ConfigError("holds a key or a login", where=key, hint=_HINT)
