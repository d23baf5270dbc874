"""Which parameters stage 3 trains, and what a checkpoint has to hold: all but what the pretrained body's own files hold."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Interval
from torch import Tensor, nn

from orca_cli.config.ranges import Count, Positive
from orca_cli.exceptions import CheckpointError, ConfigError, need
from orca_cli.interfaces import Role, Tokens
from orca_cli.models.transfer import TransferModel


def train_parts(
    model: TransferModel, parts: Iterable[nn.Module | nn.Parameter] = (), *, embedder: bool = True
) -> None:
    """Make the predictor, some other parts and, unless `embedder` is False, the embedder trainable, and nothing else."""
    model.requires_grad_(False)
    model.predictor.requires_grad_(True)
    model.embedder.requires_grad_(embedder)
    for part in parts:
        part.requires_grad_(True)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of embedder, predictor, all buffers, and those parameters of the body that are trained."""
    state = model.state_dict()
    return {name: state[name].detach().cpu().clone() for name in _names(model)}


def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model the state that `trained_state` returned; CheckpointError if it was that of another mode or model."""
    if different := sorted({*_names(model)} ^ {*state}):
        what = f"the checkpoint does not fit the model: '{different[0]}' is in only one of them"
        raise CheckpointError(what, where="finetune", hint="use --force to restart the run")
    model.load_state_dict(state, strict=False)


def _names(model: nn.Module) -> list[str]:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return [
        name for name in model.state_dict() if not (name.startswith("body.") and name in frozen)
    ]


class Full:
    """Train embedder, body and predictor (the paper's full setting)."""

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)


class Scratch(Full):
    """Train all of them from a body whose weights are drawn by its architecture's own initialisation (paper 4.2.1).

    conf/finetune/scratch.yaml also draws the embedder's weights at random and leaves stage 2 out.
    """

    pretrained = False


class LayerNorm:
    """Train the norms that the body names, with embedder and predictor (FPT, paper 4.2.2)."""

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the body's norms trainable, and nothing else."""
        train_parts(model, model.body.norms())


class BitFit:
    """Train the biases of the body's linear layers and norms, with embedder and predictor (Ben Zaken et al. 2022)."""

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the body's biases trainable, and nothing else; ConfigError where it has none."""
        biases = [
            value
            for name, value in model.body.named_parameters()
            if name.rpartition(".")[2] == "bias"
        ]
        if not biases:
            raise ConfigError(
                "this body has no biases to train", where="finetune", hint="use finetune=layernorm"
            )
        train_parts(model, biases)


class Frozen:
    """Train embedder and predictor around a body that stays as it was pretrained, norms included (an ablation's control)."""

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable but the body's."""
        train_parts(model)


class Head:
    """Train the predictor (linear probing); embedder and body stay as stages 1 and 2 left them."""

    def apply(self, model: TransferModel) -> None:
        """Make the predictor's parameters trainable, and no others."""
        train_parts(model, embedder=False)


@dataclass(frozen=True)
class LoRA:
    """Add (alpha / rank) B A to the weights of linear layers, B = 0 at first, and train A and B, by peft (Hu et al. 2022)."""

    rank: Annotated[Count, "Rank of every update."] = 8
    alpha: Annotated[Positive, "Updates are multiplied by alpha / rank."] = 16.0
    dropout: Annotated[float, Interval(ge=0, lt=1), "Dropout of the updates' inputs."] = 0.0
    roles: Annotated[Sequence[Role], "Which linear layers are updated."] = ("query", "value")

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the updates trainable, and nothing else; adds the updates where there are none.

        Raises:
            ConfigError: the body has no linear layers of these roles.
            UnavailableError: the package peft is not installed.
        """
        if not _updates(model.body):
            self._inject(model.body)
        train_parts(model, _updates(model.body))

    def _inject(self, body: Any) -> None:
        """Put peft's layers in the place of those of the roles."""
        names = list(dict.fromkeys(name for role in self.roles for name in body.linear_names(role)))
        if not names:
            what = f"this body has no linear layers of the roles {', '.join(self.roles)}"
            allowed = [role for role in get_args(Role) if body.linear_names(role)] or [
                "none; use finetune=layernorm"
            ]
            raise ConfigError(
                what, where="finetune.roles", hint=f"allowed for this body: {', '.join(allowed)}"
            )
        peft = need("peft", "finetune=lora", "lora")
        # Give peft only the layers: for a whole model it would change the targets by transformers' model type. It matches
        # names by their ends, so no name may be the end of another.
        layers = nn.ModuleDict(
            {f"{number:06d}": body.get_submodule(name) for number, name in enumerate(names)}
        )
        sizes: dict[str, Any] = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
        }
        peft.inject_adapter_in_model(
            peft.LoraConfig(**sizes, target_modules=[*layers], bias="none"), layers
        )
        for name, layer in zip(names, layers.values(), strict=True):
            body.set_submodule(name, layer)


