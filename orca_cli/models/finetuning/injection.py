"""Layers of peft in the place of a body's linear layers: what lora.py and ia3.py share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, get_args

from torch import nn

from orca_cli.exceptions import ConfigError, UnavailableError
from orca_cli.interfaces import Role


def names_of(body: Any, roles: Sequence[Role]) -> list[str]:
    """Return the names of a body's linear layers with some roles, each once.

    Raises:
        ConfigError: it has none.
    """
    names = list(dict.fromkeys(name for role in roles for name in body.linear_names(role)))
    if not names:
        what = f"this body has no linear layers of the roles {', '.join(roles)}"
        allowed = (
            ", ".join(role for role in get_args(Role) if body.linear_names(role)) or "none; use finetune=layernorm"
        )
        raise ConfigError(what, where="finetune.roles", hint=f"allowed for this body: {allowed}")
    return names


def inject(body: Any, names: Sequence[str], settings: Callable[[dict[str, str]], Any]) -> None:
    """Put peft's layers in the place of some of a body's.

    Args:
        body: changed in place.
        names: of its layers.
        settings: gives peft's configuration; it is called with name -> what the layer is called there.

    Raises:
        UnavailableError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        hint = "pip install 'orca-transfer[lora]'"
        raise UnavailableError("finetune=lora and ia3 need the package peft", where="finetune", hint=hint)
    from peft import inject_adapter_in_model

    # Give peft only the layers: for a whole model it would change the targets by transformers' model type. It matches names
    # by their ends, so no name may be the end of another.
    layer_keys = {name: f"{number:06d}" for number, name in enumerate(names)}
    layers = nn.ModuleDict({layer_keys[name]: body.get_submodule(name) for name in names})
    inject_adapter_in_model(settings(layer_keys), layers)
    for name in names:
        body.set_submodule(name, layers[layer_keys[name]])


def added(body: Any, prefix: str) -> list[nn.Module]:
    """Return the parts of a body whose last name starts with peft's prefix."""
    return [part for name, part in body.named_modules() if name.rpartition(".")[2].startswith(prefix)]
