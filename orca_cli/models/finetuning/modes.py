"""Which parameters stage 3 trains, and which tensors a checkpoint must contain.

A checkpoint contains all tensors except the body's frozen parameters, which are in the body's own
files.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import torch
from annotated_types import Interval
from torch import Tensor, nn

from orca_cli.config.ranges import Count, Positive
from orca_cli.exceptions import CheckpointError, ConfigError, need
from orca_cli.interfaces import Finetune, Role, Tokens
from orca_cli.models.transfer import TransferModel


def train_parts(
    model: TransferModel, extra: Iterable[nn.Module | nn.Parameter] = (), *, embedder: bool = True
) -> None:
    """Make the predictor, the `extra` modules or parameters and the embedder trainable.

    Everything else is frozen; with `embedder=False`, the embedder too.
    """
    # All are frozen first, since another mode may have been applied before.
    model.requires_grad_(False)
    model.predictor.requires_grad_(True)
    model.embedder.requires_grad_(embedder)
    for trainable in extra:
        trainable.requires_grad_(True)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies, on the CPU, of the tensors that a checkpoint of the model must contain.

    These are the tensors of embedder and predictor, all buffers, and the body's trained parameters.
    """
    state = model.state_dict()
    copies = {}
    for name in _stored_names(model):
        tensor = state[name].detach()
        # On the CPU, to save GPU memory; cloned, because training goes on changing the tensors.
        copies[name] = tensor.cpu().clone()
    return copies


def load_trained_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model the state that `trained_state` returned.

    Raises:
        CheckpointError: the state belongs to another mode or model.
    """
    stored_names = set(_stored_names(model))
    # Checked before loading, because loading would silently skip missing tensors.
    unmatched_names = stored_names.symmetric_difference(state)
    if unmatched_names:
        raise CheckpointError(
            f"the run's checkpoint does not fit the model: only one of the two has the weight "
            f"'{min(unmatched_names)}'",
            where="finetune",
            hint="use --force to restart the run",
        )
    # Not strict: the body's frozen parameters are in its own files, not in the state.
    model.load_state_dict(state, strict=False)


def _stored_names(model: nn.Module) -> list[str]:
    """Return the names of the tensors that a checkpoint of the model must contain."""
    frozen = {
        name
        for name, parameter in model.named_parameters()
        # Only the body's parameters: embedder and predictor are in no other file.
        if name.startswith("body.") and not parameter.requires_grad
    }
    return [name for name in model.state_dict() if name not in frozen]


class Full(Finetune):
    """Train embedder, body and predictor (the paper's full setting)."""

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable."""
        model.requires_grad_(True)


class Scratch(Full):
    """Train embedder, body and predictor, starting from a body with random weights (paper 4.2.1).

    The body's weights are drawn by the architecture's own initialisation.
    conf/finetune/scratch.yaml also draws the embedder's weights at random and leaves stage 2 out.
    """

    pretrained = False


class LayerNorm(Finetune):
    """Train the norms that the body names, with embedder and predictor (FPT, paper 4.2.2)."""

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the body's norms trainable, and nothing else."""
        train_parts(model, model.body.norms())


class BitFit(Finetune):
    """Train the biases of the body's linear layers and norms, with embedder and predictor.

    Ben Zaken et al. 2022.
    """

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the body's biases trainable, and nothing else.

        Raises ConfigError if the body has no biases.
        """
        biases = []
        for name, parameter in model.body.named_parameters():
            if _last_part(name) == "bias":
                biases.append(parameter)
        if not biases:
            raise ConfigError(
                "this body has no biases to train", where="finetune", hint="use finetune=layernorm"
            )
        train_parts(model, biases)


class Frozen(Finetune):
    """Train embedder and predictor around a body that stays as it was pretrained, norms included.

    It is a control in ablations.
    """

    def apply(self, model: TransferModel) -> None:
        """Make every parameter trainable except the body's."""
        train_parts(model)


class Head(Finetune):
    """Train the predictor (linear probing).

    Embedder and body stay as stages 1 and 2 left them.
    """

    def apply(self, model: TransferModel) -> None:
        """Make the predictor's parameters trainable, and no others."""
        train_parts(model, embedder=False)


@dataclass(frozen=True)
class LoRA(Finetune):
    """Add (alpha / rank) B A to the weights of linear layers, and train A and B, with peft.

    B is 0 at first (Hu et al. 2022).
    """

    rank: Annotated[Count, "rank of LoRA's low-rank updates of the weights"] = 8
    alpha: Annotated[Positive, "LoRA's updates are multiplied by alpha / rank"] = 16.0
    dropout: Annotated[
        float, Interval(ge=0, lt=1), "dropout rate for the inputs of LoRA's updates"
    ] = 0.0
    roles: Annotated[
        Sequence[Role],
        "linear layers that LoRA updates: a list of query, key, value, output, feed_forward",
    ] = (
        "query",
        "value",
    )

    def apply(self, model: TransferModel) -> None:
        """Make embedder, predictor and the updates trainable, and nothing else.

        Adds the updates if the model has none.

        Raises:
            ConfigError: the body has no linear layers of these roles.
            UnavailableError: the package peft is not installed.
        """
        # A model to which the mode was applied before already has its updates.
        if not _updates(model.body):
            self._inject(model.body)
        train_parts(model, _updates(model.body))

    def _inject(self, body: Any) -> None:
        """Replace the body's layers with these roles by peft's layers."""
        layer_names = self._layer_names(body)
        peft = need("peft", "finetune=lora", "lora")
        # peft gets the layers only: in a whole model it would choose targets by transformers' model
        # type. It matches names by their ends, so no name may be the end of another.
        layers = nn.ModuleDict()
        for number, name in enumerate(layer_names):
            layers[f"{number:06d}"] = body.get_submodule(name)
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=[*layers],
            bias="none",
        )
        peft.inject_adapter_in_model(config, layers)
        # peft has replaced the layers inside `layers`; the body gets them by their own names.
        for name, layer in zip(layer_names, layers.values(), strict=True):
            body.set_submodule(name, layer)

    def _layer_names(self, body: Any) -> list[str]:
        """Return the names of the linear layers with these roles; ConfigError without any."""
        # A layer may have several roles; a dictionary keeps the order.
        layer_names: dict[str, None] = {}
        for role in self.roles:
            for name in body.linear_names(role):
                layer_names[name] = None
        if not layer_names:
            allowed_roles = [role for role in get_args(Role) if body.linear_names(role)]
            choices = ", ".join(allowed_roles) or "none; use finetune=layernorm"
            raise ConfigError(
                f"this body has no linear layers with the roles {', '.join(self.roles)}",
                where="finetune.roles",
                hint=f"allowed for this body: {choices}",
            )
        return list(layer_names)