def _updates(body: Any) -> list[nn.Module]:
    """Return the parts that peft has added to a body."""
    return [
        part for name, part in body.named_modules() if name.rpartition(".")[2].startswith("lora_")
    ]


@dataclass(frozen=True)
class Prompt:
    """Put learned tokens between the prefix and the tokens of the input (VPT, Jia et al. 2022); the body stays as it is.

    The prompt is part of the prefix: neither pooling nor a dense output reads its features. It has no positions of its own;
    a body that numbers its tokens itself numbers the prompt too. Stage 2 does not see it.
    """

    tokens: Annotated[Count, "Length of the prompt."] = 10
    depth: Annotated[
        Literal["shallow", "deep"], "Before the first layer, or anew before every layer."
    ] = "shallow"
    train_embedder: Annotated[bool, "Whether the embedder is trained too; not in the paper."] = True

    def apply(self, model: TransferModel) -> None:
        """Make prompt, predictor and, where set, embedder trainable, and nothing else; adds the prompt where there is none.

        ConfigError where the body takes no prompt, or none of this length, or a deep prompt finds no list of its layers.
        """
        if not hasattr(model.body, "prompt"):
            self._add(model.body, model.embedder)
        prompts = [part for part in model.body.modules() if isinstance(part, PromptTokens)]
        train_parts(model, prompts, embedder=self.train_embedder)

    def _add(self, body: Any, embedder: Any) -> None:
        if not body.takes_prefix:
            what = "this body takes no tokens before those of the input"
            raise ConfigError(
                what, where="finetune", hint="use another body such as body=vit or body=minilm"
            )
        start = 0 if embedder.class_token is None else embedder.class_token.numel() // body.width
        room = body.max_tokens - self.tokens - start
        # Positions of an embedder leave room for a prompt; a body without them numbers its tokens itself.
        if body.embedder_init().positions is None and embedder.layout.tokens > room:
            what = f"a prompt of {self.tokens} beside {embedder.layout.tokens} tokens is more than the body takes"
            hint = f"use embedder.max_tokens={room}" if room > 0 else "use fewer"
            raise ConfigError(what, where="finetune.tokens", hint=hint)
        if self.depth == "deep" and not body.layer_list:
            what = "this body has no list of layers"
            raise ConfigError(what, where="finetune.depth", hint="use finetune.depth=shallow")
        layers = [*body.get_submodule(body.layer_list).children()] if self.depth == "deep" else []
        for place, hook in ((body, _insert), *((layer, _replace) for layer in layers[1:])):
            place.add_module("prompt", PromptTokens(self.tokens, body.width, start))
            place.register_forward_pre_hook(hook)


class PromptTokens(nn.Module):
    """Learned tokens [p, D], with `start` others before them; uniform at first, as wide as VPT's for a filter of D weights."""

    def __init__(self, length: int, width: int, start: int) -> None:
        super().__init__()
        bound = math.sqrt(3 / width)
        self.start = start
        self.x = nn.Parameter(torch.empty(length, width).uniform_(-bound, bound))

    def joined(self, x: Tensor, stop: int) -> Tensor:
        """Return sequences [B, ...] with the tokens in place of x[:, start:stop]."""
        tokens = self.x.to(x.dtype).expand(
            x.shape[0], -1, -1
        )  # len() would fix the batch's size in an exported graph
        return torch.cat([x[:, : self.start], tokens, x[:, stop:]], dim=1)


# Hooks are functions of the module, so that a copy of a model calls them with its own parts.
def _insert(body: Any, arguments: tuple[Tokens]) -> tuple[Tokens]:
    tokens, prompt = arguments[0], body.prompt
    length, start = len(prompt.x), prompt.start
    is_token = tokens.mask.new_ones(tokens.mask.shape[0], length)
    mask = torch.cat([tokens.mask[:, :start], is_token, tokens.mask[:, start:]], dim=1)
    return (
        replace(tokens, x=prompt.joined(tokens.x, start), mask=mask, prefix=tokens.prefix + length),
    )


def _replace(layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    prompt = layer.prompt
    return (prompt.joined(arguments[0], prompt.start + len(prompt.x)), *arguments[1:])
