"""Low-rank updates of the body's linear layers, the embedder and the predictor are trained (LoRA, Hu et al. 2022), by peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

from annotated_types import Interval

from orca_cli.finetuning import injection
from orca_cli.interfaces import Body, Role
from orca_cli.ranges import Count, Positive


class LoRA(injection.Injected):
    """Add (alpha / rank) B A to the weights of linear layers, with B = 0 at the start, and train A, B, embedder and predictor.

    Args:
        rank: of every update.
        alpha: the updates are multiplied by alpha / rank.
        dropout: of the updates' inputs.
        roles: of the layers that are updated; a body knows which these are.
    """

    mode, prefix = "lora", "lora_"

    def __init__(
        self,
        rank: Annotated[Count, "Rank of every update."] = 8,
        alpha: Annotated[Positive, "Updates are multiplied by alpha / rank."] = 16.0,
        dropout: Annotated[float, Interval(ge=0, lt=1), "Dropout of the updates' inputs."] = 0.0,
        roles: Annotated[Sequence[Role], "Which linear layers are updated."] = ("query", "value"),
    ) -> None:
        super().__init__(roles)
        self._rank, self._alpha, self._dropout = rank, alpha, dropout

    def add(self, body: Body) -> None:
        """Put the updates beside the weights."""
        injection.inject(body, injection.names_of(body, self._roles), self._settings)

    def _settings(self, names: dict[str, str]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self._rank,
            lora_alpha=cast("Any", self._alpha),
            lora_dropout=self._dropout,
            target_modules=list(names.values()),
            bias="none",
        )