def _updates(body: Any) -> list[nn.Module]:
    """Return the parts that peft has added to a body."""
    # By peft's naming of its layers.
    return [module for name, module in body.named_modules() if _last_part(name).startswith("lora_")]


def added_state(model: TransferModel) -> dict[str, Tensor]:
    """Return the tensors that a mode has added to a model's body, by their names in its state."""
    added_modules = _updates(model.body)
    for module in model.body.modules():
        if isinstance(module, PromptTokens):
            added_modules.append(module)
    added_ids = {id(tensor) for module in added_modules for tensor in module.parameters()}
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if id(parameter) in added_ids
    }


def _last_part(name: str) -> str:
    """Return what follows the last dot of a parameter's or module's name."""
    return name.rpartition(".")[2]


@dataclass(frozen=True)
class Prompt(Finetune):
    """Put learned tokens between the prefix and the tokens of the input (VPT, Jia et al. 2022).

    The body is frozen. The prompt is part of the prefix: neither pooling nor a dense output reads
    its features. It gets no positions from the embedder, but a body that numbers its tokens itself
    numbers the prompt too. Stage 2 runs without the prompt.
    """

    tokens: Annotated[Count, "number of prompt tokens (learned tokens)"] = 10
    depth: Annotated[
        Literal["shallow", "deep"],
        "shallow: prompt tokens before the first layer only; deep: separate prompt tokens before "
        "each layer",
    ] = "shallow"
    train_embedder: Annotated[
        bool, "true: the embedder is trained too; false: it is frozen, as in VPT's paper"
    ] = True

    def apply(self, model: TransferModel) -> None:
        """Make prompt, predictor and, if set, embedder trainable, and nothing else.

        Adds the prompt if the model has none.

        Raises:
            ConfigError: the body accepts no prompt, or no prompt of this length, or the prompt is
                deep and the body has no list of its layers.
        """
        # A model to which the mode was applied before already has its prompt.
        if not hasattr(model.body, "prompt"):
            prefix_length = _prefix_length(model)
            self._check(model.body, model.embedder, prefix_length)
            self._add(model.body, prefix_length)
        prompts = [module for module in model.body.modules() if isinstance(module, PromptTokens)]
        train_parts(model, prompts, embedder=self.train_embedder)

    def _check(self, body: Any, embedder: Any, prefix_length: int) -> None:
        """Raise ConfigError if the body does not accept the prompt."""
        if not body.takes_prefix:
            raise ConfigError(
                "this body accepts no prompt tokens before the tokens of the input",
                where="finetune",
                hint="use another body such as body=vit or body=minilm",
            )
        input_tokens = embedder.layout.tokens
        available_tokens = body.max_tokens - self.tokens - prefix_length
        positions = body.embedder_init().positions
        # Positions that the embedder adds do not limit a prompt. A body that gives the embedder no
        # positions numbers its tokens itself, including the prompt.
        if positions is None and input_tokens > available_tokens:
            hint = "lower finetune.tokens"
            if available_tokens > 0:
                hint = f"use embedder.max_tokens={available_tokens}"
            raise ConfigError(
                f"{self.tokens} prompt tokens and {input_tokens} tokens of the input are more "
                "than this body accepts",
                where="finetune.tokens",
                hint=hint,
            )
        if self.depth == "deep" and not body.layer_list:
            raise ConfigError(
                "this body does not support depth=deep",
                where="finetune.depth",
                hint="use finetune.depth=shallow",
            )

    def _add(self, body: Any, prefix_length: int) -> None:
        """Give the body a prompt and, if it is deep, each layer except the first its own prompt."""
        body.add_module("prompt", PromptTokens(self.tokens, body.width, prefix_length))
        # A hook, so that no family needs code for prompts.
        body.register_forward_pre_hook(_insert_prompt)
        # The first layer sees the body's prompt; each further layer gets its own prompt.
        if self.depth == "deep":
            layer_list = body.get_submodule(body.layer_list)
            for layer in [*layer_list.children()][1:]:
                layer.add_module("prompt", PromptTokens(self.tokens, body.width, prefix_length))
                layer.register_forward_pre_hook(_replace_prompt)


