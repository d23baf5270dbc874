"""Low-rank updates of the body's linear layers, the embedder and the predictor are trained (LoRA, Hu et al. 2022), by peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Interval

from orca_cli.config.ranges import Count, Positive
from orca_cli.interfaces import Role
from orca_cli.models.finetuning import injection
from orca_cli.models.finetuning.state import train_parts
from orca_cli.models.transfer import TransferModel

_PREFIX = "lora_"  # what peft calls the parts of a layer that it adds


class LoRA:
    """Add (alpha / rank) B A to the weights of linear layers, with B = 0 at the start, and train A, B, embedder and predictor.

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
        if not injection.added(model.body, _PREFIX):
            injection.inject(model.body, injection.names_of(model.body, self._roles), self._settings)
        train_parts(model, injection.added(model.body, _PREFIX))

    def _settings(self, names: dict[str, str]) -> Any:
        from peft import LoraConfig

        alpha: Any = self._alpha  # peft declares whole numbers
        targets = list(names.values())
        return LoraConfig(
            r=self._rank, lora_alpha=alpha, lora_dropout=self._dropout, target_modules=targets, bias="none"
        )
