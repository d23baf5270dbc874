"""Which parameters a mode trains, and what a checkpoint has to hold: all but what the pretrained body's own files hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from orca_cli.exceptions import CheckpointError
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
    expected = set(_names(model))
    if different := sorted(expected ^ set(state)):
        raise CheckpointError(
            f"the checkpoint does not fit the model: '{different[0]}' is in only one of them",
            where="finetune",
            hint="use --force to restart the run",
        )
    model.load_state_dict(state, strict=False)


def _names(model: nn.Module) -> list[str]:
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return [name for name in model.state_dict() if not (name.startswith(_BODY) and name in frozen)]