def _prefix_length(model: Any) -> int:
    """Return P, the number of the embedder's prefix tokens."""
    class_token = model.embedder.class_token
    # A single token is kept as [D], several as [P, D].
    return 0 if class_token is None else class_token.numel() // model.body.width


class PromptTokens(nn.Module):
    """Learned tokens [p, D] after the tokens of the prefix.

    Their first values are uniform, with VPT's bound for a patch filter of D weights.

    Args:
        length: p.
        width: D.
        start: P, the length of the prefix.
    """

    def __init__(self, length: int, width: int, start: int) -> None:
        super().__init__()
        # sqrt(6 / (inputs + outputs)) of a patch filter, both D.
        bound = math.sqrt(3 / width)
        self.start = start
        first_values = torch.empty(length, width).uniform_(-bound, bound)
        self.x = nn.Parameter(first_values)

    def joined(self, x: Tensor, stop: int) -> Tensor:
        """Return sequences [B, ...] with the tokens in place of x[:, start:stop]."""
        # Not len(x), which would fix the batch's size in an exported graph.
        # Under autocast the tokens may be in half precision.
        prompt = self.x.to(x.dtype)
        repeated = prompt.expand(x.shape[0], -1, -1)  # [B, p, D]
        before = x[:, : self.start]
        behind = x[:, stop:]
        return torch.cat([before, repeated, behind], dim=1)


# The hooks take the module as an argument, so that a copy of a model inserts its own prompts.
def _insert_prompt(body: Any, arguments: tuple[Tokens]) -> tuple[Tokens]:
    """Put the body's prompt into the tokens that it is called with."""
    (tokens,) = arguments
    prompt = body.prompt
    start = prompt.start
    prompt_length = len(prompt.x)
    mask = tokens.mask
    # A prompt is never padding.
    is_token = mask.new_ones(mask.shape[0], prompt_length)
    mask = torch.cat([mask[:, :start], is_token, mask[:, start:]], dim=1)
    joined = prompt.joined(tokens.x, start)
    return (replace(tokens, x=joined, mask=mask, prefix=tokens.prefix + prompt_length),)


def _replace_prompt(layer: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace the previous layer's prompt, as that layer returned it, by this layer's own."""
    # A layer gets hidden states as its first argument, and then whatever its family passes.
    hidden, *more_arguments = arguments
    prompt = layer.prompt
    stop = prompt.start + len(prompt.x)
    return (prompt.joined(hidden, stop), *more_arguments)
