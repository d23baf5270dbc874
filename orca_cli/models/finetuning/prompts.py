"""Prompting (paper A.6): learned tokens before those of the input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from orca_cli.config.ranges import Count
from orca_cli.exceptions import ConfigError
from orca_cli.interfaces import Tokens
from orca_cli.models.finetuning.modes import train_parts
from orca_cli.models.transfer import TransferModel

# Of what is added to a body or its layers. Hooks are module-level functions, so that a copy of a model calls them with its own
# parts.
_PROMPT = "prompt"


class Prompt:
    """Put learned tokens between the prefix and the tokens of the input (VPT, Jia et al. 2022); the body stays as it is.

    The prompt is part of the prefix: neither pooling nor a dense output reads its features. It has no positions of its own;
    a body that numbers its tokens itself numbers the prompt too. Stage 2 does not see it.
    """

    def __init__(
        self,
        tokens: Annotated[Count, "Length of the prompt."] = 10,
        depth: Annotated[Literal["shallow", "deep"], "Before the first layer, or anew before every layer."] = "shallow",
        train_embedder: Annotated[bool, "Whether the embedder is trained too; not in the paper."] = True,
    ) -> None:
        self._tokens, self._depth, self._train_embedder = tokens, depth, train_embedder

    def apply(self, model: TransferModel) -> None:
        """Make prompt, predictor and, where set, embedder trainable, and nothing else; adds the prompt where there is none.

        Raises:
            ConfigError: the body takes no further tokens, or not as many, or does not tell its layers (deep).
        """
        if not hasattr(model.body, _PROMPT):
            self._add(model.body, model.embedder)
        prompts = [part for part in model.body.modules() if isinstance(part, PromptTokens)]
        train_parts(model, prompts, embedder=self._train_embedder)

    def _add(self, body: Any, embedder: Any) -> None:
        if not body.takes_prefix:
            what = "this body attends by windows or position biases of its map, and takes no tokens before those of the input"
            hint = "use another body such as body=vit or body=minilm"
            raise ConfigError(what, where="finetune", hint=hint)
        start = 0 if embedder.class_token is None else embedder.class_token.numel() // body.width
        room = body.max_tokens - self._tokens - start
        # Positions of an embedder leave room for a prompt; a body without them numbers its tokens itself.
        if body.embedder_init().positions is None and embedder.layout.tokens > room:
            what = f"a prompt of {self._tokens} beside {embedder.layout.tokens} tokens is more than the body takes"
            hint = f"use embedder.max_tokens={room}" if room > 0 else "use fewer"
            raise ConfigError(what, where="finetune.tokens", hint=hint)
        names = body.layer_names() if self._depth == "deep" else ["all"]
        if not names:
            hint = "use finetune.depth=shallow"
            raise ConfigError("this body does not tell its layers", where="finetune.depth", hint=hint)
        for place, hook in ((body, _insert), *((body.get_submodule(name), _replace) for name in names[1:])):
            place.add_module(_PROMPT, PromptTokens(self._tokens, body.width, start))
            place.register_forward_pre_hook(hook)


class PromptTokens(nn.Module):
    """Learned tokens [p, D] with their place; uniform at first, as wide as those of VPT for a filter of D weights.

    Args:
        length, width: p, D.
        start: how many tokens stand before them.
    """

    def __init__(self, length: int, width: int, start: int) -> None:
        super().__init__()
        bound = math.sqrt(3 / width)
        self.start = start
        self.x = nn.Parameter(torch.empty(length, width).uniform_(-bound, bound))

    def joined(self, x: Tensor, stop: int) -> Tensor:
        """Return sequences [B, ...] with the tokens in place of x[:, start:stop]."""
        tokens = self.x.to(x.dtype).expand(x.shape[0], -1, -1)  # len() would fix the batch's size in an exported graph
        return torch.cat([x[:, : self.start], tokens, x[:, stop:]], dim=1)


def _insert(body: Any, arguments: tuple[Tokens]) -> tuple[Tokens]:
    tokens, prompt = arguments[0], body.prompt
    length, start = len(prompt.x), prompt.start
    is_token = tokens.mask.new_ones(tokens.mask.shape[0], length)
    mask = torch.cat([tokens.mask[:, :start], is_token, tokens.mask[:, start:]], dim=1)
    return (replace(tokens, x=prompt.joined(tokens.x, start), mask=mask, prefix=tokens.prefix + length),)


def _replace(layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    prompt = layer.prompt
    return (prompt.joined(arguments[0], prompt.start + len(prompt.x)), *arguments[1:])
