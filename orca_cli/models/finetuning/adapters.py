"""LoRA, by peft: low-rank updates of a body's linear layers are trained, with the embedder and the predictor."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Annotated, Any, get_args

from annotated_types import Interval
from torch import nn

from orca_cli.config.ranges import Count, Positive
from orca_cli.exceptions import ConfigError, UnavailableError
from orca_cli.interfaces import Role
from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel


class LoRA:
    """Add (alpha / rank) B A to the weights of linear layers, B = 0 at the start, and train A and B (Hu et al. 2022).

    Args:
        rank: of every update.
        alpha: the updates are multiplied by alpha / rank.
        dropout: of the updates' inputs.
        roles: of the layers that are updated; a body knows which these are.
    """

    pretrained = True

    def __init__(
        self,
        rank: Annotated[Count, "Rank of every update."] = 8,
        alpha: Annotated[Positive, "Updates are multiplied by alpha / rank."] = 16.0,
        dropout: Annotated[float, Interval(ge=0, lt=1), "Dropout of the updates' inputs."] = 0.0,
        roles: Annotated[Sequence[Role], "Which linear layers are updated."] = ("query", "value"),
    ) -> None:
        self._rank, self._alpha, self._dropout, self._roles = rank, alpha, dropout, roles

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the updates trainable, and nothing else; adds the updates where there are none.

        Raises:
            ConfigError: the body has no linear layers of these roles.
            UnavailableError: peft is not installed.
        """
        if not _updates(model.body):
            self._inject(model.body)
        train_parts(model, _updates(model.body))

    def _inject(self, body: Any) -> None:
        """Put peft's layers in the place of those of the roles."""
        names = list(dict.fromkeys(name for role in self._roles for name in body.linear_names(role)))
        if not names:
            what = f"this body has no linear layers of the roles {', '.join(self._roles)}"
            allowed = [role for role in get_args(Role) if body.linear_names(role)] or ["none; use finetune=layernorm"]
            raise ConfigError(what, where="finetune.roles", hint=f"allowed for this body: {', '.join(allowed)}")
        if importlib.util.find_spec("peft") is None:
            hint = "pip install 'orca-transfer[lora]'"
            raise UnavailableError("finetune=lora needs the package peft", where="finetune", hint=hint)
        from peft import LoraConfig, inject_adapter_in_model

        # Give peft only the layers: for a whole model it would change the targets by transformers' model type. It matches
        # names by their ends, so no name may be the end of another.
        layer_keys = {name: f"{number:06d}" for number, name in enumerate(names)}
        layers = nn.ModuleDict({layer_keys[name]: body.get_submodule(name) for name in names})
        sizes: dict[str, Any] = {"r": self._rank, "lora_alpha": self._alpha, "lora_dropout": self._dropout}
        inject_adapter_in_model(LoraConfig(**sizes, target_modules=[*layer_keys.values()], bias="none"), layers)
        for name in names:
            body.set_submodule(name, layers[layer_keys[name]])


def _updates(body: Any) -> list[nn.Module]:
    """Return the parts that peft has added to a body."""
    return [part for name, part in body.named_modules() if name.rpartition(".")[2].startswith("lora_")]
