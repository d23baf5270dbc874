"""Low-rank updates of the body's linear layers, the embedder and the predictor are trained (LoRA, Hu et al. 2022), by peft."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Annotated, Any, cast

from annotated_types import Interval
from torch import nn

from orca_cli.exceptions import ConfigError, UnavailableError
from orca_cli.finetuning.state import load_own_state, own_state
from orca_cli.interfaces import Body, Role, TransferParts
from orca_cli.ranges import Count, Positive

_OWN = "lora_"  # what peft calls the parts of a layer that it adds
_ROLES: tuple[Role, ...] = ("query", "key", "value", "output", "feed_forward")


class LoRA:
    """Add (alpha / rank) B A to the weights of linear layers, with B = 0 at the start, and train A, B, embedder and predictor.

    Args:
        rank: of every update.
        alpha: the updates are multiplied by alpha / rank.
        dropout: of the updates' inputs.
        roles: of the layers that are updated; a body knows which these are.
    """

    pretrained = True
    trainable_state = staticmethod(own_state)
    load_trainable_state = staticmethod(load_own_state)

    def __init__(
        self,
        rank: Annotated[Count, "Rank of every update."] = 8,
        alpha: Annotated[Positive, "Updates are multiplied by alpha / rank."] = 16.0,
        dropout: Annotated[float, Interval(ge=0, lt=1), "Dropout of the updates' inputs."] = 0.0,
        roles: Annotated[Sequence[Role], "Which linear layers are updated."] = ("query", "value"),
    ) -> None:
        if not roles:
            raise ConfigError("no layers to update", where="finetune.roles", hint=f"allowed: {', '.join(_ROLES)}")
        self._rank, self._alpha, self._dropout = rank, alpha, dropout
        self._roles = tuple(roles)

    def apply(self, model: TransferParts) -> None:
        """Make embedder, predictor and the updates trainable, and nothing else; adds the updates where there are none.

        Raises:
            ConfigError: the body has no linear layers of these roles.
            UnavailableError: peft is not installed.
        """
        body = cast("nn.Module", model.body)
        if not _updates(body):
            self._add(model.body)
        model.requires_grad_(True)
        model.body.requires_grad_(False)
        for update in _updates(body):
            update.requires_grad_(True)

    def _add(self, body: Body) -> None:
        if importlib.util.find_spec("peft") is None:  # asked for here, so that a sweep's other runs do not need it
            what, hint = "finetune=lora needs the package peft", "pip install 'orca-transfer[lora]'"
            raise UnavailableError(what, where="finetune", hint=hint)
        from peft import LoraConfig, inject_adapter_in_model

        names = list(dict.fromkeys(name for role in self._roles for name in body.linear_names(role)))
        if not names:
            what = f"this body has no linear layers of the roles {', '.join(self._roles)}"
            allowed = ", ".join(role for role in _ROLES if body.linear_names(role)) or "none; use finetune=layernorm"
            raise ConfigError(what, where="finetune.roles", hint=f"allowed for this body: {allowed}")
        module = cast("nn.Module", body)
        # peft is given the layers alone: of a whole model it would change the targets by transformers' name of its type.
        layers = nn.ModuleDict({str(number): module.get_submodule(name) for number, name in enumerate(names)})
        settings = LoraConfig(
            r=self._rank,
            lora_alpha=cast("Any", self._alpha),
            lora_dropout=self._dropout,
            target_modules=list(layers),
            bias="none",
        )
        inject_adapter_in_model(settings, layers)
        for number, name in enumerate(names):
            module.set_submodule(name, layers[str(number)])


def _updates(body: nn.Module) -> list[nn.Module]:
    return [part for name, part in body.named_modules() if name.rpartition(".")[2].startswith(_OWN)]
