"""LoRA and IA3, by peft: small factors in a body's linear layers are trained, with the embedder and the predictor."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

from annotated_types import Interval
from torch import nn

from orca_cli.config.ranges import Count, Positive
from orca_cli.exceptions import ConfigError, UnavailableError
from orca_cli.interfaces import Role
from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel

# What peft calls the parts that it adds to a layer.
_LORA, _IA3 = "lora_", "ia3_l"


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
        if not _added(model.body, _LORA):
            _inject(model.body, _names_of(model.body, self._roles), self._settings)
        train_parts(model, _added(model.body, _LORA))

    def _settings(self, names: dict[str, str]) -> Any:
        from peft import LoraConfig

        alpha: Any = self._alpha  # peft declares whole numbers
        targets = list(names.values())
        return LoraConfig(
            r=self._rank, lora_alpha=alpha, lora_dropout=self._dropout, target_modules=targets, bias="none"
        )


class IA3:
    """Multiply activations by vectors, 1 at the start, and train these (Liu et al. 2022).

    What an attention layer returns is multiplied, and what the last linear layer of a feed-forward network takes (equation 3
    and section 3.3 of the paper). Where one layer gives query, key and value, all three are multiplied.

    Args:
        roles: of the layers; a body knows which these are.
    """

    pretrained = True

    def __init__(
        self, roles: Annotated[Sequence[Role], "Which layers get factors."] = ("key", "value", "feed_forward")
    ) -> None:
        self._roles = roles

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the factors trainable, and nothing else; adds the factors where there are none.

        Raises:
            ConfigError: the body has no linear layers of these roles.
            UnavailableError: peft is not installed.
        """
        if not _added(model.body, _IA3):
            every = model.body.linear_names("feed_forward")
            last = {re.sub(r"(.*\.\d+)\..*", r"\1", name): name for name in every}.values()  # of each numbered block
            names = [name for name in _names_of(model.body, self._roles) if name not in every or name in last]

            def settings(layer_keys: dict[str, str]) -> Any:
                from peft import IA3Config

                ends = [layer_keys[name] for name in names if name in last]
                return IA3Config(target_modules=list(layer_keys.values()), feedforward_modules=ends)

            _inject(model.body, names, settings)
        train_parts(model, _added(model.body, _IA3))


def _names_of(body: Any, roles: Sequence[Role]) -> list[str]:
    """Return the names of a body's linear layers with some roles, each once.

    Raises:
        ConfigError: it has none.
    """
    names = list(dict.fromkeys(name for role in roles for name in body.linear_names(role)))
    if not names:
        what = f"this body has no linear layers of the roles {', '.join(roles)}"
        allowed = [role for role in get_args(Role) if body.linear_names(role)] or ["none; use finetune=layernorm"]
        raise ConfigError(what, where="finetune.roles", hint=f"allowed for this body: {', '.join(allowed)}")
    return names


def _inject(body: Any, names: Sequence[str], settings: Callable[[dict[str, str]], Any]) -> None:
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


def _added(body: Any, prefix: str) -> list[nn.Module]:
    """Return the parts of a body whose last name starts with peft's prefix."""
    return [part for name, part in body.named_modules() if name.rpartition(".")[2].startswith(prefix)]
