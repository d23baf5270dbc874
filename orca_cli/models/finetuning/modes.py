"""Which parameters stage 3 trains, and what a checkpoint has to hold: all but what the pretrained body's own files hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, get_args

from annotated_types import Interval
from torch import Tensor, nn

from orca_cli.config.ranges import Count, Positive
from orca_cli.exceptions import CheckpointError, ConfigError, UnavailableError
from orca_cli.interfaces import Role
from orca_cli.models.transfer import TransferModel

_BODY = "body."


def train_parts(model: TransferModel, parts: Iterable[nn.Module | nn.Parameter] = (), *, embedder: bool = True) -> None:
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
    """Give a model the state that `trained_state` returned for one with the same trained parameters.

    Raises:
        CheckpointError: the names differ, so it was saved by another finetune mode or model.
    """
    if different := sorted({*_names(model)} ^ {*state}):
        what = f"the checkpoint does not fit the model: '{different[0]}' is in only one of them"
        raise CheckpointError(what, where="finetune", hint="use --force to restart the run")
    model.load_state_dict(state, strict=False)


def _names(model: nn.Module) -> list[str]:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return [name for name in model.state_dict() if not (name.startswith(_BODY) and name in frozen)]


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
        biases = [value for name, value in model.body.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            hint = "use finetune=lora or finetune=layernorm"
            raise ConfigError("this body has no biases to train", where="finetune", hint=hint)
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


class LoRA:
    """Add (alpha / rank) B A to the weights of linear layers, B = 0 at first, and train A and B, by peft (Hu et al. 2022)."""

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
