"""Layers of peft in the place of a body's linear layers: what lora.py and ia3.py share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

from torch import nn

from orca_cli.exceptions import ConfigError, UnavailableError
from orca_cli.finetuning.state import OwnState
from orca_cli.interfaces import Body, Role, TransferParts

ROLES: tuple[Role, ...] = ("query", "key", "value", "output", "feed_forward")


class Injected(OwnState):
    """A mode that trains layers of peft in the place of a body's linear layers, with embedder and predictor.

    Attributes:
        mode: its name.
        prefix: what the names of peft's own parts of a layer begin with.

    Args:
        roles: of the layers; a body knows which these are.
    """

    mode: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, roles: Sequence[Role]) -> None:
        if not roles:
            raise ConfigError("no layers to update", where="finetune.roles", hint=f"allowed: {', '.join(ROLES)}")
        self._roles = tuple(roles)

    def apply(self, model: TransferParts) -> None:
        """Make embedder, predictor and peft's parts trainable, and nothing else; adds these where there are none.

        Raises:
            ConfigError: the body has no linear layers of these roles.
            UnavailableError: peft is not installed.
        """
        if not self._own_parts(model):
            # Asked for here, so that the other runs of a sweep do not need it.
            if importlib.util.find_spec("peft") is None:
                what, hint = f"finetune={self.mode} needs the package peft", "pip install 'orca-transfer[lora]'"
                raise UnavailableError(what, where="finetune", hint=hint)
            self.add(model.body)
        model.requires_grad_(True)
        model.body.requires_grad_(False)
        for part in self._own_parts(model):
            part.requires_grad_(True)

    def add(self, body: Body) -> None:
        """Put peft's layers in their places."""
        raise NotImplementedError

    def _own_parts(self, model: TransferParts) -> list[nn.Module]:
        parts = cast("nn.Module", model.body).named_modules()
        return [part for name, part in parts if name.rpartition(".")[2].startswith(self.prefix)]


def names_of(body: Body, roles: Sequence[Role]) -> list[str]:
    """Return the names of a body's linear layers with some roles, each once.

    Raises:
        ConfigError: it has none.
    """
    names = list(dict.fromkeys(name for role in roles for name in body.linear_names(role)))
    if not names:
        what = f"this body has no linear layers of the roles {', '.join(roles)}"
        allowed = ", ".join(role for role in ROLES if body.linear_names(role)) or "none; use finetune=layernorm"
        raise ConfigError(what, where="finetune.roles", hint=f"allowed for this body: {allowed}")
    return names


def inject(body: Body, names: Sequence[str], settings: Callable[[dict[str, str]], Any]) -> None:
    """Put peft's layers in the place of some of a body's.

    Args:
        body: changed in place.
        names: of its layers.
        settings: gives peft's configuration; it is called with name -> what the layer is called there.
    """
    from peft import inject_adapter_in_model

    module = cast("nn.Module", body)
    # peft is given the layers alone: of a whole model it would change the targets by transformers' name of its type. It
    # compares ends of names, so that none may be the end of another.
    own = {name: f"{number:06d}" for number, name in enumerate(names)}
    layers = nn.ModuleDict({own[name]: module.get_submodule(name) for name in names})
    inject_adapter_in_model(settings(own), layers)
    for name in names:
        module.set_submodule(name, layers[own[name]])
