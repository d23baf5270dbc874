"""Learned factors on keys, values and hidden activations, the embedder and the predictor are trained (IA3, Liu et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from orca_cli.interfaces import Role
from orca_cli.models.finetuning.lora import added, inject, names_of
from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel

_PREFIX = "ia3_l"  # what peft calls the factors of a layer


class IA3:
    """Multiply activations by learned vectors, 1 at the start, and train these, embedder and predictor; by peft.

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
        if not added(model.body, _PREFIX):
            every = model.body.linear_names("feed_forward")
            last = {re.sub(r"(.*\.\d+)\..*", r"\1", name): name for name in every}.values()  # of each numbered block
            names = [name for name in names_of(model.body, self._roles) if name not in every or name in last]

            def settings(layer_keys: dict[str, str]) -> Any:
                from peft import IA3Config

                ends = [layer_keys[name] for name in names if name in last]
                return IA3Config(target_modules=list(layer_keys.values()), feedforward_modules=ends)

            inject(model.body, names, settings)
        train_parts(model, added(model.body, _PREFIX))
